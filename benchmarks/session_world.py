"""What a made-up editing session needs: keys, a certificate, C, the session file, and clients' statistics from seeds.

No model and no torch: keys K are random with the scales that C has, residuals R uniform within ±1.
"""

import datetime
import ipaddress
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from benchmarks.network import identity
from collabsecure.agreement import Agreement, Flow, second_moment_digest
from collabsecure.hyperparameters import Hyperparameters
from collabsecure.sessions import Ranges, cross_name, editing_session, gram_name
from collabsecure.statistics import SecondMoment, Statistics, cross, gram, second_moment_filename
from collabsecure_cli.identity import write_identity
from collabsecure_protocols import Session

WEIGHT = 20_000  # λ, MEMIT's for GPT2-XL
FIRST_LAYER = 13
SESSION, SERVER_KEY, CERTIFICATE, CERTIFICATE_KEY, STATS = "session.json", "server.key", "tls.pem", "tls.key", "stats"

_TOKENS, _TEXTS = 10_000_000, 100_000  # that C claims to be of
_RANK = 256  # of C beside its diagonal


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """How large a session is."""

    d_in: int
    d_out: int
    layers: int
    clients: int
    flow: Flow
    edits: int = 300  # of each client

    @property
    def layer_numbers(self) -> tuple[int, ...]:
        """The layers that are edited."""
        return tuple(range(FIRST_LAYER, FIRST_LAYER + self.layers))

    @property
    def num_values(self) -> int:
        """Unique values of a client's statistics, all layers together."""
        return self.layers * (self.d_in * (self.d_in + 1) // 2 + self.d_out * self.d_in)

    @property
    def statistics_bytes(self) -> int:
        """One layer's Gram matrix and cross term in float64; also those of their sums."""
        return 8 * (self.d_in + self.d_out) * self.d_in

    @property
    def delta_bytes(self) -> int:
        """One layer's Δ in float64."""
        return 8 * self.d_out * self.d_in


def make_second_moment(d_in: int) -> SecondMoment:
    """A random C whose condition, equilibrated, is some tens: half its diagonal, half a product of low rank."""
    factor = np.random.default_rng(1).standard_normal((d_in, _RANK)) / math.sqrt(_RANK)
    total = factor @ factor.T
    total[np.diag_indices(d_in)] += 1
    scales = key_scales(d_in)
    total *= scales * (_TOKENS / 2)
    total *= scales[:, None]
    return SecondMoment(total=total, count=_TOKENS, sample_size=_TEXTS)


def key_scales(d_in: int) -> np.ndarray:
    """Root mean squares of the keys' entries."""
    scales: np.ndarray = np.exp(0.5 * np.random.default_rng(0).standard_normal(d_in))
    return scales


def write_world(folder: Path, shape: Shape) -> None:
    """Write all that aggregator and clients find when they start; C once, under every layer's name."""
    stats = folder / STATS
    stats.mkdir()
    moment = make_second_moment(shape.d_in)
    paths = [
        stats / second_moment_filename(f"transformer.h.{layer}.mlp.c_proj", _TEXTS) for layer in shape.layer_numbers
    ]
    moment.save_npz(paths[0])
    for path in paths[1:]:
        path.hardlink_to(paths[0])
    weighted = SecondMoment.load_npz(paths[0]).weighted(WEIGHT)
    (folder / SESSION).write_text(make_session(shape, weighted).to_json(), encoding="utf-8")
    write_identity(folder / SERVER_KEY, identity("server"))
    write_certificate(folder)


def make_session(shape: Shape, second_moment: np.ndarray) -> Session:
    """The descriptor, as `collabsecure session new` would make it of a model of this shape."""
    digest = second_moment_digest(second_moment)
    agreement = Agreement(
        model="random statistics",
        revision=None,
        weights_digest=64 * "0",
        weights_dtype="float32",
        layers=shape.layer_numbers,
        flow=shape.flow,
        hyperparameters=Hyperparameters(layers=shape.layer_numbers, second_moment_weight=WEIGHT),
        templates='[["{}"]]',
        second_moments=dict.fromkeys(shape.layer_numbers, digest),
        max_edits=shape.edits,
        client_names=tuple(f"client-{number}" for number in range(1, shape.clients + 1)),
        server_name="server",
    )
    return editing_session(
        session_id=bytes(32),
        task="benchmark",
        roster=[identity(number).public for number in range(1, shape.clients + 1)],
        server_key=identity("server").public,
        second_moments=dict.fromkeys(shape.layer_numbers, second_moment),
        weight=WEIGHT,
        d_out=shape.d_out,
        ranges=Ranges(max_edits=shape.edits, residual=1.0),
        one_shot=shape.flow == "one-shot",
        parameters=agreement.parameters(),
    )


def keys_and_residuals(shape: Shape, client: int, layer: int) -> tuple[np.ndarray, np.ndarray]:
    """K (d_in, edits) and R (d_out, edits) of one client; the same for the same numbers."""
    rng = np.random.default_rng((client, layer))
    keys = rng.standard_normal((shape.d_in, shape.edits))
    keys *= key_scales(shape.d_in)[:, None]
    return keys, rng.uniform(-1, 1, (shape.d_out, shape.edits))


def statistics(shape: Shape, client: int, layers: Sequence[int]) -> Iterator[tuple[str, np.ndarray]]:
    """A client's Gram matrices and cross terms by name."""
    for layer in layers:
        keys, residuals = keys_and_residuals(shape, client, layer)
        yield gram_name(layer), gram(keys)
        yield cross_name(layer), cross(residuals, keys)


def plain_sum(shape: Shape, layer: int) -> Statistics:
    """All clients' statistics added up without any protocol: those of all their edits side by side."""
    parts = [keys_and_residuals(shape, client, layer) for client in range(1, shape.clients + 1)]
    keys, residuals = (np.hstack(part) for part in zip(*parts, strict=True))
    return Statistics(gram=gram(keys), cross=cross(residuals, keys))


def write_certificate(folder: Path) -> None:
    """A throw-away certificate for 127.0.0.1, its own authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "benchmark")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), True)
        .sign(key, SHA256())
    )
    (folder / CERTIFICATE).write_bytes(certificate.public_bytes(Encoding.PEM))
    (folder / CERTIFICATE_KEY).write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
