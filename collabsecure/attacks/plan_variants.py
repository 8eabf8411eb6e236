"""Membership where the adversary has less, or the list is harder: of one client's upload on the target's model."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from collabsecure.attacks import membership
from collabsecure.attacks.attack import Finding, measure
from collabsecure.attacks.case import Shown
from collabsecure.attacks.suite import Experiment, Plan
from collabsecure.attacks.trials import Trial, tried
from collabsecure.attacks.views import PlainUpload

if TYPE_CHECKING:
    from collabsecure.attacks.cases.editing import Laboratory

_EDITS = 20
_RECORDS = 120  # that suffice: edits, as many of the null, and others


def of_variants(laboratory: Callable[[], "Laboratory"], num_requests: int, views: Sequence[str], seed: int) -> Plan:
    """One experiment, where plain uploads are attacked and there are records for it."""
    if "plain" not in views or num_requests < 3 * _EDITS:
        return Plan(experiments=())
    run = partial(_variants, laboratory, seed)
    return Plan(experiments=(Experiment(name="membership, made harder", seconds=8.0, run=run),))


def _variants(laboratory: Callable[[], "Laboratory"], seed: int) -> Iterator[Finding]:
    from collabsecure.attacks.cases import small_world
    from collabsecure.templates import CLEAN

    whole = laboratory()
    known = replace(whole, requests=whole.requests[:_RECORDS])

    def upload(shown: Shown) -> PlainUpload:
        return shown.plain(1)

    unknown = known.case(1, _EDITS, with_values=False, guessed_templates=CLEAN, note="contexts unknown")
    yield measure(membership.ATTACK, "plain", unknown, upload, seed=seed)
    exact = known.case(1, _EDITS, with_values=False)
    yield from tried(
        exact,
        [
            Trial(attack=membership.ATTACK, view="plain", show=_Rounded(kind), note=f"{kind.__name__} upload")
            for kind in (np.float32, np.float16)
        ],
        seed=seed,
    )
    if known.name == small_world.KEYS:  # other records do not say what else could be edited about their subjects
        both = small_world.with_other_relations(known)
        case = both.case(1, _EDITS, with_values=False, note="other facts of the same subjects on the list")
        yield measure(membership.ATTACK, "plain", case, upload, seed=seed)


class _Rounded:
    """An upload whose Gram matrices were kept in fewer bits."""

    def __init__(self, kind: type[np.floating]) -> None:
        self._kind = kind

    def __call__(self, shown: Shown) -> PlainUpload:
        view = shown.plain(1)
        layers = {
            layer: replace(each, gram=each.gram.astype(self._kind).astype(np.float64))
            for layer, each in view.layers.items()
        }
        return replace(view, layers=layers)
