"""Any bytes into `Client.receive` and `Server.receive`, in every state: an event or a typed error, and nothing else.

`fuzz(data)` runs one case. `python tests/protocols/fuzz_receive.py` runs it under atheris where that is installed
(libFuzzer's options follow), and on seeded random cases, as many as the first argument says, where it is not.
"""

import functools
import random
import sys
from dataclasses import dataclass

from harness import Network, identity, make_session

from collabsecure_protocols import Client, Policy, PolicyRefusal, RemoteProtocolError, Server, ServerState
from collabsecure_protocols.envelope import HEADER_BYTES, MessageType, seal
from collabsecure_protocols.events import ClientEvent, ServerEvent
from collabsecure_protocols.keys import SIGNATURE_BYTES


class AnyGraph(Policy):
    def check(self, session):
        pass


DROPS = {(ServerState.SHARE_KEYS, 0): [1], (ServerState.MASKED_INPUT, 1): [4]}
SESSIONS = (make_session(5, 3), make_session(7, 2, degree=4, threshold=3, min_survivors=4))


@dataclass(frozen=True)
class Target:
    """A receiver in one of its states, and the message that it is about to take."""

    session: object
    receiver: int  # 0 is the server
    sender: int
    blob: bytes
    payload: bytes

    def restore(self):
        if self.receiver:
            return Client.restore(self.blob, self.session, identity(self.receiver), policy=AnyGraph())
        return Server.restore(self.blob, self.session, identity("server"))

    def receive(self, party, payload):
        return party.receive(payload) if self.receiver else party.receive(self.sender, payload)


@functools.cache
def targets():
    """One for every kind of message in every state in which it arrives, from a course with dropouts and its Abort."""
    found = {}

    def note(network, way, client, payload):
        party = network.clients[client] if way == "down" else network.server
        receiver, sender = (client, 0) if way == "down" else (0, client)
        again = sum(1 for key in found if key[:4] == (network.session.transcript, way, party.state, payload[1]))
        if again < 3:
            key = (network.session.transcript, way, party.state, payload[1], again)
            found[key] = Target(network.session, receiver, sender, party.save(), payload)
        return payload

    for session in SESSIONS:
        for drops in (DROPS, {**DROPS, (ServerState.UNMASK, 1): list(session.client_ids[1:])}):
            network = Network(session=session, policy=AnyGraph(), drops=drops)
            network.tamper = functools.partial(note, network)
            network.run()
    return tuple(found.values())


class Choices:
    """Fuzzer's bytes as small numbers; zeros when they are used up."""

    def __init__(self, data):
        self.data, self.at = data, 0

    def number(self, below):
        self.at += 2
        return int.from_bytes(self.data[self.at - 2 : self.at].ljust(2, b"\0"), "little") % below

    def rest(self):
        return self.data[self.at :]


def mutated(choices, payload):
    """A few places overwritten, flipped, cut, repeated or put in from the fuzzer's bytes."""
    result = bytearray(payload)
    for _ in range(1 + choices.number(3)):
        at, kind = choices.number(len(result) + 1), choices.number(6)
        length = 1 + choices.number(40)
        if kind == 0:
            result[at : at + 1] = bytes([choices.number(256)])
        elif kind == 1 and at < len(result):
            result[at] ^= 1 << choices.number(8)
        elif kind == 2:
            del result[at : at + length]
        elif kind == 3:
            result[at:at] = result[at : at + length]
        elif kind == 4:
            result[at : at + length] = bytes(length)
        else:
            result[at:at] = choices.rest()[:length]
    return bytes(result)


def case(data):
    """A target and what it is sent: noise, a damaged message, or one whose body is wrong under a right signature."""
    choices = Choices(data)
    target = targets()[choices.number(len(targets()))]
    another = targets()[choices.number(len(targets()))]
    who = identity(target.sender or "server")
    body = target.payload[HEADER_BYTES:-SIGNATURE_BYTES]
    sign = functools.partial(seal, target.session, who)
    mode = choices.number(8)
    if mode == 0:
        return target, choices.rest()
    if mode == 1:
        return target, mutated(choices, target.payload)
    if mode == 2:
        return target, another.payload
    if mode == 3:
        return target, mutated(choices, another.payload)
    if mode == 4:
        kind = MessageType(1 + choices.number(len(MessageType)))
        return target, sign(kind, target.sender, choices.rest())
    if mode == 5:
        return target, sign(another.payload[1], target.sender, another.payload[HEADER_BYTES:-SIGNATURE_BYTES])
    if mode == 6:  # a state's own message from another client's pen, such as shares for somebody else
        return target, sign(target.payload[1], choices.number(9), body)
    return target, sign(target.payload[1], target.sender, mutated(choices, body))


def fuzz(data):
    """Run one case; returns the check that refused it, or the events' names."""
    target, payload = case(data)
    party = target.restore()
    try:
        events = target.receive(party, payload)
    except (RemoteProtocolError, PolicyRefusal) as error:
        assert party.save() == target.blob, f"P8: refused, but the state changed: {error}"
        if isinstance(error, RemoteProtocolError):
            assert error.culprits, "P12: nobody is named"
        return str(error)[:3]
    allowed = ClientEvent if target.receiver else ServerEvent
    assert all(isinstance(event, allowed) for event in events)
    state = party.save()
    again = Target(target.session, target.receiver, target.sender, state, payload).restore()
    assert again.save() == state
    assert target.receive(again, payload) == ()  # the last accepted message, repeated, has no effect
    return type(events[0]).__name__ if events else "nothing"


def random_case(rng):
    """Bytes whose choices reach everything, as a fuzzer would find them."""
    return rng.randbytes(rng.choice([8, 16, 40, 120, 400, 2000]))


def main():
    try:
        import atheris
    except ImportError:
        rng = random.Random(0)
        for _ in range(int(sys.argv[1]) if len(sys.argv) > 1 else 20_000):
            fuzz(random_case(rng))
        return
    targets()
    atheris.instrument_all()
    atheris.Setup(sys.argv, fuzz)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
