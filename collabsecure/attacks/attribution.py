"""Who contributed what is known to have been edited?

One who has every client's statistics asks whose span a candidate's key lies in. A sum is the same whoever contributed
which part of it, so from a sum nothing but outside knowledge says who: chance is one in as many clients as it is over.
Outside knowledge is which clients edit what kind of facts (`with_topics`), and what colluding clients contributed
themselves, who are then out of the question for the rest.

The score is over the edits of clients that do not collude.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64
from scipy.linalg import solve_triangular

from collabsecure.attacks.attack import Assumption, Attack, Figure, Score
from collabsecure.attacks.case import Case
from collabsecure.attacks.knowledge import Public, PublicLayer, Truth
from collabsecure.attacks.views import AggregatorState, SumOnly
from collabsecure.statistics import Statistics

_RIDGE = 1e-6  # of the mean eigenvalue of G over C
_UNSEEN = 0.99  # how much of a key a client's span must hold, for it to be that client's rather than an unseen one's


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Attribution:
    """Whose each candidate is, if it was edited at all."""

    client: Int64[np.ndarray, " num_candidates"]
    colluders: tuple[int, ...]


def guess(view: AggregatorState | SumOnly, public: Public, rng: np.random.Generator) -> Attribution:
    """The client whose statistics hold most of a candidate's key; where none are seen, anybody."""
    clients = _clients(view)
    return _guess(view, public, rng, np.ones((len(clients), len(public.names))))


def score(guessed: Attribution, public: Public, truth: Truth) -> Score:
    """How many edits are put down to the client that contributed them."""
    honest = ~np.isin(truth.client, guessed.colluders)
    right = (guessed.client[truth.candidate] == truth.client)[honest]
    num_clients = len(np.unique(truth.client))
    left = len(np.unique(truth.client[honest]))
    chance = 1 / (left if left > 1 else num_clients)
    error = math.sqrt(chance * (1 - chance) / len(right))
    return Score(figures=(Figure(name="attributed", value=float(right.mean()), error=error, chance=chance),))


def with_topics(editors: Mapping[str, Collection[int]], topics: Sequence[str]) -> Attack[Attribution]:
    """The same by one who knows which clients edit which topic; `topics` has each candidate's."""

    def informed(view: AggregatorState | SumOnly, public: Public, rng: np.random.Generator) -> Attribution:
        of_topic = np.array(
            [[client in editors.get(topic, ()) for topic in topics] for client in _clients(view)], np.float64
        )
        return _guess(view, public, rng, of_topic)

    return Attack(
        name="attribution by topic",
        title="Who contributed what, to one who knows who edits what kind of facts?",
        source="no paper: knowledge from outside and nothing of the sum",
        assumes=(Assumption.CANDIDATES, Assumption.TOPICS),
        accepts=(AggregatorState, SumOnly),
        guess=informed,
        score=score,
    )


def one_topic_each(case: Case, *, sharing: int = 1) -> Attack[Attribution]:
    """What the adversary knows where each client edits facts of one kind, and so many clients edit facts of each kind.

    Clients 1 to `sharing` have one topic, the next as many another one.
    """
    topics, editors = ["nobody's"] * len(case.real.public.names), dict[str, set[int]]()
    for candidate, client in zip(case.truth.candidate.tolist(), case.truth.client.tolist(), strict=True):
        topics[candidate] = f"topic {(client - 1) // sharing}"
        editors.setdefault(topics[candidate], set()).add(client)
    return with_topics(editors, topics)


def _clients(view: AggregatorState | SumOnly) -> tuple[int, ...]:
    return tuple(sorted(view.uploads)) if isinstance(view, AggregatorState) else view.survivors


def _guess(
    view: AggregatorState | SumOnly,
    public: Public,
    rng: np.random.Generator,
    prior: Float64[np.ndarray, "num_clients num_candidates"],
) -> Attribution:
    layer = min(public.layers)
    seen = {client: told[layer] for client, told in view.colluders.items()}
    if isinstance(view, AggregatorState):
        seen |= {client: upload.layers[layer] for client, upload in view.uploads.items() if client not in seen}
    clients = _clients(view)
    missing = np.full(prior.shape, 1 - _UNSEEN)  # how much of a key a client does not account for
    if seen:
        held = _held(public.layers[layer], seen)
        for place, client in enumerate(clients):
            if client in held:
                missing[place] = np.abs(1 - held[client])
    # Of clients that are as likely, one at random.
    likely = np.where(prior > 0, -np.log(np.maximum(missing, 1e-15)), -np.inf) + 1e-9 * rng.random(prior.shape)
    return Attribution(client=np.array(clients)[likely.argmax(axis=0)], colluders=tuple(sorted(view.colluders)))


def _held(public: PublicLayer, seen: Mapping[int, Statistics]) -> Mapping[int, Float64[np.ndarray, " num_candidates"]]:
    """By client, the share of each candidate's key that lies in the span of the client's, after whitening with C.

    1 − ε·kᵀ(εC + G)⁻¹k / kᵀC⁻¹k: 1 in the span, and the same key's share outside it for small ε.
    """
    factor = np.linalg.cholesky(public.second_moment)
    keys = solve_triangular(factor, public.candidates, lower=True)
    keys /= np.linalg.norm(keys, axis=0)
    held = {}
    for client, statistics in seen.items():
        half = solve_triangular(factor, statistics.gram, lower=True)
        gram = solve_triangular(factor, half.T, lower=True)
        ridge = _RIDGE * abs(gram.trace()) / len(gram)
        outside = np.linalg.solve(gram / ridge + np.eye(len(gram)), keys)
        held[client] = 1 - np.einsum("ij,ij->j", keys, outside)
    return held


ATTACK: Attack[Attribution] = Attack(
    name="attribution",
    title="Who contributed what is known to have been edited?",
    source="no paper: whose span a key lies in",
    assumes=(Assumption.CANDIDATES, Assumption.TEMPLATES, Assumption.LOWER_LAYERS),
    accepts=(AggregatorState, SumOnly),
    guess=guess,
    score=score,
)
