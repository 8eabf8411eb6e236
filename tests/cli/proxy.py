"""A TCP proxy that a test owns, between clients and aggregator: it cuts, delays, damages, repeats and writes down.

It knows no TLS: under TLS it passes on what it cannot read. `Faults` says what happens to which bytes. Over plain HTTP
`Message` finds where requests and answers begin and end.
"""

import itertools
import random
import re
import socket
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

UP, DOWN = "up", "down"  # to the aggregator, to the client


class Cut(Exception):
    """This connection ends here, as if a cable were pulled."""


@dataclass(kw_only=True)
class Faults:
    """Nothing happens to anything; subclasses do worse. `rng` makes a run's faults the same each time, nearly."""

    seed: int = 0
    count: int = 0  # faults so far
    rng: random.Random = field(init=False, repr=False)
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def __post_init__(self):
        self.rng = random.Random(self.seed)

    def block(self, connection, direction, data, before):
        """What becomes of a block of bytes; `before` went the same way through this connection already."""
        return data


@dataclass(kw_only=True)
class Cuts(Faults):
    """Each of the first `most` connections that carries much is cut in the middle of it."""

    most: int = 12

    def block(self, connection, direction, data, before):
        with self.lock:
            limit = connection.notes.setdefault(direction, self.rng.randrange(3000, 1_500_000))
            if before + len(data) < limit or self.count >= self.most:
                return data
            self.count += 1
        connection.send(direction, data[: max(0, limit - before)])
        raise Cut


@dataclass(kw_only=True)
class Damage(Faults):
    """Now and then a byte is another one; at most `most` times, and one block in `rarely` on the average."""

    most: int = 12
    rarely: int = 20

    def block(self, connection, direction, data, before):
        with self.lock:
            if self.count >= self.most or not before or self.rng.randrange(self.rarely):
                return data
            self.count += 1
            changed = bytearray(data)
            changed[self.rng.randrange(len(changed))] ^= 1 << self.rng.randrange(8)
        return bytes(changed)


@dataclass(kw_only=True)
class Delays(Faults):
    """Blocks take their time."""

    seconds: float = 0.05

    def block(self, connection, direction, data, before):
        with self.lock:
            wait = self.seconds * self.rng.random()
            self.count += 1
        time.sleep(wait)
        return data


@dataclass(kw_only=True)
class Records(Faults):
    """Everything that goes up is kept."""

    up: dict = field(default_factory=dict, repr=False)  # connection's number → bytes

    def block(self, connection, direction, data, before):
        if direction == UP:
            with self.lock:
                self.up.setdefault(connection.number, bytearray()).extend(data)
        return data


class Connection:
    """One client's connection, and the one to the aggregator that belongs to it."""

    def __init__(self, number, client, server, faults):
        self.number, self.notes = number, {}
        self._faults = faults
        self._ends = {UP: (client, server), DOWN: (server, client)}

    def send(self, direction, data):
        self._ends[direction][1].sendall(data)

    def pump(self, direction):
        source, target = self._ends[direction]
        before = 0
        try:
            while data := source.recv(1 << 16):
                self.send(direction, self._faults.block(self, direction, data, before))
                before += len(data)
            target.shutdown(socket.SHUT_WR)
        except (OSError, Cut):
            self.close()

    def close(self):
        for end in self._ends[UP]:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


@contextmanager
def proxy(port, faults):
    """A proxy before the aggregator at `port`; yields its own port."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=128)
    threads, sockets = [], [listener]

    def accept():
        number = 0
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            sockets.append(client)
            try:
                server = socket.create_connection(("127.0.0.1", port), 10)
            except OSError:  # the aggregator is not there, or not yet
                client.close()
                continue
            server.settimeout(None)
            sockets.append(server)
            number += 1
            connection = Connection(number, client, server, faults)
            for direction in (UP, DOWN):
                threads.append(threading.Thread(target=connection.pump, args=(direction,), daemon=True))
                threads[-1].start()

    accepting = threading.Thread(target=accept, daemon=True)
    accepting.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        accepting.join(10)
        for each in sockets:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join(10)
        for each in sockets:
            each.close()


@dataclass(kw_only=True)
class Http(Faults):
    """Plain HTTP, a whole request or answer at a time."""

    def block(self, connection, direction, data, before):
        buffer = connection.notes.setdefault(direction, bytearray())
        buffer += data
        whole = []
        while (end := buffer.find(b"\r\n\r\n")) >= 0:
            head = bytes(buffer[: end + 4])
            length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
            size = len(head) + (int(length[1]) if length else 0)
            if len(buffer) < size:
                break
            whole.append(self.message(connection, direction, head, bytes(buffer[len(head) : size])))
            del buffer[:size]
        return b"".join(whole)

    def message(self, connection, direction, head, body):
        return head + body


@dataclass(kw_only=True)
class DamagedBodies(Http):
    """A byte of every so-manieth body is another one, whichever way it goes."""

    every: int = 4
    most: int = 40
    bodies: int = 0

    def message(self, connection, direction, head, body):
        with self.lock:
            self.bodies += bool(body)
            if not body or self.bodies % self.every or self.count >= self.most:
                return head + body
            self.count += 1
            changed = bytearray(body)
            changed[self.rng.randrange(len(changed))] ^= 1 << self.rng.randrange(8)
        return head + bytes(changed)


@dataclass(kw_only=True)
class Repeats(Http):
    """Every request that brings something is made again at once, and an older one of anybody's with it."""

    port: int
    statuses: list = field(default_factory=list)
    requests: list = field(default_factory=list, repr=False)
    threads: list = field(default_factory=list, repr=False)

    def message(self, connection, direction, head, body):
        if direction == UP and not head.startswith(b"GET"):
            with self.lock:
                self.requests.append(head + body)
                again = (head + body, self.rng.choice(self.requests))
            for request in again:
                self.threads.append(threading.Thread(target=self._repeat, args=(request,), daemon=True))
                self.threads[-1].start()
        return head + body

    def _repeat(self, request):
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 10) as other:
            other.sendall(request)
            answer = other.recv(1 << 16)
            with self.lock:
                self.count += 1
                self.statuses.append(answer[9:12].decode())


@contextmanager
def slow_lorises(port, number):
    """Peers that say one byte of a request now and then."""
    over, sockets = threading.Event(), []

    def dribble():
        text = itertools.cycle(b"GET / HTTP/1.1\r\nX: " + b"y" * 100)
        while not over.wait(0.1):
            while len(sockets) < number:
                with suppress(OSError):
                    sockets.append(socket.create_connection(("127.0.0.1", port), 1))
                if over.wait(0.01):
                    return
            byte = bytes([next(text)])
            for each in list(sockets):
                try:
                    each.send(byte)
                except OSError:
                    each.close()
                    sockets.remove(each)

    thread = threading.Thread(target=dribble, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(10)
        for each in sockets:
            each.close()
