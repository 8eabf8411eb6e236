"""What was written: from K Kᵀ and R Kᵀ and a candidate's key k, its residual r̂ = X G⁺ k, and from that its new object.

Exact for a member whose key is no mixture of the other members': with K of full column rank,
R Kᵀ (K Kᵀ)⁺ K = R. Once a sum has more edits than a key has entries, it is the least-squares fit of R to K, which
is worth less the more edits there are. NumPy only.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from collabsecure.attacks.attack import Assumption, Attack, Figure, Score
from collabsecure.attacks.knowledge import Public, Truth
from collabsecure.attacks.views import PlainUpload, SumOnly, TwoSums
from collabsecure.statistics import Statistics

_CLEAR_GAP = 1e3  # an eigenvalue so much smaller than the one before it is rounding


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Recovered:
    """What each candidate would have been edited to, if it was."""

    layer: int
    residuals: Float64[np.ndarray, "d_out num_candidates"]
    clients: tuple[int, ...] | None  # whose edits they are; None where that is not known


def recover(statistics: Statistics, keys: Float64[np.ndarray, "d_in num"]) -> Float64[np.ndarray, "d_out num"]:
    """r̂ = X G⁺ k for each key, with the inverse taken over what stands above the widest gap in G's spectrum.

    >>> keys, residuals = np.array([[1.0, 1.0], [0.0, 2.0], [0.0, 0.0]]), np.array([[3.0, -1.0]])
    >>> recover(Statistics(gram=keys @ keys.T, cross=residuals @ keys.T), keys).round(12)
    array([[ 3., -1.]])
    """
    values, vectors = np.linalg.eigh(statistics.gram)
    rank = _rank(values[::-1])
    kept, basis = values[-rank:], vectors[:, -rank:]
    found: Float64[np.ndarray, "d_out num"] = (statistics.cross @ basis / kept) @ (basis.T @ keys)
    return found


def _rank(falling: Float64[np.ndarray, " d"]) -> int:
    """How many eigenvalues stand above the widest gap; all, where there is no clear one."""
    floored = np.maximum(falling, np.finfo(np.float64).eps * falling[0])
    gaps = floored[:-1] / floored[1:]
    widest = int(np.argmax(gaps))
    return widest + 1 if gaps[widest] > _CLEAR_GAP else len(falling)


def _guess(view: PlainUpload | SumOnly | TwoSums, public: Public, _: np.random.Generator) -> Recovered:
    """At the first layer, whose keys are those of the unedited model."""
    seen = view.of_the_others if isinstance(view, SumOnly) else view
    clients = seen.missing if isinstance(seen, TwoSums) else seen.survivors if isinstance(seen, SumOnly) else None
    layer = min(seen.layers)
    residuals = recover(seen.layers[layer], public.layers[layer].candidates)
    return Recovered(layer=layer, residuals=residuals, clients=clients)


def _score(guess: Recovered, public: Public, truth: Truth) -> Score:
    """Residuals and objects of what those clients edited, against the true ones."""
    seen = np.ones(len(truth.client), dtype=bool) if guess.clients is None else np.isin(truth.client, guess.clients)
    members = [int(place) for place in truth.candidate[seen]]
    found, true = guess.residuals[:, members], truth.residuals[guess.layer][:, seen]
    cosines = np.sum(found * true, axis=0) / (np.linalg.norm(found, axis=0) * np.linalg.norm(true, axis=0))
    figures = [
        Figure(name="mean cos", value=float(cosines.mean()), error=float(cosines.std() / np.sqrt(len(cosines)))),
        Figure(name="least cos", value=float(cosines.min())),
    ]
    says = ""
    if public.decoder is not None:
        objects = tuple(target for target, is_seen in zip(truth.objects, seen, strict=True) if is_seen)
        decoded = _right(public.decoder.objects(guess.layer, members, found), objects)
        ceiling = _right(public.decoder.objects(guess.layer, members, true), objects)
        figures += [
            Figure(name="objects decoded", value=decoded),
            Figure(name="objects decoded from the true residual", value=ceiling),
        ]
        says = f"The new object of {decoded:.0%} of all edits was read off; {ceiling:.0%} could be from the residuals."
    return Score(figures=tuple(figures), says=says)


def _right(found: list[str], objects: tuple[str, ...]) -> float:
    """Share of objects whose beginning was found: what a model says next is one token."""
    pairs = [(text.strip(), right) for text, right in zip(found, objects, strict=True)]
    return float(np.mean([bool(text) and right.startswith(text) for text, right in pairs]))


ATTACK = Attack(
    name="value recovery",
    title="What was each candidate edited to?",
    source="R Kᵀ (K Kᵀ)⁺ k = r for a member; then the object by running the public model from there on",
    assumes=(Assumption.CANDIDATES, Assumption.TEMPLATES),
    accepts=(PlainUpload, SumOnly, TwoSums),
    guess=_guess,
    score=_score,
)
