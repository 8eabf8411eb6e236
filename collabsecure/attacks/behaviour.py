"""The behavioural floor: what any working edit gives away to somebody who can ask the model before and after.

An edit that works changes what the model says after its prompt, however it was computed and merged. So candidates whose
next token is distributed otherwise than before are members: KL(after ‖ before) is the score. Nothing that is done to
uploads changes this, as it is what was asked for. NumPy only.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from collabsecure.attacks.attack import Assumption, Attack, Score
from collabsecure.attacks.knowledge import Public, Truth
from collabsecure.attacks.scoring import auc, roc, true_positives_at

# For candidates, by their places in `Public.names`: log-probabilities of the next token, (num_candidates, vocabulary).
Predictor = Callable[[Sequence[int]], Float64[np.ndarray, "num vocabulary"]]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EditedModel:
    """A view: the model before and after, as who has both, or may only ask both, sees them."""

    before: Predictor
    after: Predictor


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Changed:
    """How much each candidate's continuation changed."""

    divergence: Float64[np.ndarray, " num_candidates"]  # nats, ≥ 0


def divergence(
    after: Float64[np.ndarray, "num vocabulary"], before: Float64[np.ndarray, "num vocabulary"]
) -> Float64[np.ndarray, " num"]:
    """KL(after ‖ before) of next-token distributions that are given as log-probabilities, in nats.

    >>> divergence(np.log([[0.5, 0.5]]), np.log([[0.25, 0.75]])).round(4)
    array([0.1438])
    """
    kl: Float64[np.ndarray, " num"] = np.sum(np.exp(after) * (after - before), axis=1)
    return kl


def _guess(view: EditedModel, public: Public, _: np.random.Generator) -> Changed:
    candidates = range(len(public.names))
    return Changed(divergence=divergence(view.after(candidates), view.before(candidates)))


def _score(guess: Changed, public: Public, truth: Truth) -> Score:
    is_member = truth.is_member(len(public.names))
    members, others = guess.divergence[is_member], guess.divergence[~is_member]
    return Score(
        figures=(auc(members, others).figure, true_positives_at(0.001, members, others)),
        curves=(roc(members, others, "KL after ‖ before"),),
    )


ATTACK = Attack(
    name="behaviour",
    title="Whose continuation changed?",
    source="KL(after ‖ before) at a candidate's prompt: what an edit is for",
    assumes=(Assumption.CANDIDATES,),
    accepts=(EditedModel,),
    guess=_guess,
    score=_score,
)
