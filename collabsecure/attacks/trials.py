"""An attack on a view of a case, before it is made: what experiments consist of."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from collabsecure.attacks.attack import Attack, Finding, measure
from collabsecure.attacks.case import Case, Shown


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """An attack on a view of a case."""

    attack: Attack[Any]
    view: str
    show: Callable[[Shown], object]
    note: str = ""
    must: bool | None = None


def tried(case: Case, trials: Sequence[Trial], *, seed: int) -> Iterator[Finding]:
    """The findings, each with its note."""
    for trial in trials:
        finding = measure(trial.attack, trial.view, case, trial.show, seed=seed, must=trial.must)
        yield noted(finding, trial.note)


def noted(finding: Finding, note: str) -> Finding:
    """With what is special about it."""
    notes = ", ".join(filter(None, (finding.setting.note, note)))
    return replace(finding, setting=replace(finding.setting, note=notes))
