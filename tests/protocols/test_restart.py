"""A party that is killed goes on from its saved state with identical bytes, or refuses: secagg.md P10."""

import functools
import itertools

import pytest
from harness import Network, identity, make_session, make_values, tensor

from collabsecure_protocols import AbortReason, Client, LocalProtocolError, NeedInput, Policy, Server, ServerState
from collabsecure_protocols.envelope import MessageType, seal
from collabsecure_protocols.messages import Abort
from collabsecure_protocols.tensors import CHUNK_VALUES


class AnyGraph(Policy):
    def check(self, session):
        pass


def restored(party):
    """The same party in another process."""
    blob = party.save()
    if isinstance(party, Server):
        again = Server.restore(blob, party.session, identity("server"))
        assert (again.missing, again.participants) == (party.missing, party.participants)
    else:
        again = Client.restore(blob, party.session, identity(int(party.client_id)), policy=AnyGraph())
        assert (again.pending, again.ledger, again.chunks_sent) == (party.pending, party.ledger, party.chunks_sent)
    assert again.save() == blob
    assert again.state is party.state
    return again


class Fragile(Network):
    """Every receiver is killed and restored before each message to it, and the server before each phase it closes."""

    def __post_init__(self):
        super().__post_init__()
        self.tamper = self.kill

    def kill(self, way, client, payload):
        if way == "down":
            self.clients[client] = restored(self.clients[client])
        else:
            self.server = restored(self.server)
        return payload

    def from_clients(self, batches):
        self.server = restored(self.server)
        super().from_clients(batches)
        self.server = restored(self.server)

    def _payloads(self, number, batch):
        self.clients[number] = restored(self.clients[number])
        return super()._payloads(number, batch)


STATE = ServerState
COURSES = {
    "nobody leaves": (make_session(4, 2), {}),
    "one leaves at each phase": (
        make_session(9, 3),
        {
            (STATE.ADVERTISE_KEYS, 0): [1],
            (STATE.MASKED_INPUT, 0): [2],
            (STATE.CONSISTENCY_CHECK, 1): [3],
            (STATE.UNMASK, 2): [4],
        },
    ),
    "one leaves before unmasking": (make_session(5, 2), {(STATE.UNMASK, 0): [5], (STATE.SHARE_KEYS, 0): []}),
    "too few share keys": (make_session(4, 1), {(STATE.SHARE_KEYS, 0): [1, 2]}),
    "too few unmask": (make_session(4, 2), {(STATE.UNMASK, 1): [1, 2]}),
    "k-regular": (
        make_session(8, 2, degree=4, threshold=3, min_survivors=4),
        {(STATE.SHARE_KEYS, 0): [3], (STATE.MASKED_INPUT, 0): [5]},
    ),
}


@pytest.mark.parametrize("name", COURSES)
def test_restarts_at_every_step_change_no_byte_and_no_sum(name):
    """secagg.md P10."""
    session, drops = COURSES[name]
    straight = Network(session=session, drops=drops, policy=AnyGraph()).run()
    broken = Fragile(session=session, drops=drops, policy=AnyGraph()).run()
    assert broken.transcript == straight.transcript
    assert broken.events == straight.events
    assert broken.totals == straight.totals
    assert bool(broken.aborted) is name.startswith("too few")


# Three chunks: two tensors, the second of which takes two.
UPLOAD = make_session(3, 1, tensors=[tensor("small", (5,), n=3), tensor("large", (CHUNK_VALUES + 3,), n=3, bits=32)])
VALUES = make_values(UPLOAD, 1, 0)


def contributing():
    """Client 1 of UPLOAD when its input is wanted."""
    return Client.restore(_reach_input(), UPLOAD, identity(1), policy=Policy())


@functools.cache
def _reach_input():
    network, found = Network(session=UPLOAD), []

    def values(session, client, sum_index):
        if client == 1:
            found.append(network.clients[1].save())
        return make_values(session, client, sum_index)

    network.values = values
    network.run()
    return found[0]


@pytest.fixture(scope="module")
def whole():
    return [bytes(chunk) for chunk in contributing().masked_input(VALUES)]


@pytest.mark.parametrize("made", range(3))
@pytest.mark.parametrize("threads", [1, 2])
def test_an_upload_cut_anywhere_goes_on_with_the_same_bytes(whole, made, threads):
    """Chunks that were made may not have been sent: the client goes on from any of them."""
    for first in range(made + 1):
        client = contributing()
        assert [bytes(chunk) for chunk in itertools.islice(client.masked_input(VALUES), made)] == whole[:made]
        client = restored(client)
        assert client.chunks_sent == made
        assert [bytes(chunk) for chunk in client.masked_input(VALUES, first=first, threads=threads)] == whole[first:]
        assert restored(client).chunks_sent == 3
    client = contributing()
    list(itertools.islice(client.masked_input(VALUES), made))
    with pytest.raises(LocalProtocolError, match=f"chunk {made + 1} cannot be next; {made} were made so far"):
        client.masked_input(VALUES, first=made + 1)
    with pytest.raises(LocalProtocolError, match="chunk -1 cannot be next"):
        client.masked_input(VALUES, first=-1)


def test_a_sum_is_exact_where_every_upload_is_cut_once():
    class Cut(Network):
        def _payloads(self, number, batch):
            payloads = super()._payloads(number, [event for event in batch if not isinstance(event, NeedInput)])
            for event in (event for event in batch if isinstance(event, NeedInput)):
                values = self.values(self.session, number, event.sum_index)
                cut = number % 3
                payloads += [bytes(c) for c in itertools.islice(self.clients[number].masked_input(values), cut)]
                self.clients[number] = restored(self.clients[number])
                payloads += [bytes(c) for c in self.clients[number].masked_input(values, first=cut)]
            return payloads

    network = Cut(session=UPLOAD).run()
    assert network.totals == [network.expected(0, (1, 2, 3))]


def changed(name, place):
    array = VALUES[name].copy()
    array[place] = -array[place] / 2
    return {**VALUES, name: array}


OTHER_VALUES = {
    0: changed("small", 4),
    1: changed("large", CHUNK_VALUES - 1),
    2: changed("large", CHUNK_VALUES + 2),
}


@pytest.mark.parametrize("chunk", OTHER_VALUES)
@pytest.mark.parametrize("threads", [1, 2])
def test_other_values_under_a_mask_that_was_used_never_leave(whole, chunk, threads):
    """secagg.md V33: one value differs, in one chunk; those before it are the same bytes again."""
    client = contributing()
    list(client.masked_input(VALUES))
    client = restored(client)
    before, again = client.save(), []
    with pytest.raises(LocalProtocolError, match=f"V33: chunk {chunk} of sum 0 was sent before with other values"):
        again.extend(bytes(made) for made in client.masked_input(OTHER_VALUES[chunk], threads=threads))
    assert again == whole[:chunk]
    assert client.save() == before
    assert [bytes(made) for made in client.masked_input(VALUES)] == whole


def test_a_chunk_that_never_left_binds_nobody(whole):
    """Its mask is unused, so that other values there are no second use; what had left stays as it was."""
    client = contributing()
    assert bytes(next(client.masked_input(VALUES))) == whole[0]
    rest = [bytes(chunk) for chunk in restored(client).masked_input(OTHER_VALUES[2], first=1)]
    assert (rest[0], len(rest)) == (whole[1], 2)
    assert rest[1] != whole[2]


def test_an_upload_stops_when_its_sum_does():
    """An iterator that outlives the sum yields nothing more."""
    client = contributing()
    upload = client.masked_input(VALUES)
    next(upload)
    abort = Abort(reason=AbortReason.CANCELLED, phase=3, found=3, needed=3, sum_index=0, culprits=())
    client.receive(seal(UPLOAD, identity("server"), MessageType.ABORT, 0, abort.encode(UPLOAD)))
    with pytest.raises(LocalProtocolError, match="sum 0 takes no more input in state ABORTED"):
        next(upload)


def test_the_server_knows_where_each_participants_upload_goes_on():
    network = Network(session=UPLOAD)
    network.from_clients({number: client.start() for number, client in network.clients.items()})
    with pytest.raises(LocalProtocolError, match="no sum has started"):
        network.server.next_chunk(1)
    network.server.start_sum()
    chunks = contributing().masked_input(VALUES)
    for made in range(3):
        assert [network.server.next_chunk(number) for number in (1, 2)] == [made, 0]
        network.server.receive(1, next(chunks))
        network.server = restored(network.server)
    with pytest.raises(LocalProtocolError, match="client 4 is no participant"):
        network.server.next_chunk(4)
