"""How many edits are in a Gram matrix: its rank."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from collabsecure.attacks.attack import Attack, Curve, Figure, Score
from collabsecure.attacks.knowledge import Public, Truth
from collabsecure.attacks.views import PlainUpload, SumOnly


def spectrum(gram: Float64[np.ndarray, "d d"]) -> Float64[np.ndarray, " d"]:
    """Eigenvalues of a Gram matrix, largest first; what rounding made of its zeros is in it, of either sign."""
    eigenvalues: Float64[np.ndarray, " d"] = np.linalg.eigvalsh(gram)[::-1]
    return eigenvalues


def count_edits(eigenvalues: Float64[np.ndarray, " d"]) -> int:
    """The rank by the largest gap (as a ratio) in a spectrum, largest eigenvalue first.

    No Gram matrix has eigenvalues below 0, so the least one says how far rounding reaches, in whatever precision the
    matrix was computed; nothing within that is taken for a gap. Of d keys or more there is a full rank, d.

    >>> count_edits(np.array([4.0, 1.0, 2e-9, 1e-15, -1e-9]))
    2
    >>> count_edits(np.array([4.0, 1.0]))
    2
    """
    if eigenvalues[0] <= 0:
        return 0
    unit = np.finfo(np.float64).eps * len(eigenvalues) * eigenvalues[0]
    levels = np.maximum(np.append(eigenvalues, 0.0), max(unit, -2 * eigenvalues[-1]))
    return int(np.argmax(levels[:-1] / levels[1:])) + 1


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EditCount:
    """What the lowest layer's Gram matrix says."""

    eigenvalues: Float64[np.ndarray, " d"]  # largest first
    num_edits: int


def _guess(view: PlainUpload | SumOnly, public: Public, rng: np.random.Generator) -> EditCount:
    del public, rng
    eigenvalues = spectrum(view.layers[min(view.layers)].gram)
    return EditCount(eigenvalues=eigenvalues, num_edits=count_edits(eigenvalues))


def _score(guess: EditCount, public: Public, truth: Truth) -> Score:
    del public
    true = len(truth.client)
    d_in = len(guess.eigenvalues)
    shown = np.maximum(guess.eigenvalues / guess.eigenvalues[0], np.finfo(np.float64).eps)
    return Score(
        figures=(
            Figure(name="edits found", value=float(guess.num_edits)),
            Figure(name="edits found beyond those there are", value=float(guess.num_edits - min(true, d_in))),
        ),
        curves=(Curve(plot="spectrum", label=f"{true} edits", x=np.arange(1.0, d_in + 1), y=shown),),
        says=f"{guess.num_edits} edits found where there are {true}"
        + (f"; no rank is above {d_in}, the length of a key" if true > d_in else ""),
    )


ATTACK = Attack(
    name="rank",
    title="How many edits are in it?",
    source="rank(K Kᵀ) = number of linearly independent keys",
    assumes=(),
    accepts=(PlainUpload, SumOnly),
    guess=_guess,
    score=_score,
)
