"""The protocol's clients of a light session, driven call by call against an aggregator's engine, without a network."""

import hashlib
from collections import deque
from dataclasses import dataclass, field, replace

from light_session import GivenArrays

from collabsecure_cli.aggregator import TooLate, WrongOffset
from collabsecure_cli.uploads import boundaries
from collabsecure_protocols import Client, ClientState, NeedInput, Policy, RemoteProtocolError, SendToServer


def seeded(name):
    """A random source that gives the same bytes in every run."""
    count = 0

    def rng(length):
        nonlocal count
        count += 1
        return hashlib.shake_256(f"{name} {count}".encode()).digest(length)

    return rng


@dataclass(kw_only=True)
class Member:
    """One client: what it still has to say."""

    client: Client
    given: GivenArrays
    read: int = 0
    outbox: deque = field(default_factory=deque)
    said: bytes = b""  # the message before
    sum_index: int = -1
    chunks: list = field(default_factory=list)
    sent: int = 0
    gone: bool = False


class Cohort:
    """All clients. An action is (what, client), and `do` makes the one call on the engine that it stands for."""

    def __init__(self, light):
        self.light = light
        self.closing = None  # the phase that ("close", 0) is about
        self.members = {
            client: Member(
                client=Client(light.session, identity, policy=Policy(), rng=seeded(client)),
                given=GivenArrays(light, client),
            )
            for client, identity in light.identities.items()
        }
        for member in self.members.values():
            member.outbox.extend(event.payload for event in member.client.start())

    def copy(self):
        """The same clients, to go on from here in another way."""
        twin = Cohort(self.light)
        twin.closing = self.closing
        for client, member in self.members.items():
            identity = self.light.identities[client]
            restored = Client.restore(member.client.save(), self.light.session, identity, policy=Policy())
            twin.members[client] = replace(member, client=restored, outbox=deque(member.outbox))
        return twin

    def listen(self, engine):
        """Let everybody who is there take what has arrived."""
        for client, member in self.members.items():
            while not member.gone and member.read < len(engine.mailboxes[client]):
                payload = engine.mailboxes[client][member.read]
                member.read += 1
                for event in member.client.receive(payload):
                    match event:
                        case SendToServer(payload=answer):
                            member.outbox.append(answer)
                        case NeedInput(sum_index=index):
                            values = dict(member.given.statistics(index))
                            link = engine.results.link
                            member.chunks = [bytes(c) for c in member.client.masked_input(values, link=link)]
                            member.sum_index, member.sent = index, 0

    def actions(self, engine):
        """What can happen next, clients first."""
        found = []
        for client, member in self.members.items():
            if member.gone:
                continue
            if member.outbox:
                found.append(("post", client))
            elif member.sent < len(member.chunks) and member.client.state is ClientState.CONTRIBUTING:
                found.append(("upload", client))
        self.closing = engine.state, engine.sum_index
        if engine.wants_merge:
            found.append(("merge", 0))
        if engine.wants_start:
            found.append(("start", 0))
        return found

    def do(self, engine, action):
        """Make the call; taking an answer is `done`'s."""
        what, client = action
        member = self.members[client or 1]
        if what == "post":
            engine.receive(client, member.outbox[0])
        elif what == "again":
            engine.receive(client, member.said)
        elif what == "upload":
            offset = boundaries(self.light.session, member.sum_index)[member.sent]
            engine.upload(client, member.sum_index, offset, member.chunks[member.sent])
        elif what == "close":
            engine.close_phase(*self.closing)
        elif what == "merge":
            engine.merge(self.light.second_moment)
        elif what == "start":
            engine.start_sum()

    def do_again(self, engine, action):
        """The same after a crash of the engine, which may have done it already."""
        what, _ = action
        if (what == "merge" and not engine.wants_merge) or (what == "start" and not engine.wants_start):
            return
        try:
            self.do(engine, action)
        except (WrongOffset, TooLate):
            pass
        except RemoteProtocolError as error:
            assert error.check in ("V04", "V08"), error

    def done(self, engine, action):
        """The engine has taken it: go on from there."""
        what, client = action
        if what == "post":
            self.members[client].said = self.members[client].outbox.popleft()
        elif what == "upload":
            self.members[client].sent += 1
        self.listen(engine)

    def play(self, engine, *, until=lambda _: False, choose=lambda actions: actions[0]):
        """Take the session on until `until` holds before an action, or nothing is left to do."""
        while (actions := self.actions(engine)) and not until(engine):
            action = choose(actions)
            self.do(engine, action)
            self.done(engine, action)


def view(engine):
    """All that anybody can see of an engine."""
    running = engine.state == "MASKED_INPUT"
    return {
        "state": engine.state,
        "sum": engine.sum_index,
        "missing": engine.missing,
        "out": engine.out,
        "mailboxes": {client: list(box) for client, box in engine.mailboxes.items()},
        "failure": engine.failure,
        "over": engine.is_over,
        "offsets": {c: engine.offset(c, engine.sum_index) for c in engine.participants} if running else {},
        "results": dict(engine.results.digests),
        "survivors": dict(engine.results.survivors),
        "link": engine.results.link,
    }
