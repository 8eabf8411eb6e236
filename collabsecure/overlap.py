"""The same edit more than once: what it does to the residuals, and how to tell it from them. NumPy and SciPy only.

An edit writes most of its residual R into a layer, so whoever makes it again finds less to write (CollabEdit §4 and
figure 3):

    R_new = R_old − R_old Kᵀ(C + KKᵀ)⁻¹K = R_old (I + KᵀC⁻¹K)⁻¹

All eigenvalues of the last factor are in (0, 1], so ‖R‖ falls with each time; with one edit, by 1 + kᵀC⁻¹k.

To tell whether edits were made before, take for each the residual on the model as it is and on the model before all
edits, for the same z, and compare `residual_ratios` with a `repetition_threshold`. What ratios there would be without
any repetition is known from the edits in the model themselves: `residuals_without_own` says what each would have found
if all others had been made, but not it.

How sure that is depends on how many edits there are and hardly on λ, which makes an edit's own mark and those of
others smaller alike: with keys and residuals in random directions they are as √(d_in·d_out) to √num_edits. Real ones
are not random, which is why the threshold comes from them.
"""

import math

import numpy as np
from jaxtyping import Float64

from collabsecure.merge import merge_delta
from collabsecure.statistics import gram


def residual_norms(
    second_moment: Float64[np.ndarray, "d_in d_in"],
    keys: Float64[np.ndarray, "d_in num_edits"],
    residuals: Float64[np.ndarray, "d_out num_edits"],
    *,
    repeats: int,
) -> Float64[np.ndarray, " {repeats}+1"]:
    """‖R‖ before, and after making the same edits once, twice, … `repeats` times: CollabEdit's figure 3.

    Frobenius, as in the paper's public code; for one edit that is ‖r‖₂. `second_moment` is C, already weighted.

    >>> residual_norms(np.eye(1), np.array([[1.0]]), np.array([[8.0]]), repeats=3)
    array([8., 4., 2., 1.])

    Raises:
        NotPositiveDefinite: C + KKᵀ is not.
        ValueError: the shapes do not belong together.
    """
    written = _written(second_moment, keys)
    norms = [np.linalg.norm(residuals)]
    for _ in range(repeats):
        residuals = residuals - residuals @ written
        norms.append(np.linalg.norm(residuals))
    return np.array(norms)


def residuals_without_own(
    second_moment: Float64[np.ndarray, "d_in d_in"],
    keys: Float64[np.ndarray, "d_in num_edits"],
    residuals: Float64[np.ndarray, "d_out num_edits"],
) -> Float64[np.ndarray, "d_out num_edits"]:
    """What each edit's residual would be if all of the others had been made, but not it.

    With H = Kᵀ(C + KKᵀ)⁻¹K, edit j's residual is rⱼ' = (R − RH)ⱼ after all edits, and rⱼ' / (1 − Hⱼⱼ) after all but its
    own: leave-one-out of ridge regression, which is what an edit is. No two of the edits may be the same.

    Raises:
        NotPositiveDefinite: C + KKᵀ is not.
        ValueError: the shapes do not belong together.
    """
    written = _written(second_moment, keys)
    others: Float64[np.ndarray, "d_out num_edits"] = (residuals - residuals @ written) / (1 - written.diagonal())
    return others


def residual_ratios(
    now: Float64[np.ndarray, "d_out num_edits"], before: Float64[np.ndarray, "d_out num_edits"]
) -> Float64[np.ndarray, " num_edits"]:
    """‖r now‖ / ‖r before‖ of each edit.

    >>> residual_ratios(np.array([[3.0, 1.0], [4.0, 0.0]]), np.array([[0.0, 2.0], [5.0, 0.0]]))
    array([1. , 0.5])

    Raises:
        ValueError: an edit had nothing to write before.
    """
    lengths = np.linalg.norm(before, axis=0)
    if not lengths.all():
        raise ValueError(f"edit {int(lengths.argmin())}: found a residual of length 0 before all edits; expected more")
    ratios: Float64[np.ndarray, " num_edits"] = np.linalg.norm(now, axis=0) / lengths
    return ratios


def repetition_threshold(unrepeated: Float64[np.ndarray, " num_edits"], *, false_alarms: float) -> float:
    """The ratio below which an edit counts as made before.

    `unrepeated` are ratios of edits that were not made before. The threshold is the k-th smallest of these n with
    k = ⌊α(n + 1)⌋, α = `false_alarms`. A further edit that was not made before, and does not differ from them in other
    ways, is as likely to be smallest, second smallest, … of all n + 1, so its ratio is below with probability
    k/(n + 1) ≤ α, whatever the ratios' distribution (conformal prediction; Vovk et al. 2005). Those of
    `residuals_without_own` are with n − 1 other edits, a further edit's is with n: then that holds approximately
    (Barber et al. 2021, on the jackknife), the better the more edits there are.

    >>> repetition_threshold(np.arange(1.0, 20.0), false_alarms=0.1)
    2.0

    Raises:
        ValueError: `false_alarms` is not in (0, 1), or there are too few ratios to promise so few.
    """
    if not 0 < false_alarms < 1:
        raise ValueError(f"found false_alarms = {false_alarms}; expected a probability between 0 and 1")
    rank = math.floor(false_alarms * (unrepeated.size + 1) + 1e-9)  # 1/49 · 49 is below 1 in floating point
    if rank == 0:
        needed = math.ceil(1 / false_alarms - 1e-9) - 1
        raise ValueError(
            f"found {unrepeated.size} ratios for a probability of false alarms of {false_alarms}; "
            f"expected at least {needed}"
        )
    return float(np.partition(unrepeated, rank - 1)[rank - 1])


def _written(
    second_moment: Float64[np.ndarray, "d_in d_in"], keys: Float64[np.ndarray, "d_in num_edits"]
) -> Float64[np.ndarray, "num_edits num_edits"]:
    """H = Kᵀ(C + KKᵀ)⁻¹K: RH is what an edit makes of R."""
    written: Float64[np.ndarray, "num_edits num_edits"] = merge_delta(second_moment, gram(keys), keys.T) @ keys
    return written
