"""An engine in memory that treats its messages badly: it loses, repeats, delays and garbles them, and ends processes.

Time is its own: it passes when somebody waits for what does not come.
"""

import enum
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from collabsecure.errors import CollabsecureError
from collabsecure.integrations.exchange import Ready, encode
from collabsecure.integrations.host import Answering, Arrived, Node, respond
from collabsecure.integrations.node import SumNode
from collabsecure.integrations.sessions import Summand, sum_session
from collabsecure.integrations.stores import MemoryStore
from collabsecure_protocols import Identity, Policy, Session
from collabsecure_protocols.errors import ProtocolError


class Fault(enum.Enum):
    """What becomes of one request and its reply."""

    NONE = enum.auto()
    REQUEST_LOST = enum.auto()
    REPLY_LOST = enum.auto()
    REPEATED = enum.auto()  # the node gets it twice; the first reply is lost
    RESTARTED = enum.auto()  # the node's process was ended before, and a new one answers
    ENDED = enum.auto()  # the node's process is ended when it has answered, and the reply is lost
    GARBLED = enum.auto()  # the reply arrives with a bit flipped
    REQUEST_GARBLED = enum.auto()  # the request does, near its end
    BEGINNING_GARBLED = enum.auto()  # or where it names its session
    MADE_UP = enum.auto()  # the request is lost, and an empty reply arrives
    LATE = enum.auto()  # the reply takes 30 seconds
    SILENT = enum.auto()  # nothing ever comes, and nobody says so


Faults = Callable[[Node, int], Fault]  # node, number of the request to it


def no_faults(_: Node, __: int) -> Fault:
    return Fault.NONE


@dataclass(kw_only=True)
class MemoryNode:
    """A machine: a store that lasts, and a process that may not."""

    start: Callable[[], Answering]
    values: Callable[[str], Mapping[str, np.ndarray]] | None = None
    process: Answering | None = None
    answered: dict[bytes, bytes] = field(default_factory=dict)  # request → the reply that it got first

    def restart(self) -> None:
        self.process = None

    def answer(self, request: bytes) -> bytes | None:
        """The reply, or None where the app's code raised."""
        if self.process is None:
            self.process = self.start()
        try:
            return respond(self.process, request, self.values)
        except (CollabsecureError, ProtocolError):
            return None


class MemoryHost:
    """`host.Host` over some nodes."""

    def __init__(self, nodes: Mapping[Node, MemoryNode], faults: Faults = no_faults) -> None:
        self.machines, self.faults = dict(nodes), faults
        self.now = 0.0  # seconds
        self.requests: list[tuple[Node, bytes]] = []
        self.most_at_once = Counter[Node]()
        self._number = Counter[Node]()
        self._sent: deque[tuple[Node, bytes]] = deque()
        self._late: list[tuple[float, Arrived]] = []
        self._unanswered: set[Node] = set()

    def clock(self) -> float:
        return self.now

    def nodes(self) -> Sequence[Node]:
        return tuple(self.machines)

    def send(self, node: Node, request: bytes) -> None:
        assert node not in self._unanswered, f"two requests to {node} at once"
        self._unanswered.add(node)
        self._sent.append((node, request))
        self.requests.append((node, request))

    def receive(self, seconds: float) -> Sequence[Arrived]:
        assert seconds >= 0
        if self._sent:
            self.now += 0.001
            arrived = self._deliver(*self._sent.popleft())
            return () if arrived is None else self._arrive(arrived)
        self._late.sort(key=lambda item: item[0])
        if self._late and self._late[0][0] <= self.now + seconds:
            self.now, arrived = max(self.now, self._late[0][0]), self._late.pop(0)[1]
            return self._arrive(arrived)
        self.now += seconds
        return ()

    def _arrive(self, arrived: Arrived) -> Sequence[Arrived]:
        self._unanswered.discard(arrived.node)
        return (arrived,)

    def _deliver(self, node: Node, request: bytes) -> Arrived | None:
        fault = self.faults(node, self._number[node])
        self._number[node] += 1
        machine = self.machines.get(node)
        if machine is None or fault is Fault.SILENT:
            return None
        if fault is Fault.REQUEST_LOST:
            return Arrived(node=node, reply=None)
        if fault is Fault.MADE_UP:
            return Arrived(node=node, reply=encode(Ready()))
        if fault is Fault.RESTARTED:
            machine.restart()
        if fault is Fault.REQUEST_GARBLED:
            request = request[:-1] + bytes([request[-1] ^ 1])
        if fault is Fault.BEGINNING_GARBLED:
            request = request[:5] + bytes([request[5] ^ 1]) + request[6:]
        reply = machine.answer(request)
        if fault is Fault.REPEATED:
            again = machine.answer(request)
            assert again == reply, "a repeated request got another reply"
        if fault is Fault.ENDED:
            machine.restart()
        if fault in (Fault.REPLY_LOST, Fault.ENDED):
            return Arrived(node=node, reply=None)
        if fault is Fault.GARBLED and reply:
            reply = reply[:-1] + bytes([reply[-1] ^ 1])
        arrived = Arrived(node=node, reply=reply)
        if fault is Fault.LATE:
            self._late.append((self.now + 30, arrived))
            return None
        return arrived


def identity(number: int) -> Identity:
    """A party's test key; 0 is the server's."""
    return Identity(bytes([number]) * 32)


def stream(name: str) -> Callable[[int], bytes]:
    """Randomness that is the same in every run."""
    generator = np.random.default_rng(list(name.encode()))
    return lambda length: generator.bytes(length)


ARRAYS = {"weights": Summand(shape=(3, 5), bound=4.0), "examples": Summand(shape=(1,), bound=1000.0, bits=32)}


def made_session(
    num_clients: int = 4,
    sums: Mapping[str, Mapping[str, Summand]] | None = None,
    *,
    session_id: bytes = bytes(range(32)),
) -> Session:
    return sum_session(
        session_id=session_id,
        task="averages",
        roster=[identity(number).public for number in range(1, num_clients + 1)],
        server_key=identity(0).public,
        sums=sums or {"round 1": ARRAYS, "round 2": ARRAYS},
    )


def made_values(session: Session, client: int, sum_name: str) -> dict[str, np.ndarray]:
    """A client's arrays: seeded, within the bounds."""
    spec = next(found for found in session.sums if found.name == sum_name)
    generator = np.random.default_rng([client, len(sum_name), *sum_name.encode()])
    return {tensor.name: generator.uniform(-tensor.bound, tensor.bound, tensor.shape) for tensor in spec.tensors}


def exact_sum(session: Session, clients: Sequence[int], sum_name: str) -> dict[str, np.ndarray]:
    """The oracle: Python's integers, rounded as secagg.md says, added, scaled back."""
    spec = next(found for found in session.sums if found.name == sum_name)
    total: dict[str, np.ndarray] = {}
    for tensor in spec.tensors:
        step = 2.0**-tensor.fraction_bits
        integers = [
            [round(float(value) / step) for value in made_values(session, client, sum_name)[tensor.name].reshape(-1)]
            for client in clients
        ]
        added = [sum(column) * step for column in zip(*integers, strict=True)]
        total[tensor.name] = np.reshape(np.array(added), tensor.shape)
    return total


def made_nodes(
    session: Session, clients: Sequence[int] | None = None, *, stores: Mapping[int, MemoryStore] | None = None
) -> dict[Node, MemoryNode]:
    """A node for each client; a restarted process gets other randomness, as in earnest."""

    def node(number: int) -> MemoryNode:
        store, starts = (stores or {}).get(number) or MemoryStore(), Counter[int]()

        def start() -> SumNode:
            starts[number] += 1
            rng = stream(f"client {number}, process {starts[number]}")
            return SumNode(session, identity(number), policy=Policy(), store=store, rng=rng)

        return MemoryNode(start=start, values=lambda name: made_values(session, number, name))

    return {f"node {number}": node(number) for number in clients or map(int, session.client_ids)}
