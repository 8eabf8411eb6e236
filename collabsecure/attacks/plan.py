"""The suite's experiments: which attack is tried on which case, and what with.

Cases of the target are small sessions on its model; where no model that we have is large enough, keys are synthetic.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from collabsecure.attacks import ambiguity, rank, value_recovery
from collabsecure.attacks.attack import Attack, Finding, measure
from collabsecure.attacks.case import Case, Shown
from collabsecure.attacks.suite import Experiment, Grid, Plan, Suite

if TYPE_CHECKING:
    from collabsecure.attacks.cases.editing import Laboratory

_LOADING, _PER_VALUE, _PER_UPDATE = 8.0, 0.45, 6.0  # seconds on two cores, with the small world


def plan(
    suite: Suite,
    *,
    laboratory: Callable[[], "Laboratory"],
    name: str,
    num_requests: int,
    grid: Grid,
    views: Sequence[str],
    seed: int,
) -> Plan:
    """All experiments on those views.

    `laboratory` loads the target, once, when the first experiment needs it; `num_requests` is how many subjects it has.
    """
    target, left_out = _of_target(
        suite, laboratory=laboratory, name=name, num_requests=num_requests, grid=grid, views=views, seed=seed
    )
    return Plan(experiments=(*target, *_of_synthetic(suite, views=views, seed=seed)), left_out=left_out)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Trial:
    """An attack on a view of a case."""

    attack: Attack[Any]
    view: str
    show: Callable[[Shown], object]


def _tried(case: Case, trials: Sequence[_Trial], *, seed: int) -> Iterator[Finding]:
    for trial in trials:
        yield measure(trial.attack, trial.view, case, trial.show, seed=seed)


def _of_target(
    suite: Suite,
    *,
    laboratory: Callable[[], "Laboratory"],
    name: str,
    num_requests: int,
    grid: Grid,
    views: Sequence[str],
    seed: int,
) -> tuple[tuple[Experiment, ...], tuple[str, ...]]:
    """Sessions of all sizes that were asked for and that there are records for."""
    experiments: list[Experiment] = []
    left_out: list[str] = []
    computed = 0  # edits whose values an experiment before has computed: the same requests are edited again
    for clients in grid.clients:
        for edits in grid.edits_per_client:
            total = clients * edits
            size = f"{clients} × {edits} edits of {name}"
            if 3 * total > num_requests:
                left_out.append(
                    f"{size}: needs {3 * total} subjects (edits, null, candidates), there are {num_requests}"
                )
                continue
            with_values = total <= suite.most_values
            trials = _trials(clients, views, with_values=with_values)
            if not with_values and _trials(clients, views, with_values=True) != trials:
                left_out.append(
                    f"{size}: what needs the update; this suite computes values of {suite.most_values} edits at most"
                )
            if not trials:
                continue
            seconds = 1.0 + (0 if experiments else _LOADING)
            if with_values:
                seconds += _PER_UPDATE + 2 * _PER_VALUE * max(0, total - computed)
                computed = max(computed, total)
            run = partial(_edit, laboratory, clients, edits, trials, with_values=with_values, seed=seed)
            experiments.append(Experiment(name=size, seconds=seconds, run=run))
    return tuple(experiments), tuple(left_out)


def _trials(clients: int, views: Sequence[str], *, with_values: bool) -> tuple[_Trial, ...]:
    """What is tried on a session with so many clients; a plain upload is tried with one client alone."""
    trials: list[_Trial] = []
    if "plain" in views and clients == 1:
        plain = partial(_Trial, view="plain", show=lambda shown: shown.plain(1))
        trials += [plain(attack=rank.ATTACK), plain(attack=ambiguity.ATTACK)]
        if with_values:
            trials.append(plain(attack=value_recovery.ATTACK))
    if "sum" in views and clients > 1:
        summed = partial(_Trial, view="sum", show=lambda shown: shown.summed())
        trials.append(summed(attack=rank.ATTACK))
        if with_values:
            trials.append(summed(attack=value_recovery.ATTACK))
    return tuple(trials)


def _edit(
    laboratory: Callable[[], "Laboratory"],
    clients: int,
    edits: int,
    trials: Sequence[_Trial],
    *,
    with_values: bool,
    seed: int,
) -> Iterator[Finding]:
    yield from _tried(laboratory().case(clients, edits, with_values=with_values), trials, seed=seed)


def _of_synthetic(suite: Suite, *, views: Sequence[str], seed: int) -> tuple[Experiment, ...]:
    return ()
