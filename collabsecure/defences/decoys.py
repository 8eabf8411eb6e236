"""Decoys: requests that a client adds and does not mean, so that a candidate list finds them as well. NumPy only.

A decoy must leave the model as it was, or it is an edit that nobody wanted. In the Gram matrix it is like any other
key. In the cross term it is not, and whatever is done about that at one layer must be undone at another.
"""

import enum
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from collabsecure.attacks.knowledge import PublicLayer
from collabsecure.attacks.value_recovery import recover
from collabsecure.defences.defence import Edits, Layer, explained
from collabsecure.merge import merge_delta
from collabsecure.statistics import Statistics, cross, gram


class DecoyKind(enum.Enum):
    """What a decoy's residual is."""

    KEPT = "kept"  # what takes it back to where it was: zero at the first layer
    UNDONE = "written and undone"  # as long as an edit's at first, taken back at the last layer


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoys:
    """The defence: `decoys_per_client` requests of which the model should think as before."""

    decoys_per_client: int
    kind: DecoyKind = DecoyKind.KEPT

    @property
    def label(self) -> str:
        """Name and strength."""
        return f"{self.decoys_per_client} decoys per client, {self.kind.value}"

    def upload(self, edits: Edits, layer: Layer, rng: np.random.Generator) -> Statistics:
        """Statistics of edits and decoys together."""
        decoy_residuals = edits.decoy_residuals
        if self.kind is DecoyKind.UNDONE and layer.left > 1:
            typical = float(np.linalg.norm(edits.residuals, axis=0).mean())
            directions = rng.normal(size=decoy_residuals.shape)
            decoy_residuals = decoy_residuals + typical * directions / np.linalg.norm(directions, axis=0)
        keys = np.concatenate((edits.keys, edits.decoy_keys), axis=1)
        return Statistics(
            gram=gram(keys), cross=cross(np.concatenate((edits.residuals, decoy_residuals), axis=1), keys)
        )

    def merge(self, total: Statistics, layer: Layer) -> Float64[np.ndarray, "d_out d_in"]:
        """CollabEdit eq. 3."""
        return merge_delta(layer.second_moment, total.gram, total.cross)

    def suspicion(self, total: Statistics, layer: Layer, public: PublicLayer) -> Float64[np.ndarray, " num_candidates"]:
        """How much of a candidate's key lies in the span of the sum: decoys' does as well."""
        return explained(total, layer, public)


def persistence(
    totals: Mapping[int, Statistics], keys: Mapping[int, Float64[np.ndarray, "d_in num"]]
) -> Float64[np.ndarray, " num"]:
    """The attack that tells edits from decoys: r̂ of the first layer times r̂ of the last, with r̂ = X G⁺ k at each.

    An edit goes on in one direction until it is written. What is kept has nothing to write at first; what is written
    and undone turns round. `keys` are the candidates' at each layer, of the model with the updates below, which every
    client has.
    """
    first, last = (recover(totals[layer], keys[layer]) for layer in (min(totals), max(totals)))
    product: Float64[np.ndarray, " num"] = np.sum(first * last, axis=0)
    return product
