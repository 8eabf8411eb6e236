"""An upload on the aggregator's disk: whole chunks only, whatever became of the file."""

import os

import pytest
from light_session import make_session

from collabsecure.errors import BadFile
from collabsecure_cli.uploads import StagedUpload, boundaries

BOUNDS = (0, 5, 9, 10)
CHUNKS = [b"first", b"seco", b"t"]


def staged(path, chunks=()):
    upload = StagedUpload(path / "upload-0-1", BOUNDS)
    for chunk in chunks:
        upload.append(chunk)
    return upload


def test_boundaries_are_where_messages_begin_and_the_last_is_where_they_end():
    light = make_session(num_clients=3)
    for index, spec in enumerate(light.session.sums):
        bounds = boundaries(light.session, index)
        assert len(bounds) == spec.num_chunks + 1
        values = sum(tensor.num_values for tensor in spec.tensors)
        around = 36 + 38 + 64  # envelope, chunk header and signature, as in secagg.md
        assert bounds[-1] == spec.num_chunks * around + 6 * values  # 48 bits


def test_upload_grows_by_chunks_and_reads_back(tmp_path):
    upload = staged(tmp_path)
    for number, chunk in enumerate(CHUNKS):
        assert (upload.size, upload.is_complete) == (BOUNDS[number], False)
        upload.append(chunk)
    assert upload.is_complete
    assert upload.size == 10
    assert list(upload.read()) == CHUNKS
    upload.discard()
    upload.discard()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("length", range(14))
def test_file_of_any_length_counts_for_its_whole_chunks_and_goes_on_from_there(tmp_path, length):
    (tmp_path / "upload-0-1").write_bytes((b"".join(CHUNKS) + b"more")[:length])
    upload = staged(tmp_path)
    whole = max(number for number, bound in enumerate(BOUNDS) if bound <= length)
    assert (upload.chunks, upload.size) == (whole, BOUNDS[whole])
    for chunk in CHUNKS[whole:]:
        upload.append(chunk)
    assert list(upload.read()) == CHUNKS


def test_upload_that_goes_back_writes_over_what_was_there(tmp_path):
    upload = staged(tmp_path, CHUNKS[:2])
    upload.go_back_to(5)
    assert upload.chunks == 2
    upload.go_back_to(1)
    assert upload.size == 5
    assert list(upload.read()) == CHUNKS[:1]
    upload.append(b"SECO")
    upload.append(b"T")
    assert list(staged(tmp_path).read()) == [b"first", b"SECO", b"T"]


def test_last_chunk_is_on_the_disk_before_it_counts(tmp_path, monkeypatch):
    flushed, fsync = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda descriptor: (flushed.append(upload.chunks), fsync(descriptor)))
    upload = staged(tmp_path)
    upload.append(CHUNKS[0])
    upload.append(CHUNKS[1])
    assert flushed == []
    upload.append(CHUNKS[2])
    assert flushed == [2, 2]  # the file, then its name in the folder


def test_chunk_that_the_disk_does_not_take_does_not_count(tmp_path, monkeypatch):
    upload = staged(tmp_path, CHUNKS[:2])

    def full(_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(BadFile, match="upload-0-1: found no space left on device"):
        patch.setattr(os, "fsync", full)
        upload.append(CHUNKS[2])
    assert not upload.is_complete
    upload.append(CHUNKS[2])
    assert list(upload.read()) == CHUNKS


def test_folder_in_the_way_is_named(tmp_path):
    (tmp_path / "upload-0-1").mkdir()
    upload = StagedUpload(tmp_path / "upload-0-1", (0, 10**9))
    for work in (lambda: upload.append(b"x"), upload.discard):
        with pytest.raises(BadFile, match="upload-0-1: found"):
            work()
    with pytest.raises(BadFile, match="upload-0-1: found"):
        list(upload.read())
