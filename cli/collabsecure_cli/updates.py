"""Updates that the key holder of an encrypted session has made: checked, then taken over as this side's results."""

from collections.abc import Mapping

import numpy as np

from collabsecure.links import delta_digest
from collabsecure_cli.folder import StateFolder
from collabsecure_cli.results import Results, is_signed
from collabsecure_cli.uploads import StagedUpload, WrongOffset, delta_boundaries
from collabsecure_protocols import RemoteProtocolError

SignedDigests = Mapping[int, tuple[bytes, bytes]]  # layer → digest of its Δ, and the key holder's signature


class ReceivedUpdates:
    """Updates on their way from the key holder, in the aggregator's state folder."""

    def __init__(self, results: Results, folder: StateFolder) -> None:
        self._results, self._folder = results, folder
        for layer in results.digests:  # a crash may have kept what was taken over just before
            folder.remove(_name(layer))

    def offset(self, layer: int) -> int:
        """The byte at which the upload of a layer's Δ goes on."""
        return self._staged(layer).size

    def upload(self, layer: int, offset: int, piece: bytes) -> int:
        """Take a piece of a layer's Δ; returns where the next one goes.

        Raises:
            WrongOffset: another piece is next, or one of another length.
            BadFile: the disk would not take it.
        """
        staged = self._staged(layer)
        if offset != staged.size or staged.is_complete or len(piece) != staged.next_bytes:
            raise WrongOffset(staged.size)
        staged.append(piece)
        return staged.size

    def take(self, sum_index: int, signed: SignedDigests, survivors: tuple[int, ...]) -> None:
        """Take over a sum's updates.

        Raises:
            RemoteProtocolError: an update is not all here, not the one of that digest, or not signed by the key holder.
            BadFile: the disk would not take them.
        """
        deltas = {}
        for layer, (digest, signature) in signed.items():
            staged = self._staged(layer)
            if not staged.is_complete or not is_signed(self._results.session, layer, digest, signature):
                raise RemoteProtocolError(f"there is no whole and signed update of layer {layer}", check="RESULT")
            delta = np.frombuffer(b"".join(staged.read()), "<f8").reshape(self._results.shape(layer))
            deltas[layer] = delta.astype(np.float64, copy=False)
            if delta_digest(layer, deltas[layer]) != digest or not np.isfinite(delta).all():
                staged.discard()
                raise RemoteProtocolError(f"another update of layer {layer} came than was signed", check="RESULT")
        signatures = {layer: signature for layer, (_, signature) in signed.items()}
        self._results.keep(sum_index, deltas, survivors, signatures)
        for layer in signed:
            self._staged(layer).discard()

    def _staged(self, layer: int) -> StagedUpload:
        d_out, d_in = self._results.shape(layer)
        return StagedUpload(self._folder.path / _name(layer), delta_boundaries(8 * d_out * d_in))


def _name(layer: int) -> str:
    return f"update-{layer}"
