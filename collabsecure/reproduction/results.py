"""What a run of the paper's experiments found: rows of its Table 1, lines of its Figures 1 and 3 (CollabEdit, §5).

A table or plot is kept as JSON that names its format. Experiments take hours, so one is written after each row or line,
read again by a run that goes on, and rendered as often as one likes (`tables`, `plots`). All numbers are finite: what
could not be measured is null.
"""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, TypeVar

from collabsecure.errors import BadFile
from collabsecure.evaluate.intervals import Interval
from collabsecure.evaluate.scores import Figure
from collabsecure.files import complete_or_absent, unreadable

FIGURES = ("Score", "ES", "PS", "NS", "EA", "PA", "NA", "NE", "RS")  # in the order of the paper's columns


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One of a method's own parameters, such as Task-Arithmetic's λ."""

    name: str
    value: float

    def __str__(self) -> str:
        return f"{self.name} = {self.value:g}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One method on one number of clients and edits: what an edited model's records scored.

    >>> Row(method="TASK-ARITHMETIC", settings=(Setting(name="λ", value=0.4),), clients=10, edits=500, figures=()).name
    'TASK-ARITHMETIC (λ = 0.4)'

    Raises:
        ValueError: a figure is of an unknown name or not finite, a figure or setting is there twice, or a number is
            negative.
    """

    method: str
    settings: tuple[Setting, ...] = ()
    clients: int  # [0, ∞); 0 if nobody edited
    edits: int  # [0, ∞), of each client
    figures: tuple[Figure, ...]  # some of FIGURES; fractions, NE in bits
    is_reference: bool = False  # beside the methods, not among them: the model before all edits, GLOBAL-EDIT
    note: str = ""  # "best of 8 λ"

    def __post_init__(self) -> None:
        names = [figure.name for figure in self.figures]
        if _repeats(names) or not set(names) <= set(FIGURES):
            raise ValueError(f"found figures {', '.join(names)}; expected each at most once of {', '.join(FIGURES)}")
        if _repeats([setting.name for setting in self.settings]):
            raise ValueError(f"found {self.name}; expected each setting once")
        if self.clients < 0 or self.edits < 0:
            raise ValueError(f"found {self.clients} clients with {self.edits} edits; expected no negative number")
        for figure in self.figures:
            ends = () if figure.interval is None else (figure.interval.low, figure.interval.high)
            _require_finite(f"{self.name}'s {figure.name}", *(() if figure.value is None else (figure.value,)), *ends)
        _require_finite(f"{self.method}'s settings", *(setting.value for setting in self.settings))

    @property
    def name(self) -> str:
        """The method with its settings."""
        said = ", ".join([*map(str, self.settings), *filter(None, [self.note])])
        return f"{self.method} ({said})" if said else self.method

    def figure(self, name: str) -> Figure | None:
        """The figure of that name; None if the row has none."""
        return next((figure for figure in self.figures if figure.name == name), None)

    def to_json(self) -> dict[str, object]:
        """The row as `json.dumps` takes it."""
        return {
            "method": self.method,
            "settings": {setting.name: setting.value for setting in self.settings},
            "clients": self.clients,
            "edits": self.edits,
            "figures": {
                figure.name: {
                    "value": figure.value,
                    "interval": None if figure.interval is None else _interval_to_json(figure.interval),
                }
                for figure in self.figures
            },
            "is_reference": self.is_reference,
            "note": self.note,
        }

    @classmethod
    def from_json(cls, data: object) -> "Row":
        """What `to_json` gave.

        Raises:
            ValueError: it is something else.
        """
        row = _as(dict, data)
        return cls(
            method=_as(str, row.get("method")),
            settings=tuple(
                Setting(name=_as(str, name), value=_number(value))
                for name, value in _as(dict, row.get("settings")).items()
            ),
            clients=_as(int, row.get("clients")),
            edits=_as(int, row.get("edits")),
            figures=tuple(_figure(name, value) for name, value in _as(dict, row.get("figures")).items()),
            is_reference=_as(bool, row.get("is_reference")),
            note=_as(str, row.get("note")),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows on one data set, as in the paper's Table 1."""

    FORMAT: ClassVar = "collabsecure reproduction table 1"

    title: str
    data: str  # the data set as tables name it: "MCF", "zsRE"
    rows: tuple[Row, ...] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the figures that any row has, in the paper's order."""
        return tuple(name for name in FIGURES if any(row.figure(name) for row in self.rows))

    def to_json(self) -> dict[str, object]:
        """The table as `json.dumps` takes it."""
        return {
            "format": self.FORMAT,
            "title": self.title,
            "data": self.data,
            "rows": [row.to_json() for row in self.rows],
        }

    @classmethod
    def from_json(cls, data: object) -> "Table":
        """What `to_json` gave.

        Raises:
            ValueError: it is something else, or of another format.
        """
        table = _of_format(data, cls.FORMAT)
        rows = tuple(map(Row.from_json, _as(list, table.get("rows"))))
        return cls(title=_as(str, table.get("title")), data=_as(str, table.get("data")), rows=rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One line of a plot.

    Raises:
        ValueError: x, y and intervals differ in number, or one of them is not finite.
    """

    label: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    intervals: tuple[Interval, ...] | None = None  # of y

    def __post_init__(self) -> None:
        ends = [end for interval in self.intervals or () for end in (interval.low, interval.high)]
        if len(self.x) != len(self.y) or (self.intervals is not None and len(self.intervals) != len(self.y)):
            raise ValueError(f"{self.label}: found {len(self.x)} x, {len(self.y)} y; expected as many, and intervals")
        _require_finite(self.label, *self.x, *self.y, *ends)

    def to_json(self) -> dict[str, object]:
        """The line as `json.dumps` takes it."""
        intervals = None if self.intervals is None else [_interval_to_json(interval) for interval in self.intervals]
        return {"label": self.label, "x": list(self.x), "y": list(self.y), "intervals": intervals}

    @classmethod
    def from_json(cls, data: object) -> "Series":
        """What `to_json` gave.

        Raises:
            ValueError: it is something else.
        """
        series = _as(dict, data)
        found = series.get("intervals")
        return cls(
            label=_as(str, series.get("label")),
            x=tuple(map(_number, _as(list, series.get("x")))),
            y=tuple(map(_number, _as(list, series.get("y")))),
            intervals=None if found is None else tuple(map(_interval, _as(list, found))),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """Lines over one axis, as in the paper's Figures 1 (Score over edits) and 3 (‖R‖ over repetitions)."""

    FORMAT: ClassVar = "collabsecure reproduction plot 1"

    title: str
    x_label: str
    y_label: str
    series: tuple[Series, ...] = ()

    def to_json(self) -> dict[str, object]:
        """The plot as `json.dumps` takes it."""
        return {
            "format": self.FORMAT,
            "title": self.title,
            "x_label": self.x_label,
            "y_label": self.y_label,
            "series": [series.to_json() for series in self.series],
        }

    @classmethod
    def from_json(cls, data: object) -> "Plot":
        """What `to_json` gave.

        Raises:
            ValueError: it is something else, or of another format.
        """
        plot = _of_format(data, cls.FORMAT)
        return cls(
            title=_as(str, plot.get("title")),
            x_label=_as(str, plot.get("x_label")),
            y_label=_as(str, plot.get("y_label")),
            series=tuple(map(Series.from_json, _as(list, plot.get("series")))),
        )


def write_result(path: Path, result: Table | Plot) -> None:
    """Write a table or plot as JSON, in place of what is there; complete, or not at all.

    Raises:
        BadFile: it cannot be written.
    """
    with complete_or_absent(path, force=True) as temporary:
        text = json.dumps(result.to_json(), ensure_ascii=False, allow_nan=False, indent=1)
        temporary.write_text(text + "\n", encoding="utf-8")


def read_table(path: Path) -> Table:
    """Read a table that `write_result` wrote.

    Raises:
        BadFile: it cannot be read, or holds something else.
    """
    return _read(path, Table.from_json, Table.FORMAT)


def read_plot(path: Path) -> Plot:
    """Read a plot that `write_result` wrote.

    Raises:
        BadFile: it cannot be read, or holds something else.
    """
    return _read(path, Plot.from_json, Plot.FORMAT)


Kind = TypeVar("Kind")


def _read(path: Path, from_json: Callable[[object], Kind], expected: str) -> Kind:
    try:
        return from_json(json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise unreadable(path, error) from error
    except (ValueError, RecursionError) as error:
        raise BadFile(path, found=f"something else ({error})", expected=expected) from error


def _repeats(names: Sequence[str]) -> bool:
    return len(set(names)) < len(names)


def _require_finite(what: str, *values: float) -> None:
    if not all(map(math.isfinite, values)):
        raise ValueError(f"{what}: found {', '.join(map(str, values))}; expected finite numbers")


def _interval_to_json(interval: Interval) -> list[float]:
    return [interval.low, interval.high]


def _interval(data: object) -> Interval:
    low, high = map(_number, _as(list, data))
    return Interval(low=low, high=high)


def _figure(name: object, data: object) -> Figure:
    figure = _as(dict, data)
    value, interval = figure.get("value"), figure.get("interval")
    return Figure(
        name=_as(str, name),
        value=None if value is None else _number(value),
        interval=None if interval is None else _interval(interval),
    )


def _of_format(data: object, expected: str) -> dict[str, object]:
    found = _as(dict, data)
    if found.get("format") != expected:
        raise ValueError(f"found format {found.get('format')!r:.60}; expected {expected!r}")
    return found


def _number(value: object) -> float:
    try:
        return float(_as(int, value) if isinstance(value, int) else _as(float, value))
    except OverflowError as error:  # a whole number of hundreds of digits
        raise ValueError(str(error)) from error


def _as(kind: type[Kind], value: object) -> Kind:
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise ValueError(f"found {value!r:.60}; expected a {kind.__name__}")  # a file's fault, not code's
    return value
