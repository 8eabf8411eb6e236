"""Arrays as integers: a tensor's fixed-point form with its proof of headroom, and how a sum travels in chunks."""

import math
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import accumulate

from .errors import InvalidSession
from .wire import Reader, Writer

CHUNK_VALUES = 1 << 17  # values in one MaskedInput message: 768 KiB at 48 bits
RING_BITS = (32, 40, 48, 64)
ENCRYPTED_BITS = (34, 38)  # besides, where values travel encrypted: they are no whole bytes
MAX_TENSORS = 1024  # in one sum; as many arrays as large networks have
MAX_VALUES = 1 << 40  # in one tensor, on the wire
MAX_INTEGER_BITS = 61  # |encoded value| < 2^61, so that float64 → int64 never saturates
MAX_EXPONENT = 960  # |fraction bits + row exponent|: a row's scale, and a sum of 63 bits under it, are exact in float64


def require(condition: bool, text: str) -> None:
    """V30: what every descriptor must satisfy."""
    if not condition:
        raise InvalidSession(f"V30: {text}")


def require_text(text: str, what: str, *, shortest: int = 0, longest: int) -> None:
    """V30 for a text: its length in characters, and that it has a UTF-8 encoding (a lone surrogate has none)."""
    require(shortest <= len(text) <= longest, f"{what} has {shortest} to {longest} characters, found {len(text)}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidSession(f"V30: {what} has no UTF-8 encoding: {text[:40]!r}") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """One array of real numbers in a sum, and how it becomes integers mod 2^bits.

    Entry (i, j) of the array, seen as rows × columns (a vector is one row; further axes count as columns), is encoded
    as round(x · 2^(row_exponents[i] + column_exponents[j] + fraction_bits)). A symmetric tensor is square, takes its
    column exponents from its rows, and only its upper triangle travels, row by row.
    """

    name: str
    shape: tuple[int, ...]
    bound: float  # (0, ∞): |x · 2^(row + column exponent)| of every entry of every client
    fraction_bits: int  # [-960, 960], plus a row exponent too: the step is 2^-fraction_bits, in equilibrated units
    bits: int = 48  # ring size on the wire, one of RING_BITS or ENCRYPTED_BITS
    symmetric: bool = False
    row_exponents: tuple[int, ...] = ()  # empty: all zero
    column_exponents: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        what = f"tensor {self.name!r}"
        require_text(self.name, "a tensor's name", shortest=1, longest=200)
        require(0 < len(self.shape) <= 8, f"{what} has 1 to 8 axes, found {len(self.shape)}")
        require(all(0 < side < 2**32 for side in self.shape), f"{what} has an empty or huge axis in {self.shape}")
        known = (*RING_BITS, *ENCRYPTED_BITS)
        require(self.bits in known, f"{what} travels in one of {known} bits, found {self.bits}")
        require(
            math.isfinite(self.bound) and self.bound > 0, f"{what} needs a finite positive bound, found {self.bound}"
        )
        if self.symmetric:
            square = len(self.shape) == 2 and self.shape[0] == self.shape[1]
            require(square, f"{what} is symmetric and must be square, found {self.shape}")
            require(not self.column_exponents, f"{what} is symmetric: its row exponents serve both sides")
        require(self.num_values <= MAX_VALUES, f"{what} has {self.num_values} values, at most {MAX_VALUES} travel")
        for side, exponents, length in (
            ("row", self.row_exponents, self.rows),
            ("column", self.column_exponents, self.columns),
        ):
            require(len(exponents) in (0, length), f"{what} has {length} {side}s and {len(exponents)} {side} exponents")
            in_range = all(-512 <= exponent <= 511 for exponent in exponents)
            require(in_range, f"{what} has a {side} exponent outside [-512, 511]")
        scales = [self.fraction_bits + exponent for exponent in (0, *self.row_exponents)]
        exact = all(abs(scale) <= MAX_EXPONENT for scale in scales)
        require(exact, f"{what}: fraction_bits {self.fraction_bits}, with row exponents, leave ±{MAX_EXPONENT}")

    @property
    def rows(self) -> int:
        """Rows of the array seen as a matrix."""
        return self.shape[0] if len(self.shape) > 1 else 1

    @property
    def columns(self) -> int:
        """Columns of the array seen as a matrix."""
        return math.prod(self.shape) // self.rows

    @property
    def num_values(self) -> int:
        """Values that travel: all entries, or those of the upper triangle."""
        return self.rows * (self.rows + 1) // 2 if self.symmetric else math.prod(self.shape)

    @property
    def limit(self) -> int:
        """The largest |integer| that an entry within the bound is rounded to."""
        return integer_limit(self.bound, self.fraction_bits)

    def write(self, out: Writer) -> None:
        """Append the canonical encoding."""
        out.text(self.name).u8(len(self.shape))
        for side in self.shape:
            out.u32(side)
        out.f64(self.bound).i16(self.fraction_bits).u8(self.bits).u8(self.symmetric)
        for exponents in (self.row_exponents, self.column_exponents):
            out.u32(len(exponents))
            for exponent in exponents:
                out.i16(exponent)

    @classmethod
    def read(cls, data: Reader) -> "Tensor":
        """Take one off canonical bytes."""
        name = data.text()
        shape = tuple(data.u32() for _ in range(data.u8()))
        bound, fraction_bits, bits, symmetric = data.f64(), data.i16(), data.u8(), data.flag()
        row_exponents, column_exponents = (
            tuple(int.from_bytes(packed[at : at + 2], "big", signed=True) for at in range(0, len(packed), 2))
            for packed in (data.raw(2 * data.u32()) for _ in range(2))
        )
        return cls(
            name=name,
            shape=shape,
            bound=bound,
            fraction_bits=fraction_bits,
            bits=bits,
            symmetric=symmetric,
            row_exponents=row_exponents,
            column_exponents=column_exponents,
        )


def integer_limit(bound: float, fraction_bits: int) -> int:
    """Exact ⌊bound · 2^fraction_bits + ½⌋.

    >>> integer_limit(1.0, 10), integer_limit(0.75, 1)
    (1024, 2)
    """
    numerator, denominator = bound.as_integer_ratio()
    doubled = numerator << max(fraction_bits + 1, 0)  # 2 · bound · 2^fraction_bits, over …
    denominator <<= max(-fraction_bits - 1, 0)
    limit: int = (doubled + denominator) // (2 * denominator)
    return limit


def best_fraction_bits(bound: float, *, num_clients: int, bits: int) -> int:
    """The finest step for which n · limit < 2^(bits−1), hence no sum of n clients can wrap.

    >>> best_fraction_bits(1.0, num_clients=10, bits=48)
    43
    """
    require(math.isfinite(bound) and bound > 0, f"a bound must be finite and positive, found {bound}")
    room = min((1 << (bits - 1)) // num_clients, 1 << MAX_INTEGER_BITS)
    fraction_bits = min(room.bit_length() - math.frexp(bound)[1] + 1, MAX_EXPONENT)
    while fraction_bits >= -MAX_EXPONENT and not has_headroom(bound, fraction_bits, num_clients=num_clients, bits=bits):
        fraction_bits -= 1
    require(fraction_bits >= -MAX_EXPONENT, f"no step keeps {num_clients} × {bound} within {bits} bits")
    return fraction_bits


def has_headroom(bound: float, fraction_bits: int, *, num_clients: int, bits: int) -> bool:
    """Whether n · limit < 2^(bits−1), in exact integers."""
    limit = integer_limit(bound, fraction_bits)
    return bool(num_clients * limit < 1 << (bits - 1) and limit < 1 << MAX_INTEGER_BITS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """One MaskedInput message's part of a sum: `length` values of tensor number `tensor` from value `start`."""

    index: int
    tensor: int
    start: int  # a multiple of CHUNK_VALUES
    length: int  # [1, CHUNK_VALUES]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sum:
    """The tensors that are summed together, with one survivor set."""

    name: str  # with the contribution, what a client contributes to once
    tensors: tuple[Tensor, ...]
    _ends: tuple[int, ...] = field(init=False, repr=False, compare=False)  # by tensor, the chunk after its last

    def __post_init__(self) -> None:
        require_text(self.name, "a sum's name", shortest=1, longest=200)
        require(0 < len(self.tensors) <= MAX_TENSORS, f"sum {self.name!r} has 1 to {MAX_TENSORS} tensors")
        names = [tensor.name for tensor in self.tensors]
        require(len(set(names)) == len(names), f"sum {self.name!r} names a tensor twice: {names}")
        counts = (-(-tensor.num_values // CHUNK_VALUES) for tensor in self.tensors)
        object.__setattr__(self, "_ends", tuple(accumulate(counts)))

    @property
    def num_values(self) -> int:
        """Values that one client sends."""
        return sum(tensor.num_values for tensor in self.tensors)

    @property
    def num_chunks(self) -> int:
        """Messages that they travel in."""
        return self._ends[-1]

    def chunk(self, index: int) -> Chunk:
        """Where chunk `index` lies. No chunk spans two tensors."""
        if not 0 <= index < self.num_chunks:
            raise InvalidSession(f"V30: sum {self.name!r} has {self.num_chunks} chunks, no chunk {index}")
        number = bisect_right(self._ends, index)
        start = (index - (self._ends[number - 1] if number else 0)) * CHUNK_VALUES
        length = min(CHUNK_VALUES, self.tensors[number].num_values - start)
        return Chunk(index=index, tensor=number, start=start, length=length)

    def chunks(self) -> Iterator[Chunk]:
        """All chunks in order."""
        return (self.chunk(index) for index in range(self.num_chunks))
