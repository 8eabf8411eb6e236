"""Encoding across tiles, rows and kept scales: what small tensors never reach. secagg.md, "Ring"."""

import numpy as np
import pytest

from collabsecure_protocols import Tensor, ValueRefused
from collabsecure_protocols.fixedpoint import _KEPT_SCALES, _TILE_VALUES, Encoder, signed

D = 300
assert D * (D + 1) // 2 > _TILE_VALUES
assert D > 2 * _KEPT_SCALES

NONE: tuple[int, ...] = ()
FEW = tuple(number % 7 - 3 for number in range(D))
MANY = tuple(number % (2 * _KEPT_SCALES) - _KEPT_SCALES for number in range(D))  # more than are kept


def make_tensor(bits, *, symmetric, rows, columns):
    """Bounds such that 2^40 is the limit in 48 bits, 2^60 in 64: both ways of rounding."""
    fraction_bits = 60 if bits == 64 else 24 if bits == 32 else 38
    columns = NONE if symmetric else columns
    return Tensor(
        name="x", shape=(D, D), bound=1.0, fraction_bits=fraction_bits, bits=bits, symmetric=symmetric,
        row_exponents=rows, column_exponents=columns,
    )  # fmt: skip


def make_values(spec):
    rows = np.ldexp(1.0, -np.array(spec.row_exponents or [0] * D))
    columns = rows if spec.symmetric else np.ldexp(1.0, -np.array(spec.column_exponents or [0] * D))
    uniform = np.random.default_rng(D).uniform(-1, 1, (D, D))
    return np.outer(rows, columns) * (np.triu(uniform) + np.triu(uniform, 1).T if spec.symmetric else uniform)


def expected(spec, values):
    columns = spec.row_exponents if spec.symmetric else spec.column_exponents
    exponents = np.add.outer(np.array(spec.row_exponents or [0] * D), np.array(columns or [0] * D)) + spec.fraction_bits
    integers = np.rint(np.ldexp(values, exponents)).astype(np.int64)
    return integers[np.triu_indices(D)] if spec.symmetric else integers.ravel()


@pytest.mark.parametrize("bits", [32, 48, 64])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(("rows", "columns"), [(NONE, NONE), (FEW, NONE), (NONE, FEW), (FEW, MANY), (MANY, FEW)])
def test_every_value_is_scaled_by_its_own_row_and_column(bits, symmetric, rows, columns):
    spec = make_tensor(bits, symmetric=symmetric, rows=rows, columns=columns)
    values, whole = make_values(spec), np.empty(spec.num_values, np.uint64)
    encoder = Encoder(spec, values)
    for start in range(0, spec.num_values, 40_001):  # tiles start inside rows, rows inside tiles
        encoder.encode_into(start, whole[start : start + 40_001])
    assert (signed(whole, 64 - bits) == expected(spec, values)).all()


@pytest.mark.parametrize("place", [(0, 0), (109, 120), (110, 299), (299, 299)])
def test_a_value_beyond_the_bound_is_found_in_whatever_tile_it_stands(place):
    """secagg.md V32."""
    spec = make_tensor(48, symmetric=True, rows=NONE, columns=NONE)
    values = make_values(spec)
    values[place] = 1.5
    with pytest.raises(ValueRefused, match=rf"V32: entry \({place[0]}, {place[1]}\) is 1.5 times"):
        Encoder(spec, values).encode_into(0, np.empty(spec.num_values, np.uint64))


def test_a_scale_beyond_float64_is_taken_in_two_steps():
    """secagg.md V30: 2^(fraction bits + column exponent) may be infinite where no encoded value is."""
    spec = Tensor(name="x", shape=(2,), bound=2.0**-540, fraction_bits=560, column_exponents=(500, 0))
    out = np.empty(2, np.uint64)
    Encoder(spec, np.ldexp([3.0, -3.0], [-1060, -560])).encode_into(0, out)
    assert signed(out, 16).tolist() == [3, -3]
