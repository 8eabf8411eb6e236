"""Exact samples of the discrete Gaussian N_Z(0, σ²), P(x) ∝ exp(−x²/2σ²) over the integers.

Canonne, Kamath, Steinke 2020 (arXiv 2004.00010), algorithms 1 to 3, many samples at a time: only integers are drawn and
compared, so no probability is rounded. Randomness is the operating system's unless a test brings its own.
"""

import os
from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Int64, UInt64

ByteSource = Callable[[int], bytes]  # so many bytes, uniform and independent

LARGEST_SIGMA = 1 << 22  # (|y| − σ)² and 2σ²·k stay below 2^63 for |y| < 2^31, which only e^−512 exceed
_MOST_AT_ONCE = 1 << 17


def discrete_gaussian(sigma: int, count: int, *, source: ByteSource = os.urandom) -> Int64[np.ndarray, " {count}"]:
    """Independent samples with parameter σ, a whole number of steps; their variance is σ² to within e^−2π²σ².

    Raises:
        ValueError: σ is not from 1 to `LARGEST_SIGMA`.
    """
    if not 1 <= sigma <= LARGEST_SIGMA:
        raise ValueError(f"found sigma {sigma}; expected 1 to {LARGEST_SIGMA}")
    result = np.empty(count, np.int64)
    filled = 0
    while filled < count:
        # About 0.6 of the proposals come through.
        proposed = _discrete_laplace(sigma, min(_MOST_AT_ONCE, 2 * (count - filled) + 64), source)
        excess = np.abs(proposed) - sigma
        # With the Laplace scale t = σ, algorithm 3's exponent is (|y| − σ)²/2σ².
        whole, part = np.divmod((excess * excess).astype(np.uint64), np.uint64(2 * sigma * sigma))
        accepted = proposed[_exp_of_whole(whole, source) & _exp_of_fraction(part, 2 * sigma * sigma, source)]
        taken = accepted[: count - filled]
        result[filled : filled + len(taken)] = taken
        filled += len(taken)
    return result


def _discrete_laplace(scale: int, proposals: int, source: ByteSource) -> Int64[np.ndarray, " _"]:
    """Algorithm 2: P(x) ∝ exp(−|x|/scale); fewer come back than were proposed."""
    low = _uniform(scale, proposals, source)
    low = low[_exp_of_fraction(low, scale, source)]
    high = _geometric(len(low), source)
    size: Int64[np.ndarray, " _"] = (low + high * np.uint64(scale)).astype(np.int64)
    negative = _uniform(2, len(low), source) == 1
    kept = ~(negative & (size == 0))
    result: Int64[np.ndarray, " _"] = np.where(negative, -size, size)[kept]
    return result


def _geometric(count: int, source: ByteSource) -> UInt64[np.ndarray, " {count}"]:
    """How often exp(−1) comes true before it does not."""
    result = np.zeros(count, np.uint64)
    going = np.arange(count)
    while len(going):
        going = going[_exp_of_fraction(np.ones(len(going), np.uint64), 1, source)]
        result[going] += np.uint64(1)
    return result


def _exp_of_whole(exponents: UInt64[np.ndarray, " n"], source: ByteSource) -> Bool[np.ndarray, " n"]:
    """True with probability exp(−exponent), for whole exponents."""
    result = np.ones(len(exponents), bool)
    going = np.flatnonzero(exponents)
    done = 0
    while len(going):
        came_true = _exp_of_fraction(np.ones(len(going), np.uint64), 1, source)
        result[going[~came_true]] = False
        done += 1
        going = going[came_true & (exponents[going] > done)]
    return result


def _exp_of_fraction(
    numerators: UInt64[np.ndarray, " n"], denominator: int, source: ByteSource
) -> Bool[np.ndarray, " n"]:
    """Algorithm 1: true with probability exp(−γ), γ = numerator / denominator ≤ 1.

    Draw Bernoulli(γ/1), Bernoulli(γ/2), … until one fails; the number of draws is odd with probability exp(−γ).
    """
    result = np.empty(len(numerators), bool)
    going = np.arange(len(numerators))
    draw = 1
    while len(going):
        came_true = _uniform(denominator * draw, len(going), source) < numerators[going]
        result[going[~came_true]] = draw % 2 == 1
        going = going[came_true]
        draw += 1
    return result


def _uniform(below: int, count: int, source: ByteSource) -> UInt64[np.ndarray, " {count}"]:
    """Uniform integers from 0 to `below` − 1, by rejection from as many bits as it takes."""
    if below > 1 << 63:
        raise OverflowError(f"found a range of {below}; expected at most 2^63")
    bits = (below - 1).bit_length()
    width = next(size for size in (1, 2, 4, 8) if 8 * size >= bits)  # bytes
    mask = (1 << bits) - 1
    result = np.empty(count, np.uint64)
    filled = 0
    while filled < count:
        wanted = count - filled
        drawn = np.frombuffer(source(width * (wanted + wanted // 2 + 8)), f"<u{width}") & mask
        taken = drawn[drawn < below][:wanted] if below <= mask else drawn[:wanted]
        result[filled : filled + len(taken)] = taken
        filled += len(taken)
    return result
