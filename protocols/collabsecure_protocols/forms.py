"""How a tensor's masked integers travel and are added: packed to their bits, or encrypted for a key holder."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .ciphertexts import add_mod, read_payload
from .encryption_parameters import EncryptionParameters
from .fixedpoint import add_packed
from .tensors import CHUNK_VALUES, Chunk

Ring = NDArray[np.uint64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """The form of masked integers of so many bits in one session."""

    bits: int
    encryption: EncryptionParameters | None

    def payload_bytes(self, num_values: int) -> int:
        """The length on the wire of so many values of one chunk."""
        return num_values * self.bits // 8 if self.encryption is None else self.encryption.payload_bytes(num_values)

    def total_words(self, num_values: int) -> int:
        """How many numbers a server keeps for a tensor of so many values."""
        if self.encryption is None:
            return num_values
        whole, rest = divmod(num_values, CHUNK_VALUES)
        return (whole * self.encryption.payload_bytes(CHUNK_VALUES) + self.encryption.payload_bytes(rest)) // 8

    def place(self, chunk: Chunk) -> slice:
        """Where a chunk's numbers lie among those of its tensor."""
        start = self.total_words(chunk.start)
        return slice(start, start + self.total_words(chunk.length))

    def adding(
        self, payload: bytes | bytearray | memoryview, offset: int, num_values: int
    ) -> Callable[[NDArray[np.uint64]], None]:
        """What adds the values that stand at byte `offset` of a message to a chunk's place in the total.

        Raises:
            CiphertextRefused: they are no ciphertexts (a number is not below the modulus).

        """
        if self.encryption is None:
            return lambda total: add_packed(total, payload, offset, self.bits)
        stretch = memoryview(payload)[offset : offset + self.payload_bytes(num_values)]
        words = read_payload(self.encryption, num_values, stretch)
        return lambda total: add_mod(total, words)
