"""Experiments on synthetic keys: as long as a real model's, and more of them than a small model has subjects."""

from collections.abc import Iterator, Sequence
from functools import partial

from collabsecure.attacks import ambiguity, independent_components, membership, published_delta, rank, reconstruction
from collabsecure.attacks.attack import Finding
from collabsecure.attacks.cases.open_world import shorten_list
from collabsecure.attacks.cases.synthetic import synthetic_case
from collabsecure.attacks.suite import Experiment, Plan, Suite
from collabsecure.attacks.trials import Trial, tried

_SHARE_LISTED = 0.1  # of the edits that an adversary has on its list, where it has not all
_CROWD_KEY_LENGTH, _CROWD_CLIENTS, _CROWD_OTHERS = 256, 10, 1000


def of_keys(suite: Suite, views: Sequence[str], seed: int) -> Plan:
    """Blind attacks on one client's K Kᵀ, with keys as long as a real model's."""
    if "plain" not in views:
        return Plan(experiments=())
    trials = [
        Trial(attack=module.ATTACK, view="plain", show=lambda shown: shown.plain(1))
        for module in (rank, ambiguity, independent_components, reconstruction)
    ]
    return Plan(
        experiments=tuple(
            Experiment(
                name=f"{edits} synthetic keys of length {suite.key_length}",
                seconds=5.0 + 0.0018 * edits**2,
                run=partial(_synthetic, suite.key_length, 1, edits, edits, trials, seed=seed),
            )
            for edits in suite.reconstructed
        )
    )


def of_crowds(suite: Suite, views: Sequence[str], seed: int) -> Plan:
    """Sums of more edits than a key has entries, and their updates."""
    trials = []
    if "sum" in views:
        trials.append(Trial(attack=membership.ATTACK, view="sum", show=lambda shown: shown.summed()))
    if "delta" in views:
        trials.append(Trial(attack=published_delta.ATTACK, view="delta", show=lambda shown: shown.published()))
    if not trials:
        return Plan(experiments=())
    sizes = [max(1, round(crowd * _CROWD_KEY_LENGTH / _CROWD_CLIENTS)) for crowd in suite.crowds]
    return Plan(
        experiments=tuple(
            Experiment(
                name=f"{_CROWD_CLIENTS} × {edits} synthetic edits",
                seconds=1.0,
                run=partial(_synthetic, _CROWD_KEY_LENGTH, _CROWD_CLIENTS, edits, _CROWD_OTHERS, trials, seed=seed),
            )
            for edits in sizes
        )
    )


def _synthetic(
    d_in: int, clients: int, edits: int, num_others: int, trials: Sequence[Trial], *, seed: int
) -> Iterator[Finding]:
    case = synthetic_case(d_in=d_in, num_clients=clients, edits_per_client=edits, num_others=num_others, seed=seed)
    yield from tried(case, trials, seed=seed)
    if clients > 1:  # an adversary that has thought of few of the edits
        summed = [trial for trial in trials if trial.view == "sum"]
        yield from tried(shorten_list(case, _SHARE_LISTED), summed, seed=seed)
