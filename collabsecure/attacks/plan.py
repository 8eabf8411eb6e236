"""The suite's experiments: which attack is tried on which case, and what with.

Cases of the target are small sessions on its model. Keys are synthetic where what is to be shown needs longer keys, or
more of them, than the target has. What is masked or encrypted goes through the protocol itself.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from typing import TYPE_CHECKING

from collabsecure.attacks import (
    ambiguity,
    attribution,
    behaviour,
    differencing,
    independent_components,
    membership,
    published_delta,
    rank,
    reconstruction,
    value_recovery,
)
from collabsecure.attacks.attack import Finding
from collabsecure.attacks.case import Shown
from collabsecure.attacks.plan_keys import of_crowds, of_keys
from collabsecure.attacks.plan_protocol import of_uploads
from collabsecure.attacks.plan_variants import of_variants
from collabsecure.attacks.suite import Experiment, Grid, Plan, Suite
from collabsecure.attacks.trials import Trial, tried
from collabsecure.attacks.views import AggregatorState, TwoSums

if TYPE_CHECKING:
    from collabsecure.attacks.cases.editing import Laboratory

Loader = Callable[[], "Laboratory"]

# Seconds on two cores, measured with the small world's model.
_LOADING, _PER_VALUE, _PER_UPDATE, _PER_ATTACK, _PER_DEFENCE = 8.0, 0.4, 6.0, 0.5, 4.5

_TWO_SUMS = "two sums of the same edits, one without the last client"
_TELLING = 10  # edits; of fewer not even an AUC of 1 is four standard errors from chance
_LEAST_OTHERS, _MOST_OTHERS = 50, 200  # candidates that are neither edited nor decoys, when a defence is tried


def plan(
    suite: Suite,
    *,
    laboratory: Loader,
    name: str,
    num_requests: int,
    grid: Grid,
    views: Sequence[str],
    seed: int,
) -> Plan:
    """All experiments on those views.

    `laboratory` loads the target, once, when the first experiment needs it; `num_requests` is how many subjects it has.
    """
    target = _of_target(
        suite, laboratory=laboratory, name=name, num_requests=num_requests, grid=grid, views=views, seed=seed
    )
    parts = (
        target,
        of_variants(laboratory, num_requests, views, seed),
        of_keys(suite, views, seed),
        of_crowds(suite, views, seed),
        of_uploads(suite, views, seed),
        _of_defences(suite, laboratory, num_requests, views, seed),
    )
    return Plan(
        experiments=tuple(experiment for part in parts for experiment in part.experiments),
        left_out=tuple(reason for part in parts for reason in part.left_out),
    )


def _of_target(
    suite: Suite,
    *,
    laboratory: Loader,
    name: str,
    num_requests: int,
    grid: Grid,
    views: Sequence[str],
    seed: int,
) -> Plan:
    """Sessions of all sizes that were asked for and that there are records for."""
    experiments: list[Experiment] = []
    left_out: list[str] = []
    computed = 0  # edits whose values an experiment before has computed: the same requests are edited again
    for clients in grid.clients:
        for edits in grid.edits_per_client:
            total = clients * edits
            size = f"{clients} × {edits} edits of {name}"
            if 3 * total > num_requests:
                left_out.append(f"{size}: needs {3 * total} subjects (edits, null, others), there are {num_requests}")
                continue
            with_values = total <= suite.most_values
            trials = _trials(clients, edits, views, with_values=with_values)
            has_delta = "delta" in views and with_values
            if not with_values and set(views) & {"plain", "sum", "delta"}:
                left_out.append(
                    f"{size}: what needs the update; this suite computes values of {suite.most_values} edits at most"
                )
            if not trials and not has_delta:
                continue
            seconds = _PER_ATTACK * len(trials) + (0 if experiments else _LOADING)
            if with_values:
                seconds += _PER_UPDATE + 2 * _PER_VALUE * max(0, total - computed)
                computed = max(computed, total)
            run = partial(
                _edit,
                laboratory,
                clients,
                edits,
                trials,
                with_values=with_values,
                delta=has_delta,
                asks=clients == grid.clients[-1],  # asking takes longest, and what counts is how much is edited
                seed=seed,
            )
            experiments.append(Experiment(name=size, seconds=seconds, run=run))
    return Plan(experiments=tuple(experiments), left_out=tuple(left_out))


def _trials(clients: int, edits: int, views: Sequence[str], *, with_values: bool) -> tuple[Trial, ...]:
    """What is tried on the statistics of a session with so many clients."""
    trials: list[Trial] = []
    if "plain" in views and clients == 1:
        plain = partial(Trial, view="plain", show=lambda shown: shown.plain(1))
        blind = (rank, ambiguity, independent_components, reconstruction)
        trials += [plain(attack=module.ATTACK) for module in (*blind, membership)]
        if with_values:
            trials.append(plain(attack=value_recovery.ATTACK))
    if "plain" in views and clients > 1:
        trials.append(Trial(attack=attribution.ATTACK, view="plain", show=_in_the_clear))
    if "sum" in views and clients > 1:
        summed = partial(Trial, view="sum", show=lambda shown: shown.summed())
        trials += [summed(attack=module.ATTACK) for module in (rank, membership, attribution)]
        if with_values:
            trials.append(summed(attack=value_recovery.ATTACK))
    if "sum" in views and clients > 2:
        trials += [
            Trial(
                attack=attribution.ATTACK,
                view="sum",
                show=lambda shown: shown.summed(colluders=(clients,)),
                note="one client colludes",
            ),
            Trial(attack=differencing.ATTACK, view="sum", show=_without_the_last, note=_TWO_SUMS),
        ]
        if with_values:
            trials.append(Trial(attack=value_recovery.ATTACK, view="sum", show=_without_the_last, note=_TWO_SUMS))
    if "sum" in views and clients > 2 and edits >= _TELLING:
        trials.append(
            Trial(  # what is left of the sum is one client's upload, which is why promises want two honest ones
                attack=membership.ATTACK,
                view="sum",
                show=lambda shown: shown.summed(colluders=range(2, clients + 1)),
                note="all but one client collude",
                must=True,
            )
        )
    return tuple(trials)


def _in_the_clear(shown: Shown) -> AggregatorState:
    """What the server of plain CollabEdit has in all."""
    return AggregatorState(uploads={client: shown.plain(client) for client in shown.uploads})


def _without_the_last(shown: Shown) -> TwoSums:
    clients = sorted(shown.uploads)
    return TwoSums(first=shown.summed(clients), second=shown.summed(clients[:-1]))


def _edit(
    laboratory: Loader,
    clients: int,
    edits: int,
    trials: Sequence[Trial],
    *,
    with_values: bool,
    delta: bool,
    asks: bool,
    seed: int,
) -> Iterator[Finding]:
    """One session on the target's model, and all that is tried on it."""
    from collabsecure.attacks.cases.decoding import PromptDecoder, edited_model

    known = laboratory()
    candidates = known.requests[: -clients * edits]
    decoder = PromptDecoder(model=known.model, candidates=candidates, layers=known.hyperparameters.layers)
    case = known.case(clients, edits, with_values=with_values, decoder=decoder)
    yield from tried(case, trials, seed=seed)
    if delta:
        published = Trial(attack=published_delta.ATTACK, view="delta", show=lambda shown: shown.published())
        asked = Trial(
            attack=behaviour.ATTACK,
            view="delta",
            show=lambda shown: edited_model(known.model, candidates, shown),
        )
        yield from tried(case, (published, asked) if asks else (published,), seed=seed)


def _of_defences(suite: Suite, laboratory: Loader, num_requests: int, views: Sequence[str], seed: int) -> Plan:
    """What could be done to a sum, and what it costs the edit."""
    if "sum" not in views:
        return Plan(experiments=())
    (clients,), (edits,) = suite.defended.clients, suite.defended.edits_per_client
    needed = 2 * clients * (edits + suite.decoys)
    others = min(_MOST_OTHERS, num_requests - needed)
    if others < _LEAST_OTHERS:
        reason = (
            f"defences: need {needed + _LEAST_OTHERS} subjects (edits, null, decoys, others), there are {num_requests}"
        )
        return Plan(experiments=(), left_out=(reason,))

    from collabsecure.defences.bench import Bench
    from collabsecure.defences.tradeoff import FULL, QUICK, measure_defence

    defences = {"quick": QUICK, "full": FULL}[suite.name]

    @cache
    def bench() -> Bench:
        return Bench.prepare(
            laboratory(),
            num_clients=clients,
            edits_per_client=edits,
            decoys_per_client=suite.decoys,
            num_others=others,
        )

    def measured(number: int) -> Iterator[Finding]:
        yield measure_defence(bench(), defences[number], seed=seed)

    return Plan(
        experiments=tuple(
            Experiment(
                name=f"defence: {defence.label}",
                seconds=_PER_DEFENCE
                + 0.05 * clients * edits
                + (0 if number else _PER_UPDATE + 2 * _PER_VALUE * clients * edits),
                run=partial(measured, number),
            )
            for number, defence in enumerate(defences)
        )
    )
