"""Fixed point against exact fractions: rounding, bounds, refusals, headroom, packing. secagg.md, "Ring"."""

import warnings
from fractions import Fraction

import numpy as np
import pytest
from harness import make_session
from hypothesis import given, reject
from hypothesis import strategies as st

from collabsecure_protocols import InvalidSession, Tensor, ValueRefused, best_fraction_bits
from collabsecure_protocols.fixedpoint import Encoder, _locate, add_packed, decode, pack_into, signed
from collabsecure_protocols.tensors import MAX_INTEGER_BITS, RING_BITS, has_headroom, integer_limit

bits = st.sampled_from(RING_BITS)
bounds = st.floats(min_value=1e-200, max_value=1e200, allow_nan=False)


def encode(spec, array):
    out = np.empty(spec.num_values, np.uint64)
    Encoder(spec, array).encode_into(0, out)
    return signed(out, 64 - spec.bits).tolist()


def nearest(value, exponent):
    """The oracle: x · 2^exponent rounded half to even, in exact arithmetic."""
    return round(Fraction(value) * Fraction(2) ** exponent)


def travelling(spec):
    """The matrix places of the values that travel, in their order."""
    first = (lambda row: row) if spec.symmetric else (lambda _row: 0)
    return [(row, column) for row in range(spec.rows) for column in range(first(row), spec.columns)]


def exponent_at(spec, row, column):
    columns = spec.row_exponents if spec.symmetric else spec.column_exponents
    rows = spec.row_exponents or (0,) * spec.rows
    return spec.fraction_bits + rows[row] + (columns[column] if columns else 0)


def exponents_or_none(length):
    return st.just(()) | st.tuples(*[st.integers(-60, 60)] * length)


@st.composite
def tensors(draw):
    symmetric = draw(st.booleans())
    rows, columns = draw(st.integers(1, 6)), draw(st.integers(1, 6))
    shape = (rows, rows) if symmetric else draw(st.sampled_from([(rows, columns), (columns,), (rows, columns, 2)]))
    num_rows = shape[0] if len(shape) > 1 else 1
    num_columns = int(np.prod(shape)) // num_rows
    size, bound = draw(bits), draw(bounds)
    return Tensor(
        name="x",
        shape=shape,
        bound=bound,
        fraction_bits=best_fraction_bits(bound, num_clients=draw(st.integers(1, 200)), bits=size),
        bits=size,
        symmetric=symmetric,
        row_exponents=draw(exponents_or_none(num_rows)),
        column_exponents=() if symmetric else draw(exponents_or_none(num_columns)),
    )


@given(tensors(), st.randoms(use_true_random=False), st.sampled_from([np.float64, np.float32]))
def test_encoding_is_the_nearest_integer_and_decoding_is_within_half_a_step(spec, random, dtype):
    array = np.zeros((spec.rows, spec.columns), dtype)
    tiny, huge = float(np.finfo(dtype).tiny), float(np.finfo(dtype).max)
    for row, column in travelling(spec):
        reach = min(spec.bound * 2.0 ** -(exponent_at(spec, row, column) - spec.fraction_bits), huge)
        value = dtype(random.choice([0.0, 1.0, -1.0, 0.5, random.uniform(-1, 1)]) * reach)
        inside = abs(Fraction(float(value))) <= Fraction(reach) and abs(value) >= tiny
        array[row, column] = value if inside else 0  # float32 may round beyond the bound
    if spec.symmetric:
        array = np.triu(array) + np.triu(array, 1).T
    integers = encode(spec, array.reshape(spec.shape))
    expected = [nearest(float(array[at]), exponent_at(spec, *at)) for at in travelling(spec)]
    assert integers == expected
    decoded = decode(spec, np.array(integers, np.int64).view(np.uint64)).reshape(spec.rows, spec.columns)
    for row, column in travelling(spec):
        step = Fraction(2) ** -exponent_at(spec, row, column)
        error = abs(Fraction(float(decoded[row, column])) - Fraction(float(array[row, column])))
        # Beyond 2^53 steps a float64 cannot hold the integer: half an ulp is lost to the reader, not to the sum.
        assert error <= step / 2 + abs(Fraction(float(decoded[row, column]))) / 2**53
        if spec.symmetric:
            assert decoded[row, column] == decoded[column, row]


@pytest.mark.parametrize("size", RING_BITS)
@pytest.mark.parametrize("sign", [1, -1])
def test_the_bound_itself_is_encoded_as_the_limit_and_the_next_integer_is_refused(size, sign):
    spec = Tensor(name="edge", shape=(1,), bound=0.75, fraction_bits=size - 4, bits=size)
    assert encode(spec, np.array([sign * 0.75])) == [sign * spec.limit]
    beyond = sign * float(spec.limit + max(1, spec.limit >> 52)) * 2.0**-spec.fraction_bits
    with pytest.raises(ValueRefused, match=r"V32: entry .* beyond the session's bound"):
        encode(spec, np.array([beyond]))


@pytest.mark.parametrize("limit", [2**51 - 1, 2**51, 2**51 + 1, 2**60])
def test_both_ways_of_rounding_meet_at_two_to_the_51(limit):
    spec = Tensor(name="edge", shape=(4,), bound=float(limit), fraction_bits=0, bits=64)
    assert spec.limit == limit
    assert encode(spec, np.array([limit, -limit, 2.5, 3.5])) == [limit, -limit, 2, 4]
    with pytest.raises(ValueRefused, match="V32"):
        encode(spec, np.array([0, 0, 0, np.nextafter(limit + 1.0, np.inf)]))


REFUSED = [np.nan, -np.nan, np.inf, -np.inf, 1.5, -1.5, 2.0**51, -(2.0**52), 1.5 * 2.0**52, 2.0**63, 1e300, -1.7e308]


@pytest.mark.parametrize("value", REFUSED)
@pytest.mark.parametrize(("size", "fraction_bits"), [(32, 20), (48, 46), (64, 45), (64, 58)])  # both ways of rounding
@pytest.mark.parametrize("exponents", [(), (3, -3, 0)])
def test_what_is_not_finite_or_beyond_the_bound_is_refused_by_tensor_and_entry(value, size, fraction_bits, exponents):
    """secagg.md V32, P9."""
    spec = Tensor(
        name="layer 3 cross",
        shape=(4, 3),
        bound=1.0,
        fraction_bits=fraction_bits,
        bits=size,
        column_exponents=exponents,
    )
    array = np.zeros((4, 3))
    array[2, 2] = value
    what = "is not a finite number" if not np.isfinite(value) else "times the session's bound 1"
    with pytest.raises(ValueRefused, match=rf"layer 3 cross.*V32: entry \(2, 2\) .*{what}") as refused:
        encode(spec, array)
    assert refused.value.tensor == "layer 3 cross"


@pytest.mark.parametrize(("shape", "index"), [((5,), (3,)), ((2, 3, 4), (1, 2, 0)), ((3, 1), (2, 0))])
def test_an_entry_is_named_by_its_place_in_the_array_itself(shape, index):
    array = np.zeros(shape)
    array[index] = 2.0
    with pytest.raises(ValueRefused, match=rf"entry \({', '.join(map(str, index))}\) is 2 times"):
        encode(Tensor(name="a", shape=shape, bound=1.0, fraction_bits=8, bits=32), array)


@given(st.data())
def test_any_float_under_any_exponents_is_its_nearest_integer_or_is_refused(data):
    """secagg.md V30, V32: a descriptor at the edges of float64 gives no wrong integer and no other error."""
    bound = data.draw(st.floats(min_value=0, exclude_min=True, allow_infinity=False))
    size = data.draw(bits)
    try:
        finest = best_fraction_bits(bound, num_clients=1, bits=size)
        spec = Tensor(
            name="x",
            shape=(1, 1),
            bound=bound,
            fraction_bits=finest - data.draw(st.integers(0, size + 6)),
            bits=size,
            row_exponents=(data.draw(st.integers(-512, 511)),),
            column_exponents=(data.draw(st.integers(-512, 511)),),
        )
    except InvalidSession:
        reject()
    exponent = exponent_at(spec, 0, 0)
    with np.errstate(over="ignore"):
        nearby = [*np.ldexp([spec.bound, 0.5], [spec.fraction_bits - exponent, -exponent]).tolist(), 0.0, 1.0]
    value = data.draw(st.sampled_from(nearby) | st.floats()) * data.draw(st.sampled_from([1, -1, 0.75, 1 - 2**-53]))
    exact = nearest(value, exponent) if np.isfinite(value) else None
    try:
        integer = encode(spec, np.array([[value]]))[0]
    except ValueRefused:
        # The column's power alone takes it beyond float64: it cannot be computed, so it is refused.
        overflows = np.isfinite(value) and abs(Fraction(value)) * Fraction(2) ** spec.column_exponents[0] >= 2**1024
        assert exact is None or abs(exact) > spec.limit or overflows
    else:
        assert integer == exact
        decoded = decode(spec, np.array([integer], np.int64).view(np.uint64))[0, 0]
        error = abs(Fraction(float(decoded)) - Fraction(value))
        subnormal = Fraction(5e-324)
        assert error <= Fraction(2) ** -exponent / 2 + abs(Fraction(value)) / 2**52 + subnormal


def test_only_the_upper_triangle_of_a_symmetric_tensor_is_read():
    spec = Tensor(name="g", shape=(2, 2), bound=8.0, fraction_bits=0, symmetric=True)
    assert encode(spec, np.array([[1.0, 2.0], [np.nan, 3.0]])) == [1, 2, 3]


BAD_ARRAYS = {
    "a list": ([1.0, 2.0], "NumPy array"),
    "integers": (np.arange(2), "int64"),
    "half precision": (np.zeros(2, np.float16), "float16"),
    "another shape": (np.zeros((2, 1)), r"shape \(2,\), found \(2, 1\)"),
    "strided": (np.zeros(4)[::2], "C-contiguous"),
}


@pytest.mark.parametrize("name", BAD_ARRAYS)
def test_arrays_of_another_kind_are_refused(name):
    array, reason = BAD_ARRAYS[name]
    with pytest.raises(ValueRefused, match=reason):
        Encoder(Tensor(name="x", shape=(2,), bound=1.0, fraction_bits=10), array)


@pytest.mark.parametrize("d", [*range(1, 24), 100, 1000])
def test_locate_finds_every_place_of_the_triangle(d):
    spec = Tensor(name="g", shape=(d, d), bound=1.0, fraction_bits=10, symmetric=True)
    places = travelling(spec)
    assert len(places) == spec.num_values
    starts = (
        range(len(places)) if d < 200 else [0, 1, d - 1, d, d + 1, len(places) // 2, len(places) - 2, len(places) - 1]
    )
    assert all(_locate(spec, start) == places[start] for start in starts)


@given(st.integers(1, 2**19), st.data())
def test_locate_is_exact_in_triangles_of_any_size(d, data):
    spec = Tensor(name="g", shape=(d, d), bound=1.0, fraction_bits=10, symmetric=True)
    start = data.draw(st.integers(0, spec.num_values - 1))
    row, column = _locate(spec, start)
    assert 0 <= row <= column < d
    assert row * d - row * (row - 1) // 2 + column - row == start


@given(st.integers(1, 40), st.data())
def test_encoding_from_the_middle_gives_the_middle_of_the_whole(d, data):
    spec = Tensor(name="g", shape=(d, d), bound=1.0, fraction_bits=30, symmetric=data.draw(st.booleans()))
    array = np.random.default_rng(d).uniform(-1, 1, (d, d))
    whole = encode(spec, array)
    start = data.draw(st.integers(0, spec.num_values - 1))
    part = np.empty(data.draw(st.integers(1, spec.num_values - start)), np.uint64)
    Encoder(spec, array).encode_into(start, part)
    assert signed(part, 64 - spec.bits).tolist() == whole[start : start + len(part)]


@given(bounds, st.integers(2, 10_000), bits)
def test_the_finest_step_has_headroom_and_the_next_has_none(bound, n, size):
    """secagg.md V30."""
    fraction_bits = best_fraction_bits(bound, num_clients=n, bits=size)
    limit = round(Fraction(bound) * Fraction(2) ** fraction_bits)
    assert n * limit < 2 ** (size - 1)
    assert limit < 2**MAX_INTEGER_BITS
    assert not has_headroom(bound, fraction_bits + 1, num_clients=n, bits=size)


@given(bounds, st.integers(-100, 100))
def test_the_limit_is_the_exact_rounding_of_the_bound(bound, fraction_bits):
    exact = Fraction(bound) * Fraction(2) ** fraction_bits + Fraction(1, 2)
    assert integer_limit(bound, fraction_bits) == exact.numerator // exact.denominator


@pytest.mark.parametrize("size", RING_BITS)
@pytest.mark.parametrize("n", [2, 3, 7])
def test_a_session_holds_as_many_clients_as_the_ring_and_not_one_more(n, size):
    """secagg.md V30: n at the limit, and one beyond."""
    limit = min((2 ** (size - 1) - 1) // n, 2**MAX_INTEGER_BITS - 1)
    limit = (limit >> max(limit.bit_length() - 53, 0)) << max(limit.bit_length() - 53, 0)  # a float64 holds it
    at_limit = Tensor(name="x", shape=(1,), bound=float(limit), fraction_bits=0, bits=size)
    make_session(n, tensors=[at_limit])
    too_many = next(m for m in range(n, n + 10_000) if not has_headroom(float(limit), 0, num_clients=m, bits=size))
    make_session(too_many - 1, tensors=[at_limit])
    with pytest.raises(InvalidSession, match="V30: tensor 'x' of sum 'layer 0' has no headroom"):
        make_session(too_many, tensors=[at_limit])


@given(bits, bounds, st.lists(st.floats(-1, 1), min_size=2, max_size=60))
def test_sums_of_values_within_the_bound_never_wrap(size, bound, fractions):
    """secagg.md P9: through the wire's bits, the sum is the integers' sum."""
    n = len(fractions)
    spec = Tensor(
        name="x",
        shape=(n + 1,),
        bound=bound,
        fraction_bits=best_fraction_bits(bound, num_clients=n, bits=size),
        bits=size,
    )
    total = np.zeros(n + 1, np.uint64)
    exact = [0] * (n + 1)
    for fraction in fractions:
        array = np.full(n + 1, np.copysign(bound, fractions[0]))  # everybody at the same end of the range
        array[0] = fraction * bound
        integers = np.array(encode(spec, array), np.int64).view(np.uint64)
        message = bytearray(len(integers) * size // 8 + 8)
        pack_into(integers, size, message)
        add_packed(total, message, 0, size)
        exact = [old + new for old, new in zip(exact, encode(spec, array), strict=True)]
    assert signed(total, 64 - size).tolist() == exact


@given(bits, st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=40), st.integers(0, 9))
def test_packing_is_each_integers_low_bytes(size, integers, offset):
    out = bytearray(b"\xaa" * (offset + len(integers) * size // 8 + 8))
    pack_into(np.array(integers, np.uint64), size, out, offset)
    packed = b"".join(value.to_bytes(8, "little")[: size // 8] for value in integers)
    assert bytes(out) == b"\xaa" * offset + packed + b"\xaa" * 8
    total = np.arange(len(integers), dtype=np.uint64)
    add_packed(total, bytes(out), offset, size)
    expected = [(value + at) % 2**size for at, value in enumerate(integers)]
    assert [value % 2**size for value in total.tolist()] == expected


def test_refusals_warn_of_nothing():
    spec = Tensor(name="x", shape=(1,), bound=1.0, fraction_bits=40)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for value in REFUSED:
            with pytest.raises(ValueRefused):
                encode(spec, np.array([value]))
