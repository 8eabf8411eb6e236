"""Which candidates were edited, from K Kᵀ of one client or of a sum.

Two ways, both of which the server of a masked session has as much as that of a plain one:

- While there are fewer edits than a key has entries, a member's key lies in the span of G = K Kᵀ and nobody else's
  does: the residual outside of the span is 0 for members. It is small for them even where contexts are guessed wrongly.
- However many edits there are, G is a sum over those candidates that were edited, and over edits that are not on the
  list. With a count x_c for each candidate, G = Σ_c x_c k_c k_cᵀ + N is a linear regression with d(d+1)/2 equations.
  What is not on the list is noise whose covariance is G's own (as that of a Wishart matrix), so generalised least
  squares is

      (Kᵀ G⁻¹ K)∘² x = diag(Kᵀ G⁻¹ K)        (∘² squares each entry; K holds all candidates' keys)

  which is one step of Fisher scoring for the likelihood of x. Without what is off the diagonal it is
  1/x_c = k_cᵀ G⁻¹ k_c, the leverage, which is all that a lone candidate has and which loses its power at n > 2d. The
  others on the list explain what edits have in common; a list with all edits on it leaves no noise at all, and then no
  number of edits hides any of them, up to some d²/2 candidates. It needs the keys as they are: contexts that are
  guessed wrongly end it.

Public subjects' keys join the list as candidates of no interest. Nothing is whitened by the list: what is divided by is
what was seen. Keys are scaled by diag(C), which is public; G⁻¹ stops at what rounding left of G, to be seen by its
negative eigenvalues. NumPy and SciPy only.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64
from scipy.linalg import cho_factor, cho_solve

from collabsecure.attacks.attack import Assumption, Attack, Figure, Score
from collabsecure.attacks.candidates import alike, distinct, edited_by, told_apart
from collabsecure.attacks.knowledge import Public, PublicLayer, Truth
from collabsecure.attacks.views import PlainUpload, SumOnly
from collabsecure.merge import equilibration

_FLOOR = 1e-10  # of G's largest eigenvalue: what is below it in float64 is not relied upon
_CLEAR_GAP = 1e3  # an eigenvalue so much smaller than the one before it is rounding, and G has no full rank
_RIDGE = 1e-6  # of each candidate's own weight: parts what is nearly the same


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Evidence:
    """What one layer's Gram matrix says about each candidate."""

    counts: Float64[np.ndarray, " num_candidates"]  # x: near 1 for an edit, near 0 for none
    leverages: Float64[np.ndarray, " num_candidates"]  # kᵀ G⁻¹ k: at most 1 for an edit
    residuals: Float64[np.ndarray, " num_candidates"]  # of a key's length, what lies outside of G's span
    spans_everything: bool  # G is of full rank: residuals say nothing


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Suspicion:
    """What all layers say."""

    clients: tuple[int, ...] | None  # whose edits they are; None where that is not known
    layers: tuple[Evidence, ...]

    @property
    def spans_everything(self) -> bool:
        """Whether residuals are of no use."""
        return any(evidence.spans_everything for evidence in self.layers)

    @property
    def residuals(self) -> Float64[np.ndarray, " num_candidates"]:
        """The layers' largest: a member's is 0 in all of them."""
        largest: Float64[np.ndarray, " num_candidates"] = np.max([each.residuals for each in self.layers], axis=0)
        return largest

    @property
    def leverages(self) -> Float64[np.ndarray, " num_candidates"]:
        """The layers' mean."""
        mean: Float64[np.ndarray, " num_candidates"] = np.mean([each.leverages for each in self.layers], axis=0)
        return mean

    @property
    def scores(self) -> Float64[np.ndarray, " num_candidates"]:
        """The higher, the more suspect: minus the residuals as long as there are any, else the counts' mean."""
        if not self.spans_everything:
            return -self.residuals
        mean: Float64[np.ndarray, " num_candidates"] = np.mean([each.counts for each in self.layers], axis=0)
        return mean


def weigh(
    gram: Float64[np.ndarray, "d_in d_in"],
    public: PublicLayer,
    groups: Int64[np.ndarray, " num_candidates"],
) -> Evidence:
    """Hold a layer's candidates against its Gram matrix; those of one key (`candidates.alike`) as one."""
    scales = equilibration(public.second_moment)
    eigenvalues, vectors = np.linalg.eigh(scales[:, None] * gram * scales)
    floor = max(_FLOOR * eigenvalues[-1], -eigenvalues[0], np.finfo(np.float64).tiny)
    levels = np.maximum(eigenvalues, 0.0) + floor
    stands, of = np.unique(groups, return_inverse=True)
    reference = public.reference[:, np.unique(alike(public.reference))]
    keys = np.concatenate((public.candidates[:, stands], reference), axis=1)
    rotated = vectors.T @ (scales[:, None] * keys)  # (d_in, distinct candidates and public subjects)
    lengths = np.sum(rotated**2, axis=0)
    rank = _rank(levels[::-1])
    outside = np.sum(rotated[: len(levels) - rank] ** 2, axis=0)
    whitened = rotated / np.sqrt(levels)[:, None]
    explained = np.sum(whitened**2 * (np.maximum(eigenvalues, 0.0) / levels)[:, None], axis=0)
    counts = _regress(whitened, explained)
    return Evidence(
        counts=counts[of],
        leverages=np.sum(whitened**2, axis=0)[of],
        residuals=np.sqrt(outside / np.where(lengths > 0, lengths, 1.0))[of],
        spans_everything=rank == len(levels),
    )


def _rank(falling: Float64[np.ndarray, " d"]) -> int:
    """How many eigenvalues stand above the widest gap; all, where there is no clear one."""
    gaps = falling[:-1] / falling[1:]
    widest = int(np.argmax(gaps))
    return widest + 1 if gaps[widest] > _CLEAR_GAP else len(falling)


def _regress(
    whitened: Float64[np.ndarray, "d_in num"], explained: Float64[np.ndarray, " num"]
) -> Float64[np.ndarray, " num"]:
    """Solve (WᵀW)∘² x = explained, each candidate scaled to weigh 1."""
    weights = (whitened.T @ whitened) ** 2
    scales = np.sqrt(np.maximum(weights.diagonal(), np.finfo(np.float64).tiny))
    weights /= scales
    weights /= scales[:, None]
    weights[np.diag_indices_from(weights)] += _RIDGE
    counts: Float64[np.ndarray, " num"] = cho_solve(cho_factor(weights, overwrite_a=True), explained / scales) / scales
    return counts


def _guess(view: PlainUpload | SumOnly, public: Public, rng: np.random.Generator) -> Suspicion:
    del rng
    groups = distinct(public)
    seen = view.of_the_others if isinstance(view, SumOnly) else view
    return Suspicion(
        clients=seen.survivors if isinstance(seen, SumOnly) else None,
        layers=tuple(
            weigh(statistics.gram, public.layers[layer], groups) for layer, statistics in sorted(seen.layers.items())
        ),
    )


def _score(guess: Suspicion, public: Public, truth: Truth) -> Score:
    groups = distinct(public)
    is_member = edited_by(guess.clients, truth, len(groups))
    figures, curve = told_apart(guess.scores, is_member, groups, f"{is_member.sum()} edits")
    (alone, _), _ = told_apart(-guess.leverages, is_member, groups, "")
    figures = (*figures, Figure(name="AUC by leverage alone", value=alone.value, error=alone.error, chance=0.5))
    if not guess.spans_everything:
        others = ~np.isin(groups, groups[is_member])
        figures = (
            *figures,
            Figure(name="largest residual of a member", value=float(guess.residuals[is_member].max())),
            Figure(name="smallest residual of another", value=float(guess.residuals[others].min())),
        )
    return Score(figures=figures, curves=(curve,))


ATTACK = Attack(
    name="membership",
    title="Which candidates were edited?",
    source="generalised least squares of G on candidates' k kᵀ; residuals outside of G's span",
    assumes=(Assumption.CANDIDATES, Assumption.TEMPLATES, Assumption.LOWER_LAYERS),
    accepts=(PlainUpload, SumOnly),
    guess=_guess,
    score=_score,
)
