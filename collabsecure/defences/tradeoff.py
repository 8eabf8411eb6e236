"""Leak against edit quality: each defence in a real collaborative edit, attacked through nothing but its sums.

What comes of it is a `Finding` as an attack's, so that a report shows both alike. Needs torch.
"""

import math
import time
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Float64

from collabsecure.attacks.attack import Figure, Finding, Score
from collabsecure.attacks.behaviour import divergence
from collabsecure.attacks.cases.decoding import Continuations
from collabsecure.attacks.knowledge import Setting
from collabsecure.attacks.scoring import auc
from collabsecure.defences.bench import Bench, Group, Run
from collabsecure.defences.blinding import Blinding, Mixing, SecretKind, games_won, outside_span
from collabsecure.defences.decoys import DecoyKind, Decoys, persistence
from collabsecure.defences.defence import Defence, SecureSum
from collabsecure.defences.noise import DiscreteGaussianNoise, KeyNoise
from collabsecure.evaluate import CounterfactScores, evaluate_counterfact
from collabsecure.keys import compute_keys, compute_residuals

QUICK: tuple[Defence, ...] = (
    SecureSum(),
    *(DiscreteGaussianNoise(epsilon=epsilon) for epsilon in (1e1, 1e5)),
    KeyNoise(share=0.3),
    Decoys(decoys_per_client=8),
    Blinding(kind=SecretKind.ORTHOGONAL),
)
FULL: tuple[Defence, ...] = (
    SecureSum(),
    *(DiscreteGaussianNoise(epsilon=10.0**power) for power in range(9)),
    *(KeyNoise(share=share) for share in (0.1, 0.2, 0.3, 0.5, 1.0, 2.0)),
    *(Decoys(decoys_per_client=20, kind=kind) for kind in DecoyKind),
    *(Blinding(kind=kind) for kind in SecretKind),
    *(Mixing(kind=kind) for kind in SecretKind),
)
_GAMES = 20  # of telling two sets of edits apart


def measure_defence(bench: Bench, defence: Defence, *, seed: int) -> Finding:
    """Edit with a defence, say how good the edit is, and attack the sums; then the same attacks on the null's sums.

    Figures: ES, PS, NS and Score; AUC of members against the others from the Gram matrices, and by behaviour; with
    decoys, the same against decoys, and by what is written; with noise, epsilon, delta and a bound on any attack's AUC;
    with blinding, the distinguishing game, and AUC by the residuals that the adversary computes for edits it guesses.
    """
    start = time.monotonic()
    real = bench.run(defence, bench.real, seed=seed)
    with bench.laboratory.model.apply(real.deltas):
        scores = evaluate_counterfact(bench.laboratory.model, bench.real.edits)
    null = bench.run(defence, bench.null, seed=seed + 1)
    figures = [*_quality(scores), *_leak(bench, defence, real)]
    chance = _leak(bench, defence, null)
    if isinstance(defence, DiscreteGaussianNoise):
        figures += [
            Figure(name="epsilon", value=defence.epsilon),
            Figure(name="delta", value=defence.delta),
            Figure(name="AUC bound", value=defence.auc_bound),
        ]
    if isinstance(defence, Blinding):
        figures += [_game(bench, defence, seed=seed), _guessed(bench, real, bench.real, bench.null)]
        halves = len(bench.real.edits) // 2
        chance.append(_guessed(bench, null, bench.real.part(0, halves), bench.real.part(halves, 2 * halves)))
    first = next(iter(bench.layers.values()))
    return Finding(
        attack="defence",
        view="sum",
        setting=Setting(
            keys=bench.laboratory.name,
            layers=tuple(bench.layers),
            d_in=len(first.scales),
            d_out=first.d_out,
            num_clients=first.num_clients,
            edits_per_client=first.edits_per_client,
            note=defence.label,
        ),
        score=Score(figures=tuple(figures)),
        null=Score(figures=tuple(chance)),
        seconds=time.monotonic() - start,
    )


def measure_defences(bench: Bench, defences: Sequence[Defence], *, seed: int) -> Iterator[Finding]:
    """One after the other."""
    return (measure_defence(bench, defence, seed=seed) for defence in defences)


def _quality(scores: CounterfactScores) -> list[Figure]:
    named = {"ES": scores.es, "PS": scores.ps, "NS": scores.ns, "Score": scores.score}
    return [Figure(name=name, value=math.nan if value is None else value) for name, value in named.items()]


def _leak(bench: Bench, defence: Defence, run: Run) -> list[Figure]:
    edits, others = len(bench.real.edits), len(bench.others)
    used = defence.decoys_per_client * next(iter(bench.layers.values())).num_clients
    first = min(bench.layers)
    after = Continuations(model=bench.laboratory.model, candidates=bench.candidates, deltas=run.deltas)
    suspicion = defence.suspicion(run.totals[first], bench.layers[first], bench.public)
    changed = divergence(after(range(len(bench.before))), bench.before)

    def figures(name: str, statistic: Float64[np.ndarray, " num_candidates"]) -> list[Figure]:
        found = [_auc(name, statistic[:edits], statistic[edits : edits + others])]
        if used:
            decoys = statistic[edits + others : edits + others + used]
            found.append(_auc(f"{name} against decoys", statistic[:edits], decoys))
        return found

    written = figures("AUC by what is written", persistence(run.totals, run.candidates)) if used else []
    return [*figures("AUC", suspicion), *figures("AUC by behaviour", changed), *written]


def _game(bench: Bench, defence: Blinding, *, seed: int) -> Figure:
    """How often somebody who has made up both sets of edits can say which was blinded."""
    laboratory, first, rng = bench.laboratory, min(bench.layers), np.random.default_rng(seed)
    real, null = (
        compute_keys(laboratory.model, group.edits, laboratory.templates, first) for group in (bench.real, bench.null)
    )
    moment = bench.layers[first].second_moment
    won = games_won(defence.kind, real, null, moment, moment_is_sent=True, num_games=_GAMES, rng=rng)
    return Figure(name="distinguishing game", value=won / _GAMES, error=0.5 / math.sqrt(_GAMES), chance=0.5)


def _guessed(bench: Bench, run: Run, members: Group, others: Group) -> Figure:
    """Edits that somebody has guessed, with their new objects, by whether their residuals are in the cross term."""
    first, layers = min(bench.layers), tuple(bench.layers)
    inside, outside = (
        -outside_span(
            run.totals[first].cross,
            compute_residuals(bench.laboratory.model, group.edits, group.values, first, layers),
        )
        for group in (members, others)
    )
    return _auc("AUC by guessed residuals", inside, outside)


def _auc(name: str, members: Float64[np.ndarray, " members"], others: Float64[np.ndarray, " others"]) -> Figure:
    found = auc(members, others)
    return Figure(name=name, value=found.value, error=found.null_error, chance=0.5)
