"""The updates that finished sums gave: merged, kept in the state folder, signed, and what the next sum is bound to.

layer-L.f64   Δ of layer L, (d_out, d_in), little-endian float64
sum-S.json    digests of the layers of sum S, and whose edits are in it; written last
"""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from collabsecure.agreement import Agreement
from collabsecure.errors import BadFile
from collabsecure.links import FIRST_LINK, delta_digest, next_link
from collabsecure.merge import merge_delta
from collabsecure.sessions import cross_name, gram_name
from collabsecure_cli.folder import StateFolder
from collabsecure_protocols import Identity, Session
from collabsecure_protocols.keys import Label, context, verify

Decode = Callable[[str], Float64[np.ndarray, "rows columns"]]  # a finished sum's tensor, by name
LoadSecondMoment = Callable[[int], Float64[np.ndarray, "d_in d_in"]]  # a layer's C, weighted


class Results:
    """What a state folder holds of a session's updates.

    Raises:
        BadFile: it is damaged.
    """

    def __init__(self, session: Session, agreement: Agreement, folder: StateFolder) -> None:
        self.session, self.agreement, self._folder = session, agreement, folder
        self.digests: dict[int, bytes] = {}  # layer → digest of its Δ
        self.survivors: dict[int, tuple[int, ...]] = {}  # layer → whose edits are in it
        self.signatures: dict[int, bytes] = {}  # layer → the key holder's under the digest, in an encrypted session
        self._links = [FIRST_LINK]  # what each sum follows, as far as it is known
        for index in range(len(session.sums)):
            if (written := folder.read(f"sum-{index}.json")) is None:
                break
            try:
                self._remember(index, json.loads(written))
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                raise BadFile(
                    folder.path / f"sum-{index}.json",
                    found=f"something else than digests and survivors ({type(error).__name__})",
                    expected="what was written",
                ) from error

    def has(self, sum_index: int) -> bool:
        """Whether a sum's updates are all here."""
        return sum_index < len(self._links) - 1

    @property
    def are_complete(self) -> bool:
        """Whether every layer's update is here."""
        return len(self._links) - 1 == len(self.session.sums)

    @property
    def link(self) -> bytes:
        """What the next sum follows."""
        return self._links[-1]

    def layers_of(self, sum_index: int) -> tuple[int, ...]:
        """The layers whose statistics one sum adds up."""
        layers = self.agreement.layers
        return layers if self.agreement.flow == "one-shot" else (layers[sum_index],)

    def path(self, layer: int) -> Path:
        """The file of a layer's Δ."""
        return self._folder.path / f"layer-{layer}.f64"

    def load(self, layer: int) -> Float64[np.ndarray, "d_out d_in"]:
        """A layer's Δ.

        Raises:
            BadFile: it is not what was written.
        """
        path = self.path(layer)
        data = self._folder.read(path.name) or b""
        d_out, d_in = self.shape(layer)
        if len(data) != 8 * d_out * d_in:
            raise BadFile(path, found=f"{len(data)} bytes", expected=f"{8 * d_out * d_in}")
        delta = np.frombuffer(data, "<f8").reshape(d_out, d_in).astype(np.float64)
        if delta_digest(layer, delta) != self.digests[layer]:
            raise BadFile(path, found="another Δ than was written", expected=f"digest {self.digests[layer].hex()}")
        return delta

    def shape(self, layer: int) -> tuple[int, int]:
        """(d_out, d_in) of a layer's Δ."""
        tensors = (tensor for spec in self.session.sums for tensor in spec.tensors)
        d_out, d_in = next(tensor.shape for tensor in tensors if tensor.name == cross_name(layer))
        return d_out, d_in

    def keep(
        self,
        sum_index: int,
        deltas: Mapping[int, Float64[np.ndarray, "d_out _"]],
        survivors: tuple[int, ...],
        signatures: Mapping[int, bytes] | None = None,
    ) -> None:
        """Write down a sum's updates.

        Raises:
            BadFile: the disk would not take them.
        """
        digests = {}
        for layer in deltas:
            delta = deltas[layer]  # once: it may be solved for only now
            self._folder.write(self.path(layer).name, [np.ascontiguousarray(delta, "<f8").data.cast("B")])
            digests[str(layer)] = delta_digest(layer, delta).hex()
            del delta  # before the next one is made
        signed = {str(layer): signature.hex() for layer, signature in (signatures or {}).items()}
        written = {"digests": digests, "survivors": list(survivors), "signatures": signed}
        self._folder.write(f"sum-{sum_index}.json", [json.dumps(written).encode()])
        self._remember(sum_index, written)

    def _remember(self, sum_index: int, written: Mapping[str, object]) -> None:
        digests, survivors = written["digests"], written["survivors"]
        if not isinstance(digests, dict) or not isinstance(survivors, list):
            raise TypeError("no digests")
        layers = self.layers_of(sum_index)
        found = {layer: bytes.fromhex(digests[str(layer)]) for layer in layers}
        self.digests.update(found)
        self.survivors.update(dict.fromkeys(layers, tuple(survivors)))
        signatures = written["signatures"]
        if not isinstance(signatures, dict):
            raise TypeError("no signatures")
        self.signatures.update({int(layer): bytes.fromhex(signature) for layer, signature in signatures.items()})
        self._links.append(next_link(self.link, found.values()))


class MergedSum(Mapping[int, np.ndarray]):
    """The updates of a finished sum, by layer; each is solved for when it is asked for, so that none need be held."""

    def __init__(self, results: Results, sum_index: int, decode: Decode, second_moment: LoadSecondMoment) -> None:
        self._layers, self._decode, self._second_moment = results.layers_of(sum_index), decode, second_moment

    def __iter__(self) -> Iterator[int]:
        return iter(self._layers)

    def __len__(self) -> int:
        return len(self._layers)

    def __getitem__(self, layer: int) -> Float64[np.ndarray, "d_out d_in"]:
        """Solve for a layer's Δ.

        Raises:
            NotPositiveDefinite: the layer's sum is not one that can be merged.
            BadFile: C cannot be read, or is not the session's.
        """
        moment, decode = self._second_moment(layer), self._decode
        return merge_delta(moment, decode(gram_name(layer)), decode(cross_name(layer)), overwrite=True)


def sign_result(session: Session, identity: Identity, layer: int, digest: bytes) -> bytes:
    """The server's, or the key holder's, signature under a layer's Δ: a client knows it wherever it comes from."""
    return identity.sign(context(Label.RESULT, session.transcript, layer, digest))


def is_signed(session: Session, layer: int, digest: bytes, signature: bytes) -> bool:
    """Whether whoever makes the session's updates has signed this digest of a layer's Δ."""
    signer = session.key_holder if session.is_encrypted else session.server_key
    return verify(signer, signature, context(Label.RESULT, session.transcript, layer, digest))
