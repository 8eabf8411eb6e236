"""The session of a collaborative edit: which sums it has, and in which public units they travel.

Every number here is public: shapes, C and λ, and an agreed range for any one client's keys and residuals. The range
only buys bits; a client whose statistics leave it is refused by its own encoder and told which tensor did.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float64

from collabsecure.merge import equilibration
from collabsecure_protocols import InvalidSession, Session, Sum, Tensor, best_fraction_bits, choose, survivor_floor
from collabsecure_protocols.encryption_parameters import Scheme, choose_encryption


@dataclass(frozen=True, slots=True, kw_only=True)
class Encryption:
    """For whom masked input is encrypted, and under which key."""

    scheme: Scheme
    holder: bytes  # the key holder's Ed25519 public key
    key: bytes = field(repr=False)  # `collabsecure_protocols.ckks.PublicKey`, encoded


def best_bits(scheme: Scheme, num_clients: int) -> int:
    """The widest ring whose integers take one slot each; 48 where none does, in as many limbs as that takes.

    >>> best_bits("bfv", 5), best_bits("ckks", 30), best_bits("ckks", 100)
    (48, 38, 34)
    """
    for bits in (48, 38, 34):
        try:
            if choose_encryption(scheme, num_clients=num_clients, bits=bits).limbs == 1:
                return bits
        except InvalidSession:
            continue
    return 48


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranges:
    """What is agreed about any one client's statistics: generous, but each doubling costs a bit.

    The two ratios are of k_j² to E[k_j²], C's own expectation: of single keys, since rare features peak high, and of
    the mean over all of a client's keys.
    """

    max_edits: int  # requests of one client, ≥ 1
    residual: float  # max |r_i| of any residual's entry, in hidden-state units
    key_peak: float = 1024.0  # largest ratio of one key
    key_mean: float = 64.0  # largest ratio of a client's mean


def gram_name(layer: int) -> str:
    """The tensor that holds Σ KᵢKᵢᵀ of a layer."""
    return f"gram {layer}"


def cross_name(layer: int) -> str:
    """The tensor that holds Σ RᵢKᵢᵀ of a layer."""
    return f"cross {layer}"


def layer_of(tensor: str) -> int:
    """The layer of a tensor of one of those names.

    >>> layer_of(cross_name(13))
    13
    """
    return int(tensor.split()[1])


def layer_tensors(
    layer: int,
    second_moment: Float64[np.ndarray, "d_in d_in"],
    *,
    weight: float | int,
    d_out: int,
    ranges: Ranges,
    num_clients: int,
    bits: int = 48,
) -> tuple[Tensor, Tensor]:
    """The fixed-point form of one layer's Gram matrix and cross term.

    Entries are equilibrated by powers of two next to 1/√C_jj, so scaling is exact. With C = λ·E[kkᵀ],
    the M edits of a client have G_jj·2^(2e_j) ≤ B = 2·min(M·peak, peak + M·mean)/λ. By Cauchy–Schwarz the diagonal
    bounds all of G, and |X_ij|·2^(e_j) ≤ √(Σ r_i²)·√(G_jj·2^(2e_j)) ≤ √M·|r|·√B.

    Raises:
        DegenerateSecondMoment: some C_jj is not positive.
        InvalidSession: so wide a range does not fit into so few bits.
    """
    exponents = tuple(int(exponent) for exponent in np.rint(np.log2(equilibration(second_moment))))
    d_in = len(exponents)
    edits, peak = ranges.max_edits, ranges.key_peak
    gram_bound = 2 * min(edits * peak, peak + edits * ranges.key_mean) / float(weight)
    cross_bound = ranges.residual * math.sqrt(edits * gram_bound)
    return (
        Tensor(
            name=gram_name(layer),
            shape=(d_in, d_in),
            symmetric=True,
            bound=gram_bound,
            fraction_bits=best_fraction_bits(gram_bound, num_clients=num_clients, bits=bits),
            bits=bits,
            row_exponents=exponents,
        ),
        Tensor(
            name=cross_name(layer),
            shape=(d_out, d_in),
            bound=cross_bound,
            fraction_bits=best_fraction_bits(cross_bound, num_clients=num_clients, bits=bits),
            bits=bits,
            column_exponents=exponents,
        ),
    )


def editing_session(
    *,
    session_id: bytes,
    task: str,
    roster: Sequence[bytes],
    server_key: bytes,
    second_moments: Mapping[int, Float64[np.ndarray, "_ _"]],
    weight: float | int,
    d_out: int,
    ranges: Ranges,
    one_shot: bool = False,
    bits: int = 48,
    parameters: Mapping[str, str] | None = None,
    encryption: Encryption | None = None,
) -> Session:
    """The descriptor of a collaborative edit of `second_moments`' layers: one sum a layer, or one for all (one-shot).

    Graph and thresholds are the protocol's own choice for so many clients. `second_moments` maps each edited layer to
    its C, weighted by `weight`.
    """
    num_clients = len(roster)
    tensors = {
        layer: layer_tensors(
            layer, moment, weight=weight, d_out=d_out, ranges=ranges, num_clients=num_clients, bits=bits
        )
        for layer, moment in sorted(second_moments.items())
    }
    if one_shot:
        sums = [Sum(name="all layers", tensors=tuple(tensor for pair in tensors.values() for tensor in pair))]
    else:
        sums = [Sum(name=f"layer {layer}", tensors=pair) for layer, pair in tensors.items()]
    graph = choose(num_clients, num_sums=len(sums))
    floor = graph.threshold if graph.degree == num_clients - 1 else survivor_floor(num_clients, graph.degree)
    return Session(
        session_id=session_id,
        task=task,
        roster=tuple(roster),
        server_key=server_key,
        threshold=graph.threshold,
        min_survivors=max(floor, 3),
        degree=graph.degree,
        sums=tuple(sums),
        parameters=tuple(sorted((parameters or {}).items())),
        encryption="none" if encryption is None else encryption.scheme,
        key_holder=b"" if encryption is None else encryption.holder,
        encryption_key=b"" if encryption is None else encryption.key,
    )
