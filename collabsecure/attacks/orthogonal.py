"""Minimising over orthogonal matrices what is a sum over the entries of F W. NumPy only."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from collabsecure.attacks.marginals import Evaluation

_MEMORY = 10  # pairs of steps and changes of gradient
_LARGEST_ANGLE = 1.0  # radians in any plane, in one step
_SUFFICIENT, _SHORTER, _TRIES = 1e-4, 0.4, 12  # Armijo's rule
_LEAST_CURVATURE = 0.05  # of the median plane's


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Minimum:
    """Where the search stopped."""

    rotation: Float64[np.ndarray, "m m"]  # W
    value: float


def polar(matrix: Float64[np.ndarray, "m m"]) -> Float64[np.ndarray, "m m"]:
    """The nearest orthogonal matrix.

    >>> polar(np.array([[0.0, -3.0], [0.5, 0.0]])).round(6) + 0.0
    array([[ 0., -1.],
           [ 1.,  0.]])
    """
    left, _, right = np.linalg.svd(matrix)
    nearest: Float64[np.ndarray, "m m"] = left @ right
    return nearest


def minimise(
    loss: Callable[[Float64[np.ndarray, "d m"]], Evaluation],
    root: Float64[np.ndarray, "d m"],
    start: Float64[np.ndarray, "m m"],
    *,
    max_steps: int,
    tolerance: float,
) -> Minimum:
    """A local minimum of loss(F W) over orthogonal W, by L-BFGS on the group.

    A step turns W into W·cayley(Ω) with a skew Ω, one angle for each plane of two columns. The exact second derivative
    by each single angle scales it, as in Picard-O (Ablin, Cardoso and Gramfort 2018). Stops when a step brings less
    than `tolerance`.
    """
    rotation, columns = start, root @ start
    now = loss(columns)
    gradient = _by_angles(columns, now)
    memory: list[tuple[Float64[np.ndarray, "m m"], Float64[np.ndarray, "m m"]]] = []
    for _ in range(max_steps):
        curvature = _curvature_by_angles(columns, now)
        direction = _direction(gradient, curvature, memory)
        descent = np.vdot(direction, gradient) / 2
        if descent >= 0:
            memory.clear()
            direction = -gradient / curvature
            descent = np.vdot(direction, gradient) / 2
        length = min(1.0, _LARGEST_ANGLE / max(float(np.abs(direction).max()), 1e-300))
        for _try in range(_TRIES):
            turn = _cayley(length * direction)
            turned = columns @ turn
            then = loss(turned)
            if then.value <= now.value + _SUFFICIENT * length * descent:
                break
            length *= _SHORTER
        else:
            if not memory:
                break
            memory.clear()
            continue
        gained = now.value - then.value
        before, gradient = gradient, _by_angles(turned, then)
        step, change = length * direction, gradient - before
        if np.vdot(step, change) > 0:
            memory = [*memory[1 - _MEMORY :], (step, change)]
        rotation, columns, now = rotation @ turn, turned, then
        if gained < tolerance:
            break
    return Minimum(rotation=polar(rotation), value=now.value)


def _by_angles(columns: Float64[np.ndarray, "d m"], at: Evaluation) -> Float64[np.ndarray, "m m"]:
    products = columns.T @ at.slopes
    gradient: Float64[np.ndarray, "m m"] = (products - products.T) / columns.size
    return gradient


def _curvature_by_angles(columns: Float64[np.ndarray, "d m"], at: Evaluation) -> Float64[np.ndarray, "m m"]:
    products = np.square(columns).T @ at.curvatures
    shrinking = np.einsum("jm,jm->m", columns, at.slopes)
    curvature = np.abs(products + products.T - shrinking[:, None] - shrinking) / columns.size
    floored: Float64[np.ndarray, "m m"] = np.maximum(curvature, _LEAST_CURVATURE * np.median(curvature) + 1e-300)
    return floored


def _direction(
    gradient: Float64[np.ndarray, "m m"],
    curvature: Float64[np.ndarray, "m m"],
    memory: list[tuple[Float64[np.ndarray, "m m"], Float64[np.ndarray, "m m"]]],
) -> Float64[np.ndarray, "m m"]:
    """L-BFGS's two loops (Nocedal 1980)."""
    direction: Float64[np.ndarray, "m m"] = -gradient
    weights = []
    for step, change in reversed(memory):
        weights.append(np.vdot(step, direction) / np.vdot(step, change))
        direction = direction - weights[-1] * change
    direction = direction / curvature
    if memory:
        step, change = memory[-1]
        direction *= np.vdot(step, change) / np.vdot(change, change / curvature)
    for (step, change), weight in zip(memory, reversed(weights), strict=True):
        direction = direction + (weight - np.vdot(change, direction) / np.vdot(step, change)) * step
    return direction


def _cayley(skew: Float64[np.ndarray, "m m"]) -> Float64[np.ndarray, "m m"]:
    identity = np.eye(len(skew))
    rotation: Float64[np.ndarray, "m m"] = np.linalg.solve(identity - skew / 2, identity + skew / 2)
    return rotation
