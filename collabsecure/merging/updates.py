"""What the methods take: updates of the same layers, in the same shapes, of finite numbers."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float64

from collabsecure.errors import ModelMismatch

Update = Mapping[int, Float64[np.ndarray, "_ _"]]  # layer → Δ, (d_out, d_in)


def common_layers(updates: Sequence[Update]) -> tuple[int, ...]:
    """The layers that all updates are of, ascending.

    Raises:
        ModelMismatch: they are not of the same layers.
        ValueError: there is no update, or one without layers.
    """
    if not updates or not updates[0]:
        raise ValueError("found no updates, or none of any layer; expected at least one of each")
    expected = sorted(updates[0])
    for number, update in enumerate(updates[1:], 2):
        if (found := sorted(update)) != expected:
            raise ModelMismatch(
                f"update {number}: found layers {_listed(found)}; expected {_listed(expected)}, those of update 1"
            )
    return tuple(expected)


def checked(
    values: Float64[np.ndarray, "_ _"], shape: tuple[int, ...], *, number: int, layer: int
) -> Float64[np.ndarray, "_ _"]:
    """One layer of update `number`, counted from 1, as it is.

    Raises:
        ModelMismatch: its shape is not that of update 1.
        ValueError: not all of its entries are finite.
    """
    if values.shape != shape:
        raise ModelMismatch(
            f"update {number}, layer {layer}: found shape {values.shape}; expected {shape}, that of update 1"
        )
    if not np.isfinite(values).all():
        raise ValueError(f"update {number}, layer {layer}: found NaN or infinite entries; expected finite numbers")
    return values


def _listed(layers: Sequence[int]) -> str:
    return ", ".join(map(str, layers)) or "none"
