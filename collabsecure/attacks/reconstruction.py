"""Blind reconstruction: K from K Kᵀ and public keys of other subjects, without any candidate.

K = F W for a root F of the Gram matrix and some orthogonal W (`ambiguity`). Almost no W makes F W look like keys:
entries of each neuron as they are over the public, none below the activation's bound. So W is found by maximum
likelihood, each neuron having its public density, smoothed coarsely first and finely in the end, from the best of a
few starts by independent component analysis. Which is best, and when to stop, the loss says.

It comes to its end with many keys for their length: of 1024, mean |cos| is 0.9999 at 20 edits, 0.9997 at 50, 0.999 at
100, 0.998 at 200 and 0.955 at 300, where the search still goes down when its steps are used up (synthetic keys, 500
public ones; tests/attacks/test_blind_reconstruction.py). That is patience, not secrecy: from K itself the search stays
at 0.997 there. Who uses the model's own first projection, too, will do better: this is a lower bound.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from collabsecure.attacks.attack import Assumption, Attack, Figure, Score
from collabsecure.attacks.independent_components import Contrast, unmix
from collabsecure.attacks.knowledge import Public, Truth
from collabsecure.attacks.marginals import Marginals
from collabsecure.attacks.orthogonal import minimise, polar
from collabsecure.attacks.roots import cosine_figures, eigen_root, shared_directions
from collabsecure.attacks.views import PlainUpload, SumOnly

WIDTHS = (1.0, 0.5, 0.25, 0.125)  # of the smoothing, one after the other, in standard deviations of a neuron

_FIRST_STEPS = 30  # from each start, before the best is chosen
_MAX_STEPS = 500  # at each smoothing
_TOLERANCE = 1e-6  # nats per entry that a step must bring


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Reconstruction:
    """Keys of the lowest layer, in no order; as K Kᵀ does not change with signs, those are guessed, too."""

    layer: int
    keys: Float64[np.ndarray, "d num_edits"]
    loss: float  # −log p per entry at the finest smoothing, nats


def reconstruct(
    gram: Float64[np.ndarray, "d d"],
    reference: Float64[np.ndarray, "d num_reference"],
    rng: np.random.Generator,
) -> tuple[Float64[np.ndarray, "d num_edits"], float]:
    """Keys that have this Gram matrix and look like the public ones, and −log p per entry."""
    root = eigen_root(gram)
    marginals = Marginals.of(reference)
    coarse = marginals.smoothed(WIDTHS[0])
    tried = [
        minimise(coarse, root, start, max_steps=_FIRST_STEPS, tolerance=_TOLERANCE)
        for start in _starts(root, reference, rng)
    ]
    best = min(tried, key=lambda minimum: minimum.value)
    for width in WIDTHS:
        loss = coarse if width == WIDTHS[0] else marginals.smoothed(width)
        best = minimise(loss, root, best.rotation, max_steps=_MAX_STEPS, tolerance=_TOLERANCE)
    keys: Float64[np.ndarray, "d num_edits"] = root @ best.rotation
    return keys, best.value


def _starts(
    root: Float64[np.ndarray, "d num_edits"],
    reference: Float64[np.ndarray, "d num_reference"],
    rng: np.random.Generator,
) -> list[Float64[np.ndarray, "num_edits num_edits"]]:
    """ICA as it is, and with each neuron rescaled and what all keys share taken away."""
    d, num_edits = root.shape
    spread = np.maximum(reference.std(axis=1, keepdims=True), 1e-9)
    scaled = root / spread
    if d - num_edits > num_edits:
        shared = shared_directions(reference / spread)
        scaled -= shared @ (shared.T @ scaled)
    return [
        polar(unmix(root, Contrast.SKEWNESS, rng)),
        polar(unmix(scaled, Contrast.TANH, rng)),
        polar(unmix(scaled, Contrast.SKEWNESS, rng)),
    ]


def _guess(view: PlainUpload | SumOnly, public: Public, rng: np.random.Generator) -> Reconstruction:
    layer = min(view.layers)
    keys, loss = reconstruct(view.layers[layer].gram, public.layers[layer].reference, rng)
    return Reconstruction(layer=layer, keys=keys, loss=loss)


def _score(guess: Reconstruction, public: Public, truth: Truth) -> Score:
    reference, true = public.layers[guess.layer].reference, truth.keys[guess.layer]
    at_truth = Marginals.of(reference).smoothed(WIDTHS[-1]).loss(true)
    return Score(
        figures=(
            *cosine_figures(guess.keys, true, shared_directions(reference)),
            Figure(name="loss above truth's", value=guess.loss - at_truth),
        )
    )


ATTACK = Attack(
    name="reconstruction",
    title="Which keys is a Gram matrix of?",
    source="keys are not Gaussian, and their marginals are public: ICA's identifiability (Comon 1994)",
    assumes=(Assumption.POPULATION,),
    accepts=(PlainUpload, SumOnly),
    guess=_guess,
    score=_score,
)
