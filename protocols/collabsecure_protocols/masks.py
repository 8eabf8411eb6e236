"""Mask keystreams: AES-256-CTR, one key per tensor and pair, seekable by value number.

Value v of a mask is bytes 8v … 8v+7 of the keystream, a little-endian integer mod 2^64; the counter starts at zero.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

from .errors import LocalProtocolError
from .keys import Label, Secret, derive

TILE_VALUES = 1 << 15  # 256 KiB: keystream, sum and zeros of a tile stay in a core's cache
_BLOCK_VALUES = 2  # 16-byte AES blocks


@dataclass(frozen=True, slots=True, kw_only=True)
class Mask:
    """One mask of one tensor, and whether it is added or subtracted."""

    key: Secret = field(repr=False)
    negative: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskContext:
    """What a sum's masks are bound to, besides the parties: see secagg.md, "Key schedule"."""

    transcript: bytes
    participants: bytes  # bitmap of the clients that shared keys, U2
    sum_index: int
    link: bytes  # 32 bytes: digest of what came before, such as Δ of the previous layer

    def self_masks(self, seed: Secret, owner: int, num_tensors: int, *, remove: bool = False) -> list[Mask]:
        """The owner's self mask of each tensor; to remove it again, with `remove`."""
        return [
            Mask(
                key=Secret(
                    derive(
                        seed.reveal(),
                        Label.SELF_MASK,
                        self.transcript,
                        self.participants,
                        self.sum_index,
                        self.link,
                        tensor,
                        owner,
                    )
                ),
                negative=remove,
            )
            for tensor in range(num_tensors)
        ]

    def pairwise_masks(
        self, private: Secret, owner: int, peer_public: bytes, peer: int, num_tensors: int, *, remove: bool = False
    ) -> list[Mask]:
        """The mask between owner and peer of each tensor, as the owner adds it: plus for the lower of the two.

        Raises:
            LocalProtocolError: the peer's key is of low order; checks V10 and V11 keep such keys out before.

        """
        shared = private.agree(peer_public)
        if shared is None:
            raise LocalProtocolError(f"client {peer}'s mask key is of low order")
        low, high = min(owner, peer), max(owner, peer)
        return [
            Mask(
                key=Secret(
                    derive(
                        shared,
                        Label.PAIRWISE_MASK,
                        self.transcript,
                        self.participants,
                        self.sum_index,
                        self.link,
                        tensor,
                        low,
                        high,
                    )
                ),
                negative=(owner == high) != remove,
            )
            for tensor in range(num_tensors)
        ]


class MaskScratch:
    """Reusable buffers for `apply_masks`; one per thread."""

    def __init__(self) -> None:
        self.zeros = bytes(8 * TILE_VALUES)
        self.stream = np.empty(TILE_VALUES, np.uint64)


def apply_masks(values: NDArray[np.uint64], start: int, masks: Sequence[Mask], scratch: MaskScratch) -> None:
    """Add masks to `values` in place; `values[0]` is the tensor's value number `start`, an even number."""
    if start % _BLOCK_VALUES:
        raise LocalProtocolError(f"masks start at an even value number, found {start}")
    counter = (start // _BLOCK_VALUES).to_bytes(16, "big")
    streams = [
        (Cipher(algorithms.AES(mask.key.reveal()), modes.CTR(counter)).encryptor(), mask.negative) for mask in masks
    ]
    for at in range(0, len(values), TILE_VALUES):
        tile = values[at : at + TILE_VALUES]
        keystream = scratch.stream[: len(tile)]
        target, zeros = keystream.view(np.uint8).data, memoryview(scratch.zeros)[: 8 * len(tile)]
        for stream, negative in streams:
            stream.update_into(zeros, target)
            if negative:
                tile -= keystream
            else:
                tile += keystream
