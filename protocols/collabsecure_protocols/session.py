"""The session descriptor: everything public that all parties agree on before the first message, and its hash.

`Session.transcript` goes into every signature, every HKDF info and every AEAD's associated data, so two parties that
agreed on different descriptors never produce masks that cancel (secagg.md, "Session descriptor").
"""

import base64
import json
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise

from .ckks import PublicKey
from .encryption_parameters import SCHEMES, EncryptionParameters, choose_encryption
from .errors import CiphertextRefused, ClientId, InvalidSession
from .forms import Form
from .keys import KEY_BYTES, Label, digest
from .tensors import CHUNK_VALUES, MAX_INTEGER_BITS, RING_BITS, Chunk, Sum, Tensor, has_headroom, require, require_text
from .wire import Malformed, Reader, Writer

FORMAT = "collabsecure session"
VERSION = 1
MAX_CLIENTS = 10_000
MAX_SUMS = 1024
MAX_PARAMETERS = 1024
MAX_TEXT = 1 << 20  # characters in a parameter's name or value


@dataclass(frozen=True, kw_only=True)
class Session:
    """What every party must hold byte for byte. Validated when made; see secagg.md V30 for the rules.

    `parameters` is the application's part (model, digests, hyper-parameters): pairs of strings in ascending order,
    which the protocol never reads but binds, and which a client's policy may pin.
    """

    session_id: bytes  # 16 to 64 random bytes
    task: str  # what the edits are for, in words that operators recognise
    roster: tuple[bytes, ...]  # Ed25519 public keys; client i is roster[i - 1]
    server_key: bytes  # Ed25519 public key
    threshold: int  # [2, degree + 1]: shares that open a secret, and signatures that a survivor set needs
    min_survivors: int  # [threshold on the complete graph, 2 otherwise; n]
    degree: int  # neighbours of a client: n − 1 is the complete graph, else even and in [2, n − 1)
    sums: tuple[Sum, ...]
    parameters: tuple[tuple[str, str], ...] = ()
    encryption: str = "none"  # or ckks or bfv: masked integers travel encrypted for the key holder
    key_holder: bytes = b""  # its Ed25519 public key, where there is encryption
    encryption_key: bytes = field(default=b"", repr=False)  # what clients encrypt with, `ckks.PublicKey`, likewise

    def __post_init__(self) -> None:
        n = len(self.roster)
        require(16 <= len(self.session_id) <= 64, f"a session id has 16 to 64 bytes, found {len(self.session_id)}")
        require_text(self.task, "a task", longest=1000)
        require(2 <= n <= MAX_CLIENTS, f"2 to {MAX_CLIENTS} clients, found {n}")
        keys = (*self.roster, self.server_key, *([self.key_holder] if self.is_encrypted else []))
        require(all(len(key) == KEY_BYTES for key in keys), f"identity keys have {KEY_BYTES} bytes")
        require(len(set(keys)) == len(keys), "two parties have the same identity key")
        complete = self.degree == n - 1
        regular = 2 <= self.degree < n - 1 and self.degree % 2 == 0
        require(complete or regular, f"degree {self.degree} is neither {n - 1} nor even and in [2, {n - 1})")
        in_range = 2 <= self.threshold <= self.degree + 1
        require(in_range, f"threshold {self.threshold} is not in [2, {self.degree + 1}]")
        floor = self.threshold if complete else 2
        require(floor <= self.min_survivors <= n, f"min_survivors {self.min_survivors} is not in [{floor}, {n}]")
        require(0 < len(self.sums) <= MAX_SUMS, f"1 to {MAX_SUMS} sums, found {len(self.sums)}")
        names = [spec.name for spec in self.sums]
        require(len(set(names)) == len(names), f"a sum is named twice: {names}")
        count = len(self.parameters)
        require(count <= MAX_PARAMETERS, f"at most {MAX_PARAMETERS} parameters, found {count}")
        for text in (text for pair in self.parameters for text in pair):
            require_text(text, "a parameter's name or value", longest=MAX_TEXT)
        ascending = all(left[0] < right[0] for left, right in pairwise(self.parameters))
        require(ascending, "parameters must be in ascending order, each name once")
        self._check_encryption()
        for spec in self.sums:
            for tensor in spec.tensors:
                require(
                    has_headroom(tensor.bound, tensor.fraction_bits, num_clients=n, bits=tensor.bits),
                    f"tensor {tensor.name!r} of sum {spec.name!r} has no headroom: {n} clients × {tensor.limit} "
                    f"must stay below 2^{tensor.bits - 1} and each below 2^{MAX_INTEGER_BITS}",
                )

    def _check_encryption(self) -> None:
        known = ("none", *SCHEMES)
        require(self.encryption in known, f"encryption {self.encryption!r} is unknown; {', '.join(known)} are known")
        if not self.is_encrypted:
            require(not self.key_holder and not self.encryption_key, "a key holder without encryption")
            tensors = (tensor for spec in self.sums for tensor in spec.tensors)
            odd = sorted({tensor.bits for tensor in tensors} - set(RING_BITS))
            require(not odd, f"{odd} bits are no whole bytes; only encrypted sessions take them")
            return
        try:
            scheme = PublicKey.decode(self.encryption_key).scheme
        except CiphertextRefused as error:
            raise InvalidSession(f"V30: {error}") from error
        require(scheme == self.encryption, f"an encryption key for {scheme} in a session with {self.encryption}")
        _ = self._forms  # raises where some sum would not be exact

    @property
    def is_encrypted(self) -> bool:
        """Whether masked integers travel encrypted for a key holder."""
        return self.encryption != "none"

    @cached_property
    def _forms(self) -> dict[int, Form]:
        """By ring bits."""
        sizes = {tensor.bits for spec in self.sums for tensor in spec.tensors}
        return {bits: Form(bits=bits, encryption=self._packing(bits)) for bits in sizes}

    def _packing(self, bits: int) -> EncryptionParameters | None:
        schemes = [scheme for scheme in SCHEMES if scheme == self.encryption]
        return choose_encryption(schemes[0], num_clients=self.num_clients, bits=bits) if schemes else None

    def form(self, tensor: Tensor) -> Form:
        """How a tensor's masked integers travel."""
        return self._forms[tensor.bits]

    def chunk_bytes(self, spec: Sum, chunk: Chunk) -> int:
        """Length of a chunk's values on the wire."""
        return self.form(spec.tensors[chunk.tensor]).payload_bytes(chunk.length)

    @property
    def num_clients(self) -> int:
        """The roster's length, n."""
        return len(self.roster)

    @property
    def is_complete(self) -> bool:
        """Whether every client is every other's neighbour."""
        return self.degree == self.num_clients - 1

    @property
    def client_ids(self) -> tuple[ClientId, ...]:
        """All roster positions, 1 to n."""
        return tuple(ClientId(number) for number in range(1, self.num_clients + 1))

    def key_of(self, party_id: int) -> bytes:
        """The identity key of a client, or of the server for 0."""
        return self.server_key if party_id == 0 else self.roster[party_id - 1]

    def id_of(self, public: bytes) -> ClientId:
        """The roster position of an identity key."""
        if public not in self.roster:
            whose = ", the server's" if public == self.server_key else ""
            raise InvalidSession(
                f"V31: found identity ed25519:{public.hex()}{whose}; "
                f"expected one of the {self.num_clients} clients' on the session's roster"
            )
        return ClientId(self.roster.index(public) + 1)

    @cached_property
    def transcript(self) -> bytes:
        """SHA-256 of the canonical encoding: the session's name in every key, signature and AEAD tag."""
        return digest(Label.TRANSCRIPT, self.encode())

    @cached_property
    def max_chunk_bytes(self) -> int:
        """Values of the longest MaskedInput message, in bytes on the wire."""
        tensors = (tensor for spec in self.sums for tensor in spec.tensors)
        return max(self.form(tensor).payload_bytes(min(tensor.num_values, CHUNK_VALUES)) for tensor in tensors)

    def encode(self) -> bytes:
        """The canonical encoding."""
        out = Writer().text(FORMAT).u8(VERSION).blob(self.session_id).text(self.task)
        out.u16(len(self.roster)).raw(b"".join(self.roster)).raw(self.server_key)
        out.u16(self.threshold).u16(self.min_survivors).u16(self.degree).text(self.encryption)
        if self.is_encrypted:
            out.raw(self.key_holder).blob(self.encryption_key)
        out.u16(len(self.parameters))
        for name, value in self.parameters:
            out.text(name).text(value)
        out.u16(len(self.sums))
        for spec in self.sums:
            out.text(spec.name).u16(len(spec.tensors))
            for tensor in spec.tensors:
                tensor.write(out)
        return out.finish()

    @classmethod
    def decode(cls, data: bytes) -> "Session":
        """Read what `encode` wrote; anything else raises `InvalidSession`."""
        try:
            return cls._decode(Reader(data))
        except Malformed as error:
            raise InvalidSession(f"V30: not a session descriptor: {error}") from error

    @classmethod
    def _decode(cls, data: Reader) -> "Session":
        form, version = data.text(), data.u8()
        require(
            (form, version) == (FORMAT, VERSION), f"found {form[:40]!r} version {version}, know {FORMAT!r} {VERSION}"
        )
        session_id, task = data.blob(), data.text()
        roster = tuple(data.raw(KEY_BYTES) for _ in range(data.u16()))
        server_key = data.raw(KEY_BYTES)
        threshold, min_survivors, degree, encryption = data.u16(), data.u16(), data.u16(), data.text()
        key_holder, encryption_key = (b"", b"") if encryption == "none" else (data.raw(KEY_BYTES), data.blob())
        parameters = tuple((data.text(), data.text()) for _ in range(data.u16()))
        sums = tuple(
            Sum(name=data.text(), tensors=tuple(Tensor.read(data) for _ in range(data.u16())))
            for _ in range(data.u16())
        )
        data.finish()
        return cls(
            session_id=session_id,
            task=task,
            roster=roster,
            server_key=server_key,
            threshold=threshold,
            min_survivors=min_survivors,
            degree=degree,
            sums=sums,
            parameters=parameters,
            encryption=encryption,
            key_holder=key_holder,
            encryption_key=encryption_key,
        )

    def to_json(self) -> str:
        """A form for people and files: the readable fields, and the canonical encoding that alone counts."""
        readable = {
            "format": f"{FORMAT} {VERSION}",
            "transcript": self.transcript.hex(),
            "task": self.task,
            "clients": [key.hex() for key in self.roster],
            "server": self.server_key.hex(),
            **{name: getattr(self, name) for name in ("threshold", "min_survivors", "degree", "encryption")},
            **({"key holder": self.key_holder.hex()} if self.is_encrypted else {}),
            "parameters": dict(self.parameters),
            "sums": {
                spec.name: {tensor.name: f"{tensor.shape} in {tensor.bits} bits" for tensor in spec.tensors}
                for spec in self.sums
            },
            "descriptor": base64.b64encode(self.encode()).decode(),
        }
        return json.dumps(readable, indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Session":
        """Read `to_json`'s form; the readable fields must say what the descriptor says."""
        try:
            found = json.loads(text, object_pairs_hook=_once_each)
            session = cls.decode(base64.b64decode(found["descriptor"], validate=True))
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise InvalidSession("V30: not a session file: expected JSON with a base64 'descriptor'") from error
        if json.loads(session.to_json()) != found:
            raise InvalidSession(
                "V30: the session file's readable part differs from its descriptor; ask for a fresh copy"
            )
        return session


def _once_each(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """A JSON object whose names differ: of two values, people would read one and the parser the other."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice")
    return found
