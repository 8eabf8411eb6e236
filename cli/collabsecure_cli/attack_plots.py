"""Plots as SVG for the attacks' report: colours come from the page's style, words from whoever makes the plot.

Lines are named where they end, so no legend has to be looked up; each plot is described for those who cannot see it.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from jaxtyping import Float64

NUM_TONES = 6  # that the page has colours for; 0 is grey

_WIDTH, _HEIGHT = 424, 290
_LEFT, _TOP, _BOTTOM = 42, 34, 46
_CHARACTER, _LINE = 7.1, 15  # of a label, in the plot's units
_MARKERS: tuple[Callable[[float, float], str], ...] = (
    lambda x, y: f"M{x - 3.6:.1f},{y:.1f}a3.6,3.6 0 1 0 7.2,0a3.6,3.6 0 1 0 -7.2,0z",
    lambda x, y: f"M{x - 3.3:.1f},{y - 3.3:.1f}h6.6v6.6h-6.6z",
    lambda x, y: f"M{x:.1f},{y - 4.4:.1f}l4.2,7.6h-8.4z",
    lambda x, y: f"M{x:.1f},{y - 4.8:.1f}l4.8,4.8l-4.8,4.8l-4.8,-4.8z",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """What is drawn along one side, from `low` to `high`."""

    label: str
    low: float
    high: float
    ticks: tuple[float, ...]
    log: bool = False
    tell: Callable[[float], str] = "{:g}".format

    def holds(self, value: float) -> bool:
        """Whether a value is on it."""
        return self.low <= value <= self.high

    def at(self, value: float) -> float:
        """Where a value is: 0 at the low end, 1 at the high end; what is beyond either is put there."""
        inside = min(max(value, self.low), self.high)
        if self.log:
            return math.log(inside / self.low) / math.log(self.high / self.low)
        return (inside - self.low) / (self.high - self.low)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Series:
    """One line, or points, or both."""

    label: str
    x: Float64[np.ndarray, " points"]
    y: Float64[np.ndarray, " points"]
    tone: int  # [0, NUM_TONES]
    dots: bool = False
    line: bool = True
    names: tuple[str, ...] = ()  # of the points
    label_at: tuple[float, float] | None = None  # right of this point, where it is not the line's end


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Band:
    """What lies between two lines; where chance is."""

    label: str
    x: Float64[np.ndarray, " points"]
    low: Float64[np.ndarray, " points"]
    high: Float64[np.ndarray, " points"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Plot:
    """A plot with its words."""

    slug: str  # its id on the page
    title: str
    says: str  # what is to be seen, in words
    x: Axis
    y: Axis
    series: tuple[Series, ...]
    bands: tuple[Band, ...] = ()
    diagonal: str = ""  # what y = x means; not drawn where it means nothing
    levels: tuple[tuple[float, str], ...] = ()  # of y, with what they mean


def logarithmic(label: str, low: float, high: float, tell: Callable[[float], str] = "{:g}".format) -> Axis:
    """An axis over whole decades, or over halves and doubles where it is short.

    >>> logarithmic("", 0.02, 3.0).ticks
    (0.01, 0.1, 1.0, 10.0)
    >>> logarithmic("", 0.4, 3.0).ticks
    (0.2, 0.5, 1.0, 2.0, 5.0)
    """
    if high / low > 20:
        first, last = math.floor(math.log10(low) + 1e-9), math.ceil(math.log10(high) - 1e-9)
        step = max(1, math.ceil((last - first) / 8))
        ticks = [10.0**power for power in range(first, last + 1, step)]
        return Axis(label=label, low=10.0**first, high=10.0**last, ticks=tuple(ticks), log=True, tell=tell)
    steps = [float(f"{digit}e{power}") for power in range(-18, 19) for digit in (1, 2, 5)]
    below = [step for step in steps if step < low * 0.999]
    above = [step for step in steps if step > high * 1.001]
    ticks = [step for step in steps if below[-1] <= step <= above[0]]
    return Axis(label=label, low=below[-1], high=above[0], ticks=tuple(ticks), log=True, tell=tell)


def power_of_ten(value: float) -> str:
    """A power of ten as one writes it.

    >>> power_of_ten(1e-12), power_of_ten(1.0), power_of_ten(100.0)
    ('10⁻¹²', '1', '100')
    """
    power = round(math.log10(value))
    if 0 <= power <= 3:
        return f"{10**power}"
    return "10" + str(power).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def in_percent(value: float) -> str:
    """A rate as one says it.

    >>> in_percent(0.001), in_percent(1.0)
    ('0.1%', '100%')
    """
    return f"{value * 100:.6g}%"


def svg(plot: Plot) -> str:
    """The plot as an SVG element; it needs the page's style and nothing else."""
    return "".join(_Drawing(plot).parts())


class _Drawing:
    """Where everything of a plot comes to lie."""

    def __init__(self, plot: Plot) -> None:
        self._plot = plot
        beside = [line for each in plot.series if each.label_at is None for line in each.label.split("\n")]
        longest = max(map(len, beside), default=0)
        self._right = min(_CHARACTER * longest + 18, 190) if longest else 16
        self._across = _WIDTH - _LEFT - self._right
        self._down = _HEIGHT - _TOP - _BOTTOM

    def parts(self) -> list[str]:
        plot = self._plot
        title, says = f"{plot.slug}-title", f"{plot.slug}-says"
        return [
            f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-labelledby="{title} {says}">',
            f'<title id="{title}">{escape(plot.title)}</title><desc id="{says}">{escape(plot.says)}</desc>',
            *self._grid(),
            *map(self._band, plot.bands),
            *self._guides(),
            *map(self._series, plot.series),
            *self._labels(),
            "</svg>",
        ]

    def _x(self, value: float) -> float:
        return _LEFT + self._across * self._plot.x.at(value)

    def _y(self, value: float) -> float:
        return _TOP + self._down * (1 - self._plot.y.at(value))

    def _grid(self) -> list[str]:
        x, y = self._plot.x, self._plot.y
        foot, end = _TOP + self._down, _LEFT + self._across
        parts = []
        for tick in filter(y.holds, y.ticks):
            parts.append(f'<path class="grid" d="M{_LEFT},{self._y(tick):.1f}H{end:.1f}"/>')
            parts.append(_text("tick", _LEFT - 7, self._y(tick) + 4, y.tell(tick), anchor="end"))
        for tick in filter(x.holds, x.ticks):
            parts.append(f'<path class="grid" d="M{self._x(tick):.1f},{_TOP}V{foot}"/>')
            parts.append(_text("tick", self._x(tick), foot + 16, x.tell(tick), anchor="middle"))
        return [
            *parts,
            f'<path class="axis" d="M{_LEFT},{_TOP}V{foot}H{end:.1f}"/>',
            _text("name", _LEFT + self._across / 2, _HEIGHT - 8, x.label, anchor="middle"),
            _text("name", 2, 14, y.label),
        ]

    def _band(self, band: Band) -> str:
        upper = [f"{self._x(x):.1f},{self._y(y):.1f}" for x, y in zip(band.x, band.high, strict=True)]
        lower = [f"{self._x(x):.1f},{self._y(y):.1f}" for x, y in zip(band.x, band.low, strict=True)]
        outline = "L".join([*upper, *reversed(lower)])
        x, y = _LEFT + 5, self._y(band.low[0]) - 5
        return f'<path class="band" d="M{outline}Z"/>{_text("guide-name", x, y, band.label)}'

    def _guides(self) -> list[str]:
        parts = []
        if self._plot.diagonal:
            values = np.geomspace(max(self._plot.x.low, self._plot.y.low), min(self._plot.x.high, self._plot.y.high), 2)
            (x0, x1), (y0, y1) = map(self._x, values), map(self._y, values)
            angle = math.degrees(math.atan2(y1 - y0, x1 - x0))
            parts.append(f'<path class="guide" d="M{x0:.1f},{y0:.1f}L{x1:.1f},{y1:.1f}"/>')
            at = 0.35
            parts.append(
                _turned("guide-name", x0 + at * (x1 - x0) + 8, y0 + at * (y1 - y0) + 8, angle, self._plot.diagonal)
            )
        for value, words in self._plot.levels:
            y = self._y(value)
            parts.append(f'<path class="guide" d="M{_LEFT},{y:.1f}H{_LEFT + self._across:.1f}"/>')
            parts.append(_text("guide-name", _LEFT + 5, y - 5, words))
        return parts

    def _series(self, series: Series) -> str:
        points = [(self._x(x), self._y(y)) for x, y in zip(series.x, series.y, strict=True)]
        parts = [f'<g class="tone-{series.tone}">']
        if series.line and len(points) > 1:
            path = "L".join(f"{x:.1f},{y:.1f}" for x, y in points)
            parts.append(f'<path class="line" d="M{path}"><title>{escape(_flat(series.label))}</title></path>')
        if series.dots or len(points) == 1:
            marker = _MARKERS[series.tone % len(_MARKERS)]
            for number, (x, y) in enumerate(points):
                name = series.names[number] if series.names else _flat(series.label)
                told = f"{name}: {_short(series.x[number])}, {_short(series.y[number])}"
                parts.append(f'<path class="dot" d="{marker(x, y)}"><title>{escape(told)}</title></path>')
        return "".join([*parts, "</g>"])

    def _labels(self) -> list[str]:
        """Each line's name beside its end; names that would lie on each other are moved apart."""
        parts = [
            f'<g class="tone-{each.tone}">{_text("label", self._x(x) + 6, self._y(y) + 4, _flat(each.label))}</g>'
            for each in self._plot.series
            if each.label_at is not None
            for x, y in [each.label_at]
        ]
        named = [each for each in self._plot.series if each.label and len(each.x) and each.label_at is None]
        ends = [(self._x(series.x[-1]), self._y(series.y[-1])) for series in named]
        heights = [_LINE * len(series.label.split("\n")) for series in named]
        for (x, y), top, series in zip(
            ends, _apart([y for _, y in ends], heights, _TOP, _HEIGHT - _BOTTOM + 14), named, strict=True
        ):
            left = _LEFT + self._across + 12
            lines = series.label.split("\n")
            centre = top + _LINE * len(lines) / 2
            words = "".join(
                f'<tspan x="{left:.1f}" y="{top + _LINE * (number + 0.75):.1f}">{escape(line)}</tspan>'
                for number, line in enumerate(lines)
            )
            lead = f'<path class="lead" d="M{x + 5:.1f},{y:.1f}L{left - 3:.1f},{centre:.1f}"/>' if series.line else ""
            parts.append(f'<g class="tone-{series.tone}">{lead}<text class="label">{words}</text></g>')
        return parts


def _apart(middles: Sequence[float], heights: Sequence[float], low: float, high: float) -> list[float]:
    """Tops of boxes near their middles, which don't overlap and stay between `low` and `high` where they fit.

    >>> _apart([50.0, 52.0, 100.0], [10.0, 10.0, 10.0], 0.0, 120.0)
    [45.0, 55.0, 95.0]
    """
    order = sorted(range(len(middles)), key=lambda number: middles[number])
    tops = [middle - height / 2 for middle, height in zip(middles, heights, strict=True)]
    floor = low
    for number in order:
        tops[number] = max(tops[number], floor)
        floor = tops[number] + heights[number]
    ceiling = high
    for number in reversed(order):
        tops[number] = min(tops[number], ceiling - heights[number])
        ceiling = tops[number]
    return tops


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One measurement beside what chance would give."""

    label: str
    value: float
    chance: float
    error: float  # standard error under chance
    tone: int


def rows_svg(slug: str, title: str, says: str, rows: Sequence[Row], *, low: float = 0.0, high: float = 1.0) -> str:
    """Measurements one below the other, each with the interval in which chance lies."""
    axis = Axis(label="", low=low, high=high, ticks=(low, (low + high) / 2, high))
    step, foot = 40, 24
    height = step * len(rows) + foot

    def x(value: float) -> float:
        return 8 + (_WIDTH - 16) * axis.at(value)

    parts = [
        f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-labelledby="{slug}-title {slug}-says">',
        f'<title id="{slug}-title">{escape(title)}</title><desc id="{slug}-says">{escape(says)}</desc>',
    ]
    for tick in axis.ticks:
        anchor = "start" if tick == low else "end" if tick == high else "middle"
        parts.append(_text("tick", x(tick), height - 6, f"{tick:g}", anchor=anchor))
    for number, row in enumerate(rows):
        y = step * number + 30
        left, right = x(row.chance - 4 * row.error), x(row.chance + 4 * row.error)
        marker = _MARKERS[row.tone % len(_MARKERS)](x(row.value), y)
        told = f"{row.label}: {row.value:.3f}; chance {row.chance:g} ± {4 * row.error:.3f}"
        parts += [
            _text("row-name", 8, y - 12, row.label),
            _text("row-value", _WIDTH - 8, y - 12, f"{row.value:.3f}", anchor="end"),
            f'<path class="grid" d="M8,{y}H{_WIDTH - 8}"/>',
            f'<rect class="band" x="{left:.1f}" y="{y - 5}" width="{max(right - left, 2):.1f}" height="10" rx="2"/>',
            f'<path class="axis" d="M{x(row.chance):.1f},{y - 7}v14"/>',
            f'<g class="tone-{row.tone}"><path class="dot" d="{marker}"><title>{escape(told)}</title></path></g>',
        ]
    return "".join([*parts, "</svg>"])


def _text(kind: str, x: float, y: float, words: str, *, anchor: str = "start") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'


def _turned(kind: str, x: float, y: float, degrees: float, words: str) -> str:
    turn = f"translate({x:.1f} {y:.1f}) rotate({degrees:.1f})"
    return f'<text class="{kind}" text-anchor="middle" transform="{turn}">{escape(words)}</text>'


def _flat(label: str) -> str:
    return label.replace("\n", " ")


def _short(value: float) -> str:
    return f"{value:.3g}"
