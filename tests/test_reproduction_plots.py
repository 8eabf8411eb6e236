import importlib
import itertools
import sys
from dataclasses import replace
from pathlib import Path

import matplotlib as mpl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from collabsecure.errors import BadFile, MissingExtra
from collabsecure.evaluate import Interval
from collabsecure.reproduction.plots import render, spread, write_plot
from collabsecure.reproduction.results import Plot, Series

OURS = Series(label="CollabEdit", x=(100.0, 200.0), y=(90.0, 89.0), intervals=(Interval(low=88.0, high=91.0),) * 2)
PLOT = Plot(
    title="Figure 1 & more",
    x_label="edits per client",
    y_label="Score × 100",
    series=(replace(OURS, label="GLOBAL-EDIT"), OURS, Series(label="costs $x_1$ (λ = 1)", x=(100.0,), y=(40.0,))),
)


def test_an_svg_names_every_line_and_axis():
    drawn = render(PLOT, "svg").decode()
    for text in ("Figure 1 &amp; more", "edits per client", "Score × 100", "GLOBAL-EDIT", "CollabEdit", "λ = 1"):
        assert text in drawn


def test_the_same_plot_gives_the_same_bytes_without_a_date_whatever_the_users_style():
    once = render(PLOT, "svg")
    with mpl.rc_context({"lines.linewidth": 9, "font.size": 30, "svg.hashsalt": "another"}):
        assert render(PLOT, "svg") == once
    assert b"<dc:date>" not in once
    assert render(PLOT, "png") == render(PLOT, "png")


def test_drawing_leaves_the_users_style_alone():
    with mpl.rc_context({"font.size": 30}):
        render(PLOT, "svg")
        assert mpl.rcParams["font.size"] == 30


def test_files_are_written_in_the_form_that_their_name_says_and_written_over(tmp_path: Path):
    for _ in range(2):
        write_plot(tmp_path / "figure1.png", PLOT)
        write_plot(tmp_path / "figure1.svg", PLOT)
    assert (tmp_path / "figure1.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "figure1.svg").read_bytes() == render(PLOT, "svg")
    with pytest.raises(BadFile, match=r"ends in '\.pdf'; expected one that ends in \.svg or \.png"):
        write_plot(tmp_path / "figure1.pdf", PLOT)
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("series", [(), (Series(label="none yet", x=(), y=()),), (replace(OURS, y=(-1.0, 2.0)),)])
def test_plots_with_no_points_or_negative_ones_are_drawn(series: tuple[Series, ...]):
    assert render(replace(PLOT, series=series), "svg")


def test_more_lines_than_colours_are_drawn():
    labels = [f"line {number}" for number in range(9)]
    drawn = render(replace(PLOT, series=tuple(replace(OURS, label=label) for label in labels)), "svg").decode()
    assert all(f"<!-- {label} -->" in drawn for label in labels)


def test_without_matplotlib_there_is_an_error_only_on_drawing_and_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delitem(sys.modules, "collabsecure.reproduction.plots")
    plots = importlib.import_module("collabsecure.reproduction.plots")
    with pytest.raises(MissingExtra, match=r"drawing plots needs the package matplotlib: pip .*collabsecure\[report\]"):
        plots.render(PLOT, "svg")


@given(st.lists(st.floats(0, 1), max_size=9), st.floats(0.01, 0.2))
def test_spread_labels_are_apart_and_in_the_order_of_their_lines(heights: list[float], gap: float):
    placed = spread(heights, gap=gap)
    order = sorted(range(len(heights)), key=lambda index: placed[index])
    assert all(placed[b] - placed[a] >= gap - 1e-9 for a, b in itertools.pairwise(order))
    assert all(heights[a] <= heights[b] for a, b in itertools.pairwise(order))
    assert sum(placed) == pytest.approx(sum(heights), abs=1e-9)  # as a whole they stay where they were


def test_labels_with_room_stay_at_their_lines():
    assert spread([0.2, 0.9, 0.5], gap=0.1) == [0.2, 0.9, 0.5]
