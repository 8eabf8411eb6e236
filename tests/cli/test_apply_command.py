"""`collabsecure apply`: on the right weights alone, undone bit for bit, never over other files."""

import json
import shutil
import sys
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import load_file
from safetensors.torch import load_file as load_torch
from safetensors.torch import save_file

from collabsecure.deltas import Delta, Provenance, load_delta, save_delta
from collabsecure.layers import EditableModel
from collabsecure_cli.apply import ORIGINALS
from collabsecure_cli.main import main

WEIGHTS = {f"transformer.h.{layer}.mlp.c_proj.weight" for layer in (0, 2)}


@pytest.fixture
def folder(tiny_editable, tmp_path):
    """A model, and an edit of it that rounding would not let W − Δ undo."""
    tiny_editable.save(tmp_path / "model")
    rng = np.random.default_rng(0)
    layers = {layer: 100 * rng.standard_normal((32, 128)) for layer in (0, 2)}
    provenance = Provenance(
        model="tiny",
        revision=None,
        weights_digest=tiny_editable.weights_digest([0, 2]),
        weights_dtype="float32",
        mode="masked",
    )
    save_delta(tmp_path / "delta.safetensors", Delta(layers=layers, provenance=provenance))
    return tmp_path


def apply(folder, model, out, *more):
    options = ["--model", str(folder / model), "--delta", str(folder / "delta.safetensors"), "--device", "cpu"]
    return CliRunner().invoke(main, ["apply", *options, "--out", str(folder / out), *map(str, more)])


def files(path):
    return {file.relative_to(path): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def assert_one_line(result, *parts):
    assert result.exit_code == 1, result.output
    line = result.stderr.splitlines()[-1]
    assert line.startswith("Error: ")
    assert all(part in line for part in parts), line
    assert "Traceback" not in result.output


def test_an_edit_is_applied_to_its_layers_alone_and_taken_out_bit_for_bit(folder, tiny_editable):
    result = apply(folder, "model", "edited")
    assert result.exit_code == 0, result.output
    assert "Next: collabsecure evaluate" in result.stdout
    before, after = (load_file(folder / name / "model.safetensors") for name in ("model", "edited"))
    assert {name for name in before if (before[name] != after[name]).any()} == WEIGHTS
    with tiny_editable.apply(load_delta(folder / "delta.safetensors").layers):
        expected = tiny_editable.weights_digest()
    assert EditableModel.load(str(folder / "edited"), device="cpu").weights_digest() == expected

    result = apply(folder, "edited", "original", "--revert")
    assert result.exit_code == 0, result.output
    assert "bit for bit" in result.stdout
    again = load_file(folder / "original" / "model.safetensors")
    assert before.keys() == again.keys()
    assert all(before[name].tobytes() == again[name].tobytes() for name in before)
    assert not (folder / "original" / ORIGINALS).exists()


def test_results_come_as_json(folder, tiny_editable):
    found = json.loads(apply(folder, "model", "edited", "--json").stdout)
    assert (found["reverted"], found["layers"]) == (False, [0, 2])
    found = json.loads(apply(folder, "edited", "original", "--revert", "--json").stdout)
    assert found["weights_digest"] == tiny_editable.weights_digest([0, 2])
    assert found["reverted"]


def test_other_weights_are_refused_before_anything_with_both_digests(folder, tiny_editable):
    assert apply(folder, "model", "edited").exit_code == 0
    result = apply(folder, "edited", "twice")
    expected = tiny_editable.weights_digest([0, 2])
    found = EditableModel.load(str(folder / "edited"), device="cpu").weights_digest([0, 2])
    assert_one_line(result, found, expected)
    assert not (folder / "twice").exists()


def test_without_the_originals_an_edit_that_rounding_hides_is_refused(folder):
    assert apply(folder, "model", "edited").exit_code == 0
    (folder / "edited" / ORIGINALS).unlink()
    assert_one_line(apply(folder, "edited", "original", "--revert"), "W − Δ", "Use the original model, tiny")
    assert not (folder / "original").exists()


def test_without_the_originals_an_edit_that_rounding_leaves_alone_is_undone(folder, tiny_editable):
    delta = load_delta(folder / "delta.safetensors")
    exact = {layer: np.zeros_like(values) for layer, values in delta.layers.items()}
    for layer in exact:  # a power of two times the weight: added and subtracted without rounding
        exact[layer][3, 5] = float(tiny_editable.weight(layer)[3, 5])
    save_delta(folder / "delta.safetensors", Delta(layers=exact, provenance=delta.provenance), force=True)
    assert apply(folder, "model", "edited").exit_code == 0
    (folder / "edited" / ORIGINALS).unlink()
    result = apply(folder, "edited", "original", "--revert")
    assert result.exit_code == 0, result.output
    digest = EditableModel.load(str(folder / "original"), device="cpu").weights_digest()
    assert digest == tiny_editable.weights_digest()


def test_originals_of_another_edit_or_damaged_are_refused(folder):
    assert apply(folder, "model", "edited").exit_code == 0
    path = folder / "edited" / ORIGINALS
    whole, tensors = path.read_bytes(), load_torch(path)
    path.write_bytes(whole[:-4])
    assert_one_line(apply(folder, "edited", "original", "--revert"), "no intact safetensors")
    save_file(tensors, path, {"format": "other"})
    assert_one_line(apply(folder, "edited", "original", "--revert"), "found format 'other'")
    path.write_bytes(whole)
    delta = load_delta(folder / "delta.safetensors")
    other = Delta(layers={layer: values + 1 for layer, values in delta.layers.items()}, provenance=delta.provenance)
    save_delta(folder / "delta.safetensors", other, force=True)
    assert_one_line(apply(folder, "edited", "original", "--revert"), "of before another edit")
    assert not (folder / "original").exists()


def test_originals_that_were_tampered_with_do_not_pass_for_the_original(folder):
    assert apply(folder, "model", "edited").exit_code == 0
    path = folder / "edited" / ORIGINALS
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert_one_line(apply(folder, "edited", "original", "--revert"), f"those of {ORIGINALS}")
    assert not (folder / "original").exists()


@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
def test_the_model_is_loaded_in_the_type_that_the_edit_was_made_in(folder, tiny_editable, dtype):
    import torch

    tiny_editable.model.to(getattr(torch, dtype))
    delta = load_delta(folder / "delta.safetensors")
    digest = tiny_editable.weights_digest([0, 2])
    provenance = replace(delta.provenance, weights_digest=digest, weights_dtype=dtype)
    save_delta(folder / "delta.safetensors", Delta(layers=delta.layers, provenance=provenance), force=True)
    assert apply(folder, "model", "edited").exit_code == 0
    assert apply(folder, "edited", "original", "--revert").exit_code == 0
    original = EditableModel.load(str(folder / "original"), device="cpu", dtype=getattr(torch, dtype))
    assert original.weights_digest([0, 2]) == digest


def test_somebodys_folder_is_left_alone_and_a_model_replaced_with_force_only(folder, tmp_path):
    thesis = folder / "out" / "thesis.txt"
    thesis.parent.mkdir()
    thesis.write_text("mine")
    assert_one_line(apply(folder, "model", "out"), "something there already", "--force")
    assert_one_line(apply(folder, "model", "out", "--force"), "something that is no model")
    assert files(folder / "out") == {thesis.relative_to(folder / "out"): b"mine"}
    before = files(folder / "model")
    assert_one_line(apply(folder, "model", "model", "--force"), "the model that is to be read")
    assert files(folder / "model") == before
    shutil.rmtree(folder / "out")
    shutil.copytree(folder / "model", folder / "out")
    assert apply(folder, "model", "out", "--force").exit_code == 0
    assert (folder / "out" / ORIGINALS).exists()


@pytest.mark.parametrize("interruption", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_an_edited_model_is_complete_or_absent(folder, monkeypatch, interruption):
    def fail(path, *_):
        path.write_text("half")
        raise interruption

    monkeypatch.setattr("collabsecure_cli.apply._write_originals", fail)
    before = sorted(folder.iterdir())
    result = apply(folder, "model", "edited")
    assert result.exit_code == (1 if isinstance(interruption, OSError) else 130)
    assert sorted(folder.iterdir()) == before


def test_what_is_no_edit_or_does_not_fit_is_one_line(folder):
    delta = load_delta(folder / "delta.safetensors")
    deep = Delta(layers={7: delta.layers[0]}, provenance=delta.provenance)
    save_delta(folder / "delta.safetensors", deep, force=True)
    assert_one_line(apply(folder, "model", "edited"), "found layer 7")
    (folder / "delta.safetensors").write_text("no")
    assert_one_line(apply(folder, "model", "edited"), "no intact safetensors")


def test_without_pytorch_the_command_says_what_to_install(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    assert_one_line(apply(folder, "model", "edited"), "apply needs the package torch")
