"""A bounded run of the fuzz harness, and the memory that a message may take: secagg.md P8, P11."""

import random
import tracemalloc
from collections import Counter

import pytest
from fuzz_receive import SESSIONS, Target, case, fuzz, random_case, targets
from harness import Network, identity, make_session, tensor

from collabsecure_protocols import ProtocolError, RemoteProtocolError, ServerState
from collabsecure_protocols.envelope import HEADER_BYTES, MessageType, max_body, seal
from collabsecure_protocols.keys import SIGNATURE_BYTES
from collabsecure_protocols.tensors import CHUNK_VALUES

SMALL = 16 << 10  # bytes: what a message costs however small the session is
CASES = 8000


def test_any_bytes_give_an_event_or_a_typed_error():
    """Every case restores a party, so that cases are independent and a failure's seed and number reproduce it."""
    rng, found = random.Random(2017), Counter()
    for number in range(CASES):
        data = random_case(rng)
        try:
            found[fuzz(data)] += 1
        except Exception as error:
            error.add_note(f"case {number}: {data.hex()}")
            raise
    # The run means little if it did not get past the signature, into every parser and as far as accepted messages.
    assert {"V01", "V02", "V03", "V04", "V05", "V06", "V07", "V11", "V20", "V21", "V22", "V24", "V25", "V27"} <= set(
        found
    )
    assert {"SendToServer", "NeedInput", "SumFinished", "Aborted", "nothing"} <= set(found)


def test_the_targets_are_all_messages_in_all_states_in_which_they_arrive():
    kinds = {(target.receiver == 0, target.payload[1]) for target in targets()}
    # An EncryptedSum goes to the key holder: test_encrypted_sum.
    assert kinds == {(kind in (1, 3, 6, 8, 10), kind) for kind in set(MessageType) - {MessageType.ENCRYPTED_SUM}}
    assert {target.session for target in targets()} == set(SESSIONS)
    for target in targets():
        party = target.restore()
        target.receive(party, target.payload)  # as it arrived, it is taken


def peak_of(target, payload):
    """The most memory that one message takes, besides itself and the party."""
    party = target.restore()
    tracemalloc.start()
    try:
        target.receive(party, payload)
    except ProtocolError:
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return peak


def bound(target):
    """A few times the longest message that is no chunk; for the server, which may then answer everybody, n times."""
    session = target.session
    longest = max(max_body(session, kind) for kind in MessageType if kind is not MessageType.MASKED_INPUT)
    return SMALL + 8 * longest * (1 if target.receiver else session.num_clients)


def test_no_message_takes_more_memory_than_the_session_implies():
    """secagg.md P11, over every honest message and over fuzzed ones."""
    rng = random.Random(2020)
    for target in targets():
        assert peak_of(target, target.payload) < bound(target)
    for _ in range(1500):
        target, payload = case(random_case(rng))
        assert peak_of(target, payload) < bound(target)


def every_message(session):
    """All honest messages of a course, with the state that takes them."""
    found = []

    def note(way, client, payload):
        party = network.clients[client] if way == "down" else network.server
        receiver, sender = (client, 0) if way == "down" else (0, client)
        found.append(Target(session, receiver, sender, party.save(), payload))
        return payload

    network = Network(session=session)
    network.tamper = note
    network.run()
    assert network.server.state is ServerState.FINISHED
    return found


def test_the_bound_grows_with_the_session_and_not_faster():
    """The same for 15 clients and 4 sums, where messages are some ten times as long."""
    for target in every_message(make_session(15, 4))[::5]:
        assert peak_of(target, target.payload) < bound(target)


@pytest.mark.parametrize("kind", MessageType)
def test_a_message_longer_than_any_of_the_session_is_refused_before_anything_is_allocated(kind):
    """secagg.md V02: thirty megabytes in the sender's own name."""
    ends = {(target.session, target.receiver == 0): target for target in targets()}
    assert len(ends) == 4  # either side of either session
    for target in ends.values():
        header = seal(target.session, identity(target.sender or "server"), kind, target.sender, b"")[:HEADER_BYTES]
        payload = header + bytes(30 << 20) + bytes(SIGNATURE_BYTES)
        with pytest.raises(RemoteProtocolError, match="V02"):
            target.receive(target.restore(), payload)
        assert peak_of(target, payload) < SMALL


def test_a_count_beyond_the_body_allocates_nothing():
    """Confirmations announce their number: 65 535 of them in two bytes."""
    target = next(each for each in targets() if each.payload[1] == MessageType.CONFIRMATIONS)
    body = target.payload[HEADER_BYTES : HEADER_BYTES + 2] + b"\xff\xff"
    payload = seal(target.session, identity("server"), MessageType.CONFIRMATIONS, 0, body)
    with pytest.raises(RemoteProtocolError, match="V07"):
        target.receive(target.restore(), payload)
    assert peak_of(target, payload) < SMALL


@pytest.mark.parametrize("bits", [32, 40, 48, 64])
def test_the_server_adds_a_chunk_without_a_copy_of_it(bits):
    """A chunk of half a megabyte or more costs a fraction of itself."""
    session = make_session(3, 1, tensors=[tensor(shape=(CHUNK_VALUES,), n=3, bits=bits)])
    target = next(each for each in every_message(session) if each.payload[1] == MessageType.MASKED_INPUT)
    assert len(target.payload) > CHUNK_VALUES * 4
    assert peak_of(target, target.payload) < len(target.payload) / 2
