"""A node answers the same whenever it is asked again, keeps what it must, and refuses what it must."""

import os
import stat

import numpy as np
import pytest
from coordinating import Coordinating
from hypothesis import given, settings
from hypothesis import strategies as st
from memory_host import ARRAYS, exact_sum, identity, made_session, made_values, stream

from collabsecure.errors import BadFile
from collabsecure.integrations.exchange import (
    BadExchange,
    Carry,
    Hello,
    Messages,
    Ready,
    Refused,
    Shard,
    decode_reply,
    encode,
)
from collabsecure.integrations.host import Answering, ValuesNeeded
from collabsecure.integrations.node import SumNode
from collabsecure.integrations.stores import FolderStore, MemoryStore, Store
from collabsecure_protocols import ClientState, LocalProtocolError, Policy, PolicyRefusal, StateRefused, ValueRefused
from collabsecure_protocols.envelope import MessageType
from collabsecure_protocols.messages import Confirmations, ConsistencyCheck, StartSum

SESSION = made_session()
CLIENTS = tuple(map(int, SESSION.client_ids))
OTHER = made_session(session_id=bytes(32))
EMPTY = (np.zeros((3, 5)), np.zeros(1))


def node(client: int, session=SESSION, store: Store | None = None, rng=None) -> SumNode:
    rng = rng or stream(f"client {client}")
    return SumNode(session, identity(client), policy=Policy(), store=store or MemoryStore(), rng=rng)


def nodes(session=SESSION, stores=None) -> Coordinating:
    return Coordinating(session, {client: node(client, session, (stores or {}).get(client)) for client in CLIENTS})


def contents(store: MemoryStore) -> dict[str, bytes]:
    return dict(store._files)


class Again:
    """A node that is asked everything twice, by a new process each time; both must say the same."""

    def __init__(self, client: int, session=SESSION) -> None:
        self.store, self.client, self.session = MemoryStore(), client, session

    def _process(self) -> SumNode:
        return node(self.client, self.session, self.store, rng=os.urandom)

    def answer(self, request: bytes) -> bytes:
        first = self._process().answer(request)
        assert self._process().answer(request) == first
        return first

    def give(self, sum_name, values, *, link=bytes(32)) -> None:
        for _ in range(2):
            self._process().give(sum_name, values, link=link)

    @property
    def kept(self) -> set[str]:
        return {*contents(self.store)}


def test_it_is_what_an_app_expects() -> None:
    assert isinstance(node(1), Answering)


def test_sums_are_exact_when_every_request_comes_twice_and_finds_a_new_process() -> None:
    room = Coordinating(SESSION, {client: Again(client) for client in CLIENTS})
    room.set_up()
    for index, spec in enumerate(SESSION.sums):
        room.whole_sum(index)
        expected = exact_sum(SESSION, CLIENTS, spec.name)
        assert room.server.survivors == CLIENTS
        for name, array in expected.items():
            np.testing.assert_array_equal(room.server.decode(name), array)
    for found in room.nodes.values():  # and the values are gone
        assert found.kept == {"sums-ledger", f"sums-{SESSION.transcript.hex()[:32]}"}


class Full(MemoryStore):
    """A store of which one write fails, as on a full disk; those after it do not."""

    def __init__(self, failing: int) -> None:
        super().__init__()
        self.left = failing

    def write(self, name, parts) -> None:
        self.left -= 1
        if self.left == 0:
            raise BadFile(name, found="no space left", expected="some")
        super().write(name, parts)


class Insisted:
    """A node whose store fails once, and which is then asked the same again and again before a new process is."""

    def __init__(self, client: int, failing: int) -> None:
        self.store, self.client = Full(failing), client
        self.has_failed = False
        self._node: SumNode | None = None

    def _do(self, step):
        try:
            self._node = self._node or node(self.client, SESSION, self.store, rng=os.urandom)
            return step(self._node)
        except BadFile:
            self.has_failed = True
            for _ in range(2 if self._node is not None else 0):
                if self._node._broken is not None:
                    with pytest.raises(BadFile):
                        step(self._node)
            self._node = None
            return self._do(step)

    def answer(self, request: bytes) -> bytes:
        return self._do(lambda found: found.answer(request))

    def give(self, sum_name, values, *, link=bytes(32)) -> None:
        self._do(lambda found: found.give(sum_name, values, link=link))


def test_after_a_write_that_failed_nothing_is_answered_from_memory_whatever_write_it_was() -> None:
    failing, has_failed = 0, True
    while has_failed:
        failing += 1
        insisted = Insisted(1, failing)
        room = Coordinating(SESSION, {**{client: node(client) for client in CLIENTS}, 1: insisted})
        room.set_up()
        room.whole_sum()
        assert room.server.survivors == CLIENTS
        has_failed = insisted.has_failed
    assert failing > 10


def test_a_set_of_survivors_that_was_not_kept_is_not_signed() -> None:
    store = Full(0)
    room = nodes(stores={1: store})
    room.set_up()
    room.start_sum()
    for client in CLIENTS[:3]:
        room.upload(client)
    store.left = 1
    for _ in range(2):  # else another set could be signed by a new process, and one client's values be had
        with pytest.raises(BadFile):
            room.tell(1, room.survivors(*CLIENTS[:3]))


def test_a_node_says_which_client_it_is_and_to_which_session_it_belongs() -> None:
    room = nodes()
    assert room.hello(3) == Ready(payloads=(b"\0\3",))
    for request in (
        Hello(transcript=OTHER.transcript),
        Messages(transcript=OTHER.transcript, first=0, payloads=()),
        Shard(transcript=OTHER.transcript, sum_index=0, first=0, count=1),
        Carry(transcript=OTHER.transcript, number=0),
    ):
        reply = room.ask(3, request)
        assert isinstance(reply, Refused)
        assert OTHER.transcript.hex()[:16] in reply.reason
        assert SESSION.transcript.hex()[:16] in reply.reason


def test_what_is_not_for_a_node_of_sums_is_refused() -> None:
    room = nodes()
    assert isinstance(room.ask(1, Carry(transcript=SESSION.transcript, number=0)), Refused)
    early = room.shard(1)
    assert isinstance(early, Refused)
    assert early.check == "V20"


def test_messages_with_a_gap_are_refused_and_old_ones_are_not_answered_anew() -> None:
    room = nodes()
    room.set_up()
    for first in (5, 0):
        reply = room.ask(1, Messages(transcript=SESSION.transcript, first=first, payloads=(room.survivors(1, 2, 3),)))
        assert isinstance(reply, Refused)
        assert "expected 2 to be next" in reply.reason


class Posted(Coordinating):
    """Keeps all messages to each client, and is asked for them by number, right or wrong."""

    def __init__(self, session, nodes) -> None:
        super().__init__(session, nodes)
        self.mail: dict[int, list[bytes]] = {client: [] for client in nodes}

    def tell(self, client: int, *payloads: bytes):
        self.mail[client] += payloads
        return super().tell(client, *payloads)

    def brought(self, client: int, first: int, *payloads: bytes):
        """By somebody who says that they are the messages from there on."""
        return self.ask(client, Messages(transcript=SESSION.transcript, first=first, payloads=payloads))


@pytest.mark.parametrize("is_restarted", [False, True])
@given(st.data())
@settings(max_examples=30, deadline=None, derandomize=True)
def test_messages_under_other_numbers_put_no_client_out(is_restarted: bool, data: st.DataObject) -> None:
    """Whatever was brought under whatever number, a server that then sends all of them is understood."""
    stores = {client: MemoryStore() for client in CLIENTS}
    room = Posted(SESSION, {client: node(client, store=stores[client]) for client in CLIENTS})
    room.set_up()
    room.start_sum()
    for client in CLIENTS:
        room.give(client)
    events = []
    for client in CLIENTS:
        events += room.hand_in(client, room.shard(client))
    whole = {client: [*room.mail[client]] for client in CLIENTS}
    for event in events:
        whole[event.client_id].append(event.payload)
    for _ in range(data.draw(st.integers(1, 4))):
        some = data.draw(st.lists(st.sampled_from(whole[1]), max_size=4))
        room.brought(1, data.draw(st.integers(0, 9)), *some)
    if is_restarted:
        room.nodes[1] = node(1, store=stores[1], rng=stream("again"))
    reply = room.brought(1, 0, *whole[1])
    room.told[1] = len(whole[1])
    confirmations = room.hand_in(1, reply)
    for event in events:
        if event.client_id != 1:
            confirmations += room.hand_in(event.client_id, room.tell(event.client_id, event.payload))
    room.deliver(confirmations)
    assert room.server.survivors == CLIENTS
    for name, array in exact_sum(SESSION, CLIENTS, "round 1").items():
        np.testing.assert_array_equal(room.server.decode(name), array)


def test_values_are_asked_for_when_their_sum_runs_and_may_be_given_before() -> None:
    room = nodes()
    room.set_up()
    room.start_sum()
    with pytest.raises(ValuesNeeded, match="round 1"):
        room.shard(1, count=0)
    room.give(1)
    assert room.shard(1, count=0) == Ready()
    room.give(2, 1)
    with pytest.raises(ValuesNeeded, match="round 1"):
        room.shard(2)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"weights": np.full((3, 5), np.nan)}, "not a finite number"),
        ({"weights": np.full((3, 5), 4.1)}, "is beyond the session's bound 4"),
        ({"weights": np.full((3, 5), -6.0)}, "is 1.5 times the session's bound 4"),
        ({"weights": np.zeros((5, 3))}, "expected shape"),
        ({"weights": np.zeros((3, 5), complex)}, "real numbers"),
        ({"examples": np.array([1 << 60])}, "beyond 2\\^53"),
        ({"more": np.zeros(1)}, "not in sum"),
    ],
)
def test_values_that_no_client_may_contribute_are_refused_by_name(change: dict, reason: str) -> None:
    with pytest.raises(ValueRefused, match=reason) as refused:
        node(1).give("round 1", {**made_values(SESSION, 1, "round 1"), **change})
    assert refused.value.tensor == next(iter(change))


def test_values_that_are_incomplete_or_for_no_sum_are_refused() -> None:
    with pytest.raises(ValueRefused, match="not given") as refused:
        node(1).give("round 1", {"weights": np.zeros((3, 5))})
    assert refused.value.tensor == "examples"
    with pytest.raises(LocalProtocolError, match="expected one of round 1, round 2"):
        node(1).give("round 9", {})


def test_integers_and_small_floats_are_taken_as_the_numbers_that_they_are() -> None:
    room = nodes()
    room.set_up()
    room.start_sum()
    for client in CLIENTS:
        values = {"weights": np.full((3, 5), 0.5, np.float16), "examples": np.array([client], np.int32)}
        room.nodes[client].give("round 1", values)
        room.deliver(room.hand_in(client, room.shard(client)))
    np.testing.assert_array_equal(room.server.decode("weights"), np.full((3, 5), 2.0))
    np.testing.assert_array_equal(room.server.decode("examples"), [10.0])


def test_other_values_may_take_the_place_of_the_first_until_some_have_left() -> None:
    room = nodes()
    room.set_up()
    room.start_sum()
    node_1, values = room.nodes[1], made_values(SESSION, 1, "round 1")
    node_1.give("round 1", {name: array / 2 for name, array in values.items()})
    node_1.give("round 1", values)
    before = room.shard(1, count=1)
    refused = []
    for arrays in ({name: array / 2 for name, array in values.items()}, values):  # who gives cannot try what they are
        with pytest.raises(ValueRefused, match="V33: values of sum 'round 1' have left") as refusal:
            node_1.give("round 1", arrays)
        refused.append(str(refusal.value))
    assert refused[0] == refused[1]
    assert room.shard(1, count=1) == before


def test_values_of_a_sum_that_is_over_are_not_taken() -> None:
    room = nodes()
    room.set_up()
    room.whole_sum()
    with pytest.raises(ValueRefused, match="is over"):
        room.give(1)


def test_the_very_same_values_go_into_no_other_session_once_they_were_opened() -> None:
    stores = {client: MemoryStore() for client in CLIENTS}
    room = nodes(stores=stores)
    room.set_up()
    room.whole_sum()
    values = made_values(SESSION, 1, "round 1")
    with pytest.raises(ValueRefused, match="V34"):
        node(1, OTHER, stores[1]).give("round 1", values)
    renamed = made_session(
        sums={"again": {name: ARRAYS[old] for name, old in (("a", "examples"), ("b", "weights"))}},
        session_id=bytes(range(1, 33)),
    )
    with pytest.raises(ValueRefused, match="V34"):
        node(1, renamed, stores[1]).give("again", {"a": values["examples"], "b": values["weights"]})
    node(1, OTHER, stores[1]).give("round 1", {**values, "examples": values["examples"] + 1})


def test_values_that_were_not_opened_may_go_into_another_session() -> None:
    stores = {client: MemoryStore() for client in CLIENTS}
    room = nodes(stores=stores)
    room.set_up()
    room.start_sum()
    room.upload(1)
    room.deliver(room.server.cancel())
    assert room.nodes[1].state is ClientState.ABORTED
    again = nodes(OTHER, stores)
    again.set_up()
    again.whole_sum()


def test_two_sessions_do_not_both_open_the_same_values_whichever_took_them_first() -> None:
    stores = {client: MemoryStore() for client in CLIENTS}
    first, second = nodes(stores=stores), nodes(OTHER, stores)
    for room in (first, second):
        room.set_up()
        room.start_sum()
        for client in CLIENTS:
            room.give(client)
    for client in CLIENTS:
        first.deliver(first.hand_in(client, first.shard(client)))
    reply = second.shard(1)
    assert isinstance(reply, Refused)
    assert reply.check == "V34"


def test_a_client_that_is_held_back_in_one_sum_takes_part_in_the_next() -> None:
    """Its values were opened in another session when some had left: V34 keeps it from opening them, and no more."""
    stores = {client: MemoryStore() for client in CLIENTS}
    first, second = nodes(stores=stores), nodes(OTHER, stores={1: stores[1]})
    for room in (first, second):
        room.set_up()
    second.start_sum()
    second.upload(1)
    first.whole_sum()
    events: list[object] = []
    for client in CLIENTS[1:]:
        second.give(client)
        events += second.hand_in(client, second.shard(client))
    held = [second.tell(1, event.payload) for event in events if event.client_id == 1]  # type: ignore[attr-defined]
    assert [reply.check for reply in held] == ["V34"]  # type: ignore[union-attr]
    second.deliver(events, without=(1,))
    second.deliver(second.server.close_phase(), without=(1,))
    assert second.server.survivors == CLIENTS
    second.told[1] = second.nodes[1]._received
    second.start_sum()
    for client in CLIENTS:
        second.upload(client, 1)
    assert second.server.survivors == CLIENTS


def test_zeros_may_come_again() -> None:
    stores = {client: MemoryStore() for client in CLIENTS}
    for session in (SESSION, OTHER):
        room = nodes(session, stores)
        room.set_up()
        room.start_sum()
        for client in CLIENTS:
            room.nodes[client].give("round 1", dict(zip(ARRAYS, EMPTY, strict=True)))
            room.deliver(room.hand_in(client, room.shard(client)))
        assert room.server.survivors == CLIENTS


def test_a_sum_that_follows_something_else_gets_nothing() -> None:
    room = nodes()
    room.set_up()
    room.start_sum(link=b"m" * 32)
    room.give(1)
    refused = room.shard(1)
    assert isinstance(refused, Refused)
    assert refused.check == "V21"
    room.give(2, link=b"m" * 32)
    assert isinstance(room.shard(2), Ready)


def test_a_session_begun_from_another_folder_is_not_begun_again() -> None:
    store = MemoryStore()
    room = nodes(stores={1: store})
    room.tell(1)
    store.remove(f"sums-{SESSION.transcript.hex()[:32]}")
    with pytest.raises(PolicyRefusal, match="V36"):
        node(1, store=store)


def test_a_node_keeps_to_its_policy() -> None:
    with pytest.raises(PolicyRefusal, match="V31"):
        SumNode(SESSION, identity(1), policy=Policy(min_clients=9), store=MemoryStore(), rng=stream("policy"))


@pytest.mark.parametrize("name", ["sums-ledger", f"sums-{SESSION.transcript.hex()[:32]}"])
def test_what_was_kept_and_is_damaged_is_refused(name: str) -> None:
    store = MemoryStore()
    nodes(stores={1: store}).tell(1)
    kept = store.read(name)
    assert kept is not None
    store.write(name, [kept[:-1] + bytes([kept[-1] ^ 1])])
    with pytest.raises(StateRefused, match="V35"):
        node(1, store=store)


# A coordinator that breaks the protocol, with the server's own key


def refused_unchanged(room: Coordinating, store: MemoryStore, *payloads: bytes, check: str) -> None:
    before = contents(store)
    reply = room.tell(1, *payloads)
    assert isinstance(reply, Refused)
    assert reply.check == check
    assert contents(store) == before


def uploaded() -> tuple[Coordinating, MemoryStore]:
    """All have sent their input to the first sum; nobody was told who survived."""
    store = MemoryStore()
    room = nodes(stores={1: store})
    room.set_up()
    room.start_sum()
    for client in CLIENTS:
        room.give(client)
        assert isinstance(room.shard(client), Ready)
    return room, store


def confirmations(*signed: tuple[int, bytes]) -> bytes:
    return Confirmations(sum_index=0, signatures=signed).encode()


def test_a_second_survivor_set_is_refused() -> None:
    room, store = uploaded()
    room.tell(1, room.survivors(1, 2, 3, 4))
    refused_unchanged(room, store, room.survivors(1, 2, 3), check="V04")


def test_survivor_sets_that_differ_between_clients_open_nothing() -> None:
    room, store = uploaded()
    signatures = []
    for client in CLIENTS:
        members = (1, 2, 3, 4) if client == 1 else (1, 2, 3) if client < 4 else (1, 2, 4)
        reply = room.tell(client, room.survivors(*members))
        assert isinstance(reply, Ready)
        signatures.append((client, reply.payloads[0][-64:]))
    told = room.forged(MessageType.CONFIRMATIONS, confirmations(*signatures))
    refused_unchanged(room, store, told, check="V25")


def test_shares_are_not_shown_for_two_sets() -> None:
    """Both kinds of share of one client: for the set with it, then for the set without."""
    room, store = uploaded()
    signed = []
    for client in CLIENTS:
        reply = room.tell(client, room.survivors(1, 2, 3, 4))
        assert isinstance(reply, Ready)
        signed.append((client, reply.payloads[0][-64:]))
    assert isinstance(room.tell(1, room.forged(MessageType.CONFIRMATIONS, confirmations(*signed))), Ready)
    refused_unchanged(room, store, room.survivors(1, 2, 3), check="V04")
    refused_unchanged(room, store, room.forged(MessageType.CONFIRMATIONS, confirmations(*signed[:3])), check="V04")


def test_a_sum_is_not_started_twice() -> None:
    room, store = uploaded()
    again = room.forged(MessageType.START_SUM, StartSum(sum_index=0, link=bytes(32)).encode())
    room.tell(1, room.survivors(2, 3, 4))
    refused_unchanged(room, store, again, check="V20")


def test_survivors_too_few_or_unknown_are_refused() -> None:
    room, store = uploaded()
    refused_unchanged(room, store, room.survivors(1, 2), check="V23")


def test_messages_of_another_server_or_session_are_refused() -> None:
    room, store = uploaded()
    elsewhere = nodes(OTHER)
    refused_unchanged(room, store, elsewhere.survivors(1, 2, 3, 4), check="V03")
    honest = room.survivors(1, 2, 3, 4)
    refused_unchanged(room, store, honest[:-1] + bytes([honest[-1] ^ 1]), check="V06")
    check = ConsistencyCheck(sum_index=0, view=bytes(32)).encode()
    refused_unchanged(room, store, room.forged(MessageType.CONSISTENCY_CHECK, check), check="V04")


# Bytes and secrets


@given(st.binary(max_size=300), st.sampled_from([1, 2, 3, 4]))
def test_any_bytes_give_a_reply_or_a_typed_error_and_change_nothing(data: bytes, kind: int) -> None:
    store = MemoryStore()
    found = node(1, store=store)
    for request in (data, bytes([1, kind]) + SESSION.transcript + data):
        try:
            decode_reply(found.answer(request))
        except BadExchange:
            continue
    assert {"sums-ledger", f"sums-{SESSION.transcript.hex()[:32]}"} >= contents(store).keys()


def test_any_messages_from_the_server_are_refused_with_a_check() -> None:
    room = nodes()
    room.set_up()

    @given(st.lists(st.binary(max_size=200), min_size=1, max_size=3))
    def check(payloads: list[bytes]) -> None:
        reply = room.tell(1, *payloads)
        assert isinstance(reply, Refused)
        assert reply.check.startswith("V")

    check()


def test_no_secret_is_in_a_repr_and_no_value_or_secret_in_a_reply() -> None:
    drawn = []

    def rng(length: int) -> bytes:
        drawn.append(os.urandom(length))
        return drawn[-1]

    store = MemoryStore()
    room = nodes()
    room.nodes[1] = node(1, store=store, rng=rng)
    replies = [encode(room.tell(1))]
    for client in CLIENTS:
        room.deliver(room.hand_in(client, room.tell(client)))
    room.start_sum()
    room.give(1)
    replies += [encode(room.shard(1)), encode(room.hello(1))]
    text = repr((room.nodes[1], room.nodes[1].__dict__, store, replies)).encode()
    values = made_values(SESSION, 1, "round 1")
    for secret in (*drawn, identity(1).reveal(), *(array.tobytes() for array in values.values())):
        assert len(secret) >= 8
        assert all(secret not in reply for reply in replies)
        assert secret.hex().encode() not in text
        assert repr(secret).encode()[2:-1] not in text


# Stores


def test_a_folder_keeps_whole_files_for_its_owner_alone_and_one_process_at_a_time(tmp_path) -> None:
    folder = FolderStore(tmp_path / "state")
    assert folder.read("a") is None
    folder.write("a", [b"one ", memoryview(b"two")])
    assert bytes(folder.read("a") or b"") == b"one two"
    folder.write("a", [])
    assert folder.read("a") == b""
    assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "state" / "a").stat().st_mode) == 0o600
    with pytest.raises(BadFile, match="another process"):
        FolderStore(tmp_path / "state")
    folder.close()
    (tmp_path / "state" / ".a.0123.part").write_bytes(b"what was being written at the end")
    again = FolderStore(tmp_path / "state")
    assert {path.name for path in (tmp_path / "state").iterdir()} == {"lock", "a"}
    again.remove("a")
    again.remove("a")
    assert again.read("a") is None
    again.close()


def test_a_node_goes_on_from_a_folder(tmp_path) -> None:
    folders = {client: FolderStore(tmp_path / str(client)) for client in CLIENTS}
    room = nodes(stores=folders)
    room.set_up()
    room.start_sum()
    for client in CLIENTS:
        room.give(client)
    again = Coordinating(SESSION, {client: node(client, store=folders[client], rng=os.urandom) for client in CLIENTS})
    again.server, again.told = room.server, room.told
    for client in CLIENTS:
        again.deliver(again.hand_in(client, again.shard(client)))
    for name, array in exact_sum(SESSION, CLIENTS, "round 1").items():
        np.testing.assert_array_equal(again.server.decode(name), array)
    for folder in folders.values():
        folder.close()
