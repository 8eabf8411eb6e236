"""A state folder keeps what it was given: through kills, full disks, damage, and a second process."""

import errno
import os
import stat
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from file_operations import OPERATIONS

from collabsecure.errors import BadFile
from collabsecure_cli import folder as module
from collabsecure_cli.folder import Records, StateFolder

RECORDS = [b"first", b"", b"third" * 8, bytes(12), b"last but one", b"the last"]


def records_in(path):
    records = Records(path)
    records.close()
    return records.found


@pytest.fixture
def written(tmp_path):
    """A file of records, and where each of them ends."""
    path, ends = tmp_path / "steps", []
    records = Records(path)
    for record in RECORDS:
        records.append(record)
        ends.append(path.stat().st_size)
    records.close()
    return path, ends


def test_records_come_back_in_order(written):
    path, _ = written
    assert records_in(path) == RECORDS


def test_file_cut_at_any_byte_has_the_records_before_it_and_takes_new_ones(written):
    path, ends = written
    whole = path.read_bytes()
    for length in range(len(whole) + 1):
        path.write_bytes(whole[:length])
        expected = [record for record, end in zip(RECORDS, ends, strict=True) if end <= length]
        assert records_in(path) == expected
        records = Records(path)
        records.append(b"new")
        records.close()
        assert records_in(path) == [*expected, b"new"]


def test_flipped_bit_anywhere_but_in_the_last_record_is_damage_and_nothing_is_thrown_away(written):
    path, ends = written
    whole = path.read_bytes()
    for at in range(ends[-2]):
        for bit in (0, 7):
            damaged = bytearray(whole)
            damaged[at] ^= 1 << bit
            path.write_bytes(damaged)
            with pytest.raises(BadFile, match="damaged record at byte"):
                Records(path)
            assert path.read_bytes() == damaged


def test_damage_in_the_last_record_is_what_a_crash_can_do(written):
    path, ends = written
    whole = path.read_bytes()
    for at in range(ends[-2], len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1 :])
        assert records_in(path) == RECORDS[:-1]
    for tail in (bytes(1), bytes(300), b"\xff" * 300):
        path.write_bytes(whole + tail)
        assert records_in(path) == RECORDS


def failing(number):
    def fail(*_):
        raise OSError(number, os.strerror(number))

    return fail


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
def test_record_that_the_disk_does_not_take_is_an_error_and_is_not_written_later(tmp_path, monkeypatch, number):
    records = Records(tmp_path / "steps")
    records.append(b"kept")
    with monkeypatch.context() as patch, pytest.raises(BadFile, match=os.strerror(number)[1:]):
        patch.setattr(os, "fsync", failing(number))
        records.append(b"lost?")
    size = (tmp_path / "steps").stat().st_size
    records.close()
    assert (tmp_path / "steps").stat().st_size == size
    assert records_in(tmp_path / "steps")[0] == b"kept"


FULL = textwrap.dedent(
    """
    import resource, signal, sys
    from pathlib import Path
    from collabsecure.errors import BadFile
    from collabsecure_cli.folder import Records, StateFolder
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    folder = Path(sys.argv[1])
    records = Records(folder / "steps")
    records.append(b"kept")
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
    for work in (lambda: records.append(bytes(1000)), lambda: StateFolder(folder).write("state", [bytes(1000)])):
        try:
            work()
        except BadFile as error:
            print(error)
    records.close()
    """
)


def test_record_that_fits_in_part_is_an_error_and_is_dropped(tmp_path):
    """A real limit, and not a patched function: files of this process may have 100 bytes."""
    StateFolder(tmp_path).write("state", [b"old"])
    ran = subprocess.run([sys.executable, "-W", "error", "-c", FULL, tmp_path], capture_output=True, text=True)
    assert ran.stderr == ""
    lines = ran.stdout.splitlines()
    assert len(lines) == 2
    assert all(line.endswith("file too large; expected a place that can be written") for line in lines)
    assert (tmp_path / "steps").stat().st_size == 100
    assert records_in(tmp_path / "steps") == [b"kept"]
    assert (tmp_path / "state").read_bytes() == b"old"
    assert not list(tmp_path.glob(".*.part"))


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_file_that_the_disk_does_not_take_stays_the_old_one(tmp_path, monkeypatch, call):
    folder = StateFolder(tmp_path)
    folder.write("state", [b"old"])
    with monkeypatch.context() as patch, pytest.raises(BadFile, match="no space left on device"):
        patch.setattr(os, call, failing(errno.ENOSPC))
        folder.write("state", [b"new"])
    assert folder.read("state") == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["state"]


def test_file_is_the_old_one_or_the_new_one_at_every_moment(tmp_path, monkeypatch):
    folder, seen = StateFolder(tmp_path), []
    folder.write("state", [b"old"])
    with OPERATIONS.watched(lambda _: seen.append(folder.read("state")), monkeypatch):
        folder.write("state", [b"n", memoryview(b"ew")])
    assert set(seen) == {b"old", b"new"}
    assert seen == sorted(seen, reverse=True)
    assert folder.read("state") == b"new"


def test_what_a_killed_process_was_writing_is_swept_when_the_folder_is_opened(tmp_path):
    with StateFolder.opened(tmp_path / "state") as folder:
        folder.folder("inside")
    for place in (tmp_path / "state", tmp_path / "state" / "inside"):
        (place / ".client.0badcafe.part").write_bytes(b"half")
    with StateFolder.opened(tmp_path / "state") as folder:
        folder.folder("inside")
    assert not list((tmp_path / "state").rglob(".*"))


def test_folder_is_for_its_owner_alone(tmp_path):
    (tmp_path / "state").mkdir(mode=0o755)
    with StateFolder.opened(tmp_path / "state"):
        assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o700
    with StateFolder.opened(tmp_path / "new" / "deep"):
        assert stat.S_IMODE((tmp_path / "new" / "deep").stat().st_mode) == 0o700


HOLDER = """
import sys, time
from pathlib import Path
from collabsecure_cli.folder import StateFolder
with StateFolder.opened(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_second_process_is_refused_until_the_first_is_killed(tmp_path):
    with subprocess.Popen([sys.executable, "-c", HOLDER, tmp_path], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(BadFile, match="found another process at work in this state folder"):
            StateFolder.opened(tmp_path).__enter__()
        holder.kill()
        holder.wait()
        with StateFolder.opened(tmp_path):
            pass


def test_error_of_the_work_inside_is_not_mistaken_for_a_second_process(tmp_path):
    """A full pipe on standard output raises the same type as a lock that is taken."""
    with pytest.raises(BlockingIOError), StateFolder.opened(tmp_path):
        raise BlockingIOError(errno.EAGAIN, "full pipe")


def test_file_system_without_locks_is_said_to_be_one(tmp_path, monkeypatch):
    monkeypatch.setattr(module.fcntl, "flock", failing(errno.ENOLCK))
    with pytest.raises(BadFile, match=f"{tmp_path}/lock: found no locks available"):
        StateFolder.opened(tmp_path).__enter__()


@pytest.mark.parametrize("what", ["a file in the way", "a file above"])
def test_folder_that_cannot_be_made_is_named(tmp_path, what):
    (tmp_path / "state").write_text("a file")
    path = tmp_path / "state" if what == "a file in the way" else tmp_path / "state" / "below"
    with pytest.raises(BadFile, match=f"{path}: found"):
        StateFolder.opened(path).__enter__()


def test_folder_of_a_read_only_disk_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "chmod", failing(errno.EROFS))
    with pytest.raises(BadFile, match="read-only file system; expected a place that can be written"):
        StateFolder.opened(tmp_path).__enter__()


def test_place_that_is_no_file_is_named_when_it_is_read_or_written(tmp_path):
    folder = StateFolder(tmp_path)
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "x").touch()
    for work in (
        lambda: folder.read("state"),
        lambda: folder.write("state", [b"x"]),
        lambda: folder.remove("state"),
        lambda: Records(tmp_path / "state"),
        lambda: Records(tmp_path / "absent" / "steps"),
    ):
        with pytest.raises(BadFile, match=f"{tmp_path}"):
            work()
    assert folder.read("absent") is None
    folder.remove("absent")


def test_a_copy_of_what_is_inside_is_private_too(tmp_path):
    """A backup may leave out the folder whose mode protects all."""
    with StateFolder.opened(tmp_path / "state") as folder:
        inside = folder.folder("inside")
        inside.write("secret", [b"x"])
    assert stat.S_IMODE((tmp_path / "state" / "inside").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "state" / "inside" / "secret").stat().st_mode) == 0o600
