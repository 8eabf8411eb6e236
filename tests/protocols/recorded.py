"""The sessions whose transcripts stand in protocols/vectors, and how they are recorded."""

import base64
import hashlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from replay import BIG, Package, act, actor, expand, integers_of

from collabsecure_protocols import Identity, ServerState, Session, Sum, Tensor
from collabsecure_protocols.envelope import MessageType

NAMES = {
    kind: "".join(word.capitalize() for word in kind.name.split("_")) for kind in MessageType
}  # as secagg.md calls them
LINK = hashlib.sha256(b"the result that sum 1 follows").digest()
NO_LINK = bytes(32)


def seed(*what):
    """A test key: never use one in earnest."""
    return hashlib.sha256(b"collabsecure test vectors" + repr(what).encode()).digest()


def public(*what):
    return Identity(seed(*what)).public


@dataclass(kw_only=True)
class Scenario:
    """A session, what gets lost on the way, and who plays by other rules than the protocol's."""

    description: str
    session: Session
    policy: dict | None = field(default_factory=dict)
    lost: Callable = lambda message: False
    altered: Callable = lambda message, recorder: message.payload
    scripted: tuple[int, ...] = ()  # clients that are not played but only speak: they break the protocol
    opened: dict[int, list] = field(default_factory=dict)  # client → its ledger of other sessions
    links: dict[int, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class Message:
    """On its way: in which sum (−1 in the set-up), which kind, from whom to whom, the how many-th of its kind."""

    sum: int
    name: str
    sender: int
    receiver: int
    count: int
    payload: bytes

    @property
    def client(self):
        return self.sender or self.receiver


def descriptor(n, sums, **changes):
    """A session with test keys."""
    complete = {
        "session_id": bytes(range(16)),
        "task": "test vectors",
        "roster": tuple(public("identity", number) for number in range(1, n + 1)),
        "server_key": public("identity", 0),
        "threshold": 2 * n // 3 + 1,
        "min_survivors": max(3, 2 * n // 3 + 1),
        "degree": n - 1,
        "parameters": (("model", "none"), ("purpose", "test vectors")),
        "sums": tuple(Sum(name=f"sum {number}", tensors=tuple(tensors)) for number, tensors in enumerate(sums)),
    }
    return Session(**{**complete, **changes})


def tensor(name, shape, bits=48, fraction_bits=16, bound=4.0, **more):
    return Tensor(name=name, shape=shape, bits=bits, fraction_bits=fraction_bits, bound=bound, **more)


def values_of(tensor, client, sum_index):
    """A client's input as recorded: short binary fractions, or the rule that makes a long one."""
    count = tensor.rows * tensor.columns
    rule = {"times": 37 + 8 * client + 2 * sum_index, "modulo": 509, "minus": 254, "over": 256, "count": count}
    if count >= BIG:
        return rule
    found = expand(rule)
    if tensor.symmetric:
        side = tensor.rows
        found = [found[min(i, j) * side + max(i, j)] for i in range(side) for j in range(side)]
    exponents = [
        (tensor.row_exponents or [0] * tensor.rows)[i]
        + ((tensor.row_exponents if tensor.symmetric else tensor.column_exponents) or [0] * tensor.columns)[j]
        for i in range(tensor.rows)
        for j in range(tensor.columns)
    ]
    return [value * tensor.bound / 2.0**exponent for value, exponent in zip(found, exponents, strict=True)]


class Recorder:
    """Runs a scenario on the package and writes down every step."""

    def __init__(self, scenario):
        self.scenario, session = scenario, scenario.session
        clients = []
        for number in session.client_ids:
            one = {"identity": seed("identity", int(number)).hex(), "channel": seed("channel", int(number)).hex()}
            one["secrets"] = [seed("secret", int(number), at).hex() for at in range(len(session.sums))]
            if number in scenario.opened:
                one["opened"] = [[contribution.hex(), name] for contribution, name in scenario.opened[number]]
            clients.append(one)
        self.vector = {
            "description": scenario.description,
            "session": base64.b64encode(session.encode()).decode(),
            "transcript": session.transcript.hex(),
            "policy": scenario.policy,
            "server": {"identity": seed("identity", 0).hex()},
            "clients": clients,
            "messages": [],
            "steps": [],
        }
        self.side, self.held, self.queue, self.counts = Package(self.vector), {}, deque(), {}
        self.sum, self.refused = -1, {}

    def run(self):
        for number in self.scenario.session.client_ids:
            self.step({"do": "start", "client": int(number)})
        while self.settle():
            self.sum += 1
            self.step({"do": "start sum", "link": self.scenario.links.get(self.sum, NO_LINK).hex()})
        for number in self.scenario.scripted:
            self.vector["clients"][number - 1]["scripted"] = True
        return self.vector

    def settle(self):
        """Deliver what is on its way and let deadlines pass; says whether another sum can start."""
        server = self.side.server
        while self.queue or server.state not in (ServerState.READY, ServerState.FINISHED, ServerState.ABORTED):
            if self.queue:
                self.step({"do": "deliver", "message": self.queue.popleft()})
            else:
                self.step({"do": "close phase"})
        return server.state is ServerState.READY

    def step(self, step):
        party = actor(self.vector, step)
        events, sends = act(self.side, self.vector, step, self.held)
        step |= {"events": events, "sends": [self.send(*found) for found in sends]}
        self.vector["steps"].append(step)
        for event in events:
            if event[0] == "finished" and party == 0:
                step["result"] = {
                    name: {"integers": integers_of(total)} | ({"values": values} if len(values) < BIG else {})
                    for name, (total, values) in self.side.result(event[1]).items()
                }
            if event[0] == "need input":
                tensors = self.scenario.session.sums[event[1]].tensors
                values = {tensor.name: values_of(tensor, party, event[1]) for tensor in tensors}
                self.step({"do": "input", "client": party, "sum": event[1], "values": values, "link": event[2]})

    def send(self, sender, receiver, payload):
        """Write a message down, hold on to it, and put it on its way unless it gets lost."""
        name = NAMES[MessageType(payload[1])]
        place = (self.sum, name, sender, receiver)
        self.counts[place] = count = self.counts.get(place, -1) + 1
        message = Message(*place, count, payload)
        payload = self.scenario.altered(message, self)
        number, entry = len(self.vector["messages"]), {"from": sender, "to": receiver, "name": name}
        if len(payload) < BIG:
            entry["bytes"] = base64.b64encode(payload).decode()
        else:
            entry |= {"length": len(payload), "sha256": hashlib.sha256(payload).hexdigest()}
        self.vector["messages"].append(entry)
        self.held[number] = payload
        if not self.scenario.lost(message):
            self.queue.append(number)
        return number
