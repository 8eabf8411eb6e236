"""What a sum takes as an array: NumPy's, of real numbers, in the session's shape or flat, and within its range."""

import math

import numpy as np
from numpy.typing import NDArray

from collabsecure_protocols import Tensor, ValueRefused
from collabsecure_protocols.fixedpoint import Encoder
from collabsecure_protocols.tensors import CHUNK_VALUES

_EXACT = 1 << 53  # integers beyond have no float64


def real(name: str, values: object) -> NDArray[np.generic]:
    """The array that was given, if each of its numbers has a float64.

    Raises:
        ValueRefused: it is something else than an array of real numbers, or has integers beyond 2^53.
    """
    if not isinstance(values, np.ndarray | np.generic):
        raise ValueRefused(name, f"expected a NumPy array, found {type(values).__name__}")
    array = np.asarray(values)
    if array.dtype.kind not in "fiub":
        raise ValueRefused(name, f"expected real numbers, found {array.dtype}")
    if array.dtype.kind in "iu" and array.size and not -_EXACT <= array.min() <= array.max() <= _EXACT:
        raise ValueRefused(name, "integers beyond 2^53 have no float64; found some")
    return array


def refuse_shape(tensor: Tensor, shape: tuple[int, ...]) -> None:
    """Another shape may have as many numbers, as a transposed matrix has, and mean other ones by them.

    Raises:
        ValueRefused: it is neither the session's nor flat.
    """
    if shape not in (tensor.shape, (math.prod(tensor.shape),)):
        raise ValueRefused(tensor.name, f"expected shape {tensor.shape}, found {shape}")


def checked(tensor: Tensor, values: object) -> NDArray[np.float64]:
    """The array as it is kept, little-endian and in the session's shape, if a client may contribute it.

    Raises:
        ValueRefused: it may not.
    """
    given = real(tensor.name, values)
    refuse_shape(tensor, given.shape)
    array = np.ascontiguousarray(given, "<f8").reshape(tensor.shape)
    encoder, ring = Encoder(tensor, array), np.empty(min(tensor.num_values, CHUNK_VALUES), np.uint64)
    for start in range(0, tensor.num_values, CHUNK_VALUES):
        encoder.encode_into(start, ring[: min(CHUNK_VALUES, tensor.num_values - start)])  # raises what is out of range
    return array
