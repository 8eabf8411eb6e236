"""Plain independent component analysis of a Gram matrix's root: a weak attack, and a start for a strong one."""

import enum
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from collabsecure.attacks.attack import Attack, Score
from collabsecure.attacks.knowledge import Public, Truth
from collabsecure.attacks.orthogonal import polar
from collabsecure.attacks.roots import cosine_figures, eigen_root, random_orthogonal, shared_directions
from collabsecure.attacks.views import PlainUpload, SumOnly

_MAX_STEPS = 100
_TOLERANCE = 1e-5  # 1 − |cos| of an axis before and after a step


class Contrast(enum.Enum):
    """What is to be far from Gaussian."""

    TANH = "log cosh"
    SKEWNESS = "third moment"


def unmix(
    mixtures: Float64[np.ndarray, "num m"], contrast: Contrast, rng: np.random.Generator
) -> Float64[np.ndarray, "m m"]:
    """A with `mixtures` @ A as independent as FastICA makes it: all components at once (Hyvärinen 1999).

    Rows are samples. Components come with a third moment of at least 0, and of a mean square of 1. The mean is not
    taken off: whoever wants that does so before.
    """
    num = len(mixtures)
    eigenvalues, vectors = np.linalg.eigh(mixtures.T @ mixtures / num)
    whitening = vectors / np.sqrt(eigenvalues)
    white = mixtures @ whitening
    axes = random_orthogonal(white.shape[1], rng)
    for _ in range(_MAX_STEPS):
        components = white @ axes
        if contrast is Contrast.TANH:
            pull = np.tanh(components)
            rate = 1 - np.mean(pull**2, axis=0)
        else:
            pull = components**2
            rate = 2 * np.mean(components, axis=0)
        before, axes = axes, polar(white.T @ pull / num - axes * rate)
        if 1 - np.abs(np.einsum("ij,ij->j", before, axes)).min() < _TOLERANCE:
            break
    components = white @ axes
    unmixing: Float64[np.ndarray, "m m"] = whitening @ axes * np.where(np.sum(components**3, axis=0) < 0, -1.0, 1.0)
    return unmixing


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Components:
    """Independent components of the lowest layer's keys, in no order and of no scale."""

    layer: int
    keys: Float64[np.ndarray, "d num_edits"]


def _guess(view: PlainUpload | SumOnly, public: Public, rng: np.random.Generator) -> Components:
    del public
    layer = min(view.layers)
    root = eigen_root(view.layers[layer].gram)
    return Components(layer=layer, keys=root @ unmix(root - root.mean(axis=0), Contrast.TANH, rng))


def _score(guess: Components, public: Public, truth: Truth) -> Score:
    shared = shared_directions(public.layers[guess.layer].reference)
    return Score(figures=cosine_figures(guess.keys, truth.keys[guess.layer], shared))


ATTACK = Attack(
    name="fastica",
    title="Which keys is a Gram matrix of? (plain FastICA: weak)",
    source="Hyvärinen 1999; it knows nothing of keys, and its failure says nothing of what is safe",
    assumes=(),
    accepts=(PlainUpload, SumOnly),
    guess=_guess,
    score=_score,
)
