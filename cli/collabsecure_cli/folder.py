"""A state folder: one process at a time writes it, and a crash at any moment leaves it readable.

Whatever a party will need after a crash is on the disk before anybody hears of it: a file is written beside its name,
flushed, and only then takes the name; records are appended and flushed one by one.
"""

import fcntl
import hashlib
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from collabsecure.errors import BadFile
from collabsecure.files import complete_or_absent, flush, unreadable, unwritable

_LOCK = "lock"
_LENGTH_BYTES, _CHECK_BYTES = 4, 8  # before each record: its length, and the start of its SHA-256
_HEAD_BYTES = _LENGTH_BYTES + _CHECK_BYTES


class StateFolder:
    """A folder that this process alone may write; only its owner may look into it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    @contextmanager
    def opened(cls, path: Path) -> Iterator["StateFolder"]:
        """Make the folder if need be, and hold its lock.

        Raises:
            BadFile: another process holds it, or it cannot be made.
        """
        try:
            path.mkdir(parents=True, exist_ok=True)
            path.chmod(0o700)
            descriptor = os.open(path / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise unwritable(path, error) from error
        try:
            _lock(descriptor, path)
            folder = cls(path)
            folder._sweep()
            yield folder
        finally:
            os.close(descriptor)  # and with it the lock, which also goes when the process is killed

    def folder(self, name: str) -> "StateFolder":
        """A folder inside, under the same lock; made if need be."""
        path = self.path / name
        try:
            path.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise unwritable(path, error) from error
        inside = StateFolder(path)
        inside._sweep()
        return inside

    def read(self, name: str) -> bytes | None:
        """A file's bytes, or None where there is no such file."""
        try:
            return (self.path / name).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise unreadable(self.path / name, error) from error

    def write(self, name: str, parts: Iterable[bytes | memoryview]) -> None:
        """Replace a file as a whole: after a crash it is the old one or the new one.

        Raises:
            BadFile: the disk would not take it.
        """
        with complete_or_absent(self.path / name, force=True, private=True) as temporary, temporary.open("wb") as file:
            for part in parts:
                file.write(part)

    def remove(self, name: str) -> None:
        """Delete a file, if it is there."""
        try:
            (self.path / name).unlink(missing_ok=True)
        except OSError as error:
            raise unwritable(self.path / name, error) from error

    def _sweep(self) -> None:
        """What a killed process was writing when it died."""
        for path in self.path.glob(".*.part"):
            self.remove(path.name)


class Records:
    """A file of records; each is on the disk once `append` returns. A last one that a crash cut short is dropped.

    Raises:
        BadFile: a record in the middle is damaged, which no crash can do; or the disk would not read or write.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.found: list[bytes] = []  # what was there
        try:
            data = path.read_bytes() if path.exists() else b""
        except OSError as error:
            raise unreadable(path, error) from error
        end = 0
        while (record := self._record(data, end)) is not None:
            self.found.append(record)
            end += _HEAD_BYTES + len(record)
        if end < len(data) and _ends_with_a_record(data, end + 1):
            raise BadFile(
                path, found=f"a damaged record at byte {end}", expected="what was written", remedy="The disk is bad"
            )
        try:
            self._file = path.open("ab", buffering=0)  # what failed is not tried again behind our back
            self._file.truncate(end)
            flush(path.parent)  # a new file's name, too, survives a power cut
        except OSError as error:
            raise unwritable(path, error) from error

    def _record(self, data: bytes, start: int) -> bytes | None:
        """The record that starts here; None where it is cut short or damaged."""
        head = data[start : start + _HEAD_BYTES]
        length = int.from_bytes(head[:_LENGTH_BYTES], "big")
        body = data[start + _HEAD_BYTES : start + _HEAD_BYTES + length]
        whole = len(head) == _HEAD_BYTES and len(body) == length
        return body if whole and _check(body) == head[_LENGTH_BYTES:] else None

    def append(self, record: bytes) -> None:
        """Write one record and wait until the disk has it.

        Raises:
            BadFile: the disk would not take it.
        """
        left = memoryview(len(record).to_bytes(_LENGTH_BYTES, "big") + _check(record) + record)
        try:
            while left:
                left = left[self._file.write(left) :]
            os.fsync(self._file.fileno())
        except OSError as error:
            raise unwritable(self.path, error) from error

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()


def _lock(descriptor: int, path: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise BadFile(
            path,
            found="another process at work in this state folder",
            expected="none",
            remedy="Wait for it or end it; two at once would break the session",
        ) from error
    except OSError as error:  # a network's file system without locks
        raise unwritable(path / _LOCK, error) from error


def _ends_with_a_record(data: bytes, start: int) -> bool:
    """Whether a whole record, from `start` on, ends where the data end: then what is before it was once whole, too."""
    for at in range(start, len(data) - _HEAD_BYTES + 1):
        length, body_at = int.from_bytes(data[at : at + _LENGTH_BYTES], "big"), at + _HEAD_BYTES
        if body_at + length == len(data) and _check(data[body_at:]) == data[at + _LENGTH_BYTES : body_at]:
            return True
    return False


def _check(record: bytes) -> bytes:
    return hashlib.sha256(record).digest()[:_CHECK_BYTES]
