"""Bootstrap intervals: equal to a plain loop over resamples, and as wide as theory has them."""

import math
from statistics import NormalDist, fmean, harmonic_mean

import numpy as np
import pytest

pytest.importorskip("torch")

from collabsecure.evaluate import Comparison, CounterfactScores, RecordScores, bootstrap
from collabsecure.evaluate.intervals import RESAMPLES, Interval

UNKNOWN = math.nan


def one_by_one(shares: np.ndarray, *, seed: int) -> list[Interval | None]:
    """Draw records, look up their shares, average those that are there; again and again."""
    rng = np.random.default_rng(seed)
    found: list[list[float]] = [[], [], [], []]
    for drawn in rng.integers(len(shares), size=(RESAMPLES, len(shares))):
        means = []
        for column in range(3):
            known = [share for share in shares[drawn, column] if not math.isnan(share)]
            if known:
                means.append(fmean(known))
                found[column].append(means[-1])
        if len(means) == 3:
            found[3].append(harmonic_mean(means))
    bounds = [np.quantile(figures, [0.025, 0.975]) if figures else None for figures in found]
    return [None if bound is None else Interval(low=bound[0], high=bound[1]) for bound in bounds]


@pytest.mark.parametrize(
    "shares",
    [
        [[1, 0.5, 0.9], [0, 0, 0.3], [1, 1, 0.5], [1, 0.5, 1.0]],
        [[1, UNKNOWN, 0.9], [0, 0, UNKNOWN], [1, UNKNOWN, 0.5], [1, 0.5, 1.0]],
        [[1, UNKNOWN, 0.9], [0, UNKNOWN, 0.5]],
        [[1, 0.25, 0.75]],
    ],
)
def test_intervals_equal_a_plain_loop_over_resamples(shares: list[list[float]]) -> None:
    table = np.array(shares, dtype=np.float64)
    for found, expected in zip(bootstrap(table, seed=3), one_by_one(table, seed=3), strict=True):
        assert (found is None) == (expected is None)
        if found is not None:
            assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


def test_intervals_do_not_depend_on_how_many_resamples_are_held_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    table = np.random.default_rng(0).random((40, 3))
    whole = bootstrap(table, seed=1)
    monkeypatch.setattr("collabsecure.evaluate.intervals._DRAWN_AT_ONCE", 40 * 7)
    for found, expected in zip(bootstrap(table, seed=1), whole, strict=True):
        assert found is not None
        assert expected is not None
        assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=1e-14)


def test_an_interval_is_as_wide_as_a_proportions_standard_error_has_it() -> None:
    # 3000 records of which 70% succeed: 1.96·√(0.7·0.3/3000) = 0.0164 to either side.
    table = np.repeat((np.arange(3000) < 2100).astype(np.float64)[:, None], 3, axis=1)
    half = NormalDist().inv_cdf(0.975) * math.sqrt(0.7 * 0.3 / 3000)
    for interval in bootstrap(table, seed=0):
        assert interval is not None
        assert (interval.low, interval.high) == pytest.approx((0.7 - half, 0.7 + half), abs=0.0012)


def test_figures_carry_their_intervals_and_the_seed_tells_which() -> None:
    new, true = Comparison(new=1.0, true=2.0), Comparison(new=2.0, true=1.0)
    records = tuple(
        RecordScores(
            case_id=number,
            rewrite=(new if number % 3 else true,),
            paraphrases=(),
            neighborhood=(new, true, true)[: 1 + number % 3],
        )
        for number in range(50)
    )
    scores = CounterfactScores(records=records)
    figures = scores.figures(seed=5)
    assert [(figure.name, figure.value) for figure in figures] == [
        ("ES", scores.es),
        ("PS", None),
        ("NS", scores.ns),
        ("Score", None),
    ]
    es, ps, ns, score = (figure.interval for figure in figures)
    assert (ps, score) == (None, None)
    assert es is not None
    assert ns is not None
    assert es.low < scores.es < es.high
    assert ns.low < scores.ns < ns.high
    assert figures == scores.figures(seed=5)
    assert figures != scores.figures(seed=6)


def test_no_records_have_no_intervals() -> None:
    assert bootstrap(np.empty((0, 3)), seed=0) == (None, None, None, None)
