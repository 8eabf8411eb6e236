"""An in-memory network: real clients, a real server, messages one by one, clients that drop out on request."""

import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from collabsecure_protocols import (
    Aborted,
    Client,
    Identity,
    NeedInput,
    PeerMisbehaved,
    Policy,
    SendToClient,
    SendToServer,
    Server,
    ServerState,
    Session,
    Sum,
    Tensor,
    best_fraction_bits,
    choose,
    survivor_floor,
)
from collabsecure_protocols.client_state import NO_LINK
from collabsecure_protocols.events import ClientEvent, ServerEvent
from collabsecure_protocols.states import SERVER_ACCEPTS

LENIENT = Policy(accept_honest_but_curious=True)
Values = Mapping[str, NDArray[np.float64]]


def seeded(seed: str) -> Callable[[int], bytes]:
    """A deterministic stand-in for os.urandom."""
    state = hashlib.shake_256(seed.encode()).digest(1 << 16)
    at = 0

    def take(length: int) -> bytes:
        nonlocal at
        at += length
        assert at <= len(state)
        return state[at - length : at]

    return take


@functools.cache
def identity(name: object) -> Identity:
    return Identity(hashlib.sha256(f"identity {name}".encode()).digest())


def tensor(name: str = "x", shape: tuple[int, ...] = (2, 3), *, n: int, bits: int = 48, **more: object) -> Tensor:
    fraction_bits = best_fraction_bits(8.0, num_clients=n, bits=bits)
    return Tensor(name=name, shape=shape, bound=8.0, fraction_bits=fraction_bits, bits=bits, **more)  # type: ignore[arg-type]


def make_session(n: int = 5, sums: int = 2, *, tensors: Sequence[Tensor] | None = None, **changes: object) -> Session:
    graph = choose(n)
    fields: dict[str, object] = {
        "session_id": bytes(range(16)),
        "task": "tests",
        "roster": tuple(identity(number).public for number in range(1, n + 1)),
        "server_key": identity("server").public,
        "threshold": max(graph.threshold, 2),
        "min_survivors": max(graph.threshold, survivor_floor(n, graph.degree)),
        "degree": graph.degree,
        "sums": tuple(
            Sum(name=f"layer {number}", tensors=tuple(tensors or (tensor(n=n), tensor("y", (4,), n=n, bits=40))))
            for number in range(sums)
        ),
        **changes,
    }
    return Session(**fields)  # type: ignore[arg-type]


def make_values(session: Session, client_id: int, sum_index: int, seed: int = 0) -> Values:
    rng = np.random.default_rng([seed, client_id, sum_index])
    values = {}
    for spec in session.sums[sum_index].tensors:
        array = rng.uniform(-spec.bound, spec.bound, spec.shape)
        values[spec.name] = (array + array.T) / 2 if spec.symmetric else array
    return values


def encoded(spec: Tensor, array: NDArray[np.float64]) -> list[int]:
    """The oracle's integers, in plain Python."""
    if spec.symmetric:
        flat = [float(array[i, j]) for i in range(len(array)) for j in range(i, len(array))]
    else:
        flat = [float(value) for value in array.ravel()]
    return [round(value * 2.0**spec.fraction_bits) for value in flat]


@dataclass(kw_only=True)
class Network:
    """Runs a session. `drops[(phase, sum)]` are clients that fall silent from there to the end of that sum.

    For the set-up phases the sum is 0, and the silence is for good.
    """

    session: Session
    drops: Mapping[tuple[ServerState, int], Sequence[int]] = field(default_factory=dict)
    policy: Policy = LENIENT
    values: Callable[[Session, int, int], Values] = make_values
    tamper: Callable[[str, int, bytes], bytes | None] = lambda _way, _client, payload: payload
    transcript: list[tuple[str, int, bytes]] = field(default_factory=list)  # direction, client, payload
    events: list[tuple[int, ClientEvent | ServerEvent]] = field(default_factory=list)  # client (0: server), event
    totals: list[dict[str, list[int]]] = field(default_factory=list)
    survivors: list[tuple[int, ...]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.server = Server(self.session, identity("server"))
        self.clients = {
            number: Client(self.session, identity(number), policy=self.policy, rng=seeded(f"client {number}"))
            for number in self.session.client_ids
        }
        self.silent: set[int] = set()

    @property
    def aborted(self) -> Aborted | None:
        return next((event for _, event in self.events if isinstance(event, Aborted)), None)

    @property
    def misbehaved(self) -> list[PeerMisbehaved]:
        return [event for _, event in self.events if isinstance(event, PeerMisbehaved)]

    def run(self) -> "Network":
        """Set-up and all sums."""
        self._drop(0)
        self.from_clients({number: client.start() for number, client in self.clients.items()})
        while self.server.state is ServerState.READY:
            self.run_sum()
        return self

    def run_sum(self) -> None:
        index = len(self.totals)
        if index:
            self.silent -= {
                client for (phase, at), dropped in self.drops.items() if at == index - 1 for client in dropped
                if phase not in (ServerState.ADVERTISE_KEYS, ServerState.SHARE_KEYS)
            }  # fmt: skip
        self.to_clients(self.server.start_sum(link=NO_LINK))
        if self.server.state in (ServerState.READY, ServerState.FINISHED):
            self.totals.append(self.read(index))

    def read(self, index: int) -> dict[str, list[int]]:
        """The finished sum."""
        return {spec.name: self.server.total(spec.name).tolist() for spec in self.session.sums[index].tensors}

    def _drop(self, index: int) -> None:
        self.silent |= set(self.drops.get((self.server.state, index), ()))

    def from_clients(self, batches: Mapping[int, Sequence[ClientEvent]]) -> None:
        state, replies = self.server.state, []
        for number, batch in batches.items():
            for payload in self._payloads(number, batch):
                if number in self.silent:
                    continue
                self.transcript.append(("up", number, bytes(payload)))
                tampered = self.tamper("up", number, bytes(payload))
                if tampered is not None:
                    replies += self.submit(number, tampered)
        if self.server.state is state and batches:
            replies += self.server.close_phase()
        self.to_clients(replies)

    def submit(self, number: int, payload: bytes) -> Sequence[ServerEvent]:
        """Hand a client's message to the server."""
        return self.server.receive(number, payload)

    def _payloads(self, number: int, batch: Sequence[ClientEvent]) -> list[bytes]:
        client, payloads = self.clients[number], []
        for event in batch:
            self.events.append((number, event))
            if isinstance(event, SendToServer):
                payloads.append(event.payload)
            if isinstance(event, NeedInput):
                values = self.values(self.session, number, event.sum_index)
                payloads += [bytes(chunk) for chunk in client.masked_input(values)]
        return payloads

    def to_clients(self, events: Sequence[ServerEvent]) -> None:
        self._drop(max(len(self.totals), 0))
        batches: dict[int, list[ClientEvent]] = {}
        for event in events:
            if not isinstance(event, SendToClient):
                self.events.append((0, event))
                if hasattr(event, "survivors"):
                    self.survivors.append(event.survivors)
                continue
            self.transcript.append(("down", event.client_id, event.payload))
            if event.client_id in self.silent:
                continue
            tampered = self.tamper("down", event.client_id, event.payload)
            if tampered is not None:
                received = self.clients[event.client_id].receive(tampered)
                batches.setdefault(event.client_id, []).extend(received)
        if any(isinstance(event, SendToServer | NeedInput) for batch in batches.values() for event in batch):
            self.from_clients(batches)
        else:
            self.events += [(number, event) for number, batch in batches.items() for event in batch]
            if self.server.state in SERVER_ACCEPTS:  # nobody answers, so the deadline passes
                self.to_clients(self.server.close_phase())

    def expected(self, index: int, survivors: Sequence[int]) -> dict[str, list[int]]:
        """The oracle: Python integers over the survivors."""
        result = {}
        for spec in self.session.sums[index].tensors:
            columns = [encoded(spec, self.values(self.session, number, index)[spec.name]) for number in survivors]
            result[spec.name] = [sum(column) for column in zip(*columns, strict=True)]
        return result
