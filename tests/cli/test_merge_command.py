"""`collabsecure merge`: the library's methods on files, of one model's layers alone, never over other files."""

import json
import sys
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner

from collabsecure.deltas import Delta, Provenance, load_delta, save_delta
from collabsecure.merging import simple_average, task_arithmetic, ties
from collabsecure_cli.main import main

PROVENANCE = Provenance(
    model="tiny",
    revision="main",
    weights_digest="ab" * 32,
    weights_dtype="float32",
    mode="masked",
    session="cd" * 32,
    survivors={0: (1, 2, 3), 2: (1, 2, 3)},
    flow="layer-synchronous",
)


def write(folder, name, *, seed=0, shapes=None, **changes):
    rng = np.random.default_rng(seed)
    layers = {layer: rng.standard_normal(shape) for layer, shape in (shapes or {0: (3, 5), 2: (4, 2)}).items()}
    survivors = dict.fromkeys(layers, (1, 2, 3))
    provenance = replace(PROVENANCE, **{"survivors": survivors, **changes})
    save_delta(folder / name, Delta(layers=layers, provenance=provenance))
    return layers


@pytest.fixture
def folder(tmp_path):
    """Three clients' edits of one model."""
    for seed, name in enumerate("abc"):
        write(tmp_path, name, seed=seed)
    return tmp_path


def merge(folder, *more, out="merged", names="abc"):
    """`--method` and the like are in `more`."""
    paths = [str(folder / name) for name in names]
    return CliRunner().invoke(main, ["merge", *map(str, more), "--out", str(folder / out), *paths])


def assert_one_line(result, *parts):
    assert result.exit_code == 1, result.output
    line = result.stderr.splitlines()[-1]
    assert line.startswith("Error: ")
    assert all(part in line for part in parts), line
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    ("options", "mode", "expected"),
    [
        (["simple-average"], "simple-average", simple_average),
        (["task-arithmetic"], "task-arithmetic lambda=1.0", lambda u: task_arithmetic(u, scale=1.0)),
        (["task-arithmetic", "--lambda", "0.4"], "task-arithmetic lambda=0.4", lambda u: task_arithmetic(u, scale=0.4)),
        (["ties"], "ties keep=0.2 lambda=1.0", ties),
        (
            ["ties", "--keep", "0.5", "--lambda", "0.4"],
            "ties keep=0.5 lambda=0.4",
            lambda u: ties(u, keep=0.5, scale=0.4),
        ),
    ],
)
def test_files_merge_as_the_library_merges_updates_and_say_how(folder, options, mode, expected):
    result = merge(folder, "--method", *options)
    assert result.exit_code == 0, result.output
    assert "Next: collabsecure apply" in result.stdout
    merged = load_delta(folder / "merged")
    updates = [load_delta(folder / name).layers for name in "abc"]
    for layer, values in expected(updates).items():
        assert (merged.layers[layer] == values).all()
    assert merged.provenance == replace(PROVENANCE, mode=mode, session=None, survivors={}, flow=None)


def test_one_update_is_merged_with_itself_alone(folder):
    assert merge(folder, "--method", "simple-average", names="b").exit_code == 0
    for layer, values in load_delta(folder / "b").layers.items():
        assert (load_delta(folder / "merged").layers[layer] == values).all()


def test_results_come_as_json_and_options_from_a_file(folder):
    (folder / "merge.toml").write_text('method = "ties"\nkeep = 0.5\nlambda = 0.4\n')
    found = json.loads(merge(folder, "--config", folder / "merge.toml", "--json").stdout)
    norms = {str(n): np.linalg.norm(values) for n, values in load_delta(folder / "merged").layers.items()}
    assert found.pop("norms") == pytest.approx(norms)
    assert found == {
        "out": str(folder / "merged"),
        "mode": "ties keep=0.5 lambda=0.4",
        "updates": 3,
        "layers": [0, 2],
        "weights_digest": "ab" * 32,
    }


def test_a_merged_edit_goes_into_the_model_that_it_is_of(folder, tiny_editable):
    tiny_editable.save(folder / "model")
    digest = tiny_editable.weights_digest([0, 2])
    for name in "xy":
        write(folder, name, seed=ord(name), shapes={0: (32, 128), 2: (32, 128)}, weights_digest=digest)
    assert merge(folder, "--method", "ties", names="xy").exit_code == 0
    options = ["--model", folder / "model", "--delta", folder / "merged", "--out", folder / "edited", "--device", "cpu"]
    result = CliRunner().invoke(main, ["apply", *map(str, options)])
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"weights_digest": "ef" * 32}, ("ef" * 32, "ab" * 32)),
        ({"weights_dtype": "bfloat16"}, ("in bfloat16", "in float32")),
        ({"shapes": {0: (3, 5)}}, ("found layers 0; expected 0,2",)),
        ({"shapes": {0: (3, 5), 2: (2, 4)}}, ("update 4, layer 2: found shape (2, 4); expected (4, 2)",)),
    ],
)
def test_edits_of_something_else_are_refused_with_found_and_expected(folder, changes, parts):
    write(folder, "other", seed=3, **changes)
    result = merge(folder, "--method", "ties", names=["a", "b", "c", "other"])
    assert_one_line(result, *parts)
    assert not (folder / "merged").exists()


def test_one_model_may_have_other_names_where_the_clients_are(folder):
    write(folder, "other", seed=3, model="models/tiny", revision=None)
    assert merge(folder, "--method", "simple-average", names=["a", "other"]).exit_code == 0
    provenance = load_delta(folder / "merged").provenance
    assert (provenance.model, provenance.revision) == ("tiny", None)  # no revision that not all of them name


def test_a_file_that_is_there_is_kept_unless_forced(folder):
    (folder / "merged").write_text("precious")
    assert_one_line(merge(folder, "--method", "ties"), "something there already", "--force")
    assert (folder / "merged").read_text() == "precious"
    assert merge(folder, "--method", "ties", "--force").exit_code == 0
    assert load_delta(folder / "merged").provenance.model == "tiny"


def test_the_folder_to_write_in_is_made(folder):
    assert merge(folder, "--method", "ties", out="new/deep/delta.safetensors").exit_code == 0
    assert_one_line(
        merge(folder, "--method", "ties", out="a/delta.safetensors"), "expected a place that can be written"
    )


def test_what_is_no_edit_is_refused_by_name(folder):
    (folder / "b").write_text("no")
    assert_one_line(merge(folder, "--method", "ties"), str(folder / "b"), "no intact safetensors")
    assert not (folder / "merged").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["simple-average", "--lambda", "1"], "simple-average has none"),
        (["task-arithmetic", "--keep", "0.2"], "task-arithmetic keeps all"),
        (["ties", "--keep", "20"], "0<x<=1"),
        (["ties", "--keep", "nan"], "finite"),
        (["task-arithmetic", "--lambda", "inf"], "finite"),
        (["mean"], "simple-average"),
    ],
)
def test_options_that_are_not_right_end_with_exit_code_2(folder, options, said):
    result = merge(folder, "--method", *options)
    assert result.exit_code == 2
    assert said in result.stderr
    assert not (folder / "merged").exists()


def test_numbers_that_grow_beyond_float64_are_one_line(folder):
    result = merge(folder, "--method", "task-arithmetic", "--lambda", "1e308")
    assert_one_line(result, "infinite entries (task-arithmetic lambda=1e+308)")
    assert not (folder / "merged").exists()


def test_help_says_what_each_method_is_and_what_none_of_them_is():
    told = " ".join(CliRunner().invoke(main, ["merge", "--help"]).output.split())
    assert "the mean of the updates" in told
    assert "λ times their sum" in told
    assert "None of them is what `collabsecure aggregate` does" in told


def test_merging_needs_no_pytorch(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    assert merge(folder, "--method", "ties").exit_code == 0
