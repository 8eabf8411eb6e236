"""TIES-MERGING: trim, elect sign, disjoint mean (Yadav et al. 2023, arXiv 2306.01708, algorithm 1).

Where the paper leaves something open, or its authors' code (github.com/prateeky2806/ties-merging) does otherwise:

- What is trimmed is the whole task vector, all layers of an update together, in paper and code: a layer that an edit
  hardly touches may lose all its entries. CollabEdit's public code trims each layer by itself (and has λ = 0.4); that
  is `ties` on one layer at a time.
- The top k% are the ⌊k·d⌉ largest magnitudes, at least one, and any as large as the smallest of these, so that no order
  of entries matters. The authors' code keeps one entry more.
- Where positive and negative mass are exactly equal, the paper's sgn elects no sign and the entry stays as it was; the
  authors' code gives it the sign that most entries have.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64

from collabsecure.merging.updates import Update, checked, common_layers


def ties(updates: Sequence[Update], *, keep: float = 0.2, scale: float = 1.0) -> dict[int, Float64[np.ndarray, "_ _"]]:
    """Δ = λ · TIES(Δ₁, …, Δ_N): TIES-MERGING, by default with its authors' k = 20% and λ = 1.

    Trim: of each update, over all its layers, only the `keep` largest of its entries by magnitude stay. Elect: for each
    entry, the sign with the greater total magnitude over the updates. Merge: the mean of the entries that have it, over
    those updates alone; where there are none, 0. Then λ = `scale` times that.

    Here the smaller half of each update goes. In the first entry +6 stands against −2; the mean is of the one 6:

    >>> ties([{3: np.array([[6.0, 1.0]])}, {3: np.array([[-2.0, 0.5]])}], keep=0.5)
    {3: array([[6., 0.]])}

    Raises:
        ModelMismatch: the updates' layers or shapes are not the same.
        ValueError: there is no update, one has NaN or infinite entries, or `keep` is not in (0, 1].
    """
    if not 0 < keep <= 1:
        raise ValueError(f"found keep = {keep}; expected a part of the entries, above 0 and up to 1")
    layers = common_layers(updates)
    shapes = {layer: updates[0][layer].shape for layer in layers}
    thresholds = [_threshold(update, shapes, keep, number) for number, update in enumerate(updates, 1)]
    return {layer: _elected_mean(updates, layer, thresholds) * scale for layer in layers}


def _threshold(update: Update, shapes: dict[int, tuple[int, ...]], keep: float, number: int) -> float:
    """The smallest magnitude that stays in an update."""
    magnitudes = np.concatenate(
        [
            np.abs(checked(update[layer], shape, number=number, layer=layer)).ravel()  # (d_out·d_in,)
            for layer, shape in shapes.items()
        ]
    )
    num_kept = max(1, round(keep * magnitudes.size))
    magnitudes.partition(magnitudes.size - num_kept)
    return float(magnitudes[magnitudes.size - num_kept])


def _elected_mean(updates: Sequence[Update], layer: int, thresholds: Sequence[float]) -> Float64[np.ndarray, "_ _"]:
    """One layer. Sums and counts by sign are all that is needed, so no two updates are held at once."""
    shape = updates[0][layer].shape
    mass = {sign: np.zeros(shape) for sign in (+1, -1)}
    count = {sign: np.zeros(shape, dtype=np.int32) for sign in (+1, -1)}
    for update, threshold in zip(updates, thresholds, strict=True):
        values = update[layer]
        for sign in (+1, -1):
            has_it = sign * values >= threshold if threshold > 0 else sign * values > 0
            np.add(mass[sign], sign * values, out=mass[sign], where=has_it)
            count[sign] += has_it
    merged = np.zeros(shape)
    for sign in (+1, -1):
        elected = mass[sign] > mass[-sign]
        np.divide(sign * mass[sign], count[sign], out=merged, where=elected)
    return merged
