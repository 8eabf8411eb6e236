"""Masked input on its way into a sum: a file for each client, until the last chunk is there."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from collabsecure.errors import BadFile
from collabsecure.files import unwritable


class Staging:
    """Files that are gone when the sum is over; what is in them has passed its checks and is masked."""

    def __init__(self, parent: Path | None) -> None:
        self._parent = parent
        self._folder = Path()
        self._lengths: dict[int, list[int]] = {}  # client → bytes of each chunk that is there

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Have a folder for them, in the parent, or where the system keeps temporary files.

        Raises:
            BadFile: it cannot be made.
        """
        try:
            temporary = tempfile.TemporaryDirectory(prefix="collabsecure-", dir=self._parent)
        except OSError as error:
            raise unwritable(self._parent or Path(tempfile.gettempdir()), error) from error
        with temporary as name:
            self._folder, self._lengths = Path(name), {}
            yield

    def chunks(self, client: int) -> int:
        """How many there are of a client."""
        return len(self._lengths.get(client, ()))

    def append(self, client: int, chunk: bytes) -> None:
        """Add a client's next chunk.

        Raises:
            BadFile: the disk would not take it.
        """
        path = self.path(client)
        try:
            with path.open("ab") as file:
                file.write(chunk)
        except OSError as error:
            raise unwritable(path, error) from error
        self._lengths.setdefault(client, []).append(len(chunk))

    def take(self, client: int) -> Iterator[bytes]:
        """A client's chunks, one after the other; then its file is gone.

        Raises:
            BadFile: the disk has lost them.
        """
        path = self.path(client)
        with path.open("rb") as file:
            for length in self._lengths[client]:
                chunk = file.read(length)
                if len(chunk) < length:
                    raise BadFile(path, found="too few bytes", expected="what was written")
                yield chunk
        path.unlink()

    def path(self, client: int) -> Path:
        """A client's file."""
        return self._folder / f"client-{client}"
