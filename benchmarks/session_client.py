"""One client of `benchmarks.session`, in a process of its own: the real participant over the real connection.

`python -m benchmarks.session_client FOLDER SHAPE NUMBER URL`; SHAPE is JSON. Prints what it measured, as JSON.
"""

import hashlib
import json
import os
import socket
import stat
import struct
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from benchmarks.network import identity
from benchmarks.processes import memory
from benchmarks.session_world import CERTIFICATE, SESSION, Shape, statistics
from collabsecure.agreement import Agreement
from collabsecure_cli.connection import Connection
from collabsecure_cli.folder import StateFolder
from collabsecure_cli.ledger import EditLedger
from collabsecure_cli.lines import Endpoint
from collabsecure_cli.participant import Participant, Progress
from collabsecure_cli.results import Results
from collabsecure_cli.session import load_session
from collabsecure_protocols import Policy

# Where Linux's struct tcp_info has what.
_TCP_INFO_BYTES, _RECEIVED_AT, _SENT_AT, _SENT_AGAIN_AT = 256, 128, 200, 208
_COUNTED = 16  # chunks between two looks, which take a third of a millisecond


class Diary:
    """When what began and ended, and the CPU time by then."""

    def __init__(self) -> None:
        self.entries: list[tuple[str, float, float]] = []

    def note(self, what: str) -> None:
        """Something begins or ends now."""
        self.entries.append((what, time.monotonic(), time.process_time()))


class RandomEdits:
    """`participant.Contribution` without a model."""

    def __init__(self, shape: Shape, number: int, diary: Diary) -> None:
        self._shape, self._number, self._diary = shape, number, diary
        self.edits = [hashlib.sha256(f"{number} {edit}".encode()).digest() for edit in range(shape.edits)]

    def statistics(self, sum_index: int) -> Iterator[tuple[str, np.ndarray]]:
        """A sum's tensors."""
        layers = self._shape.layer_numbers
        self._diary.note("statistics")
        summed = layers if self._shape.flow == "one-shot" else layers[sum_index : sum_index + 1]
        yield from statistics(self._shape, self._number, summed)
        self._diary.note("upload")

    def apply(self, deltas: Mapping[int, np.ndarray]) -> None:
        """There is no model to add them to."""
        self._diary.note("applied")


class CountedConnection(Connection):
    """The real connection, and what the kernel says that its sockets have carried, HTTP and TLS included.

    TCP's own headers are not in it, nor what it repeats: on a busy machine it does so even on loopback.
    """

    carried: dict[object, tuple[int, int]]  # by the socket's own address: bytes sent, bytes received
    seconds = 0.0  # in uploads, from handing over a chunk to its answer
    cpu = 0.0  # seconds of them
    chunks = 0
    diary: Diary
    is_uploading = False

    def upload(self, sum_index: int, offset: int, chunk: bytes | bytearray) -> None:
        """Send a chunk."""
        if not self.is_uploading:
            self.is_uploading = True
            self.diary.note("first chunk")
        start, used = time.monotonic(), time.thread_time()
        super().upload(sum_index, offset, chunk)
        self.seconds += time.monotonic() - start
        self.cpu += time.thread_time() - used
        self.chunks += 1
        if self.chunks % _COUNTED == 1:
            self.count()

    def message(self, number: int) -> bytes:
        """Wait for a message."""
        try:
            return super().message(number)
        finally:
            self.count()

    def layer(self, layer: int, num_bytes: int) -> bytearray:
        """Fetch Δ."""
        try:
            return super().layer(layer, num_bytes)
        finally:
            self.count()

    def close(self) -> None:
        """Hang up."""
        self.count()
        super().close()

    def count(self) -> None:
        """Look at all sockets before the connection pool may close one."""
        for entry in Path("/proc/self/fd").iterdir():
            try:
                if not stat.S_ISSOCK(entry.stat().st_mode):
                    continue
                with socket.socket(fileno=os.dup(int(entry.name))) as found:
                    if found.family == socket.AF_INET and found.type == socket.SOCK_STREAM:
                        info = found.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
                        sent, again, received = (
                            struct.unpack_from("=Q", info, at)[0] for at in (_SENT_AT, _SENT_AGAIN_AT, _RECEIVED_AT)
                        )
                        self.carried[found.getsockname()] = sent - again, received
            except OSError:  # closed meanwhile
                continue


def main() -> None:
    folder, shape, number, url = Path(sys.argv[1]), Shape(**json.loads(sys.argv[2])), int(sys.argv[3]), sys.argv[4]
    session, diary = load_session(folder / SESSION), Diary()
    for _ in range(2):  # BLAS's buffers, and what the allocator keeps for such arrays, are in the baseline
        for _ in statistics(shape, number, shape.layer_numbers[:1]):
            pass
    base = memory(os.getpid())["RssAnon"]
    diary.note("start")
    connection = CountedConnection(
        Endpoint(url=url, ca=folder / CERTIFICATE), session, identity(number), patience=60.0, tell=_tell
    )
    connection.carried, connection.diary = {}, diary

    def uploaded(done: int, of: int) -> None:
        if done == of:
            connection.is_uploading = False
            diary.note("uploaded")

    with StateFolder.opened(folder / f"client-{number}.state") as state:
        inside = state.folder(session.transcript.hex()[:32])
        participant = Participant(
            Results(session, Agreement.of(session), inside.folder("results")),
            identity(number),
            RandomEdits(shape, number, diary),
            connection,
            ledger=EditLedger(state),
            folder=inside,
            policy=Policy(),
            rng=os.urandom,
            progress=Progress(say=_tell, uploaded=uploaded),
        )
        participant.run()
    diary.note("end")
    connection.close()
    figures = {
        "entries": diary.entries,
        "base": base,
        "peak": memory(os.getpid())["VmHWM"],
        "in_sums": all(participant.is_in.values()),
        "sent": sum(sent for sent, _ in connection.carried.values()),
        "received": sum(received for _, received in connection.carried.values()),
        "bodies": connection.bytes_sent,
        "seconds_in_requests": connection.seconds,
        "cpu_in_requests": connection.cpu,
    }
    print(json.dumps(figures))


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
