"""`collabsecure reproduce` as a user meets it: tables and plots, rows that are not measured twice, clear refusals."""

import itertools
import json

import pytest
from click.testing import CliRunner

from collabsecure.reproduction import experiments, methods
from collabsecure.reproduction.methods import METHODS, SWEEPS
from collabsecure.reproduction.results import read_plot, read_table
from collabsecure.second_moment import compute_second_moments
from collabsecure.statistics import second_moment_filename
from collabsecure_cli.main import main

NAMES = ("Ada Quill", "Bram Stone", "Mira Voss", "Danelle Derrivaux", "Norland", "Lindau")


@pytest.fixture
def options(tiny_editable, tmp_path):
    """A model directory, records, hyper-parameters and second moments on disk, as for any real model."""
    tiny_editable.save(tmp_path / "model")
    records = [
        {"prompt": "{} plays the", "subject": name, "target_new": "violin", "target_true": "piano"} for name in NAMES
    ]
    (tmp_path / "records.jsonl").write_text("\n".join(map(json.dumps, records)))
    (tmp_path / "hparams.json").write_text(
        json.dumps({"layers": [0, 1], "mom2_update_weight": 10, "v_num_grad_steps": 2, "v_lr": 0.5})
    )
    (tmp_path / "stats").mkdir()
    texts = [f"{', '.join(names)} was born in Köln." for names in itertools.permutations(NAMES, 4)]
    for layer, moment in compute_second_moments(tiny_editable, texts, [0, 1]).items():
        name = second_moment_filename(tiny_editable.architecture.projection_of(layer), moment.sample_size)
        moment.save_npz(tmp_path / "stats" / name)
    chosen = {"model": "model", "records": "records.jsonl", "hparams": "hparams.json", "second-moment": "stats"}
    paths = [argument for option, name in chosen.items() for argument in (f"--{option}", str(tmp_path / name))]
    return [*paths, "--clients", "3", "--device", "cpu", "--out", str(tmp_path / "out")]


def reproduce(*arguments):
    return CliRunner().invoke(main, ["reproduce", *arguments])


def test_table_1_has_all_methods_and_the_best_of_sweeps_and_figure_1_goes_on_from_its_rows(
    options, tmp_path, monkeypatch
):
    out = tmp_path / "out"
    monkeypatch.setattr(methods, "SWEEPS", tuple(sweep[:2] for sweep in SWEEPS))
    result = reproduce("table1", *options, "--edits-per-client", "2", "--json")
    assert result.exit_code == 0, result.output
    table = read_table(out / "table1.json")
    assert table.to_json() == {key: value for key, value in json.loads(result.stdout).items() if key != "out"}
    assert (len(table.rows), table.data) == (len(METHODS) + len(SWEEPS), "MCF")
    assert [row.note for row in table.rows[-2:]] == ["best of 2", "best of 2"]
    rows = {row.name: row for row in table.rows}
    assert rows["COLLABEDIT (layer-synchronous)"].figures == rows["GLOBAL-EDIT"].figures  # through the secure sum
    assert len(read_table(out / "sweeps.json").rows) == 4
    for name in ("table1.md", "table1.tex"):
        assert "TASK-ARITHMETIC" in (out / name).read_text()

    asked = []
    whole = experiments.score
    monkeypatch.setattr(experiments, "score", lambda *a, **k: asked.append(len(a[2])) or whole(*a, **k))
    result = reproduce("figure1", *options, "--edits-per-client", "2", "--edits-per-client", "1")
    assert result.exit_code == 0, result.output
    assert asked == [3] * (len(METHODS) - 1)  # those with two edits each are there already
    plot = read_plot(out / "figure1.json")
    assert len(plot.series) == len(METHODS) - 1
    assert "Score" in result.stdout


def test_figure_3_falls(options, tmp_path, monkeypatch):
    monkeypatch.setattr("collabsecure_cli.reproduce.REPEATS", 2)
    result = reproduce("figure3", *options, "--edits-per-client", "2")
    assert result.exit_code == 0, result.output
    plot = read_plot(tmp_path / "out" / "figure3.json")
    assert all(len(line.y) == 3 and line.y[-1] < line.y[0] for line in plot.series)
    assert "layer 0, measured" in result.stdout
    manifest = json.loads((tmp_path / "out" / "figure3-manifest.json").read_text())
    assert manifest["command"][:3] == ["collabsecure", "reproduce", "figure3"]
    assert manifest["command"][-2:] == ["--edits-per-client", "2"]
    assert list(manifest["records_sha256"]) == ["MCF"]


def test_what_cannot_be_done_is_said_in_one_line(options, tmp_path):
    result = reproduce("table1", *options, "--edits-per-client", "3")
    assert (result.exit_code, result.stderr.strip().splitlines()[-1][:6]) == (1, "Error:")
    result = reproduce("figure3", "--model", "gpt2-xl", "--out", str(tmp_path / "other"))
    assert result.exit_code == 2
    assert "--second-moment" in result.stderr
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    result = reproduce("table1", "--out", str(tmp_path / "mine"))
    assert result.exit_code == 1
    assert "--force" in result.stderr
