"""What an adversary sees, as types: an attack gets one of these, `knowledge.Public`, and nothing else.

Statistics are by layer. Whoever colludes with the adversary adds what it has itself (`colluders`); what is left of a
sum without that is `SumOnly.of_the_others`. What travels masked or encrypted can be read as if it did not: it has
`layers` as well, so that every attack on statistics can be tried on it. NumPy and the protocol's session only.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float64, UInt64

from collabsecure.sessions import cross_name, gram_name, layer_of
from collabsecure.statistics import Statistics
from collabsecure_protocols import Session, Tensor
from collabsecure_protocols.encryption_parameters import DATA_PRIME
from collabsecure_protocols.envelope import CHUNK_HEADER_BYTES, HEADER_BYTES
from collabsecure_protocols.fixedpoint import decode

Layers = Mapping[int, Statistics]  # layer → gram and cross term
Colluders = Mapping[int, Layers]  # client → what it contributed, which it has told the adversary
Words = Mapping[str, UInt64[np.ndarray, " _"]]  # tensor → numbers of its upload, as they travel


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PlainUpload:
    """What the server of plain CollabEdit has from one client: G_i = K_i K_iᵀ and X_i = R_i K_iᵀ."""

    layers: Layers
    colluders: Colluders = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MaskedUpload:
    """What the server of a masked session has from one client: integers mod 2^bits, less the masks that it knows."""

    session: Session
    words: Words  # tensor → its masked integers, in the order in which they travel
    colluders: Colluders = field(default_factory=dict)

    @classmethod
    def read(cls, session: Session, messages: Iterable[bytes | bytearray | memoryview]) -> "MaskedUpload":
        """What stands in a client's MaskedInput messages, of one sum or several; cut-short tensors are left out.

        The messages are those that a server has accepted: nothing is checked.
        """
        return cls(session=session, words=_read_words(session, messages))

    @property
    def layers(self) -> Layers:
        """The masked integers read as if no masks were on: centred, times the unit."""
        return _as_statistics(self.session, self.words, lambda _, words: words)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EncryptedUpload:
    """What the aggregator of an encrypted session has from one client: masked integers' ciphertexts, numbers mod q."""

    session: Session
    words: Words  # tensor → its ciphertexts end to end, 2N numbers each
    colluders: Colluders = field(default_factory=dict)

    @classmethod
    def read(cls, session: Session, messages: Iterable[bytes | bytearray | memoryview]) -> "EncryptedUpload":
        """What stands in a client's MaskedInput messages; as `MaskedUpload.read`."""
        return cls(session=session, words=_read_words(session, messages))

    @property
    def layers(self) -> Layers:
        """The high bits of c0 read as if they were the integers that it encrypts: as many of it as there are."""

        def integers(tensor: Tensor, words: UInt64[np.ndarray, " _"]) -> UInt64[np.ndarray, " _"]:
            parameters = self.session.form(tensor).encryption
            if parameters is None:
                raise TypeError(f"tensor {tensor.name!r} travels unencrypted: a MaskedUpload")
            c0 = words.reshape(-1, 2, parameters.ring_degree)[:, 0, : parameters.capacity].reshape(-1)
            return c0[: tensor.num_values] >> np.uint64(DATA_PRIME.bit_length() - tensor.bits)

        return _as_statistics(self.session, self.words, integers)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SumOnly:
    """What the server of a masked session has, or the key holder of an encrypted one: ΣG_i and ΣX_i."""

    layers: Layers
    survivors: tuple[int, ...]  # whose edits are in it
    colluders: Colluders = field(default_factory=dict)

    @property
    def of_the_others(self) -> "SumOnly":
        """The sum over the clients that do not collude: what server and colluders together know of them."""
        layers = {}
        for layer, total in self.layers.items():
            known = [told[layer] for client, told in self.colluders.items() if client in self.survivors]
            layers[layer] = Statistics(
                gram=total.gram - sum(told.gram for told in known),
                cross=total.cross - sum(told.cross for told in known),
            )
        others = tuple(client for client in self.survivors if client not in self.colluders)
        return SumOnly(layers=layers, survivors=others)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TwoSums:
    """Two sums of the same edits, the second over fewer clients: what the protocol refuses to give."""

    first: SumOnly
    second: SumOnly

    @property
    def missing(self) -> tuple[int, ...]:
        """Whose edits are in the first sum alone."""
        return tuple(client for client in self.first.survivors if client not in self.second.survivors)

    @property
    def difference(self) -> SumOnly:
        """The sum over those clients."""
        layers = {
            layer: Statistics(
                gram=total.gram - self.second.layers[layer].gram, cross=total.cross - self.second.layers[layer].cross
            )
            for layer, total in self.first.layers.items()
        }
        return SumOnly(layers=layers, survivors=self.missing)

    @property
    def layers(self) -> Layers:
        """The difference's."""
        return self.difference.layers


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PublishedDelta:
    """What everybody has who gets the edited model and has the one before: Δ of each layer."""

    layers: Mapping[int, Float64[np.ndarray, "d_out _"]]
    colluders: Colluders = field(default_factory=dict)


Upload = PlainUpload | MaskedUpload | EncryptedUpload
View = Upload | SumOnly | PublishedDelta


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AggregatorState:
    """All that an aggregator has, or has kept on its disk."""

    uploads: Mapping[int, Upload]  # client → what it sent, as far as it is there
    summed: SumOnly | None = None  # where it learns the sum and still has it
    published: PublishedDelta | None = None
    colluders: Colluders = field(default_factory=dict)

    def parts(self) -> Iterator[tuple[str, View]]:
        """Each view in it with its name, for attacks on one thing at a time; uploads client by client."""
        for _, upload in sorted(self.uploads.items()):
            yield name_of(upload), upload
        for view in (self.summed, self.published):
            if view is not None:
                yield name_of(view), view


STATISTICS = (PlainUpload, MaskedUpload, EncryptedUpload, SumOnly, TwoSums)  # all that have statistics as `layers`


def name_of(view: View) -> str:
    """What --views calls it."""
    match view:
        case PlainUpload():
            return "plain"
        case MaskedUpload():
            return "masked"
        case EncryptedUpload():
            return "ckks-aggregator"
        case SumOnly():
            return "sum"
        case PublishedDelta():
            return "delta"


def _read_words(session: Session, messages: Iterable[bytes | bytearray | memoryview]) -> Words:
    words: dict[str, UInt64[np.ndarray, " _"]] = {}
    there: dict[str, int] = {}
    at = HEADER_BYTES + CHUNK_HEADER_BYTES
    for message in messages:
        spec = session.sums[int.from_bytes(message[HEADER_BYTES : HEADER_BYTES + 2], "big")]
        chunk = spec.chunk(int.from_bytes(message[HEADER_BYTES + 2 : HEADER_BYTES + 6], "big"))
        tensor = spec.tensors[chunk.tensor]
        form = session.form(tensor)
        found = words.setdefault(tensor.name, np.zeros(form.total_words(tensor.num_values), np.uint64))
        form.adding(message, at, chunk.length)(found[form.place(chunk)])
        if form.encryption is None:
            found[form.place(chunk)] &= np.uint64((1 << tensor.bits) - 1)  # packed integers leave what is above them
        there[tensor.name] = there.get(tensor.name, 0) + chunk.length
    tensors = {tensor.name: tensor for spec in session.sums for tensor in spec.tensors}
    return {name: found for name, found in words.items() if there[name] == tensors[name].num_values}


def _as_statistics(
    session: Session, words: Words, integers: Callable[[Tensor, UInt64[np.ndarray, " _"]], UInt64[np.ndarray, " _"]]
) -> Layers:
    tensors = {tensor.name: tensor for spec in session.sums for tensor in spec.tensors}
    real = {name: decode(tensors[name], integers(tensors[name], found)) for name, found in words.items()}
    layers = sorted({layer_of(name) for name in real})
    return {
        layer: Statistics(gram=real[gram_name(layer)], cross=real[cross_name(layer)])
        for layer in layers
        if {gram_name(layer), cross_name(layer)} <= real.keys()
    }
