import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from collabsecure.errors import BadFile
from collabsecure.evaluate.intervals import Interval
from collabsecure.evaluate.scores import Figure
from collabsecure.reproduction.results import (
    Plot,
    Row,
    Series,
    Setting,
    Table,
    read_plot,
    read_table,
    write_result,
)

SCORE = Figure(name="Score", value=0.713, interval=Interval(low=0.69, high=0.74))
NS = Figure(name="NS", value=None, interval=None)
ROW = Row(
    method="TIES-MERGING",
    settings=(Setting(name="k", value=0.2), Setting(name="λ", value=1.0)),
    clients=10,
    edits=500,
    figures=(NS, SCORE),
    note="best of 8",
)
TABLE = Table(title="GPT2-XL", data="MCF", rows=(ROW, Row(method="GPT2-XL", clients=0, edits=0, figures=())))
LINE = Series(label="ours", x=(1.0, 2.0), y=(0.5, 0.25), intervals=(SCORE.interval, Interval(low=0.0, high=1.0)))
PLOT = Plot(title="Figure 1", x_label="edits", y_label="Score", series=(LINE, replace(LINE, intervals=None)))


def test_tables_and_plots_are_read_as_they_were_written(tmp_path: Path):
    write_result(tmp_path / "table.json", TABLE)
    write_result(tmp_path / "plot.json", PLOT)
    assert read_table(tmp_path / "table.json") == TABLE
    assert read_plot(tmp_path / "plot.json") == PLOT


def test_a_longer_table_takes_the_place_of_a_shorter_one(tmp_path: Path):
    write_result(path := tmp_path / "table.json", TABLE)
    longer = replace(TABLE, rows=(*TABLE.rows, ROW))
    write_result(path, longer)
    assert read_table(path) == longer
    assert [file.name for file in tmp_path.iterdir()] == ["table.json"]


def test_columns_are_in_the_papers_order_whatever_the_rows():
    assert TABLE.columns == ("Score", "NS")


def test_a_row_is_named_by_its_method_settings_and_note():
    assert ROW.name == "TIES-MERGING (k = 0.2, λ = 1, best of 8)"
    assert TABLE.rows[1].name == "GPT2-XL"


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_no_number_is_ever_nan_or_infinite(bad: float):
    with pytest.raises(ValueError, match="finite"):
        replace(ROW, figures=(replace(SCORE, value=bad),))
    with pytest.raises(ValueError, match="finite"):
        replace(ROW, figures=(replace(SCORE, interval=Interval(low=bad, high=1.0)),))
    with pytest.raises(ValueError, match="finite"):
        replace(ROW, settings=(Setting(name="λ", value=bad),))
    with pytest.raises(ValueError, match="finite"):
        replace(LINE, y=(0.5, bad))


@pytest.mark.parametrize(
    "change",
    [
        {"figures": (SCORE, SCORE)},
        {"figures": (replace(SCORE, name="XS"),)},
        {"settings": (Setting(name="λ", value=1.0), Setting(name="λ", value=0.4))},
        {"clients": -1},
        {"edits": -1},
    ],
)
def test_a_row_that_makes_no_sense_is_refused(change: dict[str, object]):
    with pytest.raises(ValueError, match="expected"):
        replace(ROW, **change)


def test_a_line_with_more_x_than_y_is_refused():
    with pytest.raises(ValueError, match="found 3 x, 2 y"):
        replace(LINE, x=(1.0, 2.0, 3.0))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        json.dumps(PLOT.to_json()),
        json.dumps(TABLE.to_json() | {"format": "collabsecure reproduction table 2"}),
        json.dumps(TABLE.to_json() | {"rows": [{}]}),
        json.dumps(TABLE.to_json()).replace("0.713", "NaN"),
        json.dumps(TABLE.to_json()).replace("0.713", "1" + 400 * "0"),
        json.dumps(TABLE.to_json()).replace("500", "true"),
        json.dumps(TABLE.to_json()).replace("[0.69, 0.74]", "[0.69]"),
        "[" * 100_000,
    ],
)
def test_a_file_that_holds_something_else_is_refused(tmp_path: Path, text: str):
    (path := tmp_path / "table.json").write_text(text)
    with pytest.raises(BadFile, match="expected collabsecure reproduction table 1"):
        read_table(path)


def test_a_missing_file_is_an_error_that_names_it(tmp_path: Path):
    with pytest.raises(BadFile, match=r"none\.json: found no such file"):
        read_plot(tmp_path / "none.json")
