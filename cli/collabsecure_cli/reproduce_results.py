"""How a reproduction's results go to files and to the terminal, and the command that made them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from collabsecure.errors import MissingExtra
from collabsecure.files import complete_or_absent
from collabsecure_cli.progress import say

if TYPE_CHECKING:  # what it comes with loads torch, which other commands do without
    from collabsecure.reproduction.results import Plot, Table


def write_table(path: Path, table: Table) -> None:
    """Write a table as JSON, Markdown and LaTeX: `path` without what they end in."""
    from collabsecure.reproduction.results import write_result
    from collabsecure.reproduction.tables import to_latex, to_markdown

    write_result(path.with_suffix(".json"), table)
    for suffix, text in ((".md", to_markdown(table)), (".tex", to_latex(table))):
        with complete_or_absent(path.with_suffix(suffix), force=True) as temporary:
            temporary.write_text(text + "\n", encoding="utf-8")


def write_plot(path: Path, plot: Plot) -> None:
    """Write a plot as JSON and, if it can be drawn here, as SVG and PNG."""
    from collabsecure.reproduction import plots
    from collabsecure.reproduction.results import write_result

    write_result(path.with_suffix(".json"), plot)
    try:
        for suffix in (".svg", ".png"):
            plots.write_plot(path.with_suffix(suffix), plot)
    except MissingExtra as error:
        say(f"The figures are in {path}.json, but not drawn: {error}")


def as_lines(plot: Plot, path: Path) -> str:
    """Numbers for a terminal: a line for each series."""
    width = max((len(series.label) for series in plot.series), default=0)
    lines = [plot.title, f"{plot.y_label} by {plot.x_label}:"]
    for series in plot.series:
        points = "  ".join(f"{x:g}: {y:.3g}" for x, y in zip(series.x, series.y, strict=True))
        lines.append(f"  {series.label:<{width}}  {points}")
    return "\n".join([*lines, f"Written: {path}.json, and .svg and .png where matplotlib is installed"])


def manifest_of(path: Path) -> Path:
    """Where the manifest of the results at `path` is."""
    return path.with_name(f"{path.name}-manifest.json")


def words_in_full(context: click.Context, resolved: Mapping[str, object]) -> list[str]:
    """The command with all its options: defaults may change. `resolved` has those that hang on others, by parameter."""
    words = ["collabsecure", "reproduce", str(context.info_name)]
    given = {**context.params, **resolved}
    for parameter in context.command.params:
        value = given.get(parameter.name or "")
        if value is not None and parameter.name not in ("out", "force", "device"):
            for one in value if isinstance(value, tuple) else (value,):
                words += [parameter.opts[0], str(one)]
    return words
