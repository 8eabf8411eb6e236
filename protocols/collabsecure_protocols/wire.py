"""Canonical bytes: fixed-width big-endian integers and length-prefixed strings, one encoding per value.

Every length is checked against what is left before anything is allocated; see secagg.md, "Wire format", for why this
and not a general serialisation library.
"""

import struct
from collections.abc import Iterable
from enum import IntEnum
from typing import TypeVar

from .errors import ProtocolError


class Malformed(ProtocolError):
    """Bytes that are not the one encoding of any value; the receiver turns this into a check's number."""


class Writer:
    """Appends values to a buffer."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def u8(self, value: int) -> "Writer":
        """One byte."""
        return self.raw(struct.pack(">B", value))

    def u16(self, value: int) -> "Writer":
        """Two bytes."""
        return self.raw(struct.pack(">H", value))

    def u32(self, value: int) -> "Writer":
        """Four bytes."""
        return self.raw(struct.pack(">I", value))

    def u64(self, value: int) -> "Writer":
        """Eight bytes."""
        return self.raw(struct.pack(">Q", value))

    def i16(self, value: int) -> "Writer":
        """Two bytes, two's complement."""
        return self.raw(struct.pack(">h", value))

    def f64(self, value: float) -> "Writer":
        """IEEE 754 binary64, eight bytes."""
        return self.raw(struct.pack(">d", value))

    def raw(self, value: bytes) -> "Writer":
        """Bytes whose length the format fixes."""
        self._parts.append(value)
        return self

    def blob(self, value: bytes) -> "Writer":
        """A u32 length, then the bytes."""
        return self.u32(len(value)).raw(value)

    def text(self, value: str) -> "Writer":
        """A blob of UTF-8."""
        return self.blob(value.encode())

    def finish(self) -> bytes:
        """All that was written."""
        return b"".join(self._parts)


class Reader:
    """Takes values off a buffer; raises `Malformed` instead of reading past its end."""

    def __init__(self, data: bytes | memoryview) -> None:
        self._data = memoryview(data)
        self._at = 0

    def raw(self, length: int) -> bytes:
        """Exactly `length` bytes."""
        return bytes(self.view(length))

    def view(self, length: int) -> memoryview:
        """Exactly `length` bytes where they lie, not copied."""
        left = len(self._data) - self._at
        if length > left:
            raise Malformed(f"{length} bytes announced at offset {self._at}, {left} left")
        self._at += length
        return self._data[self._at - length : self._at]

    def _number(self, form: str, size: int) -> int:
        value: int = struct.unpack(form, self.raw(size))[0]
        return value

    def u8(self) -> int:
        """One byte."""
        return self._number(">B", 1)

    def u16(self) -> int:
        """Two bytes."""
        return self._number(">H", 2)

    def u32(self) -> int:
        """Four bytes."""
        return self._number(">I", 4)

    def u64(self) -> int:
        """Eight bytes."""
        return self._number(">Q", 8)

    def i16(self) -> int:
        """Two bytes, two's complement."""
        return self._number(">h", 2)

    def f64(self) -> float:
        """IEEE 754 binary64, eight bytes."""
        value: float = struct.unpack(">d", self.raw(8))[0]
        return value

    def flag(self) -> bool:
        """One byte that is 0 or 1."""
        value = self.u8()
        if value > 1:
            raise Malformed(f"a flag must be 0 or 1, found {value}")
        return value == 1

    def blob(self) -> bytes:
        """A u32 length, then that many bytes."""
        return self.raw(self.u32())

    def text(self) -> str:
        """A blob of UTF-8."""
        try:
            return self.blob().decode()
        except UnicodeDecodeError as error:
            raise Malformed("text that is not UTF-8") from error

    def finish(self) -> None:
        """Nothing may follow."""
        left = len(self._data) - self._at
        if left:
            raise Malformed(f"{left} bytes follow the last field")


_Member = TypeVar("_Member", bound=IntEnum)


def member(kind: type[_Member], number: int) -> _Member:
    """The enumeration's member of that number."""
    try:
        return kind(number)
    except ValueError:
        raise Malformed(f"{kind.__name__} {number} is unknown") from None


def write_bitmap(members: Iterable[int], num_clients: int) -> bytes:
    """One bit a client, client 1 in the lowest bit of the first byte.

    >>> write_bitmap([1, 3, 10], 10).hex()
    '0502'
    """
    bits = 0
    for member in members:
        bits |= 1 << (member - 1)
    return bits.to_bytes((num_clients + 7) // 8, "little")


def read_bitmap(data: bytes, num_clients: int) -> tuple[int, ...]:
    """The members in ascending order; bits beyond the roster must be zero.

    >>> read_bitmap(bytes.fromhex("0502"), 10)
    (1, 3, 10)
    """
    bits = int.from_bytes(data, "little")
    if bits >> num_clients:
        raise Malformed("a bitmap has bits beyond the roster")
    return tuple(number for number in range(1, num_clients + 1) if bits >> (number - 1) & 1)
