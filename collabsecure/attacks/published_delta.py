"""Which candidates were edited, from nothing but the update that everybody gets: Δ.

    Δ C = R Kᵀ (C + K Kᵀ)⁻¹ C = R (I + Kᵀ C⁻¹ K)⁻¹ Kᵀ

so the rows of Δ C are mixtures of the members' keys (KSTER, arXiv 2602.10134), and while there are no more edits than
the model is wide (n ≤ d_out), they span the same space as these: a member's key lies in it, nobody else's does. Beyond
that they are d_out mixtures of n keys, and a member's key has more of its length in their span than another's.

How much more is seen best where keys are of one length and of no common direction. So the share is taken after
whitening by M = C + what is known of the population: the keys of all candidates and of public subjects, each with one
weight. The list is whitened by itself, then; what would make members special in it, copies, is taken out before
(`candidates.alike`). This is also one step of maximum likelihood for the candidates' weights γ in the model that a row
of Δ C is drawn from N(0, M + Σ γ_c k_c k_cᵀ) (sparse Bayesian learning; Wipf and Rao 2007): a list of all edits tells
them apart far beyond n ≤ d_out. With many times d_out the sign turns, as Δ is then a regression's solution in which
members have less than their share; that is not made use of here. NumPy and SciPy only.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64
from scipy.linalg import cholesky, qr, solve_triangular

from collabsecure.attacks.attack import Assumption, Attack, Figure, Score
from collabsecure.attacks.candidates import alike, distinct, edited_by, told_apart
from collabsecure.attacks.knowledge import Public, PublicLayer, Truth
from collabsecure.attacks.views import PublishedDelta

_BACKGROUND = 0.1  # of ordinary text's keys (C) for each known key, in M
_ROUNDING = 1e-11  # of Δ C's largest singular value: below it there is no row


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Shares:
    """Of each candidate's whitened key the share (of its squared length) in the row space of Δ C, by layer."""

    layers: tuple[Float64[np.ndarray, " num_candidates"], ...]
    plain: tuple[Float64[np.ndarray, " num_candidates"], ...]  # the same, whitened by C alone
    num_rows: tuple[int, ...]  # independent rows of each layer's Δ C: edits, or d_out


def shares(
    delta: Float64[np.ndarray, "d_out d_in"],
    public: PublicLayer,
    groups: Int64[np.ndarray, " num_candidates"],
) -> tuple[Float64[np.ndarray, " num_candidates"], Float64[np.ndarray, " num_candidates"], int]:
    """A layer's shares, those by C alone, and the number of independent rows."""
    factor = cholesky(public.second_moment, lower=True)
    stands, of = np.unique(groups, return_inverse=True)
    reference = public.reference[:, np.unique(alike(public.reference))]
    known = _unit(
        solve_triangular(factor, np.concatenate((public.candidates[:, stands], reference), axis=1), lower=True)
    )
    rows = (delta @ factor).T  # Δ C whitened by C, a row in each column
    d_in, num_known = known.shape
    background = known @ known.T
    background[np.diag_indices_from(background)] += _BACKGROUND * num_known / d_in
    second = cholesky(background, lower=True)
    candidates = known[:, : len(stands)]
    basis = _basis(rows)
    plain = np.sum((basis.T @ candidates) ** 2, axis=0)
    whitened = _unit(solve_triangular(second, candidates, lower=True))
    share = np.sum((_basis(solve_triangular(second, basis, lower=True)).T @ whitened) ** 2, axis=0)
    return share[of], plain[of], basis.shape[1]


def _basis(columns: Float64[np.ndarray, "d_in num"]) -> Float64[np.ndarray, "d_in rank"]:
    """An orthonormal basis of what the columns span, without what is rounding."""
    orthonormal, triangle, _ = qr(columns, mode="economic", pivoting=True)
    sizes = np.abs(triangle.diagonal())
    basis: Float64[np.ndarray, "d_in rank"] = orthonormal[:, : int(np.sum(sizes > _ROUNDING * sizes[0]))]
    return basis


def _unit(vectors: Float64[np.ndarray, "d n"]) -> Float64[np.ndarray, "d n"]:
    lengths = np.linalg.norm(vectors, axis=0)
    unit: Float64[np.ndarray, "d n"] = vectors / np.where(lengths > 0, lengths, 1.0)
    return unit


def _guess(view: PublishedDelta, public: Public, rng: np.random.Generator) -> Shares:
    del rng
    groups = distinct(public)
    found = [shares(delta, public.layers[layer], groups) for layer, delta in sorted(view.layers.items())]
    return Shares(
        layers=tuple(share for share, _, _ in found),
        plain=tuple(plain for _, plain, _ in found),
        num_rows=tuple(rows for _, _, rows in found),
    )


def _score(guess: Shares, public: Public, truth: Truth) -> Score:
    groups = distinct(public)
    is_member = edited_by(None, truth, len(groups))
    figures, curve = told_apart(np.mean(guess.layers, axis=0), is_member, groups, f"{is_member.sum()} edits, Δ alone")
    (plain, _), _ = told_apart(np.mean(guess.plain, axis=0), is_member, groups, "")
    return Score(
        figures=(
            *figures,
            Figure(name="AUC whitened by C alone", value=plain.value, error=plain.error, chance=0.5),
            Figure(name="independent rows of ΔC", value=float(max(guess.num_rows))),
        ),
        curves=(curve,),
    )


ATTACK = Attack(
    name="published delta",
    title="Which candidates were edited, from the edited model alone?",
    source="row space of ΔC = R (I + KᵀC⁻¹K)⁻¹ Kᵀ (KSTER, arXiv 2602.10134)",
    assumes=(Assumption.CANDIDATES, Assumption.TEMPLATES),
    accepts=(PublishedDelta,),
    guess=_guess,
    score=_score,
)
