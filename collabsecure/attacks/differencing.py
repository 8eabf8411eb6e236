"""Two sums of the same edits, the second over one client fewer: their difference is that client's statistics.

Summation is exact, so nothing is left of the others but rounding. This is why no client contributes an edit twice to
a layer's sum (secagg.md P7, V34): `attempt` shows what comes of asking.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from collabsecure.attacks.attack import Attack, Figure, Finding, Score
from collabsecure.attacks.knowledge import Public, Setting, Truth
from collabsecure.attacks.views import Layers, TwoSums
from collabsecure.statistics import cross, gram
from collabsecure_protocols import PolicyRefusal

NAME = "differencing"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Difference:
    """What one sum has and the other has not, and whose it is."""

    layers: Layers
    clients: tuple[int, ...]


def guess(view: TwoSums, public: Public, rng: np.random.Generator) -> Difference:
    """Subtract."""
    return Difference(layers=view.layers, clients=view.missing)


def score(found: Difference, public: Public, truth: Truth) -> Score:
    """How far it is from the statistics of those clients, relatively, in the worst layer."""
    mine = np.isin(truth.client, found.clients)
    grams, crosses = [], []
    for layer, statistics in found.layers.items():
        keys, residuals = truth.keys[layer][:, mine], truth.residuals[layer][:, mine]
        grams.append(_distance(statistics.gram, gram(keys)))
        crosses.append(_distance(statistics.cross, cross(residuals, keys)))
    figures = [Figure(name="relative error of the Gram matrix", value=max(grams))]
    if np.isfinite(crosses).all():
        figures.append(Figure(name="relative error of the cross term", value=max(crosses)))
    return Score(figures=tuple(figures))


def attempt(ask: Callable[[], TwoSums], *, setting: Setting) -> Finding:
    """Ask a session's clients for the second sum: they must refuse.

    `ask` runs the sessions (`cases.masking.retried`).
    """
    start = time.monotonic()
    try:
        ask()
        given, says = 1.0, "the clients contributed the same edits to a second sum"
    except PolicyRefusal as refusal:
        given, says = 0.0, f"refused: {refusal}"
    return Finding(
        attack=NAME,
        view="sum, asked for again without one client",
        setting=setting,
        score=Score(figures=(Figure(name="second sums given", value=given, error=0.0, chance=0.0),), says=says),
        must=False,
        seconds=time.monotonic() - start,
    )


def _distance(
    found: np.ndarray[tuple[int, ...], np.dtype[np.float64]], true: np.ndarray[tuple[int, ...], np.dtype[np.float64]]
) -> float:
    size = float(np.linalg.norm(true))
    return float(np.linalg.norm(found - true)) / size if size else np.inf


ATTACK: Attack[Difference] = Attack(
    name=NAME,
    title="What do two sums that differ by one client show of it?",
    source="no paper: subtraction",
    assumes=(),
    accepts=(TwoSums,),
    guess=guess,
    score=score,
)
