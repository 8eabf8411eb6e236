"""SIMPLE-AVERAGE and TASK-ARITHMETIC: sums of the updates, scaled."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64

from collabsecure.merging.updates import Update, checked, common_layers


def simple_average(updates: Sequence[Update]) -> dict[int, Float64[np.ndarray, "_ _"]]:
    """Δ = (1/N) Σ Δᵢ, layer by layer: SIMPLE-AVERAGE.

    Averaging the edited models' weights (FedAvg, McMahan et al. 2017, arXiv 1602.05629, with equal parts; model soups,
    Wortsman et al. 2022, arXiv 2203.05482) is the same, as all start from the same weights.

    >>> simple_average([{3: np.array([[2.0, 0.0]])}, {3: np.array([[4.0, 1.0]])}])
    {3: array([[3. , 0.5]])}

    Raises:
        ModelMismatch: the updates' layers or shapes are not the same.
        ValueError: there is no update, or one has NaN or infinite entries.
    """
    return {layer: _sum(updates, layer) / len(updates) for layer in common_layers(updates)}


def task_arithmetic(updates: Sequence[Update], *, scale: float) -> dict[int, Float64[np.ndarray, "_ _"]]:
    """Δ = λ Σ Δᵢ with λ = `scale`, layer by layer: TASK-ARITHMETIC (Ilharco et al. 2023, arXiv 2212.04089, §2).

    CollabEdit's public code has λ = 1; 0.4 is what TIES-MERGING's authors use where nothing can be validated.

    >>> task_arithmetic([{3: np.array([[2.0, 0.0]])}, {3: np.array([[4.0, 1.0]])}], scale=0.5)
    {3: array([[3. , 0.5]])}

    Raises:
        ModelMismatch: the updates' layers or shapes are not the same.
        ValueError: there is no update, or one has NaN or infinite entries.
    """
    return {layer: _sum(updates, layer) * scale for layer in common_layers(updates)}


def _sum(updates: Sequence[Update], layer: int) -> Float64[np.ndarray, "_ _"]:
    total = np.array(updates[0][layer])
    checked(total, total.shape, number=1, layer=layer)
    for number, update in enumerate(updates[1:], 2):
        total += checked(update[layer], total.shape, number=number, layer=layer)
    return total
