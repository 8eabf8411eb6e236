r"""The paper's Table 1 from one's own rows: for a terminal, as Markdown, and as LaTeX (JSON: `Table.to_json`).

All figures are × 100, as published. Methods are compared with those of the same clients and edits, and the best of each
column is marked, with all that show the same digits. Higher is better throughout, as in the paper. References (the
model before all edits, GLOBAL-EDIT) are not compared. After the last line there is no line end.

>>> from collabsecure.evaluate import Figure, Interval
>>> def row(method, score, low, high):
...     figure = Figure(name="Score", value=score, interval=Interval(low=low, high=high))
...     return Row(method=method, clients=10, edits=500, figures=(figure,))
>>> rows = row("OURS", 0.713, 0.69, 0.74), row("OTHERS", 0.5, 0.5, 0.5)
>>> print(to_text(Table(title="GPT2-XL", data="MCF", rows=rows)))
GPT2-XL, MCF: 10 clients, 500 edits each
------------------
Method       Score
------------------
OURS    71.3* ±2.7
OTHERS  50.0  ±0.0
------------------
All × 100; ± to the farther end of the 95% interval over the records; * best
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from collabsecure.reproduction.results import Row, Table

_ABSENT = "–"
_IN_LATEX = {
    "\\": r"\textbackslash{}",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "–": "--",
    "×": r"$\times$",
    "λ": r"$\lambda$",
    "Δ": r"$\Delta$",
    "‖": r"$\|$",
    "…": r"\dots{}",
} | {character: "\\" + character for character in "&%$#_{}"}


def to_text(table: Table) -> str:
    """Give the table with aligned columns, intervals as ± and the best with an asterisk."""
    layout = _Layout.of(table)
    columns = [_aligned([row[i] for row in layout.cells]) for i in range(len(table.columns))]
    lines = [[*leads, *found] for leads, *found in zip(layout.leads, *columns, strict=True)]
    header = [*layout.lead_names, *table.columns]
    widths = [max(map(len, column)) for column in zip(header, *lines, strict=True)]

    def line(cells: Sequence[str]) -> str:
        first, *others = zip(cells, widths, strict=True)
        return "  ".join([first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]).rstrip()

    rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
    body: list[str] = []
    for ruled, cells in zip(layout.ruled, lines, strict=True):
        body += [*([rule] if ruled else []), line(cells)]
    how = ["All × 100", "± to the farther end of the 95% interval over the records" if layout.has_intervals else ""]
    legend = "; ".join(filter(None, [*how, "* best" if layout.has_best else ""]))
    return "\n".join([layout.caption, rule, line(header), rule, *body, rule, legend])


def to_markdown(table: Table) -> str:
    """Give the table in GitHub's Markdown, with intervals in brackets and the best in bold."""
    layout = _Layout.of(table)

    def cell(found: _Cell) -> str:
        value = f"**{found.value}**" if found.is_best else found.value
        return f"{value} [{found.low:.1f}, {found.high:.1f}]" if found.has_interval else value

    header = [*layout.lead_names, *table.columns]
    lines = [header, ["---", *["---:"] * (len(header) - 1)]]
    for leads, cells in zip(layout.leads, layout.cells, strict=True):
        lines.append([*map(_markdown, leads), *map(cell, cells)])
    how = ["All × 100", "95% intervals over the records" if layout.has_intervals else ""]
    legend = "; ".join(filter(None, [*how, "best in bold" if layout.has_best else ""]))
    rows = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return f"{_markdown(layout.caption)}\n\n{rows}\n\n{legend}."


def to_latex(table: Table) -> str:
    """Give the table for LaTeX with the booktabs package: intervals as what is above and below, the best in bold."""
    layout = _Layout.of(table)

    def cell(found: _Cell) -> str:
        if found.value == _ABSENT:
            return "--"
        value = rf"\mathbf{{{found.value}}}" if found.is_best else found.value
        if not found.has_interval:
            return f"${value}$"
        above, below = max(0.0, found.high - found.exact), max(0.0, found.exact - found.low)  # no width is −0.0
        return f"${value}^{{+{above:.1f}}}_{{-{below:.1f}}}$"

    def line(cells: Sequence[str]) -> str:
        return " & ".join(cells) + r" \\"

    how = ["all $\\times$ 100", "with 95\\% intervals over the records" if layout.has_intervals else ""]
    legend = ", ".join(filter(None, [*how, "best in bold" if layout.has_best else ""]))
    body: list[str] = []
    for ruled, leads, cells in zip(layout.ruled, layout.leads, layout.cells, strict=True):
        body += [*([r"\midrule"] if ruled else []), line([*map(_latex, leads), *map(cell, cells)])]
    return "\n".join(
        [
            r"\begin{table}  % \usepackage{booktabs}",
            r"\centering",
            rf"\caption{{{_latex(layout.caption)}; {legend}.}}",
            rf"\begin{{tabular}}{{l{'r' * (len(layout.lead_names) - 1 + len(table.columns))}}}",
            r"\toprule",
            line([*layout.lead_names, *table.columns]),
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
        ]
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Cell:
    """One figure, × 100."""

    value: str  # as it is shown
    exact: float = 0.0
    low: float = 0.0
    high: float = 0.0
    has_interval: bool = False
    is_best: bool = False

    @property
    def spread(self) -> str:
        """What the terminal shows of the interval."""
        return f"±{max(self.high - self.exact, self.exact - self.low):.1f}" if self.has_interval else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layout:
    """What all forms share: words, cells, and what stands first in each row."""

    caption: str
    lead_names: tuple[str, ...]
    leads: list[tuple[str, ...]]
    cells: list[list[_Cell]]
    ruled: list[bool]  # whether a rule parts the row from the one above: references from methods
    has_intervals: bool
    has_best: bool

    @staticmethod
    def of(table: Table) -> "_Layout":
        """Lay a table out: clients and edits that are the same throughout go to the caption."""
        sizes = {_size(row) for row in table.rows if row.clients}
        caption = f"{table.title}, {table.data}"
        lead_names: tuple[str, ...] = ("Method",)
        if len(sizes) == 1:
            ((clients, edits),) = sizes
            caption += f": {clients} client{'s' * (clients != 1)}, {edits} edit{'s' * (edits != 1)} each"
        elif sizes:
            lead_names += ("Clients", "Edits")
        leads = [(row.name, *map(str, _size(row)))[: len(lead_names)] for row in table.rows]
        cells = [[_cell(row, name, _rivals(row, table.rows)) for name in table.columns] for row in table.rows]
        return _Layout(
            caption=caption,
            lead_names=lead_names,
            leads=leads,
            cells=cells,
            ruled=[i > 0 and row.is_reference != table.rows[i - 1].is_reference for i, row in enumerate(table.rows)],
            has_intervals=any(cell.has_interval for row in cells for cell in row),
            has_best=any(cell.is_best for row in cells for cell in row),
        )


def _size(row: Row) -> tuple[int, int]:
    return row.clients, row.edits


def _cell(row: Row, name: str, rivals: Sequence[Row]) -> _Cell:
    found = row.figure(name)
    if found is None or found.value is None:
        return _Cell(value=_ABSENT)
    shown = _shown(found.value)
    compared = [value for rival in rivals if (value := _value(rival, name)) is not None]
    ends = found.interval
    return _Cell(
        value=shown,
        exact=100 * found.value,
        low=0.0 if ends is None else 100 * ends.low,
        high=0.0 if ends is None else 100 * ends.high,
        has_interval=ends is not None,
        is_best=len(compared) > 1 and shown == _shown(max(compared)),
    )


def _rivals(row: Row, rows: Sequence[Row]) -> list[Row]:
    """Whom a row is compared with, itself among them; nobody if it is a reference."""
    return [rival for rival in rows if not (row.is_reference or rival.is_reference) and _size(rival) == _size(row)]


def _value(row: Row, name: str) -> float | None:
    found = row.figure(name)
    return None if found is None else found.value


def _shown(fraction: float) -> str:
    return f"{100 * fraction:.1f}"


def _aligned(cells: Sequence[_Cell]) -> list[str]:
    """A column of the terminal's: digits under digits, then the asterisk, then the interval."""
    mark = max(cell.is_best for cell in cells)
    marked = [cell.value + ("*" if cell.is_best else " " * mark) for cell in cells]
    values, spreads = max(map(len, marked)), max(len(cell.spread) for cell in cells)
    return [
        f"{text.rjust(values)} {cell.spread.rjust(spreads)}" if spreads else text.rjust(values)
        for text, cell in zip(marked, cells, strict=True)
    ]


def _markdown(text: str) -> str:
    return re.sub(r"([\\`*_|<>\[\]])", r"\\\1", text)


def _latex(text: str) -> str:
    return "".join(_IN_LATEX.get(character, character) for character in text)
