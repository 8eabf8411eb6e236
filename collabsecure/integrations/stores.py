"""Where a node keeps what must outlive its process: a few named files, each whole or not there."""

import fcntl
import mmap
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol, runtime_checkable

from collabsecure.errors import BadFile
from collabsecure.files import complete_or_absent, unreadable, unwritable


@runtime_checkable
class Store(Protocol):
    """Keeps named bytes for one node alone. Names are letters, digits and hyphens."""

    def read(self, name: str) -> bytes | memoryview | None:
        """What was written under that name last, or None."""

    def write(self, name: str, parts: Iterable[bytes | memoryview]) -> None:
        """Replace it as a whole: after a crash it is the old or the new one. It lasts when this returns."""

    def remove(self, name: str) -> None:
        """Forget it, if it is there."""


class MemoryStore:
    """A store that ends with its process."""

    def __init__(self) -> None:
        self._files: dict[str, bytes] = {}

    def __repr__(self) -> str:
        return f"MemoryStore({len(self._files)} files)"

    def read(self, name: str) -> bytes | None:
        """What was written."""
        return self._files.get(name)

    def write(self, name: str, parts: Iterable[bytes | memoryview]) -> None:
        """Replace it."""
        self._files[name] = b"".join(parts)

    def remove(self, name: str) -> None:
        """Forget it."""
        self._files.pop(name, None)


class FolderStore:
    """A folder that only its owner may look into; one process at a time has it, until `close` or its end.

    Raises:
        BadFile: another process has it, or it cannot be made.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.chmod(0o700)
            self._lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise unwritable(path, error) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._lock)
            raise BadFile(
                path,
                found="another process at work in this folder",
                expected="none",
                remedy="Wait for it or end it; two at once would break the session",
            ) from error
        for unfinished in path.glob(".*.part"):  # what a process was writing when it was killed
            unfinished.unlink(missing_ok=True)

    def __repr__(self) -> str:
        return f"FolderStore({str(self.path)!r})"

    def read(self, name: str) -> memoryview | None:
        """What was written, mapped from the disk: hundreds of megabytes of it need not be in memory."""
        try:
            with (self.path / name).open("rb") as file:
                empty = os.fstat(file.fileno()).st_size == 0
                return memoryview(b"" if empty else mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise unreadable(self.path / name, error) from error

    def write(self, name: str, parts: Iterable[bytes | memoryview]) -> None:
        """Replace it."""
        with complete_or_absent(self.path / name, force=True, private=True) as temporary, temporary.open("wb") as file:
            for part in parts:
                file.write(part)

    def remove(self, name: str) -> None:
        """Forget it."""
        try:
            (self.path / name).unlink(missing_ok=True)
        except OSError as error:
            raise unwritable(self.path / name, error) from error

    def close(self) -> None:
        """Let go of the folder."""
        os.close(self._lock)
