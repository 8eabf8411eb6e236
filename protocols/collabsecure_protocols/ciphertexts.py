"""Ciphertexts on the wire and their addition: numbers mod q, checked one by one. No TenSEAL in here.

A payload is the ciphertexts of a stretch of masked integers, one after the other; a ciphertext is its 2N coefficients
mod q, eight bytes each, little-endian. There is nothing else in it: no header, level, scale or length that could lie,
and any 2N numbers below q are a ciphertext, good or bad. So the size is exact and known before a byte arrives, the one
check is `< q`, adding is NumPy's, and SEAL's loader never sees a byte from the network: the key holder hands it headers
of its own around numbers that were checked.

Order at a receiver: size (`payload_bytes`), signature, then `read_payload` and `add_mod`. A ciphertext made under
another key, for other parameters or at another place is well formed and turns its total into noise, which `Decryptor`
refuses; that it does not get into the total is the signature's work.
"""

import numpy as np
from numpy.typing import NDArray

from .encryption_parameters import DATA_PRIME, EncryptionParameters
from .errors import CiphertextRefused, LocalProtocolError

Words = NDArray[np.uint64]
Payload = bytes | bytearray | memoryview


def read_payload(parameters: EncryptionParameters, num_values: int, payload: Payload) -> Words:
    """The payload's numbers, where they lie.

    Raises:
        CiphertextRefused: not the exact size, or a number that is not below q.

    """
    expected, found = parameters.payload_bytes(num_values), memoryview(payload).nbytes
    if found != expected:
        raise CiphertextRefused(f"{num_values} encrypted integers take {expected} bytes, found {found}")
    words = np.frombuffer(payload, "<u8")
    if len(words) and int(words.max()) >= DATA_PRIME:
        place = int(np.argmax(words >= DATA_PRIME))
        raise CiphertextRefused(f"number {place} of a payload is not below the modulus q")
    return words


class Adder:
    """A running total of payloads of `num_values` integers each. Memory: the total and one boolean a number."""

    def __init__(self, parameters: EncryptionParameters, num_values: int, total: Payload | None = None) -> None:
        """Start from nothing, or go on from a total's bytes."""
        self._parameters, self._num_values = parameters, num_values
        size = parameters.payload_bytes(num_values)
        self._total = np.zeros(size // 8, np.uint64)
        if total is not None:
            self._total += read_payload(parameters, num_values, total)

    def add(self, payload: Payload) -> None:
        """Add one client's payload, or another total's; a refused one changes nothing."""
        add_mod(self._total, read_payload(self._parameters, self._num_values, payload))

    def total(self) -> bytes:
        """The encrypted sum so far, a payload like any other."""
        return self._total.tobytes()


def add_mod(total: Words, words: Words) -> None:
    """Add numbers below q in place, mod q."""
    for at in range(0, len(total), _TILE_WORDS):
        tile = total[at : at + _TILE_WORDS]
        tile += words[at : at + _TILE_WORDS]
        np.minimum(tile, tile - np.uint64(DATA_PRIME), out=tile)  # below q, the difference wraps to more than 2^63


_TILE_WORDS = 1 << 14  # 128 KiB


def split(parameters: EncryptionParameters, values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The slots of one ciphertext: the limbs of `values`, the lowest of all first; unused slots are 0.

    For ckks they are balanced digits, in [−2^(b−1), 2^(b−1)) as two's complement: uniform where the values are, and
    around zero. Bits of a value above `value_bits` are dropped, as they are where masked integers are packed.
    """
    capacity = parameters.capacity
    if values.ndim != 1 or values.dtype != np.uint64 or not 0 < len(values) <= capacity:
        raise LocalProtocolError(f"expected 1 to {capacity} integers of uint64, found {values.dtype} {values.shape}")
    slots, rest, one = np.zeros(parameters.slots, np.uint64), values, np.uint64(1)
    for limb, bits in enumerate(map(np.uint64, limb_widths(parameters))):
        digits = slots[limb * capacity : limb * capacity + len(values)]
        digits[:] = rest & ((one << bits) - one)
        rest = rest >> bits
        if parameters.scheme == "ckks":
            carry = digits >> (bits - one)
            digits -= carry << bits
            rest += carry
    return slots


def join(parameters: EncryptionParameters, slots: NDArray[np.uint64], num_values: int) -> NDArray[np.uint64]:
    """Integers mod 2^k from summed limbs: what `split` undoes, carries and signs included."""
    values = np.zeros(num_values, np.uint64)
    for limb in range(parameters.limbs):
        at = limb * parameters.capacity
        values += slots[at : at + num_values] << np.uint64(limb * parameters.limb_bits)
    return values & np.uint64((1 << parameters.value_bits) - 1)


def limb_widths(parameters: EncryptionParameters) -> list[int]:
    """Bits of each limb; the last takes what is left."""
    widths = [parameters.limb_bits] * parameters.limbs
    widths[-1] = parameters.value_bits - parameters.limb_bits * (parameters.limbs - 1)
    return widths
