"""A masked input as one resource that is uploaded from some byte on: its messages, end to end.

On the aggregator's disk it is a file that grows by whole, checked messages, so that what a crash or a lost connection
leaves behind can be gone on with.
"""

import os
from bisect import bisect_right
from collections.abc import Iterator
from itertools import accumulate, pairwise
from pathlib import Path

from collabsecure.files import flush, unreadable, unwritable
from collabsecure_protocols import Session
from collabsecure_protocols.envelope import CHUNK_HEADER_BYTES, HEADER_BYTES
from collabsecure_protocols.keys import SIGNATURE_BYTES

OFFSET_HEADER = "Upload-Offset"  # bytes, as in the IETF's draft on resumable uploads
DELTA_CHUNK_BYTES = 1 << 19  # a key holder uploads an update in pieces of so many


def boundaries(session: Session, sum_index: int) -> tuple[int, ...]:
    """Where the chunks of a sum's masked input start, in bytes, and last where it ends."""
    spec = session.sums[sum_index]
    around = HEADER_BYTES + CHUNK_HEADER_BYTES + SIGNATURE_BYTES
    return tuple(accumulate((around + session.chunk_bytes(spec, chunk) for chunk in spec.chunks()), initial=0))


def delta_boundaries(num_bytes: int) -> tuple[int, ...]:
    """Where the pieces of an update of so many bytes start, and last where it ends."""
    return (*range(0, num_bytes, DELTA_CHUNK_BYTES), num_bytes)


class WrongOffset(Exception):
    """An upload goes on at another byte."""

    def __init__(self, offset: int) -> None:
        super().__init__(f"the upload goes on at byte {offset}")
        self.offset = offset


class StagedUpload:
    """What one party has uploaded so far, in a file."""

    def __init__(self, path: Path, bounds: tuple[int, ...]) -> None:
        self.path, self._bounds = path, bounds
        found = path.stat().st_size if path.exists() else 0
        self.chunks = bisect_right(bounds, found) - 1  # whole ones; a crash may have cut the last short

    @property
    def size(self) -> int:
        """Bytes that need not be sent again."""
        return self._bounds[self.chunks]

    @property
    def next_bytes(self) -> int:
        """How long the next chunk is; there must be one."""
        return self._bounds[self.chunks + 1] - self.size

    @property
    def is_complete(self) -> bool:
        """Whether the last chunk is there."""
        return self.chunks == len(self._bounds) - 1

    def append(self, chunk: bytes) -> None:
        """Add the next chunk, which has passed its checks; the last one waits until the disk has everything.

        Raises:
            BadFile: the disk would not take it.
        """
        try:
            with self.path.open("r+b" if self.path.exists() else "w+b") as file:
                file.truncate(self.size)
                file.seek(self.size)
                file.write(chunk)
                if self.chunks + 2 == len(self._bounds):
                    file.flush()
                    os.fsync(file.fileno())
                    flush(self.path.parent)  # the file's name, too, survives a power cut
        except OSError as error:
            raise unwritable(self.path, error) from error
        self.chunks += 1

    def read(self) -> Iterator[bytes]:
        """The chunks that are there, one after the other."""
        try:
            with self.path.open("rb") as file:
                for start, end in pairwise(self._bounds[: self.chunks + 1]):
                    yield file.read(end - start)
        except OSError as error:
            raise unreadable(self.path, error) from error

    def go_back_to(self, chunks: int) -> None:
        """Have no more than the first so many chunks; what is behind them is sent and written again."""
        self.chunks = min(self.chunks, chunks)

    def discard(self) -> None:
        """Forget it."""
        try:
            self.path.unlink(missing_ok=True)
        except OSError as error:
            raise unwritable(self.path, error) from error
