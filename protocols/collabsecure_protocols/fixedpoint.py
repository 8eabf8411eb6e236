"""Real numbers to integers mod 2^64 and back, and the packed bytes that travel.

Integers live in uint64 arrays; on the wire only the low `bits` of each travel, little-endian. The high bits never
matter: addition carries upwards only, so a sum's low bits are right whatever stands above them (secagg.md, "Ring").
"""

import math
import sys
from collections.abc import Mapping
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from .errors import LocalProtocolError, ValueRefused
from .tensors import Sum, Tensor

# Adding 1.5·2^52 to |x| < 2^51 rounds x to the nearest integer, ties to even, and leaves its two's complement in the
# low 51 bits of the float, above which nothing matters.
_ROUND = 3 << 51
_ROUND_BITS = 51
_TILE_VALUES = 1 << 15  # 256 KiB: stays in a core's cache from scaling to the range check
_MAX_EXPONENT = 1023  # of a power of two in float64
_KEPT_SCALES = 32  # 4 MB at 16 384 columns; rows of further exponents make theirs anew

if sys.byteorder != "little":
    raise LocalProtocolError("the fixed-point code reads integers in place and needs a little-endian machine")

Real = NDArray[np.float64] | NDArray[np.float32]


class Encoder:
    """Encodes stretches of one client's tensor, in the order in which its values travel, without a copy of it (P9).

    Raises:
        ValueRefused: wrong shape or type; or, when encoded, a NaN, an infinity or a value beyond the bound.

    """

    def __init__(self, tensor: Tensor, values: Real) -> None:
        if not isinstance(values, np.ndarray) or values.dtype not in (np.float64, np.float32):
            found = values.dtype if isinstance(values, np.ndarray) else type(values).__name__
            raise ValueRefused(tensor.name, f"expected a NumPy array of float64 or float32, found {found}")
        if values.shape != tensor.shape:
            raise ValueRefused(tensor.name, f"expected shape {tensor.shape}, found {values.shape}")
        if not values.flags.c_contiguous:
            raise ValueRefused(tensor.name, "expected a C-contiguous array; pass np.ascontiguousarray(…)")
        self._tensor = tensor
        self._matrix = values.reshape(tensor.rows, tensor.columns)
        columns = tensor.row_exponents if tensor.symmetric else tensor.column_exponents
        self._columns = np.array(columns, np.int64) if columns else None
        top = max(tensor.row_exponents, default=0) + max(columns, default=0) + tensor.fraction_bits
        self._excess = max(0, top - _MAX_EXPONENT)  # 0 but for bounds near float64's least numbers
        self._scales: dict[int, NDArray[np.float64] | np.float64] = {}  # by row exponent
        self._limit = tensor.limit
        self._adds = tensor.bits <= _ROUND_BITS and self._limit < 1 << _ROUND_BITS

    def encode_into(self, start: int, out: NDArray[np.uint64]) -> None:
        """Write the integers of values `start`, `start` + 1, … into the low `bits` of `out`, as many as it holds."""
        with np.errstate(all="ignore"):  # what overflows is refused below, with its place
            in_range = self._encode(start, out)
        if not in_range:
            self._refuse(start, len(out))

    def _encode(self, start: int, out: NDArray[np.uint64]) -> bool:
        """Scale, round and say whether all of it stays within the limit."""
        real = out.view(np.float64)
        row, column = _locate(self._tensor, start)
        for at in range(0, len(real), _TILE_VALUES):
            tile = real[at : at + _TILE_VALUES]
            row, column = self._scale_into(tile, row, column)
            if self._excess:
                np.multiply(tile, 2.0**self._excess, out=tile)
            if not self._round(tile):
                return False
        return True

    def _scale_into(self, tile: NDArray[np.float64], row: int, column: int) -> tuple[int, int]:
        """Fill a tile with scaled values from (row, column) on; returns where the next one starts."""
        filled, columns = 0, self._tensor.columns
        while filled < len(tile):
            length = min(columns - column, len(tile) - filled)
            stop = column + length
            scale = self._scale(row)
            if isinstance(scale, np.ndarray):
                scale = scale[column:stop]
            np.multiply(self._matrix[row, column:stop], scale, out=tile[filled : filled + length])
            filled += length
            column = stop
            if stop == columns:
                row += 1
                column = row if self._tensor.symmetric else 0
        return row, column

    def _scale(self, row: int) -> NDArray[np.float64] | np.float64:
        """What to multiply a row with: one power of two, or with column exponents one a column."""
        exponent = self._tensor.row_exponents[row] if self._tensor.row_exponents else 0
        scale = self._scales.get(exponent)
        if scale is None:
            exponents = np.int64(exponent + self._tensor.fraction_bits - self._excess)
            scale = np.ldexp(1.0, exponents if self._columns is None else self._columns + exponents)
            if len(self._scales) < _KEPT_SCALES:
                self._scales[exponent] = scale
        return scale

    def _round(self, tile: NDArray[np.float64]) -> bool:
        """Turn reals into integers in place; false if one is beyond the limit, infinite or no number."""
        if self._adds:
            np.add(tile, _ROUND, out=tile)
            zero = _ROUND
        else:
            np.rint(tile, out=tile)
            zero = 0
        low, high = float(np.minimum.reduce(tile)), float(np.maximum.reduce(tile))  # a NaN makes both NaN
        in_range = zero - self._limit <= low and high <= zero + self._limit
        if in_range and not self._adds:
            tile.view(np.int64)[:] = tile.astype(np.int64)
        return in_range

    def _refuse(self, start: int, length: int) -> None:
        """Find the first offender again, slowly and exactly, for a message that helps."""
        tensor = self._tensor
        columns = tensor.row_exponents if tensor.symmetric else tensor.column_exponents
        row, column = _locate(tensor, start)
        for _ in range(length):
            index = np.unravel_index(row * tensor.columns + column, tensor.shape)
            value, where = float(self._matrix[row, column]), f"entry ({', '.join(map(str, index))})"
            if not math.isfinite(value):
                raise ValueRefused(tensor.name, f"V32: {where} is not a finite number")
            exponent = (tensor.row_exponents[row] if tensor.row_exponents else 0) + (columns[column] if columns else 0)
            equilibrated = abs(Fraction(value)) * Fraction(2) ** exponent
            if round(equilibrated * Fraction(2) ** tensor.fraction_bits) > tensor.limit:
                excess = equilibrated / Fraction(tensor.bound)
                text = f"{float(excess):.3g} times" if excess < 10**300 else "more than 1e300 times"
                text = "beyond" if excess < Fraction(11, 10) else text
                raise ValueRefused(tensor.name, f"V32: {where} is {text} the session's bound {tensor.bound:.6g}")
            column += 1
            if column == tensor.columns:
                row += 1
                column = row if tensor.symmetric else 0
        raise ValueRefused(tensor.name, f"V32: a value among {length} from {start} on overflows on its way to the ring")


def _inverse_scales(tensor: Tensor) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
    """Powers of two that undo encoding bit for bit, for rows and for columns."""
    rows = np.array(tensor.row_exponents or (0,) * tensor.rows, np.int64)
    columns = tensor.row_exponents if tensor.symmetric else tensor.column_exponents
    row_scale = np.ldexp(1.0, -(rows + tensor.fraction_bits))
    return row_scale, np.ldexp(1.0, -np.array(columns, np.int64)) if columns else None


def _locate(tensor: Tensor, start: int) -> tuple[int, int]:
    """Row and column of travelling value number `start`.

    >>> corner = Tensor(name="g", shape=(3, 3), bound=1.0, fraction_bits=20, symmetric=True)
    >>> [_locate(corner, number) for number in range(6)]
    [(0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2)]
    """
    if not tensor.symmetric:
        return divmod(start, tensor.columns)
    # Row r starts at r·d − r(r−1)/2; solve for the last r that is not beyond start.
    d = tensor.rows
    row = (2 * d + 1 - math.isqrt((2 * d + 1) ** 2 - 8 * start)) // 2
    while row * d - row * (row - 1) // 2 > start:
        row -= 1
    while row + 1 < d and (row + 1) * d - (row + 1) * row // 2 <= start:
        row += 1
    return row, row + start - (row * d - row * (row - 1) // 2)


def encoders(spec: Sum, values: Mapping[str, Real]) -> tuple[Encoder, ...]:
    """One encoder a tensor of the sum; refuses missing and unknown names."""
    names = {tensor.name for tensor in spec.tensors}
    for name in sorted(names ^ set(values)):
        raise ValueRefused(name, "expected by the session, not given" if name in names else "not in the session")
    return tuple(Encoder(tensor, values[tensor.name]) for tensor in spec.tensors)


def decode(tensor: Tensor, ring: NDArray[np.uint64]) -> NDArray[np.float64]:
    """The array of real numbers, shape `tensor.shape`, whose sum stands in `ring`, its low `bits` only.

    A symmetric tensor comes back whole, lower triangle filled in.
    """
    if ring.shape != (tensor.num_values,):
        raise LocalProtocolError(f"tensor {tensor.name!r} has {tensor.num_values} values, found shape {ring.shape}")
    matrix = np.empty((tensor.rows, tensor.columns))
    shift = np.int64(64 - tensor.bits)
    row_scale, column_scale = _inverse_scales(tensor)
    at = 0
    for row in range(tensor.rows):
        first = row if tensor.symmetric else 0
        piece = matrix[row, first:]
        np.copyto(piece, signed(ring[at : at + len(piece)], int(shift)))
        piece *= row_scale[row]
        if column_scale is not None:
            piece *= column_scale[first:]
        if tensor.symmetric:
            matrix[first:, row] = piece
        at += len(piece)
    return matrix.reshape(tensor.shape)


def signed(ring: NDArray[np.uint64], unused_bits: int) -> NDArray[np.int64]:
    """The low bits as two's complement."""
    return (ring << np.uint64(unused_bits)).view(np.int64) >> np.int64(unused_bits)


def pack_into(ring: NDArray[np.uint64], bits: int, out: bytearray, offset: int = 0) -> None:
    """Write the low `bits` of each integer, little-endian, one after the other, at byte `offset` of `out`.

    >>> out = bytearray(10)
    >>> pack_into(np.array([1, 2**64 - 1], np.uint64), 40, out)
    >>> out.hex()
    '0100000000ffffffffff'
    """
    step = bits // 8
    if bits == 64:
        _lane(out, offset, "<u8", step, len(ring))[:] = ring
        return
    np.copyto(_lane(out, offset, "<u4", step, len(ring)), ring, casting="unsafe")  # C's conversion: the low 32 bits
    if bits > 32:
        form = {40: "<u1", 48: "<u2"}[bits]
        _lane(out, offset + 4, form, step, len(ring))[:] = ring.view(form)[4 // (step - 4) :: 8 // (step - 4)]


def add_packed(total: NDArray[np.uint64], payload: bytes | bytearray | memoryview, offset: int, bits: int) -> None:
    """Add packed integers, from byte `offset` of `payload`, to `total`; garbage above `bits` is left in `total`.

    Needs 8 readable bytes at every value, so `payload` must go on for 8 − bits/8 bytes (a message's signature does).
    """
    total += np.ndarray(total.shape, "<u8", buffer=payload, offset=offset, strides=(bits // 8,))


def _lane(buffer: bytearray, offset: int, form: str, stride: int, length: int) -> NDArray[np.uint64]:
    return np.ndarray((length,), form, buffer=buffer, offset=offset, strides=(stride,))
