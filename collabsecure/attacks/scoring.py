"""How good guesses are: ranks, rates and matched cosines, each with its standard error. NumPy and SciPy only."""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64
from scipy.optimize import linear_sum_assignment
from scipy.stats import rankdata

from collabsecure.attacks.attack import Curve, Figure


@dataclass(frozen=True, slots=True, kw_only=True)
class Auc:
    """Area under the ROC curve: how often a member scores above a non-member, ties counting half.

    `null_error` is its standard error if both had one distribution (Mann and Whitney 1947, with their correction for
    ties), which is what says whether it is chance.
    """

    value: float
    null_error: float

    @property
    def is_chance(self) -> bool:
        """Within four standard errors of ½."""
        return abs(self.value - 0.5) <= 4 * self.null_error

    @property
    def figure(self) -> Figure:
        """As a figure of a report."""
        return Figure(name="AUC", value=self.value, error=self.null_error, chance=0.5)


def auc(members: Float64[np.ndarray, " m"], others: Float64[np.ndarray, " n"]) -> Auc:
    """Mann and Whitney's statistic over m·n.

    >>> auc(np.array([2.0, 3.0]), np.array([1.0, 2.0])).value
    0.875

    Raises:
        ValueError: one of the two is empty, or there are NaNs.
    """
    m, n = len(members), len(others)
    together = np.concatenate((members, others))
    if not m or not n or np.isnan(together).any():
        raise ValueError(f"found {m} members and {n} others; expected some of each, and numbers")
    ranks = rankdata(together)
    value = (ranks[:m].sum() - m * (m + 1) / 2) / (m * n)
    _, ties = np.unique(together, return_counts=True)
    tied = float(((ties**3 - ties).sum()) / ((m + n) * (m + n - 1))) if m + n > 1 else 0.0
    return Auc(value=float(value), null_error=math.sqrt((m + n + 1 - tied) / (12 * m * n)))


def roc(members: Float64[np.ndarray, " m"], others: Float64[np.ndarray, " n"], label: str) -> Curve:
    """True positives' rate against false positives', from (0, 0) to (1, 1): the corners of that staircase.

    >>> curve = roc(np.array([2.0, 3.0]), np.array([1.0, 2.0]), "")
    >>> curve.x, curve.y
    (array([0. , 0. , 0.5, 1. ]), array([0. , 0.5, 1. , 1. ]))
    """
    cuts = np.unique(np.concatenate((members, others)))[::-1]
    true = np.append(0.0, 1 - np.searchsorted(np.sort(members), cuts) / len(members))
    false = np.append(0.0, 1 - np.searchsorted(np.sort(others), cuts) / len(others))
    # Which way each step goes, up, right or both; on the way straight on, points say nothing.
    rises, moves = np.diff(true) > 0, np.diff(false) > 0
    straight = (rises[:-1] == rises[1:]) & (moves[:-1] == moves[1:]) & (rises[1:] != moves[1:])
    corners = np.concatenate(([True], ~straight, [True]))
    return Curve(plot="ROC", label=label, x=false[corners], y=true[corners])


def true_positives_at(rate: float, members: Float64[np.ndarray, " m"], others: Float64[np.ndarray, " n"]) -> Figure:
    """The true positives' rate at a false positives' rate (Carlini et al. 2022): what an adversary can be sure of.

    With fewer than 1/rate others, it is that at no false positive.

    >>> true_positives_at(0.001, np.array([2.0, 3.0]), np.array([1.0, 2.0])).value
    0.5
    """
    allowed = math.floor(rate * len(others))
    threshold = np.sort(others)[::-1][allowed]
    return Figure(name=f"TPR at {rate:.1%} FPR", value=float(np.mean(members > threshold)), chance=rate)


def matched_cosines(
    found: Float64[np.ndarray, "d found"], true: Float64[np.ndarray, "d true"]
) -> Float64[np.ndarray, " pairs"]:
    """|cos| between each true vector and the found one it is matched with, at the best one-to-one match (Hungarian).

    In the order of the true ones; where there are fewer found ones, those without a match have 0.

    >>> matched_cosines(np.array([[0.0, -2.0], [1.0, 0.0]]), np.eye(2))
    array([1., 1.])
    """
    cosines = np.abs(_unit(true).T @ _unit(found))
    rows, columns = linear_sum_assignment(-cosines)
    result = np.zeros(true.shape[1])
    result[rows] = cosines[rows, columns]
    return result


def _unit(vectors: Float64[np.ndarray, "d n"]) -> Float64[np.ndarray, "d n"]:
    lengths = np.linalg.norm(vectors, axis=0)
    unit: Float64[np.ndarray, "d n"] = vectors / np.where(lengths > 0, lengths, 1.0)
    return unit
