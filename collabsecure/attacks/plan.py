"""The suite's experiments: which attack is tried on which case, and what with.

Cases of the target are small sessions on its model. Keys are synthetic where what is to be shown needs longer keys, or
more of them, than the target has. What is masked or encrypted goes through the protocol itself.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from collabsecure.attacks import (
    ambiguity,
    attribution,
    behaviour,
    decryptions,
    differencing,
    grouping,
    independent_components,
    masked_uploads,
    membership,
    published_delta,
    rank,
    reconstruction,
    value_recovery,
)
from collabsecure.attacks.attack import Attack, Finding, measure
from collabsecure.attacks.case import Case, Shown
from collabsecure.attacks.cases.masking import aggregated, retried
from collabsecure.attacks.cases.synthetic import synthetic_case
from collabsecure.attacks.masked_uploads import Effort
from collabsecure.attacks.registry import ATTACKS
from collabsecure.attacks.suite import Experiment, Grid, Plan, Suite
from collabsecure.attacks.views import AggregatorState, TwoSums
from collabsecure_protocols.encryption_parameters import Scheme

if TYPE_CHECKING:
    from collabsecure.attacks.cases.editing import Laboratory

Loader = Callable[[], "Laboratory"]

# Seconds on two cores, measured with the small world's model.
_LOADING, _PER_VALUE, _PER_UPDATE, _PER_ATTACK = 8.0, 0.45, 6.0, 0.5

_TELLING = 10  # edits; of fewer not even an AUC of 1 is four standard errors from chance
_CROWD_KEY_LENGTH, _CROWD_CLIENTS, _CROWD_OTHERS = 256, 10, 1000
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
        _of_keys(suite, views, seed),
        _of_crowds(suite, views, seed),
        _of_uploads(suite, views, seed),
        _of_defences(suite, laboratory, num_requests, views, seed),
    )
    return Plan(
        experiments=tuple(experiment for part in parts for experiment in part.experiments),
        left_out=tuple(reason for part in parts for reason in part.left_out),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Trial:
    """An attack on a view of a case."""

    attack: Attack[Any]
    view: str
    show: Callable[[Shown], object]
    note: str = ""
    must: bool | None = None


def _tried(case: Case, trials: Sequence[_Trial], *, seed: int) -> Iterator[Finding]:
    for trial in trials:
        finding = measure(trial.attack, trial.view, case, trial.show, seed=seed, must=trial.must)
        yield _noted(finding, trial.note)


def _noted(finding: Finding, note: str) -> Finding:
    """With what is special about it."""
    notes = ", ".join(filter(None, (finding.setting.note, note)))
    return replace(finding, setting=replace(finding.setting, note=notes))


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
                _edit, laboratory, clients, edits, trials, with_values=with_values, delta=has_delta, seed=seed
            )
            experiments.append(Experiment(name=size, seconds=seconds, run=run))
    return Plan(experiments=tuple(experiments), left_out=tuple(left_out))


def _trials(clients: int, edits: int, views: Sequence[str], *, with_values: bool) -> tuple[_Trial, ...]:
    """What is tried on the statistics of a session with so many clients."""
    trials: list[_Trial] = []
    if "plain" in views and clients == 1:
        plain = partial(_Trial, view="plain", show=lambda shown: shown.plain(1))
        blind = (rank, ambiguity, independent_components, reconstruction)
        trials += [plain(attack=module.ATTACK) for module in (*blind, membership)]
        if with_values:
            trials.append(plain(attack=value_recovery.ATTACK))
    if "plain" in views and clients > 1:
        trials.append(_Trial(attack=attribution.ATTACK, view="plain", show=_in_the_clear))
    if "sum" in views and clients > 1:
        summed = partial(_Trial, view="sum", show=lambda shown: shown.summed())
        trials += [summed(attack=module.ATTACK) for module in (rank, membership, attribution)]
        if with_values:
            trials.append(summed(attack=value_recovery.ATTACK))
    if "sum" in views and clients > 2:
        trials += [
            _Trial(
                attack=attribution.ATTACK,
                view="sum",
                show=lambda shown: shown.summed(colluders=(clients,)),
                note="one client colludes",
            ),
            _Trial(attack=differencing.ATTACK, view="sum", show=_without_the_last, note="two sums of the same edits"),
        ]
    if "sum" in views and clients > 2 and edits >= _TELLING:
        trials.append(
            _Trial(  # what is left of the sum is one client's upload, which is why promises want two honest ones
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
    trials: Sequence[_Trial],
    *,
    with_values: bool,
    delta: bool,
    seed: int,
) -> Iterator[Finding]:
    """One session on the target's model, and all that is tried on it."""
    from collabsecure.attacks.cases.decoding import PromptDecoder, edited_model

    known = laboratory()
    candidates = known.requests[: -clients * edits]
    decoder = PromptDecoder(model=known.model, candidates=candidates, layers=known.hyperparameters.layers)
    case = known.case(clients, edits, with_values=with_values, decoder=decoder)
    yield from _tried(case, trials, seed=seed)
    if delta:
        published = _Trial(attack=published_delta.ATTACK, view="delta", show=lambda shown: shown.published())
        asked = _Trial(
            attack=behaviour.ATTACK,
            view="delta",
            show=lambda shown: edited_model(known.model, candidates, shown),
        )
        yield from _tried(case, (published, asked), seed=seed)


def _of_keys(suite: Suite, views: Sequence[str], seed: int) -> Plan:
    """Blind attacks on one client's K Kᵀ, with keys as long as a real model's."""
    if "plain" not in views:
        return Plan(experiments=())
    trials = [
        _Trial(attack=module.ATTACK, view="plain", show=lambda shown: shown.plain(1))
        for module in (rank, ambiguity, independent_components, reconstruction)
    ]
    return Plan(
        experiments=tuple(
            Experiment(
                name=f"{edits} synthetic keys of length {suite.key_length}",
                seconds=6.0 + 0.1 * edits,
                run=partial(_synthetic, suite.key_length, 1, edits, edits, trials, seed=seed),
            )
            for edits in suite.reconstructed
        )
    )


def _of_crowds(suite: Suite, views: Sequence[str], seed: int) -> Plan:
    """Sums of more edits than a key has entries, and their updates."""
    trials = []
    if "sum" in views:
        trials.append(_Trial(attack=membership.ATTACK, view="sum", show=lambda shown: shown.summed()))
    if "delta" in views:
        trials.append(_Trial(attack=published_delta.ATTACK, view="delta", show=lambda shown: shown.published()))
    if not trials:
        return Plan(experiments=())
    sizes = [max(1, round(crowd * _CROWD_KEY_LENGTH / _CROWD_CLIENTS)) for crowd in suite.crowds]
    return Plan(
        experiments=tuple(
            Experiment(
                name=f"{_CROWD_CLIENTS} × {edits} synthetic edits",
                seconds=4.0,
                run=partial(_synthetic, _CROWD_KEY_LENGTH, _CROWD_CLIENTS, edits, _CROWD_OTHERS, trials, seed=seed),
            )
            for edits in sizes
        )
    )


def _synthetic(
    d_in: int, clients: int, edits: int, num_others: int, trials: Sequence[_Trial], *, seed: int
) -> Iterator[Finding]:
    case = synthetic_case(d_in=d_in, num_clients=clients, edits_per_client=edits, num_others=num_others, seed=seed)
    yield from _tried(case, trials, seed=seed)


def _of_uploads(suite: Suite, views: Sequence[str], seed: int) -> Plan:
    """What goes through the protocol, and the controls without which silence would prove nothing."""
    experiments, left_out = [], []
    effort = Effort(rounds=suite.rounds)
    if "masked" in views:
        experiments += [
            Experiment(name="masked uploads", seconds=7.0, run=partial(_protected, None, effort, seed=seed)),
            Experiment(name="uploads masked wrongly", seconds=9.0, run=partial(_controls, effort, seed=seed)),
        ]
    if "ckks-aggregator" in views and find_spec("tenseal") is not None:
        experiments += [
            Experiment(
                name=f"uploads encrypted with {scheme}",
                seconds=10.0,
                run=partial(_protected, scheme, effort, seed=seed),
            )
            for scheme in suite.schemes
        ]
        experiments.append(
            Experiment(name="decryptions of encrypted sums", seconds=2.0, run=partial(_decryptions, seed=seed))
        )
    elif "ckks-aggregator" in views:
        left_out.append("encrypted uploads: needs TenSEAL, pip install 'collabsecure[ckks]'")
    if "sum" in views:
        experiments += [
            Experiment(name="a sum asked for twice", seconds=1.0, run=partial(_twice, seed=seed)),
            Experiment(name="who is in a sum", seconds=4.0, run=partial(_parties, seed=seed)),
        ]
    return Plan(experiments=tuple(experiments), left_out=tuple(left_out))


def _session_case(d_in: int, seed: int) -> Case:
    return synthetic_case(d_in=d_in, num_clients=4, edits_per_client=12, num_others=400, seed=seed)


def _protected(scheme: Scheme | None, effort: Effort, *, seed: int) -> Iterator[Finding]:
    """Statistical tests and games, then an attack that opens plain uploads."""
    view = "masked" if scheme is None else "ckks-aggregator"
    case = _session_case(256 if scheme is None else 128, seed)
    for finding in masked_uploads.findings(case, seed=seed, effort=effort, scheme=scheme):
        yield _of_view(finding, view, scheme or "")
    trial = _Trial(
        attack=attribution.ATTACK,
        view=view,
        show=lambda shown: replace(aggregated(shown, scheme=scheme), summed=None, published=None),
        note=scheme or "",
        must=False,
    )
    yield from _tried(case, (trial,), seed=seed)
    attacks = (attack for attack in ATTACKS if attack is not ambiguity.ATTACK)  # it shows something, and finds nothing
    for finding in masked_uploads.everything(case, attacks, seed=seed, scheme=scheme):
        yield _noted(finding, scheme or "")


def _decryptions(*, seed: int) -> Iterator[Finding]:
    for finding in decryptions.findings(seed=seed):
        yield _of_view(finding, "ckks-aggregator", "")


def _parties(*, seed: int) -> Iterator[Finding]:
    """What outside knowledge says of a sum's parties, and what its rounding does."""
    case = _session_case(256, seed)
    topics = (
        _Trial(
            attack=attribution.one_topic_each(case, sharing=sharing),
            view="sum",
            show=lambda shown: shown.summed(),
            note=f"{sharing} edit each topic" if sharing > 1 else "each topic is one client's",
        )
        for sharing in (1, 2)
    )
    rounding = (
        _Trial(
            attack=grouping.of_each(case, wrong=20, seed=seed),
            view="sum",
            show=partial(_ring_sum, bits),
            note=f"keys exact, sum of {bits}-bit integers",
        )
        for bits in (48, 32)
    )
    yield from _tried(case, (*topics, *rounding), seed=seed)


def _ring_sum(bits: int, shown: Shown) -> object:
    return aggregated(shown, bits=bits).summed


def _controls(effort: Effort, *, seed: int) -> Iterator[Finding]:
    for finding in masked_uploads.controls(_session_case(256, seed), seed=seed, effort=effort):
        yield _of_view(finding, "masked", "")


def _twice(*, seed: int) -> Iterator[Finding]:
    """What a server gets that asks a session's clients for their edits again, without one of them."""
    case = _session_case(128, seed)
    finding = differencing.attempt(lambda: retried(case.real, without=1), setting=case.setting)
    yield _noted(replace(finding, view="sum"), "asked for again without one client")


def _of_view(finding: Finding, view: str, note: str) -> Finding:
    """With the view's own name; what else it said of it becomes a note."""
    said = finding.view.removeprefix(view).removeprefix("control").lstrip(": ")
    return _noted(replace(finding, view=view), ", ".join(filter(None, (said, note))))


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
                seconds=3.0 + (0 if number else _PER_UPDATE + 2 * _PER_VALUE * clients * edits),
                run=partial(measured, number),
            )
            for number, defence in enumerate(defences)
        )
    )
