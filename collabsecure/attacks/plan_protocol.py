"""Experiments that go through the protocol itself: masked and encrypted uploads, and sums asked for twice."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from importlib.util import find_spec

from collabsecure.attacks import (
    ambiguity,
    attribution,
    decryptions,
    differencing,
    grouping,
    independent_components,
    masked_uploads,
    reconstruction,
)
from collabsecure.attacks.attack import Finding
from collabsecure.attacks.case import Case, Shown
from collabsecure.attacks.cases.masking import aggregated, retried
from collabsecure.attacks.cases.synthetic import synthetic_case
from collabsecure.attacks.masked_uploads import Effort
from collabsecure.attacks.registry import ATTACKS
from collabsecure.attacks.suite import Experiment, Plan, Suite
from collabsecure.attacks.trials import Trial, noted, tried
from collabsecure_protocols.encryption_parameters import Scheme

# Ambiguity shows something and finds nothing; the others take long where everything is noise, and have no chance level.
_NOT_TRIED = (ambiguity.ATTACK, independent_components.ATTACK, reconstruction.ATTACK)


def of_uploads(suite: Suite, views: Sequence[str], seed: int) -> Plan:
    """What goes through the protocol, and the controls without which silence would prove nothing."""
    experiments, left_out = [], []
    effort = Effort(rounds=suite.rounds)
    if "masked" in views:
        experiments += [
            Experiment(
                name="masked uploads", seconds=0.1 * suite.rounds, run=partial(_protected, None, effort, seed=seed)
            ),
            Experiment(
                name="uploads masked wrongly", seconds=0.1 * suite.rounds, run=partial(_controls, effort, seed=seed)
            ),
        ]
    if "ckks-aggregator" in views and find_spec("tenseal") is not None:
        experiments += [
            Experiment(
                name=f"uploads encrypted with {scheme}",
                seconds=0.15 * suite.rounds,
                run=partial(_protected, scheme, effort, seed=seed),
            )
            for scheme in suite.schemes
        ]
        experiments.append(
            Experiment(name="decryptions of encrypted sums", seconds=0.5, run=partial(_decryptions, seed=seed))
        )
    elif "ckks-aggregator" in views:
        left_out.append("encrypted uploads: needs TenSEAL, pip install 'collabsecure[ckks]'")
    if "sum" in views:
        experiments += [
            Experiment(name="a sum asked for twice", seconds=0.5, run=partial(_twice, seed=seed)),
            Experiment(name="who is in a sum", seconds=1.0, run=partial(_parties, seed=seed)),
        ]
    return Plan(experiments=tuple(experiments), left_out=tuple(left_out))


def _session_case(d_in: int, seed: int) -> Case:
    return synthetic_case(d_in=d_in, num_clients=4, edits_per_client=12, num_others=400, seed=seed)


def _protected(scheme: Scheme | None, effort: Effort, *, seed: int) -> Iterator[Finding]:
    """Statistical tests and games, then what opens plain uploads."""
    view = "masked" if scheme is None else "ckks-aggregator"
    case = _session_case(256 if scheme is None else 128, seed)
    for finding in masked_uploads.findings(case, seed=seed, effort=effort, scheme=scheme):
        yield _of_view(finding, view, scheme or "")
    if scheme is not None:
        for finding in masked_uploads.controls_of_encryption(case, seed=seed, effort=effort, scheme=scheme):
            yield _of_view(finding, view, scheme)
    trial = Trial(
        attack=attribution.ATTACK,
        view=view,
        show=lambda shown: replace(aggregated(shown, scheme=scheme), summed=None, published=None),
        note=scheme or "",
        must=False,
    )
    yield from tried(case, (trial,), seed=seed)
    attacks = [attack for attack in ATTACKS if attack not in _NOT_TRIED]
    for finding in masked_uploads.everything(case, attacks, seed=seed, scheme=scheme):
        yield noted(finding, scheme or "")


def _decryptions(*, seed: int) -> Iterator[Finding]:
    for finding in decryptions.findings(seed=seed):
        yield _of_view(finding, "ckks-aggregator", "")


def _parties(*, seed: int) -> Iterator[Finding]:
    """What outside knowledge says of a sum's parties, and what its rounding does."""
    case = _session_case(256, seed)
    topics = [
        Trial(
            attack=attribution.one_topic_each(case, sharing=sharing),
            view="sum",
            show=lambda shown: shown.summed(),
            note=f"each topic is edited by {sharing} of the clients",
        )
        for sharing in (1, 2)
    ]
    for finding in tried(case, topics, seed=seed):
        yield replace(finding, null=None)  # what is known of topics is known without a sum, this one or another
    rounding = (
        Trial(
            attack=grouping.of_each(case, wrong=20, seed=seed),
            view="sum",
            show=partial(_ring_sum, bits),
            note=f"keys exact, sum of {bits}-bit integers",
        )
        for bits in (48, 32)
    )
    yield from tried(case, tuple(rounding), seed=seed)


def _ring_sum(bits: int, shown: Shown) -> object:
    return aggregated(shown, bits=bits).summed


def _controls(effort: Effort, *, seed: int) -> Iterator[Finding]:
    for finding in masked_uploads.controls(_session_case(256, seed), seed=seed, effort=effort):
        yield _of_view(finding, "masked", "")


def _twice(*, seed: int) -> Iterator[Finding]:
    """What a server gets that asks a session's clients for their edits again, without one of them."""
    case = _session_case(128, seed)
    finding = differencing.attempt(lambda: retried(case.real, without=1), setting=case.setting)
    yield noted(replace(finding, view="sum"), "asked for again without one client")


def _of_view(finding: Finding, view: str, note: str) -> Finding:
    """With the view's own name; what else it said of it becomes a note."""
    said = finding.view.removeprefix(view).removeprefix("control").lstrip(": ")
    return noted(replace(finding, view=view), ", ".join(filter(None, (said, note))))
