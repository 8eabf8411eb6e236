"""A reproduction's rows: measured one by one, each kept as soon as it is there, none measured twice."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from tqdm import tqdm

from collabsecure.reproduction.experiments import Evaluation, Step, measure
from collabsecure.reproduction.methods import Cohort, Editing, Merging
from collabsecure.reproduction.results import Row
from collabsecure_cli.reproduce_state import FinishedRows

Found = Mapping[tuple[Editing | Merging, str], Row]  # by method and its evaluation's name
Plan = Callable[[Found], Iterable[Step]]  # what to measure, step by step, given what was found before a step

_FORM = "{desc} {percentage:3.0f}%|{bar}| {elapsed}, {remaining} left"


class Effort:
    """A bar for work of which some turns out to be done already; counted in records asked about once."""

    def __init__(self, total: int) -> None:
        self._bar = tqdm(total=total, bar_format=_FORM, dynamic_ncols=True)
        self._total, self._finished = total, 0
        self._current = 0

    def __enter__(self) -> Effort:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def begin(self, what: str, size: int) -> None:
        """Something of that size is being done."""
        self._current = size
        self._bar.set_description_str(f"{what[:44]:<44}")

    def tell(self, done: int, of: int) -> None:
        """So much of it is done."""
        self._bar.update(self._finished + self._current * done // of - self._bar.n)

    def end(self) -> None:
        """All of it is done."""
        self._finished += self._current
        self._bar.update(self._finished - self._bar.n)

    def spare(self, size: int) -> None:
        """Something of that size need not be done."""
        self._total -= size
        self._bar.total = self._total
        self._bar.refresh()


def measure_rows(cohort: Cohort, plan: Plan, state: FinishedRows, *, edits: int, effort: Effort) -> Found:
    """Every row that a plan asks for, of a cohort that makes so many edits each; those in `state` are read from there.

    Raises:
        BadFile: the disk would not take a row.
        NotPositiveDefinite: an update cannot be solved for.
        SumAborted: the secure sum ended without a result.
    """
    clients = len(cohort.clients)
    found: dict[tuple[Editing | Merging, str], Row] = {}
    read = set()

    def known(method: Editing | Merging, evaluation: Evaluation) -> Row | None:
        row = state.read(method, evaluation.name, clients=clients, edits=edits)
        size = clients * edits * evaluation.effort
        if row is None:
            effort.begin(method.name, size)
        else:
            effort.spare(size)
            read.add((method, evaluation.name))
        return row

    for method, evaluation, row in measure(cohort, plan(found), known=known, evaluating=effort.tell):
        if (method, evaluation.name) not in read:
            state.write(row, method, evaluation.name, clients=clients, edits=edits)
            effort.end()
        found[method, evaluation.name] = row
    return found
