"""The whole client step against Flower's SecAgg+: equal values and neighbours, in turns, on the same machine.

`python -m benchmarks.flower` takes a minute. A step goes from a client's arrays to the messages or array bytes that it
sends: range check, encoding, masks, packing, signature here; clipping, stochastic rounding, masks, bytes there.
Flower's default modulus has 32 bits, ours 48; it runs with both.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from benchmarks.network import Network, Values, make_session, make_tensor
from benchmarks.report import Figure, peak_bytes, resident_bytes, show

BAR = 5.0  # × faster, at equal or more bits
STEP = Path(__file__).with_name("flower_step.py")
COLUMNS = 4000  # of the matrix that is summed


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.flower", description=__doc__.splitlines()[0])
    parser.add_argument("--values", type=int, default=10_000_000, help="per client (default: 10 million)")
    parser.add_argument("--clients", type=int, default=10, help="hence one neighbour less (default: 10)")
    parser.add_argument("--repeats", type=int, default=12, help="the least of so many times counts (default: 12)")
    parser.add_argument("--quick", action="store_true", help="a million values, three times")
    arguments = parser.parse_args(argv)
    values, repeats = (1_000_000, 3) if arguments.quick else (arguments.values, arguments.repeats)
    shape = (values // COLUMNS, COLUMNS)
    flower = {bits: start_flower(arguments.clients, shape[0] * shape[1], bits) for bits in (32, 48)}
    ours = {bits: Step(arguments.clients, shape, bits) for bits in (32, 48)}
    best: dict[str, dict[str, float]] = {}
    for _ in range(repeats):
        for bits, process in flower.items():
            note(best, _flower(bits), ask(process))
        for bits, step in ours.items():
            for threads in (1, 2):
                note(best, _ours(bits, threads), step.run(threads))
    for process in flower.values():
        process.communicate()
    with get_context("spawn").Pool(1) as pool:  # a fresh process: peaks only ever grow
        memory = pool.apply(extra_memory, (arguments.clients, shape))
    figures = describe(best, shape[0] * shape[1], memory)
    title = f"One client's step, {shape[0] * shape[1] / 1e6:g}M values, {arguments.clients - 1} neighbours, per value"
    return show(title, figures)


def describe(best: dict[str, dict[str, float]], values: int, memory: int) -> list[Figure]:
    """Each ring against Flower's of equal bits; CPU time where one thread computes, else wall time."""

    def nanoseconds(what: str) -> str:
        return f"{best[what]['wall'] / values * 1e9:.1f} ns, {best[what]['cpu'] / values * 1e9:.1f} ns of CPU"

    figures = [Figure(what=what, value=nanoseconds(what)) for what in (_flower(bits) for bits in (32, 48))]
    for bits, baseline, bar in ((32, 32, BAR), (48, 48, BAR), (48, 32, None)):
        for threads in (1, 2):
            what, clock = _ours(bits, threads), "cpu" if threads == 1 else "wall"
            figures.append(
                Figure(
                    what=what,
                    value=nanoseconds(what),
                    ratio=best[_flower(baseline)][clock] / best[what][clock],
                    baseline=f"Flower, {baseline} bits, {'CPU' if threads == 1 else 'wall'} time",
                    bar=bar,
                    at_least=True,
                )
            )
    theirs = best[_flower(32)]
    return [
        *figures,
        Figure(
            what="memory beyond the input, 1 thread",
            value=f"{memory / 1e6:.0f} MB",
            ratio=memory / theirs["memory"],
            baseline=f"Flower, {theirs['memory'] / 1e6:.0f} MB",
        ),
        Figure(what="bytes sent, 48 bits", value=f"{best[_ours(48, 1)]['bytes'] / values:.3f} per value"),
        Figure(what="bytes sent, Flower", value=f"{theirs['bytes'] / values:.3f} per value"),
    ]


def _flower(bits: int) -> str:
    return f"Flower SecAgg+, modulus of {bits} bits"


def _ours(bits: int, threads: int) -> str:
    return f"here, {bits} bits, {threads} thread{'s' * (threads > 1)}"


class Step:
    """One of our clients, asked for input; it may give the same input again and again."""

    def __init__(self, clients: int, shape: tuple[int, int], bits: int) -> None:
        self.network = Network(make_session(clients, [make_tensor("x", shape, clients=clients, bits=bits)]))
        self.network.set_up()
        self.network.start_sum()
        matrix = np.empty(shape)
        np.random.default_rng(0).random(out=matrix)  # in place: a temporary copy would stand in the peak
        self.values: Values = {"x": matrix}

    def run(self, threads: int) -> dict[str, float]:
        """Times and bytes of one step."""
        wall, cpu = time.perf_counter(), time.process_time()
        sent = sum(len(payload) for payload in self.network.clients[1].masked_input(self.values, threads=threads))
        return {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu, "bytes": sent}


def extra_memory(clients: int, shape: tuple[int, int]) -> int:
    """Bytes by which the process's peak grows in one step."""
    Step(clients, (1, 1000), 48).run(1)  # what is loaded once
    step = Step(clients, shape, 48)
    before = resident_bytes()
    step.run(1)
    return peak_bytes() - before


def start_flower(clients: int, values: int, bits: int) -> subprocess.Popen[str]:
    threshold = 2 * clients // 3 + 1
    arguments = [str(number) for number in (clients, threshold, values, bits)]
    return subprocess.Popen(
        [sys.executable, STEP, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def ask(process: subprocess.Popen[str]) -> dict[str, float]:
    """One step of Flower's."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("\n")
    process.stdin.flush()
    answer = process.stdout.readline()
    if not answer:
        raise SystemExit("Flower's step has failed; see above")
    figures: dict[str, float] = json.loads(answer)
    return figures


def note(best: dict[str, dict[str, float]], what: str, figures: dict[str, float]) -> None:
    """Least times, greatest memory."""
    known = best.setdefault(what, dict(figures))
    for name, number in figures.items():
        known[name] = (min if name in ("wall", "cpu") else max)(known[name], number)


if __name__ == "__main__":
    sys.exit(main())
