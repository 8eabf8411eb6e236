"""Cases in which the adversary's list has only some of the edits on it. NumPy only."""

import math
from dataclasses import replace

import numpy as np
from jaxtyping import Bool

from collabsecure.attacks.case import Case, Shown
from collabsecure.attacks.knowledge import Public


def shorten_list(case: Case, share: float) -> Case:
    """The same edits, of which the adversary has a share on its list (the first ones), beside all that nobody edited.

    What is not on the list is still in sums and updates. Nobody is asked about it: it is in the truth no longer.

    Raises:
        ValueError: `share` is not in (0, 1].
    """
    if not 0 < share <= 1:
        raise ValueError(f"found a share of {share}; expected one in (0, 1]")
    kept = math.ceil(share * len(case.truth.candidate))
    num_candidates = len(case.real.public.names)
    stays = ~case.truth.is_member(num_candidates)
    stays[case.truth.candidate[:kept]] = True
    truth = case.truth
    return replace(
        case,
        setting=replace(case.setting, note=f"{case.setting.note} {share:.0%} of the edits on the list".strip()),
        truth=replace(
            truth,
            keys={layer: keys[:, :kept] for layer, keys in truth.keys.items()},
            residuals={layer: residuals[:, :kept] for layer, residuals in truth.residuals.items()},
            client=truth.client[:kept],
            candidate=(np.cumsum(stays) - 1)[truth.candidate[:kept]],
            objects=truth.objects[:kept],
        ),
        real=_listing(case.real, stays),
        null=_listing(case.null, stays),
    )


def _listing(shown: Shown, stays: Bool[np.ndarray, " num_candidates"]) -> Shown:
    public = shown.public
    return replace(
        shown,
        public=Public(
            layers={
                layer: replace(found, candidates=found.candidates[:, stays]) for layer, found in public.layers.items()
            },
            names=tuple(name for name, is_in in zip(public.names, stays, strict=True) if is_in),
            decoder=None,  # it knows candidates by their places
        ),
    )
