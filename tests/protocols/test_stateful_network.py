"""An honest server and honest clients over a network that reorders, repeats and loses, on machines that restart.

A Hypothesis state machine: every sum that finishes is the Python-int oracle's, and where no deadline has passed,
sending again what was lost always brings the session to its end with everybody in it.
"""

import itertools
from collections import Counter

import pytest
from harness import encoded, identity, make_session, make_values, seeded
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from collabsecure_protocols import (
    Aborted,
    Client,
    ClientState,
    LocalProtocolError,
    NeedInput,
    Policy,
    PolicyRefusal,
    RemoteProtocolError,
    SendToClient,
    SendToServer,
    Server,
    ServerState,
    SetupFinished,
    SumFinished,
)
from collabsecure_protocols.envelope import MessageType
from collabsecure_protocols.states import SERVER_ACCEPTS


class AnyGraph(Policy):
    def check(self, session):
        pass


SESSIONS = [make_session(4, 2), make_session(5, 2), make_session(6, 2, degree=4, threshold=3, min_survivors=4)]
OVER = (ServerState.FINISHED, ServerState.ABORTED)


class LossyNetwork(RuleBasedStateMachine):
    @initialize(session=st.sampled_from(SESSIONS), ready=st.booleans())
    def begin(self, session, ready):
        self.session, self.server = session, Server(session, identity("server"))
        self.clients = {
            number: Client(session, identity(number), policy=AnyGraph(), rng=seeded(f"client {number}"))
            for number in session.client_ids
        }
        self.queue = []  # ("up" or "down", client, payload), in the order of sending
        self.unheard = {number: [] for number in self.clients}  # what the transport has not seen arrive
        self.sent = set()  # (client, payload) that ever left a client
        self.finished = {}  # sum → survivors
        self.deadlines = 0
        for number, client in self.clients.items():
            self.from_client(number, client.start())
        while ready and self.queue:
            self.deliver(*self.queue.pop(0))

    def enqueue_up(self, number, payload):
        self.sent.add((number, bytes(payload)))
        self.queue.append(("up", number, bytes(payload)))

    def from_client(self, number, events):
        for event in events:
            if isinstance(event, SendToServer):
                self.enqueue_up(number, event.payload)
            if isinstance(event, NeedInput):
                self.upload(number, 0)

    def upload(self, number, first):
        client = self.clients[number]
        values = make_values(self.session, number, client.sum_index)
        for chunk in client.masked_input(values, first=first):
            self.enqueue_up(number, chunk)

    def from_server(self, events):
        for event in events:
            if isinstance(event, SendToClient):
                self.queue.append(("down", event.client_id, event.payload))
                self.unheard[event.client_id].append(event.payload)
            if isinstance(event, SumFinished):
                self.check_sum(event.sum_index, event.survivors)
            if isinstance(event, Aborted | SetupFinished | SumFinished):
                self.ended = event

    def check_sum(self, index, survivors):
        """P2: the integer sum over exactly the survivors."""
        assert index not in self.finished
        assert len(survivors) >= self.session.min_survivors
        self.finished[index] = survivors
        for spec in self.session.sums[index].tensors:
            columns = [encoded(spec, make_values(self.session, number, index)[spec.name]) for number in survivors]
            assert self.server.total(spec.name).tolist() == [sum(column) for column in zip(*columns, strict=True)]

    def deliver(self, way, number, payload):
        receiver = self.clients[number] if way == "down" else self.server
        before = receiver.save()
        try:
            if way == "down":
                self.unheard[number] = [each for each in self.unheard[number] if each != payload]
                self.from_client(number, receiver.receive(payload))
            else:
                self.from_server(receiver.receive(number, payload))
        except (RemoteProtocolError, PolicyRefusal):
            assert receiver.save() == before  # P8

    def take(self, which):
        return self.queue.pop(which % len(self.queue))

    @rule(picks=st.lists(st.integers(0, 50), min_size=1, max_size=10))
    def deliver_in_any_order(self, picks):
        for which in picks:
            if self.queue:
                self.deliver(*self.take(which))

    @rule(count=st.integers(5, 60))
    def deliver_in_order(self, count):
        for _ in range(min(count, len(self.queue))):
            self.deliver(*self.queue.pop(0))

    @precondition(lambda self: self.queue)
    @rule(which=st.integers(0, 50))
    def repeat(self, which):
        self.queue.append(self.queue[which % len(self.queue)])

    @precondition(lambda self: self.queue)
    @rule(which=st.integers(0, 50))
    def lose(self, which):
        self.take(which)

    @rule()
    def restart_server(self):
        blob = self.server.save()
        self.server = Server.restore(blob, self.session, identity("server"))
        assert self.server.save() == blob

    @rule(which=st.integers(0, 5))
    def restart_client(self, which):
        """With it goes what it was about to send."""
        number = which % self.session.num_clients + 1
        blob = self.clients[number].save()
        self.clients[number] = Client.restore(blob, self.session, identity(number), policy=AnyGraph())
        assert self.clients[number].save() == blob
        self.queue = [message for message in self.queue if message[:2] != ("up", number)]

    @rule(which=st.integers(0, 5))
    def send_again(self, which):
        """What the transport has not seen arrive, and what both sides keep for one who lost the last message."""
        number = which % self.session.num_clients + 1
        client, pending = self.clients[number], self.server.pending(number)
        for payload in (*self.unheard[number], *([] if pending is None else [pending])):
            self.queue.append(("down", number, payload))
        if client.state is ClientState.CONTRIBUTING:
            wanted = self.server.state is ServerState.MASKED_INPUT and number in self.server.participants
            first = self.server.next_chunk(number) if wanted and self.running() == client.sum_index else 0
            self.upload(number, min(first, client.chunks_sent))
        self.from_client(number, client.pending)

    def running(self):
        return len(self.finished)

    @precondition(lambda self: self.server.state in SERVER_ACCEPTS)
    @rule(patience=st.integers(1, 8))
    def let_the_deadline_pass(self, patience):
        """Mostly when few are missing, for otherwise every session would end here."""
        if patience == 1 or (patience < 4 and len(self.server.missing) == 1):
            self.close()

    def close(self):
        self.deadlines += 1
        self.from_server(self.server.close_phase())

    @rule(which=st.integers(0, 8), phases=st.integers(1, 9))
    def go_on_while_one_is_silent(self, which, phases):
        """Or none. Everybody else's messages arrive; then the deadline passes."""
        for _ in range(phases):
            arriving, self.queue = self.queue, []
            for message in arriving:
                if message[1] != which:
                    self.deliver(*message)
            if self.server.state is ServerState.READY:
                self.start_sum()
            elif self.server.state in SERVER_ACCEPTS and self.server.missing == (which,):
                self.close()

    @precondition(lambda self: self.server.state is ServerState.READY)
    @rule()
    def start_sum(self):
        self.from_server(self.server.start_sum())

    @invariant()
    def one_survivor_set_one_unmask_one_body_a_chunk(self):
        """P3 and P10, over all that ever left a client."""
        keyed = Counter()
        for number, payload in {(number, payload[:-64]) for number, payload in self.sent}:
            if payload[1] in (MessageType.CONSISTENCY_CHECK, MessageType.UNMASK):
                keyed[number, payload[:38]] += 1
            elif payload[1] == MessageType.MASKED_INPUT:
                keyed[number, payload[:42]] += 1
            else:
                keyed[number, payload[:36]] += 1
        assert max(keyed.values(), default=1) == 1

    @invariant()
    def an_aborted_sum_shows_nothing(self):
        if self.server.state is ServerState.ABORTED:
            for spec in self.session.sums[0].tensors:
                try:
                    self.server.total(spec.name)
                except LocalProtocolError:
                    continue
                raise AssertionError("an aborted session still holds a sum")

    def teardown(self):
        """What was lost is sent again until the session is over."""
        for _ in range(20 * len(self.session.sums)):
            if self.server.state in OVER:
                break
            if self.server.state is ServerState.READY:
                self.start_sum()
            for number in self.session.client_ids:
                self.send_again(number - 1)
            self.deliver_in_order(10_000)
        if not self.deadlines:
            assert self.server.state is ServerState.FINISHED
            assert set(self.finished.values()) == {self.session.client_ids}
        elif self.server.state not in OVER:  # somebody was left out for good, so only deadlines bring it on
            while self.server.state in SERVER_ACCEPTS:
                self.close()
        self.deliver_in_order(10_000)


LossyNetwork.TestCase.settings = settings(max_examples=60, stateful_step_count=40)
test_sums_are_exact_over_any_network = LossyNetwork.TestCase


@pytest.mark.parametrize("degree", [4, 2])
def test_masks_cancel_over_every_survivor_set_that_may_be(degree):
    """One upload of each of five clients, the same bytes for all sets: whoever stays, their sum is found."""
    session = make_session(5, 1, degree=degree, threshold=2, min_survivors=2)
    uploads, ended = {}, Counter()
    for size in (2, 3, 4, 5):
        for survivors in itertools.combinations(session.client_ids, size):
            machine = LossyNetwork()
            machine.begin(session, ready=True)
            machine.start_sum()
            machine.deliver_in_order(5)
            chunks, machine.queue = machine.queue, []
            for _, number, payload in chunks:
                assert uploads.setdefault((number, payload[:42]), payload) == payload
                if number in survivors:
                    machine.deliver("up", number, payload)
            if size < 5:
                machine.from_server(machine.server.close_phase())
            while machine.queue:
                machine.deliver_in_order(1)
            ended[machine.server.state] += 1
            assert machine.server.state is ServerState.FINISHED or degree == 2  # on the ring most lack a neighbour
            assert machine.finished.get(0, survivors) == survivors
    assert ended[ServerState.FINISHED] == {4: 26, 2: 6}[degree]
