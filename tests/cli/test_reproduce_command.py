"""`collabsecure reproduce` as a user meets it: tables and plots, rows that are not measured twice, clear refusals."""

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import load_file, save_file

from collabsecure.reproduction import experiments, methods
from collabsecure.reproduction.methods import METHODS, SWEEPS
from collabsecure.reproduction.results import read_plot, read_table
from collabsecure.second_moment import compute_second_moments
from collabsecure.statistics import SecondMoment, second_moment_filename
from collabsecure_cli.attack_target import Target
from collabsecure_cli.main import main
from collabsecure_cli.reproduce_state import RepeatedEdits
from collabsecure_cli.reproduce_target import Ground

NAMES = ("Ada Quill", "Bram Stone", "Mira Voss", "Danelle Derrivaux", "Norland", "Lindau")


def record(number, name):
    return {
        "case_id": number,
        "requested_rewrite": {
            "prompt": "{} plays the",
            "subject": name,
            "relation_id": "P1",
            "target_new": {"str": "violin", "id": "Q1"},
            "target_true": {"str": "piano", "id": "Q2"},
        },
        "generation_prompts": [f"{name} was born in"],
    }


@pytest.fixture
def few_swept(monkeypatch):
    monkeypatch.setattr(methods, "SWEEPS", tuple(sweep[:2] for sweep in SWEEPS))


@pytest.fixture
def asked(monkeypatch):
    """How many records were asked about, and of how many texts were written, each time."""

    def counted(name):
        def ask(model, requests, *others, **options):
            found[name].append(len(requests))
            return whole(model, requests, *others, **options)

        whole = getattr(experiments, name)
        return ask

    found = {"evaluate_counterfact": [], "evaluate_generation": []}
    for name in found:
        monkeypatch.setattr(experiments, name, counted(name))
    return found


@pytest.fixture
def options(tiny_editable, tmp_path):
    """A model directory, records, hyper-parameters and second moments on disk, as for any real model."""
    tiny_editable.save(tmp_path / "model")
    (tmp_path / "records.json").write_text(json.dumps([record(number, name) for number, name in enumerate(NAMES)]))
    samples = [{"text": "Lindau plays the violin and the piano"}, {"text": "The capital of Norland"}]
    snippets = [{"relation_id": "P1", "target_id": "Q1", "samples": samples}]
    (tmp_path / "snippets.json").write_text(json.dumps(snippets))
    (tmp_path / "hparams.json").write_text(
        json.dumps({"layers": [0, 1], "mom2_update_weight": 10, "v_num_grad_steps": 2, "v_lr": 0.5})
    )
    (tmp_path / "stats").mkdir()
    texts = [f"{', '.join(names)} was born in Köln." for names in itertools.permutations(NAMES, 4)]
    for layer, moment in compute_second_moments(tiny_editable, texts, [0, 1]).items():
        name = second_moment_filename(tiny_editable.architecture.projection_of(layer), moment.sample_size)
        moment.save_npz(tmp_path / "stats" / name)
    chosen = {"model": "model", "records": "records.json", "hparams": "hparams.json", "second-moment": "stats"}
    paths = [argument for option, name in chosen.items() for argument in (f"--{option}", str(tmp_path / name))]
    return [*paths, "--clients", "3", "--device", "cpu", "--out", str(tmp_path / "out")]


def reproduce(*arguments):
    return CliRunner().invoke(main, ["reproduce", *arguments])


def test_table_1_has_all_methods_and_the_best_of_sweeps_and_figure_1_goes_on_from_its_rows(
    options, tmp_path, few_swept, asked
):
    out = tmp_path / "out"
    result = reproduce("table1", *options, "--edits-per-client", "2", "--json")
    assert result.exit_code == 0, result.output
    table = read_table(out / "table1.json")
    assert table.to_json() == {key: value for key, value in json.loads(result.stdout).items() if key != "out"}
    assert (len(table.rows), table.data) == (len(METHODS) + len(SWEEPS), "MCF")
    assert table.columns == ("Score", "ES", "PS", "NS")
    assert [row.note for row in table.rows[-2:]] == ["best of 2", "best of 2"]
    rows = {row.name: row for row in table.rows}
    assert rows["COLLABEDIT (layer-synchronous)"].figures == rows["GLOBAL-EDIT"].figures  # through the secure sum
    assert len(read_table(out / "sweeps.json").rows) == 4
    for name in ("table1.md", "table1.tex"):
        assert "TASK-ARITHMETIC" in (out / name).read_text()
    assert asked == {"evaluate_counterfact": [6] * (len(METHODS) + 4), "evaluate_generation": []}

    asked["evaluate_counterfact"].clear()
    result = reproduce("figure1", *options, "--edits-per-client", "2", "--edits-per-client", "1")
    assert result.exit_code == 0, result.output
    assert asked["evaluate_counterfact"] == [3] * (len(METHODS) - 1)  # those with two edits each are there already
    plot = read_plot(out / "figure1.json")
    assert len(plot.series) == len(METHODS) - 1
    assert "Score" in result.stdout


def test_with_snippets_all_rows_of_table_1_have_ne_and_rs_whatever_was_measured_before(
    options, tmp_path, few_swept, asked
):
    out = tmp_path / "out"
    first = reproduce("table1", *options, "--edits-per-client", "1")
    assert first.exit_code == 0, first.output
    without = read_table(out / "table1.json")
    asked["evaluate_counterfact"].clear()
    with_texts = [*options, "--edits-per-client", "1", "--snippets", str(tmp_path / "snippets.json")]
    result = reproduce("table1", *with_texts)
    assert result.exit_code == 0, result.output
    table = read_table(out / "table1.json")
    assert table.columns == ("Score", "ES", "PS", "NS", "NE", "RS")
    for before, row in zip(without.rows, table.rows, strict=True):
        assert (row.name, row.figures[:4]) == (before.name, before.figures)
        assert row.figure("NE").value > 0
        assert 0 <= row.figure("RS").value <= 1
    rows = {row.name: row for row in table.rows}
    assert rows["COLLABEDIT (layer-synchronous)"].figures == rows["GLOBAL-EDIT"].figures
    assert read_table(out / "sweeps.json").columns == ("Score", "ES", "PS", "NS")
    assert asked == {"evaluate_counterfact": [], "evaluate_generation": [3] * (len(METHODS) + 2)}
    manifest = json.loads((out / "table1-manifest.json").read_text())
    assert manifest["seeds"] == {"contexts and order": 0, "intervals": 0, "texts": 0}
    assert len(manifest["sha256"]["snippets"]) == 64

    asked["evaluate_generation"].clear()
    assert reproduce("table1", *with_texts).exit_code == 0
    assert asked["evaluate_generation"] == []
    (tmp_path / "snippets.json").write_text((tmp_path / "snippets.json").read_text().replace("Lindau", "Ada Quill"))
    assert reproduce("table1", *with_texts).exit_code == 0
    assert len(asked["evaluate_generation"]) == len(METHODS) + 2  # other references, so another RS


def test_zsres_records_have_zsres_figures_in_files_of_their_own(options, tmp_path, few_swept):
    records = [
        {
            "subject": name,
            "src": f"What does {name} play?",
            "answers": ["violin"],
            "alt": "violin",
            "rephrase": f"What is the instrument of {name}?",
            "loc": "nq question: who wrote The Silent Harbour",
            "loc_ans": "Mira Voss",
        }
        for name in NAMES
    ]
    (tmp_path / "records.json").write_text(json.dumps(records))
    result = reproduce("table1", *options, "--edits-per-client", "1")
    assert result.exit_code == 0, result.output
    table = read_table(tmp_path / "out" / "table1-zsre.json")
    assert (table.data, table.columns) == ("zsRE", ("Score", "EA", "PA", "NA"))
    assert {"table1-zsre.md", "table1-zsre.tex", "table1-zsre-manifest.json", "sweeps-zsre.json"} <= {
        path.name for path in (tmp_path / "out").iterdir()
    }
    result = reproduce("table1", *options, "--snippets", str(tmp_path / "snippets.json"))
    assert result.exit_code == 2
    assert "zsRE has no prompts for texts" in " ".join(result.stderr.split())


def test_the_small_worlds_records_are_the_same_edits_in_either_form():
    target = Target.of(None, None, None, None, device=None, seed=3)
    grounds = [Ground.load(target, data=data) for data in ("counterfact", "zsre")]
    assert [ground.data for ground in grounds] == ["MCF", "zsRE"]
    counterfact, zsre = (
        [(request.text, request.target_new, request.case_id) for request in ground.requests] for ground in grounds
    )
    assert counterfact == zsre
    assert len(zsre) == 480


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--snippets", "{snippets}"], "--snippets belongs to a --model; the small world has its own."),
        (["{options}", "--tfidf", "{folder}"], "--tfidf belongs to --snippets."),
        (["{options}", "--data", "zsre"], "--data is the small world's; with --model, --records says what"),
    ],
)
def test_options_that_have_no_use_are_slips(options, tmp_path, arguments, said):
    known = {"{snippets}": [str(tmp_path / "snippets.json")], "{folder}": [str(tmp_path)], "{options}": options}
    result = reproduce("table1", *(word for argument in arguments for word in known.get(argument, [argument])))
    assert result.exit_code == 2
    assert said in " ".join(result.stderr.replace("│", " ").split())


@pytest.mark.slow
def test_interrupted_in_mid_run_table_1_goes_on_from_its_rows_and_ends_the_same(tmp_path):
    def command(name):
        program = str(Path(sys.executable).parent / "collabsecure")
        sizes = ["--clients", "3", "--edits-per-client", "2"]
        return [program, "reproduce", "table1", *sizes, "--out", str(tmp_path / name)]

    def kept():
        return {path: path.stat().st_mtime_ns for path in (tmp_path / "run" / "rows").glob("*.json")}

    whole = subprocess.run(command("whole"), capture_output=True, text=True, timeout=500, check=False)
    assert whole.returncode == 0, whole.stderr
    num_rows = len(list((tmp_path / "whole" / "rows").iterdir()))
    for enough in (3, num_rows - 6):  # among the methods, and in the sweeps
        with subprocess.Popen(command("run"), stderr=subprocess.PIPE, text=True) as process:
            deadline = time.monotonic() + 500
            while len(kept()) < enough and time.monotonic() < deadline and process.poll() is None:
                time.sleep(0.02)
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=60)
        assert process.returncode == 130, said
        assert said.strip().splitlines()[-1].endswith("the same command goes on.")
        assert "Traceback" not in said
        assert not (tmp_path / "run" / "table1.json").exists()
        assert enough <= len(before := kept()) < num_rows
    again = subprocess.run(command("run"), capture_output=True, text=True, timeout=500, check=False)
    assert again.returncode == 0, again.stderr
    assert "Going on with what an interrupted run left" in again.stderr
    assert before.items() <= kept().items()  # none was measured again
    assert len(kept()) == num_rows
    for name in ("table1.json", "table1.md", "table1.tex", "sweeps.json"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


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
    assert manifest["settings"]["second_moment_weight"] == 10
    assert manifest["settings"]["repeats"] == 2
    assert set(manifest["sha256"]) == {"weights", "second moments", "hyper-parameters", "contexts", "records (MCF)"}


def test_what_a_default_was_stands_in_the_manifest(tmp_path, monkeypatch):
    monkeypatch.setattr("collabsecure_cli.reproduce.REPEATS", 0)
    monkeypatch.setattr("collabsecure_cli.reproduce_target.Ground.cohort", none_but(Ground.cohort, edits=15))
    out = tmp_path / "out"
    assert reproduce("figure3", "--out", str(out), "--clients", "3").exit_code == 0
    words = json.loads((out / "figure3-manifest.json").read_text())["command"]
    assert " ".join(words[3:]) == "--data counterfact --clients 3 --seed 0 --edits-per-client 15"


def none_but(make, *, edits):
    """A cohort of one edit for each client, if that many are asked for."""

    def cohort(ground, *, num_clients, edits_per_client, cache):
        assert edits_per_client == edits
        return make(ground, num_clients=num_clients, edits_per_client=1, cache=cache)

    return cohort


@pytest.mark.parametrize("changed", ["weights", "second moments", "hyper-parameters", "records (MCF)"])
def test_rows_of_anything_else_are_measured_again_and_its_results_not_replaced(options, tmp_path, asked, changed):
    command = ("figure1", *options, "--edits-per-client", "1")
    first = reproduce(*command)
    assert first.exit_code == 0, first.output
    before = json.loads((tmp_path / "out" / "figure1-manifest.json").read_text())
    asked["evaluate_counterfact"].clear()
    change(tmp_path, changed)

    refused = reproduce(*command)
    assert refused.exit_code == 1
    assert changed in refused.stderr
    assert "--force" in refused.stderr
    result = reproduce(*command, "--force")
    assert result.exit_code == 0, result.output
    assert len(asked["evaluate_counterfact"]) == len(METHODS) - 1
    after = json.loads((tmp_path / "out" / "figure1-manifest.json").read_text())
    assert changed in {name for name in after["sha256"] if after["sha256"][name] != before["sha256"][name]}


def change(folder, what):
    """Change something under the same name and, for weights, of the same size and age."""
    if what == "weights":
        path = folder / "model" / "model.safetensors"
        time_before = path.stat().st_mtime_ns
        tensors = load_file(path)
        name = next(name for name in tensors if name.endswith("wte.weight"))
        tensors[name] = tensors[name] * np.float32(0.5)
        save_file(tensors, path, metadata={"format": "pt"})
        os.utime(path, ns=(time_before, time_before))
    elif what == "second moments":
        (path,) = (folder / "stats").glob("*.0.*")
        moment = SecondMoment.load_npz(path)
        replace(moment, count=moment.count // 2).save_npz(path, force=True)
    elif what == "hyper-parameters":
        path = folder / "hparams.json"
        path.write_text(path.read_text().replace('"v_lr": 0.5', '"v_lr": 0.4'))
    else:
        path = folder / "records.json"
        path.write_text(path.read_text().replace("Quill", "Stone"))


def test_interrupted_figure_3_goes_on_from_its_last_repetition(options, tmp_path, monkeypatch):
    monkeypatch.setattr("collabsecure_cli.reproduce.REPEATS", 3)
    command = ("figure3", *options, "--edits-per-client", "2")
    assert reproduce(*command).exit_code == 0
    whole = (tmp_path / "out" / "figure3.json").read_bytes()
    write, times = RepeatedEdits.write, []

    def interrupted(state, repeated):
        write(state, repeated)
        times.append(repeated.times)
        if len(times) in (2, 4):
            raise KeyboardInterrupt

    monkeypatch.setattr(RepeatedEdits, "write", interrupted)
    assert reproduce(*command, "--seed", "1", "--force").exit_code == 130
    assert reproduce(*command).exit_code == 130  # begins anew: what is there is another seed's
    assert reproduce(*command).exit_code == 0
    assert times == [1, 2, 1, 2, 3, 4]
    assert (tmp_path / "out" / "figure3.json").read_bytes() == whole
    assert not list((tmp_path / "out").glob("*.safetensors"))


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
