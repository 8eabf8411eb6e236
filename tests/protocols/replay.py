"""Plays the transcripts of protocols/vectors on an implementation, step by step; `record` in recorded.py writes them.

Two implementations stand behind one interface: the package, and the second one in slow_*.py.
"""

import base64
import hashlib
import json
import re
from copy import deepcopy
from pathlib import Path

import numpy as np
import slow_secagg
import slow_server
import slow_session
from slow_primitives import Refused

from collabsecure_protocols import (
    Aborted,
    Client,
    Excluded,
    Identity,
    Ledger,
    NeedInput,
    PeerMisbehaved,
    Policy,
    ProtocolError,
    SendToClient,
    SendToServer,
    Server,
    ServerState,
    Session,
    SetupFinished,
)

VECTORS = Path(__file__).parents[2] / "protocols" / "vectors"
BIG = 4096  # bytes or values from which on a digest is recorded instead


class Refusal(Exception):
    """An implementation refused a message or a call: by which check, naming whom."""

    def __init__(self, check, culprits=()):
        super().__init__(f"{check} {list(culprits)}")
        self.check, self.culprits = check, list(culprits)


class NoPolicy(Policy):
    """Of transcripts whose graph is too small for any policy."""

    def check(self, session):
        pass


def expand(values):
    """A tensor's values as recorded: a list, or the rule that makes it."""
    if isinstance(values, list):
        return [float(value) for value in values]  # "nan" and "inf" are no JSON numbers
    rule = values
    return [(v * rule["times"] % rule["modulo"] - rule["minus"]) / rule["over"] for v in range(rule["count"])]


def integers_of(total):
    """A sum's integers as recorded."""
    if len(total) < BIG:
        return total
    packed = b"".join(value.to_bytes(8, "little", signed=True) for value in total)
    return {"sha256 of i64 little-endian": hashlib.sha256(packed).hexdigest()}


class Package:
    """`collabsecure_protocols` behind the interface."""

    def __init__(self, vector):
        self.session = Session.decode(base64.b64decode(vector["session"]))
        policy = NoPolicy() if vector["policy"] is None else self.policy(vector["policy"])
        self.clients = {
            number: self.client(one, policy)
            for number, one in enumerate(vector["clients"], 1)
            if not one.get("scripted")
        }
        self.server = Server(self.session, Identity(bytes.fromhex(vector["server"]["identity"])))

    @staticmethod
    def policy(pins):
        pins = {name: bytes.fromhex(pin) if name in ("transcript", "server_key") else pin for name, pin in pins.items()}
        if "parameters" in pins:
            pins["parameters"] = tuple(map(tuple, pins["parameters"]))
        return Policy(**pins)

    def client(self, one, policy):
        stream = iter([one["channel"], *one["secrets"]])
        ledger = Ledger(
            opened=frozenset((bytes.fromhex(contribution), name) for contribution, name in one.get("opened", ())),
            begun=frozenset(map(bytes.fromhex, one.get("begun", ()))),
        )
        identity = Identity(bytes.fromhex(one["identity"]))
        try:
            return Client(
                self.session, identity, policy=policy, rng=lambda _: bytes.fromhex(next(stream)), ledger=ledger
            )
        except ProtocolError as error:
            raise refusal(error) from error

    def start(self, number):
        return self.events(number, self.clients[number].start)

    def deliver(self, sender, receiver, data):
        if receiver:
            return self.events(receiver, self.clients[receiver].receive, data)
        return self.events(0, self.server.receive, sender, data)

    def start_sum(self, link):
        return self.events(0, lambda: self.server.start_sum(link=link))

    def close_phase(self):
        return self.events(0, self.server.close_phase)

    def masked_input(self, number, values, link):
        client = self.clients[number]
        tensors = self.session.sums[client.sum_index].tensors
        arrays = {tensor.name: np.reshape(expand(values[tensor.name]), tensor.shape) for tensor in tensors}
        return self.events(
            number, lambda: [SendToServer(payload=bytes(c)) for c in client.masked_input(arrays, link=link)]
        )

    def state(self, party):
        return (self.clients[party] if party else self.server).save()

    def result(self, sum_index):
        names = [tensor.name for tensor in self.session.sums[sum_index].tensors]
        return {name: (self.server.total(name).tolist(), self.server.decode(name).ravel().tolist()) for name in names}

    def events(self, party, step, *arguments):
        """The step's events as recorded, and its messages as (from, to, bytes)."""
        try:
            found = step(*arguments)
        except ProtocolError as error:
            raise refusal(error) from error
        sends = [(party, getattr(event, "client_id", 0), event.payload) for event in found if hasattr(event, "payload")]
        return [written(event) for event in found if not isinstance(event, SendToServer | SendToClient)], sends


def refusal(error):
    check = getattr(error, "check", None) or re.search(r"V\d\d", str(error)).group()
    return Refusal(check, getattr(error, "culprits", ()))


def written(event):
    """An event of the package as recorded."""
    match event:
        case NeedInput():
            return ["need input", event.sum_index, event.link.hex()]
        case Excluded():
            return ["excluded", event.sum_index]
        case PeerMisbehaved():
            return ["misbehaved", list(event.culprits), event.check]
        case SetupFinished():
            return ["set up", list(event.participants)]
        case Aborted():
            phase = list(ServerState).index(event.phase)
            numbers = int(event.reason), phase, event.found, event.needed, event.sum_index
            return ["aborted", *numbers, list(event.culprits)]
        case _:
            return ["finished", event.sum_index, list(event.survivors)]


class Second:
    """The second implementation behind the interface."""

    def __init__(self, vector):
        try:
            self.session = slow_session.Session.parse(base64.b64decode(vector["session"]))
            self.clients = {
                number: self.client(one, vector["policy"])
                for number, one in enumerate(vector["clients"], 1)
                if not one.get("scripted")
            }
        except Refused as error:
            raise Refusal(error.check, error.culprits) from error
        self.server = slow_server.Server(self.session, bytes.fromhex(vector["server"]["identity"]))

    def client(self, one, policy):
        if policy is not None:
            hexadecimal = ("transcript", "server_key")
            policy = {name: bytes.fromhex(pin) if name in hexadecimal else pin for name, pin in policy.items()}
        identity, channel = bytes.fromhex(one["identity"]), bytes.fromhex(one["channel"])
        secrets, begun = ([bytes.fromhex(text) for text in one.get(what, ())] for what in ("secrets", "begun"))
        opened = [(bytes.fromhex(contribution), name) for contribution, name in one.get("opened", ())]
        return slow_secagg.Client(self.session, identity, channel, secrets, policy, opened, begun)

    def start(self, number):
        return self.events(number, self.clients[number].start)

    def deliver(self, sender, receiver, data):
        if receiver:
            return self.events(receiver, self.clients[receiver].receive, data)
        return self.events(0, self.server.receive, sender, data)

    def start_sum(self, link):
        return self.events(0, self.server.start_sum, link)

    def close_phase(self):
        return self.events(0, self.server.end_phase)

    def masked_input(self, number, values, link):
        client = self.clients[number]
        tensors = self.session.sums[client.tau].tensors if client.tau >= 0 else ()
        flat = [expand(values[tensor.name]) for tensor in tensors]
        return self.events(number, client.masked_input, flat, link)

    def state(self, party):
        whole = vars(self.clients[party] if party else self.server)
        return deepcopy({name: value for name, value in whole.items() if name != "session"})

    def result(self, sum_index):
        tensors, totals = self.session.sums[sum_index].tensors, self.server.result
        return {tensor.name: (total, tensor.decode(total)) for tensor, total in zip(tensors, totals, strict=True)}

    def events(self, party, step, *arguments):
        try:
            found = step(*arguments)
        except Refused as error:
            raise Refusal(error.check, error.culprits) from error
        sends = [(party, event[1] if len(event) == 3 else 0, event[-1]) for event in found if event[0] == "send"]
        plain = [[part.hex() if isinstance(part, bytes) else part for part in e] for e in found if e[0] != "send"]
        return plain, sends


# Replaying


def act(side, vector, step, held):
    """Do one step; `held` are the messages that the implementation itself has made, by number."""
    match step["do"]:
        case "start":
            return side.start(step["client"])
        case "input":
            return side.masked_input(step["client"], step["values"], bytes.fromhex(step["link"]))
        case "start sum":
            return side.start_sum(bytes.fromhex(step["link"]))
        case "close phase":
            return side.close_phase()
        case "deliver":
            message = vector["messages"][step["message"]]
            return side.deliver(message["from"], message["to"], payload_of(message, held.get(step["message"])))
    raise AssertionError(step)


def payload_of(message, own=None):
    return own if "bytes" not in message else base64.b64decode(message["bytes"])


def actor(vector, step):
    """Whose step it is; 0 is the server."""
    return vector["messages"][step["message"]]["to"] if step["do"] == "deliver" else step.get("client", 0)


def same_message(found, message):
    sender, receiver, payload = found
    if (sender, receiver) != (message["from"], message["to"]):
        return False
    if "bytes" in message:
        return payload == base64.b64decode(message["bytes"])
    return (len(payload), hashlib.sha256(payload).hexdigest()) == (message["length"], message["sha256"])


def replay(implementation, vector):
    """Play it all: events, messages and sums are as recorded, repeats have no effect, what is to be refused is."""
    side, held = implementation(vector), {}
    scripted = {number for number, one in enumerate(vector["clients"], 1) if one.get("scripted")}
    refused = vector.get("refused", ())
    for place, step in enumerate([*vector["steps"], None]):
        for bad in (bad for bad in refused if bad["before"] == place):
            check_refused(side, bad)
        if step is None or actor(vector, step) in scripted:
            continue
        events, sends = act(side, vector, step, held)
        assert events == step["events"], (place, step["do"])
        assert len(sends) == len(step["sends"]), (place, step["do"])
        for found, number in zip(sends, step["sends"], strict=True):
            assert same_message(found, vector["messages"][number]), (place, number)
            held[number] = found[2]
        if "result" in step:
            check_result(side, step)
        elif step["do"] == "deliver":
            before = side.state(actor(vector, step))
            assert act(side, vector, step, held) == ([], []), (place, "repeated")
            assert side.state(actor(vector, step)) == before
    return side


def check_refused(side, bad):
    """The named check refuses it, names the culprits, and leaves the state as it was."""
    party = bad["to"] if "to" in bad else bad["input"]["client"]
    before = side.state(party)
    try:
        if "input" in bad:
            local = bad["input"]
            side.masked_input(local["client"], local["values"], bytes.fromhex(local["link"]))
        else:
            side.deliver(bad["from"], bad["to"], base64.b64decode(bad["bytes"]))
    except Refusal as found:
        assert (found.check, found.culprits) == (bad["expect"][:3], bad["culprits"]), bad["expect"]
    else:
        raise AssertionError(f"accepted: {bad['expect']}")
    assert side.state(party) == before, bad["expect"]


def check_result(side, step):
    sum_index = next(event[1] for event in step["events"] if event[0] == "finished")
    found = side.result(sum_index)
    for name, recorded in step["result"].items():
        total, values = found[name]
        assert integers_of(total) == recorded["integers"]
        assert "values" not in recorded or values == recorded["values"]


def load():
    """All vectors by file name."""
    return {path.stem: json.loads(path.read_text()) for path in sorted(VECTORS.glob("*.json"))}
