"""The paper's Figures 1 and 3 from one's own lines, as SVG or PNG; needs matplotlib, the extra `report`.

Each line is named where it ends, so no legend has to be looked up, and has a colour of Okabe and Ito's palette, which
tells lines apart for the colour-blind, with a dash and marker of its own for print. What is drawn first is widest:
where CollabEdit and GLOBAL-EDIT are the same line, both are seen. The same plot gives the same bytes with the same
matplotlib, whatever the user's own style; there is no date in them.
"""

import io
import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from collabsecure.errors import BadFile, MissingExtra
from collabsecure.files import complete_or_absent
from collabsecure.reproduction.results import Plot, Series

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.typing import RcKeyType

Form = Literal["svg", "png"]

# Okabe and Ito, Color universal design (2008), without yellow, which is faint on white.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_DASHES = ("-", (0, (4, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)), (0, (8, 2)))
_MARKERS = "osD^vP"
_WIDEST, _NARROWEST = 3.4, 1.4  # points
_STYLE: "dict[RcKeyType, object]" = {
    "font.family": "DejaVu Sans",  # comes with matplotlib
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.6,
    "svg.hashsalt": "collabsecure",
    "svg.fonttype": "path",
    "text.parse_math": False,  # a $ in a label is a $
}
_LABEL_GAP = 0.062  # between labels' lines, of the plot's height
_TICK_GAP = 0.08  # between ticks that are named, of the axis


def render(plot: Plot, form: Form) -> bytes:
    """Draw a plot; the y axis begins at 0, or below if a value does.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator
    except ModuleNotFoundError as error:
        raise MissingExtra("drawing plots", package="matplotlib", extra="report") from error

    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_STYLE)
        figure = Figure(figsize=(6.4, 4.2))
        axes = figure.add_subplot()
        axes.set_title(plot.title, loc="left", fontweight="bold")
        axes.set_xlabel(plot.x_label)
        axes.set_ylabel(plot.y_label)
        ticks = sorted({x for series in plot.series for x in series.x})
        if _stand_apart(ticks):
            axes.set_xticks(ticks)
        else:
            axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
        for index, series in enumerate(plot.series):
            _draw(axes, series, index, len(plot.series))
        if not _goes_below_0(plot):
            axes.set_ylim(bottom=0.0)
        _label(axes, plot)
        written = io.BytesIO()
        metadata = {"Title": plot.title} | ({"Date": None, "Creator": None} if form == "svg" else {"Software": None})
        figure.savefig(written, format=form, dpi=160, bbox_inches="tight", metadata=metadata)
    return written.getvalue()


def write_plot(path: Path, plot: Plot) -> None:
    """Draw a plot into a file named `….svg` or `….png`, in place of what is there; complete, or not at all.

    Raises:
        BadFile: the name says neither, or the file cannot be written.
        MissingExtra: matplotlib is not installed.
    """
    forms: dict[str, Form] = {".svg": "svg", ".png": "png"}
    if (form := forms.get(path.suffix)) is None:
        raise BadFile(path, found=f"a name that ends in {path.suffix!r}", expected="one that ends in .svg or .png")
    drawn = render(plot, form)
    with complete_or_absent(path, force=True) as temporary:
        temporary.write_bytes(drawn)


def _stand_apart(ticks: list[float]) -> bool:
    """Whether there is room to name every x that was measured."""
    return all(after - before >= _TICK_GAP * (ticks[-1] - ticks[0]) for before, after in itertools.pairwise(ticks))


def _goes_below_0(plot: Plot) -> bool:
    ends = [interval.low for series in plot.series for interval in series.intervals or ()]
    return min([*ends, *itertools.chain.from_iterable(series.y for series in plot.series)], default=0.0) < 0


def _draw(axes: "Axes", series: Series, index: int, num_series: int) -> None:
    colour = _COLOURS[index % len(_COLOURS)]
    width = _WIDEST - (_WIDEST - _NARROWEST) * index / max(1, num_series - 1)
    axes.plot(
        series.x,
        series.y,
        color=colour,
        linestyle=_DASHES[index % len(_DASHES)],
        linewidth=width,
        marker=_MARKERS[index % len(_MARKERS)],
        markersize=4 + width,
        clip_on=False,
        zorder=2 + index,
    )
    if series.intervals is not None:
        lows, highs = [one.low for one in series.intervals], [one.high for one in series.intervals]
        axes.fill_between(series.x, lows, highs, color=colour, alpha=0.15, linewidth=0, zorder=1)


def _label(axes: "Axes", plot: Plot) -> None:
    """Name each line to the right of the plot, at its end's height or as near as the other names let it."""
    drawn = [(index, series) for index, series in enumerate(plot.series) if series.x]
    to_axes = axes.transData + axes.transAxes.inverted()
    heights = [float(to_axes.transform((series.x[-1], series.y[-1]))[1]) for _, series in drawn]
    for (index, series), height in zip(drawn, spread(heights, gap=_LABEL_GAP), strict=True):
        colour = _COLOURS[index % len(_COLOURS)]
        axes.annotate(
            series.label,
            xy=(series.x[-1], series.y[-1]),
            xytext=(1.05, height),
            textcoords="axes fraction",
            va="center",
            arrowprops={
                "arrowstyle": "-",
                "color": colour,
                "linewidth": 1.4,
                "relpos": (0, 0.5),
                "shrinkA": 2,
                "shrinkB": 5,
            },
            annotation_clip=False,
        )


def spread(heights: list[float], *, gap: float) -> list[float]:
    """Move heights apart until no two are closer than `gap`, keeping their order; of equals, the first is on top.

    Those that were moved stay centred on where they wanted to be.

    >>> spread([0.5, 0.5, 0.9], gap=0.1)
    [0.55, 0.45, 0.9]
    """
    order = sorted(range(len(heights)), key=lambda index: (heights[index], -index))
    blocks: list[list[int]] = []  # of indices, from the bottom up; each block's centre is the mean of its wishes

    def bottom(block: list[int]) -> float:
        return sum(heights[index] for index in block) / len(block) - gap * (len(block) - 1) / 2

    for index in order:
        blocks.append([index])
        while len(blocks) > 1 and bottom(blocks[-1]) - bottom(blocks[-2]) < gap * len(blocks[-2]):
            blocks[-2:] = [blocks[-2] + blocks[-1]]
    placed = dict.fromkeys(order, 0.0)
    for block in blocks:
        start = bottom(block)
        placed.update({index: start + gap * rank for rank, index in enumerate(block)})
    return [placed[index] for index in range(len(heights))]
