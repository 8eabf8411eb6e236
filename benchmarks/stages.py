"""A client's stages on one core: masks against the raw keystream, packing and encoding against memcpy, the wire.

`python -m benchmarks.stages` takes some seconds. All is CPU time; in each round every line has its turn.
"""

import argparse
import hashlib
import sys
from collections.abc import Callable, Sequence

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from benchmarks.network import make_tensor
from benchmarks.report import Figure, least, show
from collabsecure_protocols.fixedpoint import Encoder, pack_into
from collabsecure_protocols.keys import Secret
from collabsecure_protocols.masks import TILE_VALUES, Mask, MaskScratch, apply_masks
from collabsecure_protocols.tensors import CHUNK_VALUES, Tensor

NEIGHBOURS = 9
MASK_BAR = 1.5  # × raw AES-256-CTR of as many bytes
ENCODE_BAR = 5.0  # × memcpy of as many values


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stages", description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, default=6400, help="of the square matrix (default: 6400, GPT2-XL's keys)")
    parser.add_argument("--repeats", type=int, default=30, help="the least of so many times counts (default: 30)")
    parser.add_argument("--quick", action="store_true", help="a matrix of GPT-2's size, few repeats")
    arguments = parser.parse_args(argv)
    side, repeats = (3072, 5) if arguments.quick else (arguments.side, arguments.repeats)
    figures = [*masks(repeats), *encoding(side, max(repeats // 5, 3)), *wire(repeats)]
    return show(f"Stages of a client, one core, CPU time per value; matrices are {side} × {side}", figures)


def masks(repeats: int) -> list[Figure]:
    """One chunk's masks, per neighbour, against the keystream alone into the same small buffer."""
    chunk, scratch = np.zeros(CHUNK_VALUES, np.uint64), MaskScratch()
    pairwise = [
        Mask(key=Secret(hashlib.sha256(b"%d" % number).digest()), negative=number % 2 == 0)
        for number in range(NEIGHBOURS)
    ]
    zeros, stream = bytes(8 * TILE_VALUES), bytearray(8 * TILE_VALUES)

    def keystream() -> None:
        for mask in pairwise:
            encryptor = Cipher(algorithms.AES(mask.key.reveal()), modes.CTR(bytes(16))).encryptor()
            for _ in range(CHUNK_VALUES // TILE_VALUES):
                encryptor.update_into(zeros, stream)

    works = {"keystream": keystream, "masks": lambda: apply_masks(chunk, 0, pairwise, scratch)}
    seconds = least(works, repeats=5 * repeats)
    raw, masked = (seconds[name] / NEIGHBOURS / CHUNK_VALUES for name in works)
    return [
        Figure(what="AES-256-CTR keystream, 8 bytes a value", value=f"{raw * 1e9:.2f} ns ({8e-9 / raw:.1f} GB/s)"),
        Figure(
            what="mask stage, a neighbour",
            value=f"{masked * 1e9:.2f} ns",
            ratio=masked / raw,
            baseline="keystream",
            bar=MASK_BAR,
        ),
    ]


def encoding(side: int, repeats: int) -> list[Figure]:
    """A whole matrix encoded into a chunk's buffer and, for the bar, into memory as memcpy writes it."""
    rng = np.random.default_rng(0)
    exponents = tuple(int(exponent) for exponent in rng.integers(-5, 6, side))  # as equilibration gives them
    matrix = rng.uniform(-(2.0**-11), 2.0**-11, (side, side))
    figures = []
    for what, symmetric, scaled in (
        ("upper triangle", True, ()),
        ("upper triangle, equilibrated", True, exponents),
        ("full matrix", False, ()),
        ("full matrix, equilibrated", False, exponents),
    ):
        scales = {"row_exponents": scaled, "column_exponents": () if symmetric else scaled}
        spec = make_tensor("x", (side, side), clients=10, symmetric=symmetric, **scales)
        figures += encode_one(what, spec, matrix, repeats)
    return figures


def encode_one(what: str, spec: Tensor, matrix: np.ndarray, repeats: int) -> list[Figure]:
    count, encoder = spec.num_values, Encoder(spec, matrix)
    whole, chunk = np.ones(count, np.uint64), np.ones(CHUNK_VALUES, np.uint64)
    source = matrix.reshape(-1)[:count].view(np.uint64)

    def into(place: Callable[[int, int], np.ndarray]) -> Callable[[], None]:
        def run() -> None:
            for start in range(0, count, CHUNK_VALUES):
                encoder.encode_into(start, place(start, min(CHUNK_VALUES, count - start)))

        return run

    works = {
        "memcpy": lambda: np.copyto(whole, source),
        "encode": into(lambda start, length: whole[start : start + length]),
        "stream": into(lambda _start, length: chunk[:length]),
    }
    seconds = least(works, repeats=repeats)
    copied, encoded, streamed = (seconds[name] / count * 1e9 for name in works)
    return [
        Figure(
            what=f"pack + encode, {what}",
            value=f"{encoded:.2f} ns",
            ratio=encoded / copied,
            baseline=f"memcpy, {copied:.2f} ns",
            bar=ENCODE_BAR,
        ),
        Figure(what="  streamed through one chunk, as a client does", value=f"{streamed:.2f} ns"),
    ]


def wire(repeats: int) -> list[Figure]:
    """The last two stages: bytes of a chunk, and their hash for the signature."""
    chunk = np.arange(CHUNK_VALUES, dtype=np.uint64)
    payload, figures = bytearray(8 * CHUNK_VALUES), []
    for bits in (32, 40, 48, 64):
        packed = memoryview(payload)[: CHUNK_VALUES * bits // 8]
        works = {
            "pack": lambda bits=bits: pack_into(chunk, bits, payload),
            "hash": lambda packed=packed: hashlib.sha256(packed).digest(),
        }
        pack, hashed = (seconds / CHUNK_VALUES * 1e9 for seconds in least(works, repeats=repeats).values())
        figures.append(Figure(what=f"{bits} bits on the wire: bytes, SHA-256", value=f"{pack:.2f} ns, {hashed:.2f} ns"))
    return figures


if __name__ == "__main__":
    sys.exit(main())
