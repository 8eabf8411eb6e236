"""Masks from a short seed come off: every seed is tried against what is public of the numbers under them.

Frameworks have seeded NumPy's Mersenne Twister with 28 or 32 bits of an agreed secret. A guess of the seed is right if
what it leaves is within the session's public bounds, value after value; each value within a third of the ring rules out
two guesses of three, and nothing of the input need be known. The generator's first outputs need 397 + 2·values steps
of its seeding, done here for many seeds at once.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, UInt32, UInt64

from collabsecure.attacks.views import MaskedUpload
from collabsecure_protocols import Tensor
from collabsecure_protocols.fixedpoint import signed

NAME = "seed search"

_BATCH = 1 << 15  # seeds at once: 128 KiB an array
_SIEVE_VALUES, _PROOF_VALUES = 6, 256
_SHIFT, _UPPER, _LOWER, _TWIST = 397, np.uint32(1 << 31), np.uint32((1 << 31) - 1), np.uint32(0x9908B0DF)


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """What came of a search."""

    seed: int | None  # None: none of them
    tried: int
    seconds: float

    def hours_for(self, bits: int) -> float:
        """How long all seeds of so many bits take at this rate, on one core."""
        return self.seconds / self.tried * 2.0**bits / 3600


def stream(seed: int, num_values: int) -> UInt64[np.ndarray, " _"]:
    """Integers mod 2^64 from NumPy's legacy generator, in order."""
    return np.frombuffer(np.random.RandomState(seed).bytes(8 * num_values), "<u8").astype(np.uint64)


def find_seed(upload: MaskedUpload, *, seed_bits: int) -> Search:
    """Try the seeds below 2^seed_bits, in order."""
    start = time.monotonic()
    tensor = upload.session.sums[0].tensors[0]
    masked = upload.words[tensor.name][:_PROOF_VALUES]
    tried = 0
    for seeds in _batches(1 << seed_bits):
        tried += len(seeds)
        outputs = _first_outputs(seeds, 2 * min(_SIEVE_VALUES, len(masked)))
        possible = np.ones(len(seeds), dtype=bool)
        for value, (low, high) in zip(masked, zip(outputs[::2], outputs[1::2], strict=True), strict=False):
            mask = low.astype(np.uint64) | high.astype(np.uint64) << np.uint64(32)
            possible &= _in_range(tensor, value - mask)
        for seed in seeds[possible]:
            if _in_range(tensor, masked - stream(int(seed), len(masked))).all():
                return Search(seed=int(seed), tried=tried, seconds=time.monotonic() - start)
    return Search(seed=None, tried=tried, seconds=time.monotonic() - start)


def take_off(upload: MaskedUpload, seed: int) -> MaskedUpload:
    """The upload without the mask of a seed."""
    words, at = {}, 0
    sizes = {tensor.name: tensor for tensor in upload.session.sums[0].tensors}
    mask = stream(seed, sum(map(len, upload.words.values())))
    for name, found in upload.words.items():
        words[name] = (found - mask[at : at + len(found)]) & np.uint64((1 << sizes[name].bits) - 1)
        at += len(found)
    return replace(upload, words=words)


def _in_range(tensor: Tensor, ring: UInt64[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
    in_range: Bool[np.ndarray, " n"] = np.abs(signed(ring, 64 - tensor.bits)) <= tensor.limit
    return in_range


def _batches(count: int) -> Iterator[UInt32[np.ndarray, " batch"]]:
    for start in range(0, count, _BATCH):
        yield np.arange(start, min(start + _BATCH, count), dtype=np.uint32)


def _first_outputs(seeds: UInt32[np.ndarray, " batch"], count: int) -> list[UInt32[np.ndarray, " batch"]]:
    """MT19937's first numbers under each seed (Matsumoto and Nishimura 1998), count ≤ 226."""
    state, kept, late = seeds.copy(), [seeds], []
    for step in range(1, _SHIFT + count):
        state = np.uint32(1812433253) * (state ^ state >> np.uint32(30)) + np.uint32(step)
        if step <= count:
            kept.append(state)
        if step >= _SHIFT:
            late.append(state)
    return [_tempered(late[at] ^ _twisted(kept[at], kept[at + 1])) for at in range(count)]


def _twisted(left: UInt32[np.ndarray, " batch"], right: UInt32[np.ndarray, " batch"]) -> UInt32[np.ndarray, " batch"]:
    mixed = left & _UPPER | right & _LOWER
    twisted: UInt32[np.ndarray, " batch"] = mixed >> np.uint32(1) ^ (mixed & np.uint32(1)) * _TWIST
    return twisted


def _tempered(number: UInt32[np.ndarray, " batch"]) -> UInt32[np.ndarray, " batch"]:
    number = number ^ number >> np.uint32(11)
    number = number ^ number << np.uint32(7) & np.uint32(0x9D2C5680)
    number = number ^ number << np.uint32(15) & np.uint32(0xEFC60000)
    tempered: UInt32[np.ndarray, " batch"] = number ^ number >> np.uint32(18)
    return tempered
