"""How far a figure over records would move with other records: percentile bootstrap intervals.

Efron, Bootstrap methods: another look at the jackknife (1979). Records are drawn anew with replacement, as many as
there are, and what they give is a figure; the interval holds the middle 95% of such figures. A record is drawn whole,
with its part in each mean, so that their harmonic mean varies as it would.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

RESAMPLES = 2000
LEVEL = 0.95
_DRAWN_AT_ONCE = 1 << 20  # records; 32 MB


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """Where the middle 95% of resampled figures lie."""

    low: float
    high: float


def bootstrap(
    shares: Float64[np.ndarray, "records 3"], *, seed: int, resamples: int = RESAMPLES
) -> tuple[Interval | None, ...]:
    """Give 95% intervals of the three columns' means, and of the harmonic mean of these means.

    `shares` are fractions in [0, 1], NaN where a record has no part in a mean; None where no record has one. Where all
    records agree the interval has no width, although other records might not: it says how much these differ. The same
    seed gives the same intervals.

    >>> bootstrap(np.array([[1.0, 0.0, np.nan], [1.0, 1.0, np.nan]] * 50), seed=0)
    (Interval(low=1.0, high=1.0), Interval(low=0.4, high=0.6), None, None)
    """
    rng = np.random.default_rng(seed)
    num_records = len(shares)
    means = np.full((resamples, 3), np.nan)
    known = ~np.isnan(shares)
    filled = np.where(known, shares, 0.0)
    at_once = max(1, _DRAWN_AT_ONCE // max(1, num_records))
    for start in range(0, resamples if num_records else 0, at_once):
        rows = min(at_once, resamples - start)
        drawn = rng.integers(num_records, size=(rows, num_records))  # (resamples, records)
        counts = np.bincount((drawn + num_records * np.arange(rows)[:, None]).ravel(), minlength=rows * num_records)
        weights = counts.reshape(rows, num_records).astype(np.float64)  # how often each record was drawn
        with np.errstate(invalid="ignore"):  # 0/0: no record drawn that has a part
            means[start : start + rows] = (weights @ filled) / (weights @ known)
    with np.errstate(divide="ignore"):  # a mean of 0 makes the harmonic mean 0
        harmonic = 3 / (1 / means).sum(1)
    return tuple(_interval(column) for column in (*means.T, harmonic))


def _interval(figures: Float64[np.ndarray, " resamples"]) -> Interval | None:
    figures = figures[~np.isnan(figures)]
    if not figures.size:
        return None
    low, high = np.quantile(figures, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(low=float(low), high=float(high))
