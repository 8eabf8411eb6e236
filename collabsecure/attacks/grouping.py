"""Which edits came from one client? The last bits of a sum tell, to one who knows everything else.

Each client rounds its own matrix to fixed point, so the sum is Σ_i round(y_i), with y_i = G_i in steps of the fixed
point, and its error e = Σ_i (round(y_i) − y_i) is a sum of N errors, each of which depends on one client's whole set of
edits. Who knows all edits and their keys knows Σ y_i, and so e. The error that a guessed set would make then correlates
with e by 1/√N if the guess is right, over d(d+1)/2 numbers, and by 0 if one edit in it is wrong.

It needs guesses that are right as a whole: all that one organisation would edit on a topic, or few edits each, for all
pairs to be tried. And it needs keys to within a step: the finer the fixed point, the less an error in them leaves. With
48 bits and narrow ranges that is about 1e-11 of a key, so float32's differences between machines and batches end it;
with 32 bits, or with 40 and ranges a thousand times too wide, they do not. No sum tells which client a set belongs to.
Rounding at random instead of to the nearest would close it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from collabsecure.attacks.attack import Assumption, Attack, Figure, Score
from collabsecure.attacks.case import Case
from collabsecure.attacks.knowledge import Public, PublicLayer, Truth
from collabsecure.attacks.scoring import auc
from collabsecure.attacks.views import SumOnly
from collabsecure.merge import equilibration
from collabsecure.statistics import gram

_FINEST = 200  # fraction bits to look for


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Groups:
    """Sets of candidates that may be one client's, and how much each looks like it."""

    members: tuple[tuple[int, ...], ...]
    deviations: Float64[np.ndarray, " groups"]  # of the correlation from 0, in standard errors


def among(known: Sequence[int], groups: Sequence[Sequence[int]]) -> Attack[Groups]:
    """The attack by one who knows that exactly the candidates `known` were edited, and tries these sets."""

    def guess(view: SumOnly, public: Public, rng: np.random.Generator) -> Groups:
        layer = min(public.layers)
        units = _Units.of(view, public.layers[layer], layer)
        keys = public.layers[layer].candidates
        error = units.read(view.layers[layer].gram) - units.read(gram(keys[:, list(known)]))
        return Groups(
            members=tuple(tuple(group) for group in groups),
            deviations=np.array([_deviation(error, units.read(gram(keys[:, list(group)]))) for group in groups]),
        )

    return Attack(
        name="grouping",
        title="Which edits came from one client?",
        source="no paper: rounding errors of a sum in fixed point",
        assumes=(Assumption.CANDIDATES, Assumption.TEMPLATES, Assumption.LOWER_LAYERS, Assumption.TOPICS),
        accepts=(SumOnly,),
        guess=guess,
        score=score,
    )


def score(groups: Groups, public: Public, truth: Truth) -> Score:
    """How well sets that are one client's stand out from the others that were tried."""
    own = {frozenset(truth.candidate[truth.client == client].tolist()) for client in np.unique(truth.client)}
    right = np.array([frozenset(group) in own for group in groups.members])
    deviation = Figure(
        name="standard errors of a right set",
        value=float(groups.deviations[right].mean()),
        error=1 / math.sqrt(np.count_nonzero(right)),
        chance=0.0,
    )
    return Score(figures=(deviation, auc(groups.deviations[right], groups.deviations[~right]).figure))


def of_each(case: Case, *, wrong: int, seed: int) -> Attack[Groups]:
    """Each client's true set, and for each `wrong` sets in which one edit is another client's."""
    rng = np.random.default_rng(seed)
    groups: list[list[int]] = []
    for client in np.unique(case.truth.client):
        own = case.truth.candidate[case.truth.client == client]
        others = case.truth.candidate[case.truth.client != client]
        groups.append(own.tolist())
        for _ in range(wrong):
            changed = own.copy()
            changed[rng.integers(len(own))] = rng.choice(others)
            groups.append(changed.tolist())
    return among(case.truth.candidate.tolist(), groups)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Units:
    """The fixed point's step at each entry of the upper triangle, which is public."""

    scale: Float64[np.ndarray, " entries"]
    upper: tuple[np.ndarray[tuple[int], np.dtype[np.intp]], np.ndarray[tuple[int], np.dtype[np.intp]]]

    @classmethod
    def of(cls, view: SumOnly, public: PublicLayer, layer: int) -> "_Units":
        """A session says how many fraction bits there are; the sum shows it as well."""
        rows, columns = np.triu_indices(len(public.second_moment))
        powers = 2.0 ** np.rint(np.log2(equilibration(public.second_moment)))
        scale = powers[rows] * powers[columns]
        values = view.layers[layer].gram[rows, columns] * scale
        bits = next((bits for bits in range(_FINEST) if _are_whole(np.ldexp(values, bits))), _FINEST)
        return cls(scale=np.ldexp(scale, bits), upper=(rows, columns))

    def read(self, matrix: Float64[np.ndarray, "d_in d_in"]) -> Float64[np.ndarray, " entries"]:
        """The upper triangle in steps."""
        steps: Float64[np.ndarray, " entries"] = matrix[self.upper] * self.scale
        return steps


def _are_whole(values: Float64[np.ndarray, " n"]) -> bool:
    return bool((values == np.rint(values)).all())


def _deviation(error: Float64[np.ndarray, " n"], own: Float64[np.ndarray, " n"]) -> float:
    rounding = np.rint(own) - own
    sizes = np.linalg.norm(error) * np.linalg.norm(rounding)
    return float(error @ rounding / sizes * np.sqrt(len(error))) if sizes > 0 else 0.0
