"""Sums over an engine that treats its messages badly are exact over who stayed, or end with a reason."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from memory_host import (
    ARRAYS,
    Fault,
    Faults,
    MemoryHost,
    MemoryNode,
    exact_sum,
    identity,
    made_nodes,
    made_session,
    made_values,
    stream,
)

from collabsecure.errors import BadFile, SumAborted
from collabsecure.integrations.exchange import Hello, Ready, Refused, Shard, Wait, decode_reply, decode_request, encode
from collabsecure.integrations.host import Host, Node
from collabsecure.integrations.node import SumNode
from collabsecure.integrations.sessions import Summand
from collabsecure.integrations.sums import SecureSum, SumResult
from collabsecure_protocols import ClientState, LocalProtocolError, Session, server
from collabsecure_protocols.envelope import CHUNK_HEADER_BYTES, HEADER_BYTES, MessageType, seal
from collabsecure_protocols.keys import SIGNATURE_BYTES
from collabsecure_protocols.tensors import CHUNK_VALUES, MAX_TENSORS

SESSION = made_session()
CLIENTS = (1, 2, 3, 4)
LARGE = made_session(
    sums={"large": {"a": Summand(shape=(2 * CHUNK_VALUES + 5,), bound=1.0), "b": Summand(shape=(3,), bound=1.0)}}
)
# What a node is asked in a first sum when nothing goes wrong, in order
HELLO, ADVERT, SHARES, START, VALUES, UPLOAD, SURVIVORS, CONFIRMATIONS, FINISHED, END = range(10)


def over(host: MemoryHost, session: Session = SESSION, **options: object) -> SecureSum:
    return SecureSum(
        host, session, identity(0), clock=host.clock, **{"phase_seconds": 600.0, "upload_seconds": 900.0, **options}
    )


def is_exact(result: SumResult, clients: Sequence[int] = CLIENTS, session: Session = SESSION) -> None:
    assert result.survivors == tuple(clients)
    expected = exact_sum(session, clients, result.name)
    assert result.arrays.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(result.arrays[name], array)


def at(node: Node, number: int, fault: Fault) -> Faults:
    return lambda found, count: fault if (found, count) == (node, number) else Fault.NONE


def silent_from(number: int, *nodes: Node) -> Faults:
    return lambda node, count: Fault.SILENT if node in nodes and count >= number else Fault.NONE


def state_of(host: MemoryHost, node: Node) -> ClientState:
    process = host.machines[node].process
    assert isinstance(process, SumNode)
    return process.state


def test_two_sums_from_one_set_up_in_as_few_requests_as_there_are() -> None:
    host = MemoryHost(made_nodes(SESSION))
    assert isinstance(host, Host)
    secure_sum = over(host)
    is_exact(secure_sum.run("round 1"))
    assert secure_sum.participants == CLIENTS
    assert len(host.requests) == 4 * END
    is_exact(secure_sum.run())
    assert len(host.requests) == 4 * (END + END - START)
    assert host.now < 1
    assert all(state_of(host, node) is ClientState.FINISHED for node in host.nodes())
    with pytest.raises(LocalProtocolError, match="the session is over"):
        secure_sum.run()


@pytest.mark.parametrize("number", range(END))
@pytest.mark.parametrize("fault", [fault for fault in Fault if fault not in (Fault.NONE, Fault.SILENT)])
def test_one_fault_of_any_kind_at_any_request_changes_nothing(fault: Fault, number: int) -> None:
    host = MemoryHost(made_nodes(SESSION), at("node 2", number, fault))
    secure_sum = over(host)
    is_exact(secure_sum.run())
    if number == FINISHED:  # what was missed comes with the next
        is_exact(secure_sum.run())


def test_every_request_may_meet_a_new_process() -> None:
    host = MemoryHost(made_nodes(SESSION), lambda *_: Fault.RESTARTED)
    secure_sum = over(host)
    is_exact(secure_sum.run())
    is_exact(secure_sum.run())


@given(
    st.lists(st.sampled_from([fault for fault in Fault if fault is not Fault.SILENT]), max_size=60),
    st.permutations([f"node {client}" for client in CLIENTS]),
)
@settings(max_examples=15, deadline=None, derandomize=True)
def test_faults_in_any_order_change_nothing(faults: list[Fault], order: list[Node]) -> None:
    """A node gets so many faults, one after the other, and then none; the nodes are seen in any order."""
    left = {node: faults[number::4] for number, node in enumerate(order)}
    nodes = made_nodes(SESSION)
    host = MemoryHost(
        {node: nodes[node] for node in order}, lambda node, _: left[node].pop() if left[node] else Fault.NONE
    )
    secure_sum = over(host, phase_seconds=3600.0)
    is_exact(secure_sum.run())
    is_exact(secure_sum.run())


@pytest.mark.parametrize("number", range(END))
def test_a_node_that_falls_silent_costs_its_own_input_at_most(number: int) -> None:
    host = MemoryHost(made_nodes(SESSION), silent_from(number, "node 4"))
    secure_sum = over(host)
    is_exact(secure_sum.run(), CLIENTS[:3] if number <= UPLOAD else CLIENTS)
    is_exact(secure_sum.run(), CLIENTS[:3])


def test_a_node_that_falls_silent_in_the_middle_of_its_upload_costs_its_own_input_alone() -> None:
    host = MemoryHost(made_nodes(LARGE), silent_from(UPLOAD + 1, "node 2"))
    result = over(host, LARGE, shard_bytes=1).run()
    is_exact(result, (1, 3, 4), LARGE)
    uploads = [decode_request(request) for node, request in host.requests if node == "node 2"]
    assert [found.first for found in uploads if isinstance(found, Shard)] == [0, 0, 1]


def test_an_upload_goes_on_where_it_was_in_a_new_process() -> None:
    host = MemoryHost(made_nodes(LARGE), at("node 2", UPLOAD + 2, Fault.ENDED))
    is_exact(over(host, LARGE, shard_bytes=1).run(), CLIENTS, LARGE)
    uploads = [decode_request(request) for node, request in host.requests if node == "node 2"]
    assert [found.first for found in uploads if isinstance(found, Shard)] == [0, 0, 1, 2, 2, 3]


def test_a_node_that_was_away_takes_part_in_the_next_sum() -> None:
    host = MemoryHost(
        made_nodes(SESSION),
        lambda node, number: Fault.REQUEST_LOST if node == "node 4" and UPLOAD <= number < 100 else Fault.NONE,
    )
    secure_sum = over(host, upload_seconds=500.0)
    is_exact(secure_sum.run(), CLIENTS[:3])
    host.faults = lambda *_: Fault.NONE
    is_exact(secure_sum.run(), CLIENTS)


def test_a_sum_of_too_few_is_aborted_and_its_values_may_be_used_again() -> None:
    host = MemoryHost(made_nodes(SESSION), silent_from(UPLOAD, "node 3", "node 4"))
    secure_sum = over(host)
    with pytest.raises(SumAborted, match="TOO_FEW in MASKED_INPUT"):
        secure_sum.run()
    assert state_of(host, "node 1") is ClientState.ABORTED
    with pytest.raises(LocalProtocolError, match="the session is over"):
        secure_sum.run()
    another = made_session(session_id=bytes(32))
    nodes = made_nodes(another, stores={1: host.machines["node 1"].process._store})  # type: ignore[union-attr]
    is_exact(over(MemoryHost(nodes), another).run(), CLIENTS, another)


def test_nobody_at_all_is_an_abort() -> None:
    with pytest.raises(SumAborted, match="TOO_FEW in ADVERTISE_KEYS"):
        over(MemoryHost({})).run()


@pytest.mark.parametrize("number", range(HELLO, END + 1))
@pytest.mark.parametrize("fault", [Fault.REQUEST_GARBLED, Fault.BEGINNING_GARBLED, Fault.MADE_UP])
def test_a_request_that_was_changed_on_the_way_costs_nobody_a_sum(fault: Fault, number: int) -> None:
    session = made_session(3)  # of whom none may leave
    host = MemoryHost(made_nodes(session), at("node 1", number, fault))
    secure_sum = over(host, session)
    for name in ("round 1", "round 2"):
        is_exact(secure_sum.run(name), (1, 2, 3), session)
    assert host.now < 30


def test_values_that_are_refused_cost_a_client_that_sum_and_no_waiting() -> None:
    nodes = made_nodes(SESSION)

    def values(name: str) -> dict[str, np.ndarray]:
        if name == "round 1":
            return {"weights": np.full((3, 5), np.inf), "examples": np.zeros(1)}
        return made_values(SESSION, 4, name)

    class Refusing(MemoryNode):
        def answer(self, request: bytes) -> bytes:
            return super().answer(request) or encode(Refused(check="", reason="values refused"))

    nodes["node 4"] = Refusing(start=nodes["node 4"].start, values=values)
    said: list[str] = []
    host = MemoryHost(nodes)
    secure_sum = over(host, tell=said.append)
    is_exact(secure_sum.run(), CLIENTS[:3])
    assert host.now < 10
    assert any("client 4 refuses: values refused" in words for words in said)
    is_exact(secure_sum.run(), CLIENTS)


def test_for_whom_it_waits_and_who_is_elsewhere_is_told_soon() -> None:
    nodes = {**made_nodes(SESSION), "node 3": STRANGERS["another session"], "node 4": STRANGERS["nothing"]}
    said: list[tuple[float, str]] = []
    host = MemoryHost(nodes)
    with pytest.raises(SumAborted):
        over(host, tell=lambda words: said.append((host.now, words))).run()
    assert [words for now, words in said if now < 10 and "no part" in words] == [
        "Node node 3: takes no part: another session"
    ]
    waiting = [(now, words.partition(", for")[0]) for now, words in said if "waiting" in words]
    assert {words for _, words in waiting} == {"ADVERTISE_KEYS: waiting for clients 3, 4"}
    assert 15 <= waiting[0][0] < 20
    assert len(waiting) == 5  # in ten minutes


def answering(reply: Callable[[bytes], bytes | None]) -> MemoryNode:
    class Other(MemoryNode):
        def answer(self, request: bytes) -> bytes | None:
            return reply(request)

    return Other(start=lambda: pytest.fail("not asked"))


STRANGERS = {
    "other software": answering(lambda _: b"<html>"),
    "nothing": answering(lambda _: None),
    "busy": answering(lambda _: encode(Wait())),
    "another session": answering(lambda _: encode(Refused(check="", reason="another session"))),
    "no client": answering(lambda _: encode(Ready(payloads=(b"\0\x09",)))),
    "empty": answering(lambda _: encode(Ready())),
}


def test_nodes_that_are_none_of_the_sessions_are_left_alone() -> None:
    host = MemoryHost({**STRANGERS, **made_nodes(SESSION)})
    is_exact(over(host).run())
    assert host.now < 1


def impostor(client: int, otherwise: bytes | None) -> MemoryNode:
    """A node that says that it is a client whose key it does not have."""
    hello = encode(Ready(payloads=(client.to_bytes(2, "big"),)))
    return answering(lambda request: hello if isinstance(decode_request(request), Hello) else otherwise)


@pytest.mark.parametrize(
    "otherwise",
    [
        None,
        b"",
        encode(Ready()),
        encode(Wait()),
        encode(Refused(check="", reason="no")),
        encode(Ready(payloads=(b"x",))),
    ],
)
def test_a_node_that_says_it_is_another_keeps_no_client_out(otherwise: bytes | None) -> None:
    host = MemoryHost({"impostor": impostor(2, otherwise), **made_nodes(SESSION)})
    secure_sum = over(host)
    is_exact(secure_sum.run())
    is_exact(secure_sum.run())


def test_a_silent_node_that_says_it_is_another_keeps_no_client_out() -> None:
    nodes = {"impostor": impostor(2, None), **made_nodes(SESSION)}
    host = MemoryHost(nodes, silent_from(1, "impostor"))
    is_exact(over(host).run())


def test_who_has_proven_nothing_takes_no_clients_turn_and_holds_no_place() -> None:
    """Client 2 falls silent when it is to upload; others say at once that they are it, and are silent as well."""
    shards: list[tuple[Node, int, float]] = []

    class Watched(MemoryHost):
        def send(self, node: Node, request: bytes) -> None:
            found = decode_request(request)
            if isinstance(found, Shard):
                shards.append((node, found.count, self.now))
            super().send(node, request)

    def faults(node: Node, number: int) -> Fault:
        is_silent = node == "node 2" and number >= UPLOAD
        return Fault.SILENT if is_silent or (str(node).startswith("impostor") and number >= 2) else Fault.NONE

    impostors = {f"impostor {number}": impostor(2, encode(Ready())) for number in range(3)}
    host = Watched({**impostors, **made_nodes(LARGE)}, faults)
    is_exact(over(host, LARGE, at_once=1).run(), (1, 3, 4), LARGE)
    assert {count for node, count, _ in shards if node in impostors} <= {1}
    assert max(when for node, count, when in shards if count and node in ("node 1", "node 3", "node 4")) < 70


def test_a_client_that_refuses_is_given_up_whoever_else_says_that_he_is_it() -> None:
    class Refusing(MemoryNode):
        def answer(self, request: bytes) -> bytes | None:
            is_shard = isinstance(decode_request(request), Shard)
            return encode(Refused(check="", reason="no")) if is_shard else super().answer(request)

    nodes = made_nodes(SESSION)
    nodes["node 4"] = Refusing(start=nodes["node 4"].start, values=nodes["node 4"].values)
    host = MemoryHost({"impostor": impostor(4, None), **nodes}, silent_from(1, "impostor"))
    is_exact(over(host).run(), (1, 2, 3))
    assert host.now < 200


def test_a_client_under_another_name_is_found_among_many_that_say_they_are_it() -> None:
    """Its node is gone when it is to upload; before it comes back, 40 silent ones and 40 that answer nonsense do."""
    nodes = made_nodes(SESSION)

    def faults(node: Node, number: int) -> Fault:
        if (node, number) == ("node 2", UPLOAD):
            for liar in range(40):
                host.machines[f"silent {liar}"] = host.machines[f"loud {liar}"] = impostor(2, encode(Ready()))
            host.machines["node 2, again"] = host.machines.pop("node 2")
            return Fault.REPLY_LOST
        return Fault.SILENT if str(node).startswith("silent") and number >= 1 else Fault.NONE

    host = MemoryHost(nodes, faults)
    is_exact(over(host).run())
    assert host.now < 120


def test_as_many_arrays_as_large_networks_have(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the secrets behind their masks are put together once for all of them, not for each."""
    opened, open_secrets = [], server.open_secrets
    monkeypatch.setattr(server, "open_secrets", lambda *given: opened.append(1) or open_secrets(*given))
    arrays = {f"layer {number}": Summand(shape=(1 + number % 5,), bound=1.0) for number in range(MAX_TENSORS)}
    session = made_session(4, {"all": arrays})
    gone = at("node 3", VALUES, Fault.SILENT)
    is_exact(over(MemoryHost(made_nodes(session), gone), session).run(), (1, 2, 4), session)
    assert len(opened) < 3


class Early(MemoryNode):
    """Gives its first chunks when it is only told that the sum has started, and then all of them, or none."""

    def __init__(self, node: MemoryNode, *, goes_on: bool) -> None:
        super().__init__(start=node.start, values=node.values)
        self.goes_on = goes_on

    def answer(self, request: bytes) -> bytes | None:
        found, reply = decode_request(request), super().answer(request)
        if isinstance(found, Shard):
            return reply if self.goes_on else None
        if reply is not None and isinstance(self.process, SumNode) and self.process.state is ClientState.CONTRIBUTING:
            return super().answer(encode(Shard(transcript=LARGE.transcript, sum_index=0, first=0, count=2)))
        return reply


@pytest.mark.parametrize("goes_on", [True, False])
def test_chunks_that_nobody_asked_for_are_not_in_the_sum_before_their_turn(goes_on: bool) -> None:
    """They would make it a partial upload, which ends the session, or stand in the way of those asked for."""
    nodes = made_nodes(LARGE)
    nodes["node 2"] = Early(nodes["node 2"], goes_on=goes_on)
    is_exact(over(MemoryHost(nodes), LARGE).run(), CLIENTS if goes_on else (1, 3, 4), LARGE)


def test_a_client_that_signs_any_numbers_spoils_the_sum_and_does_not_end_the_run() -> None:
    """What passed the checks of a chunk is never refused when it is added."""
    sign, noise = identity(2), stream("noise")

    class Lying(MemoryNode):
        def answer(self, request: bytes) -> bytes | None:
            reply = super().answer(request)
            if not isinstance(decode_request(request), Shard) or reply is None:
                return reply
            chunks = decode_reply(reply).payloads
            bodies = [chunk[HEADER_BYTES:-SIGNATURE_BYTES] for chunk in chunks]
            forged = [body[:CHUNK_HEADER_BYTES] + noise(len(body) - CHUNK_HEADER_BYTES) for body in bodies]
            return encode(
                Ready(payloads=tuple(seal(LARGE, sign, MessageType.MASKED_INPUT, 2, body) for body in forged))
            )

    nodes = made_nodes(LARGE)
    nodes["node 2"] = Lying(start=nodes["node 2"].start, values=nodes["node 2"].values)
    result = over(MemoryHost(nodes), LARGE).run()
    assert result.survivors == CLIENTS
    assert not np.array_equal(result.arrays["a"], exact_sum(LARGE, CLIENTS, "large")["a"])


@given(st.data())
@settings(max_examples=15, deadline=None, derandomize=True)
def test_liars_that_repeat_what_others_answered_change_nothing(data: st.DataObject) -> None:
    """Each says that it is some client, and answers with nonsense, with anything that any node answered, or never."""
    heard: list[bytes] = []

    class Heard(MemoryNode):
        def answer(self, request: bytes) -> bytes | None:
            reply = super().answer(request)
            if reply is not None:
                heard.append(reply)
            return reply

    def liar(client: int) -> MemoryNode:
        def reply(request: bytes) -> bytes | None:
            if isinstance(decode_request(request), Hello):
                return encode(Ready(payloads=(client.to_bytes(2, "big"),)))
            nonsense = [None, b"", encode(Wait()), encode(Ready()), encode(Refused(check="V99", reason="\x1b[2J"))]
            return data.draw(st.sampled_from(nonsense + heard))

        return answering(reply)

    honest = {name: Heard(start=node.start, values=node.values) for name, node in made_nodes(SESSION).items()}
    liars = {f"liar {number}": liar(number % 4 + 1) for number in range(8)}
    names = data.draw(st.permutations([*honest, *liars]))
    strange = [Fault.NONE, Fault.NONE, Fault.SILENT, Fault.LATE, Fault.GARBLED]
    lines: list[str] = []

    def faults(node: Node, _: int) -> Fault:
        if node in honest:
            return data.draw(st.sampled_from([Fault.NONE, Fault.NONE, Fault.NONE, Fault.REPLY_LOST, Fault.LATE]))
        return data.draw(st.sampled_from(strange))

    host = MemoryHost({name: {**honest, **liars}[name] for name in names}, faults)
    secure_sum = over(host, phase_seconds=3600.0, upload_seconds=3600.0, tell=lines.append)
    is_exact(secure_sum.run())
    is_exact(secure_sum.run())
    assert all(line.isprintable() for line in lines)


def test_who_brings_less_than_was_asked_for_comes_after_the_rest() -> None:
    """Client 1 answers each time when its place is nearly up, with one chunk of many."""

    class Dripping(MemoryNode):
        def answer(self, request: bytes) -> bytes | None:
            reply = super().answer(request)
            found = decode_request(request)
            if isinstance(found, Shard) and found.count and reply is not None:
                host.now += 55.0
                return encode(Ready(payloads=decode_reply(reply).payloads[:1]))
            return reply

    class Watched(MemoryHost):
        def send(self, node: Node, request: bytes) -> None:
            found = decode_request(request)
            if isinstance(found, Shard) and found.count:
                turns.append(node)
            super().send(node, request)

    turns: list[Node] = []
    nodes = made_nodes(LARGE)
    nodes["node 1"] = Dripping(start=nodes["node 1"].start, values=nodes["node 1"].values)
    host = Watched(nodes)
    is_exact(over(host, LARGE, at_once=1).run(), CLIENTS, LARGE)
    others_end = max(number for number, node in enumerate(turns) if node != "node 1")
    assert turns[:others_end].count("node 1") <= 2
    assert turns.count("node 1") == 4


def test_a_client_may_come_late_and_from_another_node() -> None:
    nodes = made_nodes(SESSION)
    late = nodes.pop("node 4")

    def comes(node: Node, number: int) -> Fault:
        if (node, number) == ("node 1", ADVERT):
            host.machines["node 4"] = late
        if (node, number) == ("node 4", UPLOAD):  # the engine gives the same machine another name
            host.machines["node 5"] = host.machines.pop("node 4")
            return Fault.REPLY_LOST
        return Fault.NONE

    host = MemoryHost(nodes, comes)
    secure_sum = over(host)
    is_exact(secure_sum.run())
    is_exact(secure_sum.run())


def test_all_compute_at_once_and_upload_in_turn() -> None:
    class Counting(MemoryHost):
        def __init__(self) -> None:
            super().__init__(made_nodes(LARGE))
            self.asked: list[tuple[Node, int]] = []
            self.uploading: set[Node] = set()
            self.most = 0

        def send(self, node: Node, request: bytes) -> None:
            found = decode_request(request)
            if isinstance(found, Shard):
                self.asked.append((node, found.count))
                if found.count:
                    self.uploading.add(node)
                    self.most = max(self.most, len(self.uploading))
            super().send(node, request)

        def receive(self, seconds: float) -> Sequence[object]:
            arrived = super().receive(seconds)
            self.uploading -= {item.node for item in arrived}
            return arrived

    host = Counting()
    is_exact(over(host, LARGE, shard_bytes=1).run(), CLIENTS, LARGE)
    assert host.most == 2
    assert sorted(node for node, count in host.asked if count == 0) == [f"node {client}" for client in CLIENTS]
    host = Counting()
    is_exact(over(host, LARGE, shard_bytes=1, at_once=1).run(), CLIENTS, LARGE)
    assert host.most == 1


def test_uploads_that_stall_do_not_hold_up_the_others() -> None:
    session = made_session(6)
    host = MemoryHost(made_nodes(session), silent_from(UPLOAD, "node 1"))
    result = over(host, session, at_once=1, upload_seconds=2000.0).run()
    is_exact(result, (2, 3, 4, 5, 6), session)


def test_masks_are_bound_to_what_the_sum_follows() -> None:
    nodes, link = made_nodes(SESSION), b"m" * 32

    def knowing(client: int) -> MemoryNode:
        node = nodes[f"node {client}"]

        def start() -> object:
            process = node.start()
            process.give("round 1", made_values(SESSION, client, "round 1"), link=link)
            return process

        return MemoryNode(start=start)

    host = MemoryHost({**nodes, **{f"node {client}": knowing(client) for client in (1, 2, 3)}})
    is_exact(over(host).run(link=link), (1, 2, 3))


def test_nothing_is_left_of_what_was_uploaded(tmp_path) -> None:
    host = MemoryHost(made_nodes(LARGE), silent_from(UPLOAD + 1, "node 2"))
    over(host, LARGE, shard_bytes=1, staging=tmp_path).run()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("spoil", [Path.unlink, lambda path: path.write_bytes(bytes(path.stat().st_size))])
def test_what_the_disk_has_lost_is_its_fault_and_no_clients(spoil: Callable[[Path], object], tmp_path: Path) -> None:
    class Spoiling(MemoryHost):
        def send(self, node: Node, request: bytes) -> None:
            found = decode_request(request)
            if isinstance(found, Shard) and found.first == 2:
                for path in tmp_path.glob("*/client-*"):
                    spoil(path)
            super().send(node, request)

    with pytest.raises(BadFile, match="expected what was written"):
        over(Spoiling(made_nodes(LARGE)), LARGE, shard_bytes=1, staging=tmp_path).run()


def test_what_it_cannot_do_is_said_before_anything_is_sent() -> None:
    host = MemoryHost(made_nodes(SESSION))
    with pytest.raises(LocalProtocolError, match="expected 'round 1', which is next"):
        over(host).run("round 2")
    with pytest.raises(LocalProtocolError, match="not the session's server key"):
        SecureSum(host, SESSION, identity(1))
    assert host.requests == []
    with pytest.raises(BadFile, match="no such file or directory"):
        over(host, staging=Path("/nowhere")).run()
    assert host.requests == []


@pytest.mark.parametrize("num_clients", [3, 12])
def test_sums_of_few_and_more_clients(num_clients: int) -> None:
    session = made_session(num_clients, {"one": ARRAYS})
    clients = tuple(map(int, session.client_ids))
    is_exact(over(MemoryHost(made_nodes(session)), session).run(), clients, session)


@pytest.mark.parametrize("module", ["sums", "node"])
def test_more_chunks_than_a_reply_may_have_come_in_several(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"collabsecure.integrations.{module}.MOST_PARTS", 1)
    host = MemoryHost(made_nodes(SESSION))
    is_exact(over(host).run("round 1"))
    assert len(host.requests) == 4 * (END + 1)  # of its two chunks
