"""One session on loopback with TLS: starts the aggregator and the clients, watches them, and keeps what was seen."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from benchmarks.processes import INTERVAL, Look, cores_seconds, disk_bytes, look
from benchmarks.session_world import (
    CERTIFICATE,
    CERTIFICATE_KEY,
    SERVER_KEY,
    SESSION,
    STATS,
    WEIGHT,
    Shape,
    plain_sum,
    write_world,
)
from collabsecure.deltas import load_delta
from collabsecure.merge import merge_delta
from collabsecure.statistics import SecondMoment
from collabsecure_cli.report import DELTA

Spans = list[tuple[float, float]]  # from when to when, in time.monotonic()

LIMIT = 540.0  # seconds for a session, before everything is killed
_OUT, _STATE = "merged", "merged.state"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientCourse:
    """What one client noted, and what was seen of it from outside."""

    entries: list[tuple[str, float, float]]  # what began or ended, time.monotonic(), CPU seconds by then
    looks: list[Look]
    base: int  # RssAnon before it began, bytes
    peak: int  # VmHWM at the end, bytes
    sent: int  # bytes that its sockets carried, HTTP and TLS included
    received: int
    bodies: int  # bytes of messages alone
    seconds_in_requests: float  # of uploads
    cpu_in_requests: float

    def spans(self, begin: str, end: str) -> Spans:
        """From every `begin` to the next `end`."""
        starts = [at for what, at, _ in self.entries if what == begin]
        ends = [at for what, at, _ in self.entries if what == end]
        return [(start, min(at for at in ends if at > start)) for start in starts]

    def cpu(self, begin: str, end: str) -> float:
        """CPU seconds in all of those spans together."""
        by_time = {at: cpu for _, at, cpu in self.entries}
        return sum(by_time[stop] - by_time[start] for start, stop in self.spans(begin, end))

    def most(self, begin: str, end: str) -> int:
        """The most anonymous memory, beyond the base, that was seen in those spans."""
        return beyond(self.looks, self.spans(begin, end), self.base)


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """One session as it went."""

    shape: Shape
    clients: list[ClientCourse]
    looks: list[Look]  # at the aggregator
    log: list[tuple[float, str]]  # its lines, with time.monotonic()
    merged_at: list[float]  # by sum: when its updates were on the disk
    cores: list[tuple[float, ...]]  # time.monotonic() and `cores_seconds`
    disk: int  # most bytes in its state folder
    distance: float  # of Δ from the one of the plain sums, relative, Frobenius; the worst layer

    @property
    def num_sums(self) -> int:
        """One a layer, or one for all."""
        return 1 if self.shape.flow == "one-shot" else self.shape.layers

    @property
    def running_sum_bytes(self) -> int:
        """A sum's ring elements, 8 bytes each."""
        return 8 * self.shape.num_values // self.num_sums

    @property
    def start_seconds(self) -> float:
        """From the aggregator's first line to its listening."""
        return self.said("Listening")[0] - self.log[0][0]

    @property
    def base(self) -> int:
        """The aggregator's anonymous memory when it began to listen."""
        listening = self.said("Listening")[0]
        return next(seen.anonymous for seen in self.looks if seen.time >= listening)

    @property
    def seconds(self) -> float:
        """From the first client's start to the last client's end."""
        return max(client.entries[-1][1] for client in self.clients) - min(
            client.entries[0][1] for client in self.clients
        )

    def said(self, start: str) -> list[float]:
        """When the aggregator said lines that start so."""
        return [at for at, line in self.log if line.partition(" ")[2].startswith(start)]

    def cores_while(self, spans: Spans) -> dict[str, float]:
        """Seconds of all cores in some spans: by the aggregator's two threads, by the clients, by others, and idle."""
        times, *used = zip(*self.cores, strict=True)
        busy, idle, waiting = (within(spans, times, seconds) for seconds in used)
        loop = within(spans, [seen.time for seen in self.looks], [seen.main_cpu for seen in self.looks])
        aggregator, *clients = (
            within(spans, [seen.time for seen in looks], [seen.cpu for seen in looks])
            for looks in (self.looks, *(client.looks for client in self.clients))
        )
        return {
            "event loop": loop,
            "engine": aggregator - loop,
            "clients": sum(clients),
            "others": max(0.0, busy - aggregator - sum(clients)),
            "idle": idle + waiting,
        }

    @property
    def uploading(self) -> Spans:
        """By sum: from the first client's first chunk to the last client's last."""
        each = [client.spans("upload", "uploaded") for client in self.clients]
        return [(min(s for s, _ in spans), max(e for _, e in spans)) for spans in zip(*each, strict=True)]


def within(spans: Spans, times: Sequence[float], counter: Sequence[float]) -> float:
    """By how much a counter grew in some spans."""
    return float(sum(np.interp(stop, times, counter) - np.interp(start, times, counter) for start, stop in spans))


def beyond(looks: list[Look], spans: Spans, base: int) -> int:
    """The most anonymous memory seen in some spans, less a base."""
    seen = [one.anonymous for one in looks for start, end in spans if start <= one.time <= end]
    return max(seen, default=base) - base


def run(shape: Shape, temporary: Path | None = None) -> Course:
    """Play a session in a temporary folder, which is deleted."""
    with TemporaryDirectory(prefix="collabsecure-benchmark-", dir=temporary) as name:
        folder = Path(name)
        write_world(folder, shape)
        return _play(folder, shape)


def _play(folder: Path, shape: Shape) -> Course:
    log: list[tuple[float, str]] = []
    cores: list[tuple[float, ...]] = []
    disk, started = 0, time.monotonic()
    with _aggregator(folder, log) as aggregator:
        while not (listening := [line for _, line in log if "Listening on" in line]):
            _check(aggregator, started, log)
            time.sleep(INTERVAL)
        url = listening[0].split("Listening on ")[1].split(". ")[0]
        with _clients(folder, shape, url) as clients:
            watched = {number: client.pid for number, client in enumerate(clients, 1)} | {0: aggregator.pid}
            looks: dict[int, list[Look]] = {number: [] for number in watched}
            while any(process.poll() is None for process in (aggregator, *clients)):
                for number, pid in watched.items():
                    if (seen := look(pid, time.monotonic())) is not None:
                        looks[number].append(seen)
                cores.append((time.monotonic(), *cores_seconds()))
                disk = max(disk, disk_bytes(folder / _STATE))
                for process in (aggregator, *clients):
                    _check(process, started, log)
                time.sleep(INTERVAL)
            told = [json.loads(client.communicate()[0]) for client in clients]
    since = time.time() - time.monotonic()
    sums = sorted((folder / _STATE / "results").glob("sum-*.json"), key=lambda path: int(path.stem[4:]))
    return Course(
        shape=shape,
        clients=[_client(one, looks[number]) for number, one in enumerate(told, 1)],
        looks=looks[0],
        log=log,
        merged_at=[path.stat().st_mtime - since for path in sums],
        cores=cores,
        disk=disk,
        distance=_distance(folder, shape),
    )


@contextmanager
def _aggregator(folder: Path, log: list[tuple[float, str]]) -> Iterator[subprocess.Popen[str]]:
    """`collabsecure aggregate`; what it says on standard error goes to `log`."""
    command = [Path(sys.executable).with_name("collabsecure"), "aggregate", "--listen", "127.0.0.1:0"]
    files = {
        "--session": SESSION,
        "--key": SERVER_KEY,
        "--second-moment": STATS,
        "--tls-cert": CERTIFICATE,
        "--tls-key": CERTIFICATE_KEY,
        "--out": _OUT,
    }
    options = [part for name, path in files.items() for part in (name, str(folder / path))]
    with subprocess.Popen(
        [*command, *options], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:

        def listen() -> None:
            assert process.stderr is not None
            log.extend((time.monotonic(), line.rstrip()) for line in process.stderr)

        listening = threading.Thread(target=listen)
        listening.start()
        try:
            yield process
        finally:
            process.kill()
            listening.join()


@contextmanager
def _clients(folder: Path, shape: Shape, url: str) -> Iterator[list[subprocess.Popen[str]]]:
    command, asked = [sys.executable, "-m", "benchmarks.session_client"], json.dumps(asdict(shape))
    with ExitStack() as stack:
        processes = [
            stack.enter_context(
                subprocess.Popen(
                    [*command, folder, asked, str(number), url],
                    stdout=subprocess.PIPE,
                    stderr=stack.enter_context((folder / f"client-{number}.log").open("w")),
                    text=True,
                )
            )
            for number in range(1, shape.clients + 1)
        ]
        try:
            yield processes
        except SystemExit:
            for path in sorted(folder.glob("client-*.log")):
                print(path.name, path.read_text()[-1000:], sep="\n", file=sys.stderr)
            raise
        finally:
            for process in processes:
                process.kill()


def _check(process: subprocess.Popen[str], started: float, log: list[tuple[float, str]]) -> None:
    """Give up on a session that has gone wrong."""
    late = time.monotonic() - started > LIMIT
    if process.poll() or late:
        print(*(line for _, line in log[-20:]), sep="\n", file=sys.stderr)
        raise SystemExit(f"{'it takes too long' if late else 'a process failed'}: {process.args}")


def _client(told: dict[str, object], looks: list[Look]) -> ClientCourse:
    assert told.pop("in_sums"), "a client's statistics are not in a sum"
    client = ClientCourse(looks=looks, **told)  # type: ignore[arg-type]
    assert client.sent > client.bodies, "a socket was not counted"
    return client


def _distance(folder: Path, shape: Shape) -> float:
    """The worst layer's distance of the merged Δ from the one that the plain sums give."""
    merged = load_delta(folder / _OUT / DELTA).layers
    second_moment = SecondMoment.load_npz(next((folder / STATS).iterdir())).weighted(WEIGHT)
    worst = 0.0
    for layer in shape.layer_numbers:
        plain = plain_sum(shape, layer)
        expected = merge_delta(second_moment, plain.gram, plain.cross, overwrite=True)
        worst = max(worst, float(np.linalg.norm(merged[layer] - expected) / np.linalg.norm(expected)))
    return worst
