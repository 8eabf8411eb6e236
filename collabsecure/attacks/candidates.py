"""Candidates that cannot be told apart count once, and how well the others were told apart. NumPy and SciPy only.

A key is what the model makes of a prompt up to its subject's last token, so prompts that begin with their subject have
one key, whatever they go on to say. Two such candidates are one to every attack on keys: had one of them been edited
and not the other, counting them apart would add a mistake that no attack could avoid, and a copy of a member in a list
that statistics are made of would make members special before anybody has seen an upload.
"""

import itertools
from collections.abc import Collection

import numpy as np
from jaxtyping import Bool, Float64, Int64

from collabsecure.attacks.attack import Curve, Figure
from collabsecure.attacks.knowledge import Public, Truth
from collabsecure.attacks.scoring import auc, roc, true_positives_at

SAME = 1e-9  # keys that differ by less, relative to their length, are one
_RARE = 0.001  # false positives' rate at which an adversary would act


def alike(keys: Float64[np.ndarray, "d_in num"]) -> Int64[np.ndarray, " num"]:
    """For each key the place of the first that it is the same as, up to `SAME`; its own, where there is none.

    >>> alike(np.array([[1.0, 2.0, 1.0], [0.0, 1.0, 1e-12]]))
    array([0, 1, 0])
    """
    num = keys.shape[1]
    first = np.arange(num)
    # Keys that are the same lie next to each other in any direction; a fixed one of no meaning sets others apart.
    order = np.argsort(np.cos(np.arange(1, len(keys) + 1)) @ keys, kind="stable")
    for here, following in itertools.pairwise(order):
        if np.linalg.norm(keys[:, following] - keys[:, here]) <= SAME * np.linalg.norm(keys[:, here]):
            first[following] = first[here]
    least = np.full(num, num)
    np.minimum.at(least, first, np.arange(num))
    return least[first]


def distinct(public: Public) -> Int64[np.ndarray, " num_candidates"]:
    """`alike` of the candidates, by their keys at the lowest layer: what is one there is one above it."""
    return alike(public.layers[min(public.layers)].candidates)


def told_apart(
    scores: Float64[np.ndarray, " num_candidates"],
    is_member: Bool[np.ndarray, " num_candidates"],
    groups: Int64[np.ndarray, " num_candidates"],
    label: str,
) -> tuple[tuple[Figure, ...], Curve]:
    """AUC and TPR at 0.1% FPR, and the ROC curve, over candidates with keys of their own.

    Of candidates with one key the first stands for all, and is a member if any is.
    """
    stands = np.unique(groups)
    edited = np.isin(stands, groups[is_member])
    members, others = scores[stands[edited]], scores[stands[~edited]]
    return (auc(members, others).figure, true_positives_at(_RARE, members, others)), roc(members, others, label)


def edited_by(
    clients: Collection[int] | None, truth: Truth, num_candidates: int
) -> Bool[np.ndarray, " num_candidates"]:
    """Which candidates these clients edited; all clients, where none are named.

    What colluders edited is not in what is left of a sum without them.
    """
    found = np.zeros(num_candidates, dtype=bool)
    found[truth.candidate if clients is None else truth.candidate[np.isin(truth.client, list(clients))]] = True
    return found
