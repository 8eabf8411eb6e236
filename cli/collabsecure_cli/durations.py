"""Durations as people type them."""

import re

import click

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


class Duration(click.ParamType):  # type: ignore[type-arg]  # not generic in older clicks
    """A time such as 90s, 15m, 6h or 2d, in seconds.

    >>> Duration().convert("1.5h", None, None), Duration().convert("90", None, None)
    (5400.0, 90.0)
    """

    name = "duration"

    def convert(self, value: str | float, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Read what was typed; a default that is a number already stays as it is."""
        if isinstance(value, float | int):
            return float(value)
        match = re.fullmatch(r"\s*(\d{1,9}(?:\.\d{1,6})?)\s*([smhd]?)\s*", value, re.ASCII)
        if match is None or float(match[1]) == 0:
            self.fail(f"found {value!r}; expected a time above 0 such as 90s, 15m, 6h or 2d", param, ctx)
        return float(match[1]) * _UNITS[match[2] or "s"]


def in_words(seconds: float) -> str:
    """A time as people say it.

    >>> in_words(5400), in_words(59.6), in_words(3 * 86_400 + 7200)
    ('1 h 30 min', '1 min', '3 d 2 h')
    """
    left, parts = round(seconds), []
    for name, size in (("d", 86_400), ("h", 3600), ("min", 60), ("s", 1)):
        count, left = divmod(left, size)
        if count:
            parts.append(f"{count} {name}")
    return " ".join(parts[:2]) or "0 s"
