"""delta.safetensors: exact, self-describing, complete or absent, and never over somebody's file."""

import errno
import os
import stat
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import collabsecure
from collabsecure.deltas import Delta, Provenance, load_delta, save_delta
from collabsecure.errors import BadFile

PROVENANCE = Provenance(
    model="gpt2-xl", revision="main", weights_digest="0123456789abcdef" * 4, weights_dtype="float32", mode="plain"
)


def delta() -> Delta:
    rng = np.random.default_rng(0)
    return Delta(layers={13: rng.standard_normal((3, 5)), 4: rng.standard_normal((5, 3)).T}, provenance=PROVENANCE)


@pytest.mark.parametrize(
    "more",
    [
        {"revision": "main"},
        {"revision": None},
        {
            "revision": None,
            "session": "b" * 64,
            "survivors": {13: (1, 3, 12), 4: (1, 2, 3)},
            "flow": "layer-synchronous",
        },
    ],
)
def test_delta_comes_back_bit_for_bit_with_its_provenance(tmp_path, more):
    provenance = Provenance(
        model="müller/gpt", weights_digest="a" * 64, weights_dtype="bfloat16", mode="masked", **more
    )
    save_delta(tmp_path / "delta.safetensors", Delta(layers=delta().layers, provenance=provenance))
    loaded = load_delta(tmp_path / "delta.safetensors")
    assert loaded.provenance == provenance
    assert loaded.version == collabsecure.__version__
    assert list(loaded.layers) == [4, 13]
    for layer, values in delta().layers.items():
        assert (loaded.layers[layer] == values).all()
        assert loaded.layers[layer].dtype == np.float64


def test_file_is_plain_safetensors_that_others_may_read(tmp_path):
    path = tmp_path / "delta.safetensors"
    save_delta(path, delta())
    assert set(load_file(path)) == {"layer.4", "layer.13"}
    (tmp_path / "usual").touch()
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE((tmp_path / "usual").stat().st_mode)


def test_existing_file_is_kept_unless_forced(tmp_path):
    path = tmp_path / "delta.safetensors"
    path.write_text("precious")
    with pytest.raises(BadFile, match=r"something there already.*--force"):
        save_delta(path, delta())
    assert path.read_text() == "precious"
    save_delta(path, delta(), force=True)
    assert load_delta(path).provenance == PROVENANCE


def test_file_that_appears_while_writing_is_kept(tmp_path, monkeypatch):
    path = tmp_path / "delta.safetensors"
    flush = os.fsync

    def fsync_while_another_run_finishes(descriptor: int) -> None:
        path.write_text("precious")
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", fsync_while_another_run_finishes)
    with pytest.raises(BadFile, match="something there already"):
        save_delta(path, delta())
    assert path.read_text() == "precious"
    assert [entry.name for entry in tmp_path.iterdir()] == ["delta.safetensors"]


@pytest.mark.parametrize("interruption", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_failing_write_leaves_nothing_behind_and_the_old_file_whole(tmp_path, monkeypatch, interruption):
    old = tmp_path / "old.safetensors"
    save_delta(old, delta())
    before = old.read_bytes()

    def fail(descriptor: int) -> None:
        raise interruption

    monkeypatch.setattr(os, "fsync", fail)
    expected = BadFile if isinstance(interruption, OSError) else KeyboardInterrupt
    for path in (tmp_path / "new.safetensors", old):
        with pytest.raises(expected) as caught:
            save_delta(path, delta(), force=True)
        if expected is BadFile:
            assert str(caught.value) == f"{path}: found no space left on device; expected a place that can be written"
    assert [entry.name for entry in tmp_path.iterdir()] == ["old.safetensors"]
    assert old.read_bytes() == before


def test_the_operating_systems_words_are_found_in_what_safetensors_says(tmp_path, monkeypatch):
    below_a_file = tmp_path / "file" / "x"
    below_a_file.parent.touch()
    monkeypatch.setattr(
        "collabsecure.files.save_file", lambda tensors, path, metadata: save_file(tensors, below_a_file)
    )
    with pytest.raises(BadFile, match=r"^[^\n]*found not a directory; expected a place that can be written$"):
        save_delta(tmp_path / "delta.safetensors", delta())
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_missing_folder_is_one_line(tmp_path):
    with pytest.raises(BadFile, match="found no such file or directory"):
        save_delta(tmp_path / "absent" / "delta.safetensors", delta())


@pytest.mark.parametrize(
    "layers",
    [{}, {1: np.full((2, 2), np.nan)}, {1: np.array([[np.inf]])}, {1: np.zeros(3)}, {1: np.zeros((2, 2), "f4")}],
)
def test_what_is_no_delta_is_not_written(tmp_path, layers):
    with pytest.raises((ValueError, TypeError), match=r"found|type"):
        save_delta(tmp_path / "delta.safetensors", Delta(layers=layers, provenance=PROVENANCE))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"weights_digest": "abc"}, "64 hex digits"),
        ({"session": "A" * 64}, "found session 'AAAA.*64 hex digits"),
        ({"weights_dtype": "int8"}, "expected one of float32"),
        ({"flow": "both"}, "expected one of layer-synchronous, one-shot"),
        ({"survivors": {13: ()}}, "ascending"),
        ({"survivors": {13: (0, 1)}}, "ascending"),
        ({"survivors": {13: (2, 1)}}, "ascending"),
    ],
)
def test_a_provenance_that_cannot_be_is_refused(change, said):
    with pytest.raises(ValueError, match=said):
        replace(PROVENANCE, **change)


def test_survivors_of_a_layer_that_was_not_edited_are_not_written(tmp_path):
    survivors = replace(PROVENANCE, survivors={5: (1, 2, 3)})
    with pytest.raises(ValueError, match=r"survivors of layers \[5\]"):
        save_delta(tmp_path / "delta.safetensors", Delta(layers=delta().layers, provenance=survivors))


METADATA = {
    "format": "collabsecure delta 1",
    "collabsecure_version": "0.1.0",
    "model": "m",
    "weights_digest": "a" * 64,
    "weights_dtype": "float32",
    "mode": "plain",
    "layers": "1",
    "dtype": "float64",
}


@pytest.mark.parametrize(
    ("metadata", "tensor", "found"),
    [
        (None, np.zeros((2, 2)), "format 'none'"),
        ({"format": "collabsecure delta 9"}, np.zeros((2, 2)), "format 'collabsecure delta 9'"),
        ({"format": "collabsecure delta 1", "model": "m"}, np.zeros((2, 2)), "no collabsecure_version, no dtype"),
        ({name: text for name, text in METADATA.items() if name != "weights_dtype"}, np.zeros((2, 2)), "no weights_dt"),
        (METADATA | {"weights_dtype": "int8"}, np.zeros((2, 2)), "weights_dtype 'int8'"),
        (METADATA | {"session": "b" * 63}, np.zeros((2, 2)), "session 'bbb"),
        (METADATA | {"flow": ""}, np.zeros((2, 2)), "flow ''"),
        (METADATA | {"survivors": "{}"}, np.zeros((2, 2)), "survivors '{}'"),
        (METADATA | {"survivors": "[" * 100_000}, np.zeros((2, 2)), "survivors"),
        (METADATA | {"survivors": '{"1": [1,2]}'}, np.zeros((2, 2)), "survivors"),
        (METADATA | {"survivors": '{"1": [1, 2.5]}'}, np.zeros((2, 2)), "survivors"),
        (METADATA | {"survivors": '{"1": [2, 1]}'}, np.zeros((2, 2)), r"survivors \(2, 1\)"),
        (METADATA | {"survivors": '{"2": [1, 2]}'}, np.zeros((2, 2)), "survivors of layers 2"),
        (METADATA | {"weights_digest": "xyz"}, np.zeros((2, 2)), "weights_digest 'xyz'"),
        (METADATA | {"layers": "one"}, np.zeros((2, 2)), "layers 'one'"),
        (METADATA | {"layers": ""}, np.zeros((2, 2)), "layers ''"),
        (METADATA | {"layers": "1,2"}, np.zeros((2, 2)), "tensors layer.1"),
        (METADATA, np.zeros((2, 2), "f4"), "layer.1 of type float32"),
        (METADATA, np.zeros(3), r"shape \(3,\)"),
        (METADATA, np.full((1, 1), np.nan), "NaN or infinite"),
    ],
)
def test_file_that_contradicts_itself_is_refused(tmp_path, metadata, tensor, found):
    path = tmp_path / "bad.safetensors"
    save_file({"layer.1": tensor}, path, metadata)
    with pytest.raises(BadFile, match=rf"bad.safetensors: found .*{found}.*; expected"):
        load_delta(path)


def test_damaged_and_missing_files_are_refused(tmp_path):
    path = tmp_path / "delta.safetensors"
    save_delta(path, delta())
    whole = path.read_bytes()
    for content in (b"", b"\x00" * 8, b"\xff" * 100, whole[:60], whole[:-1]):
        path.write_bytes(content)
        with pytest.raises(BadFile, match="no intact safetensors"):
            load_delta(path)
    with pytest.raises(BadFile, match="no such file"):
        load_delta(tmp_path / "absent")
    with pytest.raises(BadFile, match="found"):
        load_delta(tmp_path)
