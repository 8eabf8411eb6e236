"""A client's memory beyond its inputs, from a million values to GPT2-XL's five layers at once, and its bytes.

`python -m benchmarks.memory` takes a minute and 3 GB. Every size runs in a process of its own: peaks only ever grow.
"""

import argparse
import sys
from collections.abc import Sequence
from multiprocessing import get_context

import numpy as np

from benchmarks.network import Network, make_session, make_tensor
from benchmarks.report import Figure, peak_bytes, resident_bytes, show

CLIENTS = 10
MEMORY_BAR = 64.0  # MB
WIRE_BAR = 1.01  # × bits/8 × unique values
SIZES = ((1156, 1), (6400, 1), (6400, 5))  # width of keys, layers: 1, 31 and 154 million values


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="up to 7 million values, 2 threads")
    arguments = parser.parse_args(argv)
    sizes, all_threads = (((1156, 1), (3072, 1)), (2,)) if arguments.quick else (SIZES, (1, 2))
    figures = []
    for width, layers in sizes:
        for threads in all_threads:
            with get_context("spawn").Pool(1) as pool:
                values, inputs, extra = pool.apply(upload, (width, layers, threads))
            figures.append(
                Figure(
                    what=f"{values / 1e6:.0f}M values, {inputs / 1e6:.0f} MB of input, threads={threads}",
                    value=f"{extra / 1e6:.1f} MB beyond it",
                    ratio=extra / 1e6,
                    baseline="1 MB",
                    bar=MEMORY_BAR,
                )
            )
    for bits in (32, 40, 48, 64):
        sent, packed = session_bytes(bits)
        figures.append(
            Figure(
                what=f"{bits} bits, all of a client's messages, both ways",
                value=f"{sent / 1e6:.3f} MB",
                ratio=sent / packed,
                baseline="bits/8 × values",
                bar=WIRE_BAR,
            )
        )
    return show(
        f"One client of {CLIENTS}; a layer is a Gram matrix and a cross term a quarter as high; 48 bits", figures
    )


def upload(width: int, layers: int, threads: int) -> tuple[int, int, int]:
    """Values, bytes of the input, and bytes by which the process outgrows it while all chunks are made."""
    shapes = {f"{name} {layer}": shape for layer in range(layers) for name, shape in _shapes(width).items()}
    network = _contributing(shapes, bits=48)
    warm = _contributing({"gram": (64, 64)}, bits=48)
    for _ in warm.clients[1].masked_input({"gram": np.zeros((64, 64))}, threads=threads):
        pass  # what is loaded once is in the baseline
    rng, values = np.random.default_rng(0), {}
    for name, shape in shapes.items():
        values[name] = np.empty(shape)
        rng.random(out=values[name])  # touches every page
    before = resident_bytes()
    for _ in network.clients[1].masked_input(values, threads=threads):
        pass
    inputs = sum(array.nbytes for array in values.values())
    return network.session.sums[0].num_values, inputs, peak_bytes() - before


def session_bytes(bits: int) -> tuple[int, int]:
    """What the busiest client sends and receives in a whole session with one sum, and its packed values."""
    network = _contributing(_shapes(1156), bits=bits)
    network.upload({name: np.zeros(shape) for name, shape in _shapes(1156).items()})
    return max(network.bytes_of.values()), network.session.sums[0].num_values * bits // 8


def _shapes(width: int) -> dict[str, tuple[int, int]]:
    return {"gram": (width, width), "cross": (width // 4, width)}


def _contributing(shapes: dict[str, tuple[int, int]], *, bits: int) -> Network:
    """A network whose clients are asked for input."""
    tensors = [
        make_tensor(name, shape, clients=CLIENTS, bits=bits, symmetric=shape[0] == shape[1])
        for name, shape in shapes.items()
    ]
    network = Network(make_session(CLIENTS, tensors))
    network.set_up()
    network.start_sum()
    return network


if __name__ == "__main__":
    sys.exit(main())
