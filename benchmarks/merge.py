"""The merge solve against DGEMM: time for equal FLOPs, and memory beyond the arguments.

`python -m benchmarks.merge` takes seconds; one GPT2-XL layer is `--d-in 6400 --d-out 1600` (2 GB, half a minute).
"""

import argparse
import multiprocessing
import resource
import sys
import time
from collections.abc import Callable, Sequence

import numpy as np

from collabsecure.merge import merge_delta

TIME_BAR = 1.4  # × DGEMM of equal FLOPs
MEMORY_BAR = 0.25  # × d_in² × 8 bytes


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.merge", description=__doc__.splitlines()[0])
    parser.add_argument("--d-in", type=int, default=3072, help="width of keys (default: 3072, GPT-2's)")
    parser.add_argument("--d-out", type=int, default=768, help="width of residuals (default: 768)")
    parser.add_argument("--repeats", type=int, default=10, help="the least of so many times counts (default: 10)")
    arguments = parser.parse_args(argv)
    d_in, d_out = arguments.d_in, arguments.d_out

    with multiprocessing.get_context("spawn").Pool(1) as pool:  # first, and in a fresh process: peaks only ever grow
        extra = pool.apply(extra_memory, (d_in, d_out)) / (8 * d_in**2)
    merge_seconds, dgemm_seconds = solve_and_dgemm_seconds(d_in, d_out, repeats=arguments.repeats)
    ratio = merge_seconds / dgemm_seconds

    print(f"merge_delta, float64, in place, d_in = {d_in}, d_out = {d_out}")
    print(f"  time   {merge_seconds:7.3f} s = {ratio:.2f} × DGEMM of equal FLOPs (bar {TIME_BAR})")
    print(
        f"  memory {extra * 8e-6 * d_in**2:7.1f} MB = {extra:.3f} × d_in² × 8 B beyond the arguments (bar {MEMORY_BAR})"
    )
    return 0 if ratio <= TIME_BAR and extra <= MEMORY_BAR else 1


def arguments_of(d_in: int, d_out: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """C, ΣG and ΣX of the right sizes, positive definite by a dominant diagonal; made without temporary copies."""
    rng = np.random.default_rng(0)
    second_moment, gram, cross = (np.empty((rows, d_in)) for rows in (d_in, d_in, d_out))
    for matrix in (second_moment, gram, cross):
        rng.random(out=matrix)
    np.fill_diagonal(second_moment, 2 * d_in)
    return second_moment, gram, cross


def extra_memory(d_in: int, d_out: int) -> int:
    """Bytes by which the process's peak grows in `merge_delta`: LAPACK's workspace and threads are in it."""
    merge_delta(*arguments_of(8, 2), overwrite=True)
    arguments = arguments_of(d_in, d_out)
    before = peak_bytes()
    merge_delta(*arguments, overwrite=True)
    return peak_bytes() - before


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def solve_and_dgemm_seconds(d_in: int, d_out: int, *, repeats: int) -> tuple[float, float]:
    """The least times of the solve and of a matrix product with as many FLOPs, taken in turns."""
    second_moment, gram, cross = arguments_of(d_in, d_out)
    # Cholesky takes d³/3 FLOPs, the two triangular solves 2 d² d_out, a product (rows, d) · (d, d) 2 rows d².
    rows = round(d_in / 6 + d_out)
    factor = np.random.default_rng(1).random((rows, d_in))
    product = np.empty((rows, d_in))
    system, right_side = np.empty_like(gram), np.empty_like(cross)
    merges, dgemms = [], []
    for _ in range(repeats):
        np.copyto(system, gram)
        np.copyto(right_side, cross)
        merges.append(seconds(lambda: merge_delta(second_moment, system, right_side, overwrite=True)))
        dgemms.append(seconds(lambda: np.matmul(factor, gram, out=product)))
    return min(merges), min(dgemms)


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


if __name__ == "__main__":
    sys.exit(main())
