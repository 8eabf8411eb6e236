"""`collabsecure demo` as a user meets it: results, going on after an interruption, and one line for every failure."""

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner
from safetensors.numpy import load_file

from collabsecure.agreement import Agreement
from collabsecure.deltas import load_delta
from collabsecure.second_moment import compute_second_moments
from collabsecure.statistics import second_moment_filename
from collabsecure_cli.main import main
from collabsecure_cli.session import load_session

NAMES = ("Ada Quill", "Bram Stone", "Mira Voss", "Danelle Derrivaux", "Norland", "Lindau")


@pytest.fixture
def options(tiny_editable, tmp_path) -> list[str]:
    """A model directory, records, hyper-parameters and second moments on disk, as for any real model."""
    tiny_editable.save(tmp_path / "model")
    records = [
        {"prompt": "{} plays the", "subject": name, "target_new": "violin", "target_true": "piano"} for name in NAMES
    ]
    (tmp_path / "records.jsonl").write_text("\n".join(map(json.dumps, records)))
    (tmp_path / "hparams.json").write_text(
        json.dumps({"layers": [0, 1], "mom2_update_weight": 10, "v_num_grad_steps": 3, "v_lr": 0.5})
    )
    (tmp_path / "stats").mkdir()
    # Enough different contexts for a C of full rank.
    texts = [f"{', '.join(names)} was born in Köln." for names in itertools.permutations(NAMES, 4)]
    for layer, moment in compute_second_moments(tiny_editable, texts, [0, 1]).items():
        name = second_moment_filename(tiny_editable.architecture.projection_of(layer), moment.sample_size)
        moment.save_npz(tmp_path / "stats" / name)
    chosen = {"model": "model", "records": "records.jsonl", "hparams": "hparams.json", "second-moment": "stats"}
    paths = [argument for option, name in chosen.items() for argument in (f"--{option}", str(tmp_path / name))]
    return [*paths, "--clients", "3", "--edits-per-client", "2", "--device", "cpu", "--out", str(tmp_path / "out")]


def demo(options, *more):
    return CliRunner().invoke(main, ["demo", *options, *more])


def test_a_demo_prints_the_comparison_and_saves_model_delta_and_session(options, tmp_path):
    result = demo(options)
    assert result.exit_code == 0, result.output
    for row in ("before", "GLOBAL-EDIT", "layer-synchronous", "one-shot", "asked for: 'violin'", "hides who edited"):
        assert row in result.stdout
    out = tmp_path / "out"
    delta = load_delta(out / "delta.safetensors")
    assert sorted(delta.layers) == [0, 1]
    assert delta.provenance.survivors == {0: (1, 2, 3), 1: (1, 2, 3)}
    assert delta.provenance.session == load_session(out / "session-layer-synchronous.json").transcript.hex()
    before, after = (load_file(folder / "model.safetensors") for folder in (tmp_path / "model", out / "model"))
    changed = {name for name in before if (before[name] != after[name]).any()}
    assert changed == {"transformer.h.0.mlp.c_proj.weight", "transformer.h.1.mlp.c_proj.weight"}
    for flow in ("layer-synchronous", "one-shot"):
        assert Agreement.of(load_session(out / f"session-{flow}.json")).flow == flow


def test_a_second_run_uses_the_values_of_the_first(options, tmp_path):
    assert demo(options).exit_code == 0
    values = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "values").rglob("*.safetensors")}
    assert len(values) == len(NAMES)
    assert demo(options).exit_code == 0
    assert values == {path: path.stat().st_mtime_ns for path in values}


def test_an_interrupted_demo_says_how_to_go_on_and_does(options, tmp_path):
    more = ["--hparams", str(tmp_path / "long.json")]
    (tmp_path / "long.json").write_text(
        json.dumps({"layers": [0, 1], "mom2_update_weight": 10, "v_num_grad_steps": 20_000, "v_lr": 1e-4})
    )
    command = [str(Path(sys.executable).parent / "collabsecure"), "demo", *options, *more]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        deadline = time.monotonic() + 120
        while not (tmp_path / "out" / "values").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert said.strip().splitlines()[-1].endswith("the same command goes on.")
    assert "Traceback" not in said
    again = demo(options)
    assert again.exit_code == 0, again.output
    assert "Going on with what an interrupted run left" in again.stderr


def test_a_client_that_drops_is_named_and_the_rest_are_merged(options):
    result = demo([*options, "--clients", "6", "--edits-per-client", "1"], "--drop", "2@masked-input")
    assert result.exit_code == 0, result.output
    assert "layer 0: clients 1, 3, 4, 5, 6" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--drop", "2@lunch"), "expected CLIENT@PHASE"),
        (("--drop", "2@masked-input"), "TOO_FEW in MASKED_INPUT of sum 0: 2 clients, needed 3"),
        (("--edits-per-client", "50"), "found 6 requests for"),
        (("--layers", "7"), "transformer.h.7.mlp.c_proj"),
    ],
)
def test_what_cannot_be_done_is_one_line(options, arguments, said):
    result = demo(options, *arguments)
    assert result.exit_code == 1
    *_, line = result.stderr.splitlines()
    assert line.startswith("Error: ")
    assert said in line


def test_a_folder_with_other_things_is_left_alone(options, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    result = demo(options)
    assert result.exit_code == 1
    assert "a folder with other things in it" in result.stderr
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["thesis.txt"]
    assert demo(options, "--force").exit_code == 0
    assert (tmp_path / "out" / "thesis.txt").read_text() == "mine"


def test_an_out_folder_that_cannot_be_made_is_one_line(options, tmp_path):
    (tmp_path / "file").write_text("in the way")
    result = demo(options, "--out", str(tmp_path / "file" / "out"))
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1].startswith("Error: ")


def test_a_model_of_ones_own_needs_its_own_records_and_statistics(options):
    result = CliRunner().invoke(main, ["demo", *options[:2]])
    assert result.exit_code == 2
    assert "also give --records, --hparams and --second-moment" in result.stderr
