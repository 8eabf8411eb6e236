"""The paper's claim: K Kᵀ cannot be inverted, for K W' has the same Gram matrix whatever the orthogonal W'.

The claim holds as far as it goes, and this shows it. What it leaves out is that keys are no arbitrary matrices:
`reconstruction` finds the one W' that makes them look like keys.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from collabsecure.attacks.attack import Attack, Figure, Score
from collabsecure.attacks.knowledge import Public, Truth
from collabsecure.attacks.roots import cholesky_root, cosine_figures, eigen_root, random_orthogonal, shared_directions
from collabsecure.attacks.views import PlainUpload, SumOnly


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Roots:
    """Three roots of the lowest layer's Gram matrix; nothing says that one is better than another."""

    layer: int
    rotated: Float64[np.ndarray, "d num_edits"]  # by a random W'
    eigen: Float64[np.ndarray, "d num_edits"]
    cholesky: Float64[np.ndarray, "d num_edits"]
    gram_error: float  # of `rotated`: ‖F Fᵀ − K Kᵀ‖ / ‖K Kᵀ‖ (Frobenius)


def _guess(view: PlainUpload | SumOnly, public: Public, rng: np.random.Generator) -> Roots:
    del public
    layer = min(view.layers)
    gram = view.layers[layer].gram
    eigen = eigen_root(gram)
    rotated = eigen @ random_orthogonal(eigen.shape[1], rng)
    return Roots(
        layer=layer,
        rotated=rotated,
        eigen=eigen,
        cholesky=cholesky_root(eigen),
        gram_error=float(np.linalg.norm(rotated @ rotated.T - gram) / np.linalg.norm(gram)),
    )


def _score(guess: Roots, public: Public, truth: Truth) -> Score:
    true = truth.keys[guess.layer]
    shared = shared_directions(public.layers[guess.layer].reference)
    return Score(
        figures=(
            Figure(name="Gram error", value=guess.gram_error),
            *cosine_figures(guess.rotated, true, shared),
            *cosine_figures(guess.eigen, true, shared, of="eigen root: "),
            *cosine_figures(guess.cholesky, true, shared, of="Cholesky root: "),
        ),
        says="other keys have the same Gram matrix, and taking any of them for the true ones is of no use",
    )


ATTACK = Attack(
    name="ambiguity",
    title="Does the Gram matrix alone say which keys it is of?",
    source="CollabEdit (arXiv 2410.09508), appendix B.2",
    assumes=(),
    accepts=(PlainUpload, SumOnly),
    guess=_guess,
    score=_score,
)
