"""Clients and a server in one process, with a clock and a byte count for each side."""

import hashlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from collabsecure_protocols import (
    Client,
    Identity,
    NeedInput,
    Policy,
    SendToClient,
    SendToServer,
    Server,
    Session,
    Sum,
    Tensor,
    best_fraction_bits,
    choose,
    survivor_floor,
)
from collabsecure_protocols.events import ServerEvent

Values = Mapping[str, NDArray[np.float64]]
_POLICY = Policy(accept_honest_but_curious=True)


def identity(name: object) -> Identity:
    """The same key for the same name."""
    return Identity(hashlib.sha256(f"benchmark {name}".encode()).digest())


def make_tensor(name: str, shape: tuple[int, ...], *, clients: int, bits: int = 48, **more: object) -> Tensor:
    """A tensor of values within ±1, as fine as the ring allows."""
    fraction_bits = best_fraction_bits(1.0, num_clients=clients, bits=bits)
    return Tensor(name=name, shape=shape, bound=1.0, fraction_bits=fraction_bits, bits=bits, **more)  # type: ignore[arg-type]


def make_session(clients: int, tensors: Sequence[Tensor], *, sums: int = 1) -> Session:
    """A session on the default graph, all sums alike."""
    graph = choose(clients, num_sums=sums)
    return Session(
        session_id=bytes(16),
        task="benchmark",
        roster=tuple(identity(number).public for number in range(1, clients + 1)),
        server_key=identity("server").public,
        threshold=graph.threshold,
        min_survivors=max(graph.threshold, survivor_floor(clients, graph.degree)),
        degree=graph.degree,
        sums=tuple(Sum(name=f"sum {number}", tensors=tuple(tensors)) for number in range(sums)),
    )


class Clock:
    """CPU seconds spent inside `with` blocks."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __enter__(self) -> None:
        self._start = time.process_time()

    def __exit__(self, *_: object) -> None:
        self.seconds += time.process_time() - self._start

    def take(self) -> float:
        """The seconds so far; starts again from zero."""
        taken, self.seconds = self.seconds, 0.0
        return taken


class Network:
    """One session, all of whose clients contribute the same values."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.on_server, self.on_clients = Clock(), Clock()
        self.bytes_of = dict.fromkeys(session.client_ids, 0)  # sent and received by each client
        with self.on_server:
            self.server = Server(session, identity("server"))
        identities = {number: identity(number) for number in session.client_ids}
        with self.on_clients:
            self.clients = {
                number: Client(session, identities[number], policy=_POLICY, rng=_seeded(number))
                for number in session.client_ids
            }

    def set_up(self) -> None:
        """Both phases of the set-up."""
        replies: list[ServerEvent] = []
        for number, client in self.clients.items():
            with self.on_clients:
                events = client.start()
            for event in events:
                replies += self.to_server(number, event.payload)
        self.deliver(replies)

    def start_sum(self, *, silent: Iterable[int] = ()) -> None:
        """Ask all clients for input but those that have fallen silent."""
        with self.on_server:
            events = self.server.start_sum()
        for event in events:
            if isinstance(event, SendToClient) and event.client_id not in set(silent):
                (needed,) = self._receive(event)
                assert isinstance(needed, NeedInput)

    def upload(self, values: Values, *, silent: Iterable[int] = ()) -> None:
        """Masked input of all clients but the silent ones; then the rest of the sum."""
        replies: list[ServerEvent] = []
        for number in self.clients:
            if number not in set(silent):
                for payload in self.chunks(number, values):
                    replies += self.to_server(number, payload)
        if not replies:
            with self.on_server:
                replies += self.server.close_phase()
        self.deliver(replies)

    def chunks(self, number: int, values: Values) -> Iterable[bytearray]:
        """One client's masked input, its clock stopped between chunks."""
        with self.on_clients:
            chunks = self.clients[number].masked_input(values)
        while True:
            with self.on_clients:
                payload = next(chunks, None)
            if payload is None:
                return
            yield payload

    def to_server(self, number: int, payload: bytes | bytearray) -> tuple[ServerEvent, ...]:
        """Hand the server one message."""
        self.bytes_of[number] += len(payload)
        with self.on_server:
            return self.server.receive(number, payload)

    def deliver(self, replies: list[ServerEvent]) -> None:
        """Messages back and forth until all is said."""
        while replies:
            sent, replies = replies, []
            for event in sent:
                if isinstance(event, SendToClient):
                    for answer in self._receive(event):
                        if isinstance(answer, SendToServer):
                            replies += self.to_server(event.client_id, answer.payload)

    def _receive(self, event: SendToClient) -> tuple[object, ...]:
        self.bytes_of[event.client_id] += len(event.payload)
        with self.on_clients:
            return self.clients[event.client_id].receive(event.payload)


def _seeded(number: int) -> Callable[[int], bytes]:
    return np.random.default_rng(number).bytes
