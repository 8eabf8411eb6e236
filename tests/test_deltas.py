"""delta.safetensors: exact, self-describing, complete or absent, and never over somebody's file."""

import errno
import os
import stat

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import collabsecure
from collabsecure.deltas import Delta, Provenance, load_delta, save_delta
from collabsecure.errors import BadFile

PROVENANCE = Provenance(model="gpt2-xl", revision="main", weights_digest="0123456789abcdef" * 4, mode="plain")


def delta() -> Delta:
    rng = np.random.default_rng(0)
    return Delta(layers={13: rng.standard_normal((3, 5)), 4: rng.standard_normal((5, 3)).T}, provenance=PROVENANCE)


@pytest.mark.parametrize("revision", ["main", None])
def test_delta_comes_back_bit_for_bit_with_its_provenance(tmp_path, revision):
    provenance = Provenance(model="müller/gpt", revision=revision, weights_digest="a" * 64, mode="masked")
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


def test_digest_must_be_a_sha256():
    with pytest.raises(ValueError, match="64 hex digits"):
        Provenance(model="m", revision=None, weights_digest="abc", mode="plain")


METADATA = {
    "format": "collabsecure delta 1",
    "collabsecure_version": "0.1.0",
    "model": "m",
    "weights_digest": "a" * 64,
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
