"""P8: in every state, what the tables do not allow is refused, and not a byte of the saved state changes (V04)."""

import functools

import pytest
from adversary import Attacker
from harness import LENIENT, Network, identity, make_session, make_values

from collabsecure_protocols import (
    AbortReason,
    Client,
    ClientState,
    LocalProtocolError,
    RemoteProtocolError,
    Server,
    ServerState,
    StateRefused,
)
from collabsecure_protocols.envelope import MessageType, max_body, seal
from collabsecure_protocols.messages import Abort
from collabsecure_protocols.states import CLIENT_TRANSITIONS, SERVER_ACCEPTS, SERVER_TRANSITIONS

SESSION = make_session()
C, S = ClientState, ServerState


@functools.cache
def client_states():
    """Saved state of client 1 in every state of the table, and honest messages of the server, of sum 1."""
    saved = {}

    def note(a):
        saved[a.clients[1].state] = a.clients[1].save()
        return a

    note(Attacker(session=SESSION))
    note(Attacker(session=SESSION).advertise())
    note(Attacker(session=SESSION).share_keys())
    a = note(note(Attacker(session=SESSION).set_up()).collect())
    a.to_all(lambda _: a.survivors(0, (2, 3, 4, 5)), (1,))
    note(a)
    note(Attacker(session=SESSION).confirm())
    note(Attacker(session=SESSION).unmask())
    a = note(Attacker(session=SESSION).complete(0).complete(1))
    messages = {
        MessageType.KEY_DIRECTORY: a.directory(1),
        MessageType.DELIVER_SHARES: a.deliver(1),
        MessageType.START_SUM: a.start_sum(1),
        MessageType.SURVIVORS: a.survivors(1),
        MessageType.CONFIRMATIONS: a.confirmations(1, a.signatures(1)),
        MessageType.FINISH_SUM: a.finish(1),
        MessageType.ABORT: abort(),
    }
    a = Attacker(session=SESSION).set_up()
    a.to(1, messages[MessageType.ABORT])
    note(a)
    assert set(saved) == set(ClientState)
    return saved, messages


def abort():
    message = Abort(reason=AbortReason.CANCELLED, phase=2, found=5, needed=4, sum_index=0, culprits=())
    return from_server(MessageType.ABORT, message.encode(SESSION))


def from_server(kind, body):
    return seal(SESSION, identity("server"), kind, 0, body)


def restored(state):
    return Client.restore(client_states()[0][state], SESSION, identity(1), policy=LENIENT)


def assert_refused(party, receive, check):
    before = party.save()
    with pytest.raises(RemoteProtocolError) as refusal:
        receive()
    assert refusal.value.check == check
    assert party.save() == before


ILLEGAL = [(state, kind) for state in C for kind in MessageType if (state, kind) not in CLIENT_TRANSITIONS]


@pytest.mark.parametrize(("state", "kind"), ILLEGAL)
def test_client_refuses_what_its_state_does_not_take(state, kind):  # secagg.md V04
    client, message = restored(state), client_states()[1].get(kind)
    assert_refused(client, lambda: client.receive(from_server(kind, b"")), "V04")
    before = client.save()
    try:
        assert client.receive(message or from_server(kind, bytes(34))) == ()  # the message that it took last, repeated
    except RemoteProtocolError as error:
        assert error.check == "V04"
    assert client.save() == before


@pytest.mark.parametrize(("state", "kind"), CLIENT_TRANSITIONS)
def test_client_refuses_garbage_where_its_state_takes_the_type(state, kind):  # secagg.md V02, V06, V07
    client = restored(state)
    for length in range(0, max_body(SESSION, kind), 1 + max_body(SESSION, kind) // 40):
        unsigned = from_server(kind, bytes(length))[:-64] + bytes(64)
        assert_refused(client, lambda message=unsigned: client.receive(message), "V06")
        before = client.save()
        with pytest.raises(RemoteProtocolError):
            client.receive(from_server(kind, b"\xff" * length))
        assert client.save() == before
    assert_refused(client, lambda: client.receive(from_server(kind, b"")), "V07")
    too_long = from_server(kind, bytes(max_body(SESSION, kind) + 1))
    assert_refused(client, lambda: client.receive(too_long), "V02")


def test_abort_in_a_phase_that_is_none_is_refused():  # secagg.md V07
    good = abort()
    body = bytearray(good[36:-64])
    body[1] = len(ServerState)
    client = restored(C.READY)
    assert_refused(client, lambda: client.receive(from_server(MessageType.ABORT, bytes(body))), "V07")


@pytest.mark.parametrize("state", C)
def test_client_calls_out_of_order_change_nothing(state):
    client = restored(state)
    before = client.save()
    if state is not C.NEW:
        with pytest.raises(LocalProtocolError, match=rf"start\(\) in state {state}; expected NEW"):
            client.start()
    if state is not C.CONTRIBUTING:
        with pytest.raises(LocalProtocolError, match=rf"masked_input\(\) in state {state}; expected CONTRIBUTING"):
            client.masked_input(make_values(SESSION, 1, 0))
    assert client.save() == before


class Watched(Network):
    """A network that keeps the server's state, as it was when each phase began."""

    def __init__(self, **fields):
        self.saved = {}
        super().__init__(**fields)
        self.saved[self.server.state] = self.server.save()

    def to_clients(self, events):
        self.saved.setdefault(self.server.state, self.server.save())
        super().to_clients(events)


@functools.cache
def server_states():
    network = Watched(session=SESSION)
    network.run()
    cancelled = Watched(session=SESSION)
    cancelled.server.cancel()
    return network.saved | {S.ABORTED: cancelled.server.save()}


def server_in(state):
    return Server.restore(server_states()[state], SESSION, identity("server"))


def test_every_server_state_is_covered():
    assert set(server_states()) == set(ServerState)


@pytest.mark.parametrize("state", S)
@pytest.mark.parametrize("kind", MessageType)
def test_server_refuses_what_its_phase_does_not_take(state, kind):  # secagg.md V04
    server = server_in(state)
    legal = SERVER_ACCEPTS.get(state) is kind
    for number in (1, 5):
        for body in (b"", b"\xff" * min(34, max_body(SESSION, kind)), bytes(min(34, max_body(SESSION, kind)))):
            message = seal(SESSION, identity(number), kind, number, body)
            before = server.save()
            with pytest.raises(RemoteProtocolError) as refusal:
                server.receive(number, message)
            assert server.save() == before
            assert (refusal.value.check == "V04") != legal
            assert refusal.value.culprits == (number,)


def test_server_misuse_is_refused_in_words_and_changes_nothing():
    ready, finished = server_in(S.READY), server_in(S.FINISHED)
    for server, call, text in (
        (ready, lambda: ready.start_sum(link=b"short"), "a link has 32 bytes, found 5"),
        (ready, lambda: ready.receive(6, b""), "client 6 is not on the roster of 5"),
        (ready, lambda: ready.receive(0, b""), "client 0 is not on the roster of 5"),
        (finished, lambda: finished.total("z"), "has no tensor 'z'; it has x, y"),
        (finished, lambda: Server(SESSION, identity(1)), "not the session's server key"),
    ):
        before = server.save()
        with pytest.raises(LocalProtocolError, match=text):
            call()
        assert server.save() == before


@pytest.mark.parametrize("state", S)
def test_server_calls_out_of_order_change_nothing(state):
    server = server_in(state)
    before = server.save()
    calls = {
        "start_sum": (server.start_sum, (S.READY,)),
        "close_phase": (server.close_phase, tuple(SERVER_ACCEPTS)),
        "cancel": (server.cancel, tuple(SERVER_TRANSITIONS)),
        "total": (lambda: server.total("x"), (S.FINISHED,)),  # READY was saved before any sum
    }
    for call, allowed in calls.values():
        if state not in allowed:
            with pytest.raises(LocalProtocolError):
                call()
            assert server.save() == before


def test_upload_ends_where_the_sum_goes_on_without_it():
    """Whoever still holds the iterator gets no chunk of a sum that is over, whose secrets are gone."""
    a = Attacker(session=SESSION, values=lambda *_: {}).collect()
    client = a.clients[1]
    chunks = client.masked_input(make_values(SESSION, 1, 0))
    next(chunks)
    a.to(1, a.survivors(0, (2, 3, 4, 5)))
    before = client.save()
    with pytest.raises(LocalProtocolError, match="takes no more input"):
        next(chunks)
    assert client.save() == before


def test_chunks_cannot_be_skipped():
    client = Attacker(session=SESSION, values=lambda *_: {}).collect().clients[1]
    before = client.save()
    for first in (1, -1):
        with pytest.raises(LocalProtocolError, match=f"chunk {first} cannot be next; 0 were made so far"):
            client.masked_input(make_values(SESSION, 1, 0), first=first)
    assert client.save() == before


@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize("first", [0, 1])
def test_other_values_under_used_masks_are_refused(restart, first):  # secagg.md V33, P10
    """Two chunks have left; whoever comes again with other values gets neither of them out."""
    client = restored(C.CONTRIBUTING)
    good = make_values(SESSION, 1, 0)
    sent = [bytes(chunk) for chunk in client.masked_input(good)]
    client = Client.restore(client.save(), SESSION, identity(1), policy=LENIENT) if restart else client
    before = client.save()
    for name in ("x", "y")[first:]:
        other = good | {name: good[name] / 2}
        same = ("x", "y").index(name) - first  # chunks before the changed one are the same bytes
        chunks = client.masked_input(other, first=first)
        assert [bytes(next(chunks)) for _ in range(same)] == sent[first : first + same]
        with pytest.raises(LocalProtocolError, match="V33"):
            next(chunks)
    assert [bytes(chunk) for chunk in client.masked_input(good, first=first)] == sent[first:]
    assert client.save() == before


@pytest.mark.parametrize("state", C)
def test_saved_state_that_is_damaged_is_refused(state):  # secagg.md V35
    blob = client_states()[0][state]
    for at in range(0, len(blob), max(1, len(blob) // 50)):
        for damaged in (blob[:at], blob[:at] + bytes([blob[at] ^ 1]) + blob[at + 1 :], blob + blob[:at]):
            if damaged != blob:
                with pytest.raises(StateRefused, match="V35"):
                    Client.restore(damaged, SESSION, identity(1), policy=LENIENT)


def test_saved_state_of_another_party_or_session_is_refused():  # secagg.md V35
    client, server = client_states()[0][C.READY], server_states()[S.READY]
    other = make_session(session_id=b"another session!")
    for restore in (
        lambda: Client.restore(client, SESSION, identity(2), policy=LENIENT),
        lambda: Client.restore(client, other, identity(1), policy=LENIENT),
        lambda: Client.restore(server, SESSION, identity(1), policy=LENIENT),
        lambda: Server.restore(server, other, identity("server")),
        lambda: Server.restore(client, SESSION, identity("server")),
        lambda: Server.restore(server[:-1], SESSION, identity("server")),
    ):
        with pytest.raises(StateRefused, match="V35"):
            restore()
