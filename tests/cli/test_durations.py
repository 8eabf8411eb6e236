"""Durations as people type and read them."""

import math

import click
import pytest

from collabsecure_cli.durations import Duration, in_words


@pytest.mark.parametrize(
    ("typed", "seconds"),
    [("90", 90), ("90s", 90), ("15m", 900), ("6h", 21_600), ("2d", 172_800), ("1.5h", 5400), (" 2 d ", 172_800),
     ("0.5s", 0.5), ("999999999d", 999_999_999 * 86_400), (90, 90), (0.25, 0.25), ("1.000001s", 1.000001)],
)  # fmt: skip
def test_duration_is_read_in_seconds(typed, seconds):
    assert Duration().convert(typed, None, None) == seconds


@pytest.mark.parametrize(
    "typed",
    ["", "0", "0s", "0.000000h", "-5s", "+5", "5 weeks", "1h30m", "1e3", "nan", "inf", "s", ".5s", "5.", "٣s", "5S",
     "9999999999", "1,5h", "0x10", "1.0000001s", "\n"],
)  # fmt: skip
def test_duration_that_is_none_or_nothing_is_refused(typed):
    with pytest.raises(click.BadParameter, match="expected a time above 0 such as 90s"):
        Duration().convert(typed, None, None)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0 s"), (0.4, "0 s"), (1, "1 s"), (59.6, "1 min"), (61, "1 min 1 s"), (3599, "59 min 59 s"), (3600, "1 h"),
     (86_400 + 5, "1 d 5 s"), (90_061, "1 d 1 h"), (1e9, "11574 d 1 h")],
)  # fmt: skip
def test_duration_in_words_has_its_two_largest_parts(seconds, words):
    assert in_words(seconds) == words
    assert math.isfinite(seconds)
