"""What comes through a daemon's socket is answered, or refused in a few fixed ways, and costs no more than that."""

import http.client
import json
import os
import socket
import stat
import threading
import time
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import replace

import numpy as np
import pytest
from carrying import Carrier, carried, carrying, mailbox_of
from coordinating import Coordinating
from light_session import aggregating, make_session, take_part
from memory_host import MemoryHost, exact_sum, identity, made_nodes, made_session, made_values, stream

from collabsecure.errors import BadFile
from collabsecure.integrations.exchange import (
    HEAD_BYTES,
    BadExchange,
    Call,
    Carry,
    Hello,
    Messages,
    Ready,
    Refused,
    decode_reply,
    encode,
)
from collabsecure.integrations.host import ValuesNeeded, respond
from collabsecure.integrations.node import SumNode
from collabsecure.integrations.relay import LINK_HEADER, SHAPE_HEADER, Daemon, NoDaemon
from collabsecure.integrations.sessions import Summand
from collabsecure.integrations.stores import FolderStore, MemoryStore
from collabsecure.integrations.sums import SecureSum
from collabsecure_cli import daemon_api
from collabsecure_cli.carried import OVER
from collabsecure_cli.daemon import SocketChoice
from collabsecure_cli.daemon_api import DaemonApi, listening
from collabsecure_protocols import Policy, ValueRefused
from collabsecure_protocols.envelope import MessageType
from collabsecure_protocols.messages import Confirmations

LIGHT = make_session(num_clients=3)
SUMS = made_session(3)
ROUND = SUMS.sums[0].name
LARGER = made_session(3, {"all": {"weights": Summand(shape=(200, 700), bound=4.0)}})  # of a few chunks


@contextmanager
def daemon(folder, answering, name="s"):
    if isinstance(answering, SumNode):
        session = answering.session
        api = DaemonApi(session, answering, longest=daemon_api.longest_of_sums(session), taking=answering)
    else:
        api = DaemonApi(LIGHT.session, answering)
    with listening(folder / name, api.app):
        yield api


def node(store=None, *, session=SUMS, client=1, start=""):
    store, rng = store or MemoryStore(), stream(f"{client}{start}")
    return SumNode(session, identity(client), policy=Policy(), store=store, rng=rng)


def ask(folder, method, target, body=b"", headers=(), *, length=None):
    """One HTTP request, its headers as they are given."""
    with socket.socket(socket.AF_UNIX) as peer:
        peer.settimeout(30)
        peer.connect(str(folder / "s"))
        lines = [f"{method} {target} HTTP/1.1", "Host: x", f"Content-Length: {len(body) if length is None else length}"]
        peer.sendall("\r\n".join([*lines, *headers, "", ""]).encode() + body)
        response = http.client.HTTPResponse(peer, method=method)
        response.begin()
        return response.status, response.read()


def test_an_editing_session_through_sockets_is_the_networks_bit_for_bit(socket_folder, tmp_path):
    """The others are on the network itself."""
    with aggregating(LIGHT, tmp_path / "network") as server:
        network = take_part(LIGHT, server.url, tmp_path / "by-network")
    mailbox = mailbox_of(LIGHT, 1)
    with aggregating(LIGHT, tmp_path / "server", poll_seconds=3.0) as server, daemon(socket_folder, mailbox):
        relay = Daemon(socket_folder / "s")
        assert decode_reply(relay.answer(encode(Hello(transcript=LIGHT.session.transcript)))).payloads == (b"\0\1",)
        carrier = Carrier(url=server.url, transcript=LIGHT.session.transcript, end=relay.answer)
        found = {}
        others = threading.Thread(target=lambda: found.update(take_part(LIGHT, server.url, tmp_path, clients=(2, 3))))
        with carrying(carrier):
            others.start()
            found[1] = carried(LIGHT, 1, tmp_path / "client-1", mailbox)
            others.join()
        over = encode(Carry(transcript=LIGHT.session.transcript, number=1 << 31))
        assert decode_reply(relay.answer(over)) == Refused(check=OVER, reason="done")
    for client, outcome in found.items():
        for layer, delta in outcome.deltas.items():
            assert np.array_equal(delta, network[client].deltas[layer])
        assert outcome.deltas.keys() == {1, 2}


class Client:
    """One whose daemon is started afresh again and again, on the same state folder."""

    def __init__(self, folder, client):
        self.folder, self.client, self.starts = folder, client, 0

    def answer(self, request):
        self.starts += 1
        path = self.folder / f"{self.client}.sock"
        with closing(FolderStore(self.folder / f"{self.client}.state")) as store:
            answering = node(store, session=LARGER, client=self.client, start=f"process {self.starts}")
            with daemon(self.folder, answering, path.name):
                return respond(Daemon(path), request, lambda name: made_values(LARGER, self.client, name))


def test_sums_through_daemons_that_live_for_one_exchange_are_exact(socket_folder):
    clients = {client: Client(socket_folder, client) for client in (1, 2, 3)}
    end = Coordinating(LARGER, clients)
    end.set_up()
    end.deliver(end.server.start_sum())
    num_chunks = LARGER.sums[0].num_chunks
    assert num_chunks > 1
    for client in clients:
        for first in range(num_chunks):
            reply = end.shard(client, first=first, count=1)
            assert reply == end.shard(client, first=first, count=1)  # asked again after a restart
            end.deliver(end.hand_in(client, reply))
    expected = exact_sum(LARGER, (1, 2, 3), "all")["weights"]
    assert np.array_equal(end.server.decode("weights"), expected)
    assert all(client.starts > 8 for client in clients.values())


def test_once_some_have_left_the_same_values_and_others_are_refused_alike(socket_folder):
    nodes = {client: node(client=client) for client in (1, 2, 3)}
    end = Coordinating(SUMS, nodes)
    end.set_up()
    end.deliver(end.server.start_sum())
    with daemon(socket_folder, nodes[1]):
        relay = end.nodes[1] = Daemon(socket_folder / "s")
        with pytest.raises(ValuesNeeded, match=ROUND):
            end.shard(1)
        relay.give(ROUND, made_values(SUMS, 1, ROUND))
        before = end.shard(1)
        refused = []
        for client in (1, 2):
            with pytest.raises(ValueRefused, match="V33") as refusal:
                relay.give(ROUND, made_values(SUMS, client, ROUND))
            refused.append(str(refusal.value))
        assert refused[0] == refused[1]
        assert end.shard(1) == before


def test_a_server_app_that_wants_to_see_one_clients_values_is_refused_and_the_state_stays(socket_folder):
    session, store = made_session(4), MemoryStore()
    nodes = {client: node(store if client == 1 else None, session=session, client=client) for client in (1, 2, 3, 4)}
    end = Coordinating(session, nodes)
    with daemon(socket_folder, nodes[1]):
        end.nodes[1] = Daemon(socket_folder / "s")
        end.set_up()
        end.start_sum()
        for client in nodes:
            end.give(client)
            assert isinstance(end.shard(client), Ready)
        signed = []
        for client in nodes:
            reply = end.tell(client, end.survivors(1, 2, 3, 4))
            signed.append((client, reply.payloads[0][-64:]))
        confirmed = Confirmations(sum_index=0, signatures=tuple(signed)).encode()
        assert isinstance(end.tell(1, end.forged(MessageType.CONFIRMATIONS, confirmed)), Ready)  # shares of self masks
        before = dict(store._files)
        for lie in (
            end.survivors(1, 2, 3),  # client 4's other secret, too
            end.forged(MessageType.CONFIRMATIONS, Confirmations(sum_index=0, signatures=tuple(signed[:3])).encode()),
            end.survivors(1, 2, 3, sum_index=1),
        ):
            reply = end.tell(1, lie)
            assert (type(reply), reply.check) == (Refused, "V04")
            assert store._files == before


@pytest.mark.parametrize("sum_name", ["a/b", "100 %", "ä?#", "..", ""])
def test_names_may_be_of_any_characters(socket_folder, sum_name):
    if not sum_name:
        with daemon(socket_folder, node()):
            assert ask(socket_folder, "PUT", "/values//weights", bytes(8))[0] == 422
        return
    session = made_session(3, {sum_name: {"x/y z": Summand(shape=(2,), bound=4.0)}})
    answering = SumNode(session, identity(1), policy=Policy(), store=MemoryStore(), rng=stream("x"))
    with daemon(socket_folder, answering):
        Daemon(socket_folder / "s").give(sum_name, {"x/y z": np.array([1.0, 2.0])})
    assert answering._missing(0) == ()


WEIGHTS, FLAT, EXAMPLES = ([f"{SHAPE_HEADER}: {shape}"] for shape in ("3,5", "15", "1"))
REFUSED = {  # method, target, body, more headers → status, part of what is said
    "no request": (("POST", "/exchange", b"nonsense"), 400, "not a request"),
    "nothing": (("POST", "/exchange", b""), 400, "not a request"),
    "wrong method": (("GET", "/exchange"), 405, ""),
    "wrong path": (("POST", "/etc/passwd"), 404, ""),
    "path upwards": (("PUT", "/values/../../x", b""), 422, "another path"),
    "too few values": (("PUT", "/values/round%201/weights", bytes(8), WEIGHTS), 422, "found 8 bytes; expected 120"),
    "too many values": (("PUT", "/values/round%201/weights", bytes(128), FLAT), 422, "found more than 120 bytes"),
    "no such sum": (("PUT", "/values/round%209/weights", bytes(120), WEIGHTS), 422, "expected one of round 1"),
    "no such array": (("PUT", "/values/round%201/wei", bytes(120), WEIGHTS), 422, "which has weights, examples"),
    "no UTF-8": (("PUT", "/values/%FF%FE/weights", bytes(120), WEIGHTS), 422, "expected one of round 1"),
    "not finite": (("PUT", "/values/round%201/weights", b"\xff" * 120, WEIGHTS), 422, "weights"),
    "out of range": (("PUT", "/values/round%201/examples", np.array([1e9]).tobytes(), EXAMPLES), 422, "examples"),
    "no shape": (("PUT", "/values/round%201/weights", bytes(120)), 422, "expected the array's shape"),
    "nothing of a shape": (("PUT", "/values/round%201/weights", bytes(120), [f"{SHAPE_HEADER}: 3x5"]), 422, "'3x5'"),
    "another shape": (("PUT", "/values/round%201/weights", bytes(120), [f"{SHAPE_HEADER}: 5,3"]), 422, "found (5, 3)"),
    "no axes": (("PUT", "/values/round%201/examples", bytes(8), [f"{SHAPE_HEADER}:"]), 422, "found ()"),
    "no link": (("PUT", "/values/round%201/weights", bytes(120), [*WEIGHTS, f"{LINK_HEADER}: z"]), 422, "64 hex"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_changes_nothing(socket_folder, case):
    arguments, status, said = REFUSED[case]
    store = MemoryStore()
    with daemon(socket_folder, node(store)) as api:
        before = dict(store._files)
        found, body = ask(socket_folder, *arguments)
        assert (found, store._files) == (status, before)
        if said:
            assert said in json.loads(body)["error"]
        assert ask(socket_folder, "GET", "/healthz") == (200, b'{"healthy": true}')
        assert api.failure is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"weights": np.zeros((5, 3))},
        {"weights": np.zeros((3, 5, 1))},
        {"weights": np.full((3, 5), np.nan)},
        {"weights": np.full((3, 5), 5.0)},
        {"weights": np.zeros((3, 5), complex)},
        {"weights": np.full((3, 5), (1 << 53) + 1)},
        {"examples": np.array(7)},
        {"other": np.zeros(1)},
    ],
    ids=str,
)
def test_an_app_hears_of_the_daemon_what_it_would_of_a_node_in_its_own_process(socket_folder, wrong):
    values = {"weights": np.zeros((3, 5)), "examples": np.zeros(1), **wrong}
    with pytest.raises(ValueRefused) as here:
        node().give("round 1", values)
    with daemon(socket_folder, node()), pytest.raises(ValueRefused) as there:
        Daemon(socket_folder / "s").give("round 1", values)
    assert str(there.value) == str(here.value)


def test_a_request_that_is_too_long_is_given_up_early(socket_folder, monkeypatch):
    monkeypatch.setattr(daemon_api, "MOST_BYTES", 1000)
    with daemon(socket_folder, node()):
        status, body = ask(socket_folder, "POST", "/exchange", bytes(2000), length=1 << 40)
    assert status == 400
    assert b"more than 1000 bytes" in body


@pytest.mark.parametrize("answering", [lambda: mailbox_of(LIGHT, 1), node], ids=["editing", "sums"])
def test_what_is_for_another_session_is_refused_from_its_beginning(socket_folder, answering):
    """Its body never comes."""
    with daemon(socket_folder, answering()):
        request = encode(Messages(transcript=b"x" * 32, first=0, payloads=(bytes(100),)))
        status, body = ask(socket_folder, "POST", "/exchange", request[:HEAD_BYTES], length=1 << 40)
    assert status == 200
    assert isinstance(decode_reply(body), Refused)


def test_bodies_that_do_not_come_keep_others_waiting_for_a_while_only(socket_folder, monkeypatch):
    monkeypatch.setattr(daemon_api, "_LIMITS", replace(daemon_api._LIMITS, body_seconds=1.0))
    greeting = encode(Hello(transcript=LIGHT.session.transcript))
    with daemon(socket_folder, mailbox_of(LIGHT, 1)), ExitStack() as peers:
        for _ in range(8):
            peer = peers.enter_context(socket.socket(socket.AF_UNIX))
            peer.connect(str(socket_folder / "s"))
            peer.sendall(b"POST /exchange HTTP/1.1\r\nHost: x\r\nContent-Length: 100000000\r\n\r\n" + greeting)
        replies, ends = [], time.monotonic() + 30
        while not replies and time.monotonic() < ends:
            with suppress(NoDaemon):  # it waited too long behind the others; an engine asks again
                replies.append(Daemon(socket_folder / "s").answer(greeting))
    assert isinstance(decode_reply(replies[0]), Ready)


def test_two_bodies_at_a_time_are_in_memory(socket_folder, monkeypatch):
    reading, most, body = set(), [], DaemonApi._body

    async def watched(api, request):
        reading.add(request)
        most.append(len(reading))
        try:
            return await body(api, request)
        finally:
            reading.discard(request)

    monkeypatch.setattr(DaemonApi, "_body", watched)
    greeting = encode(Hello(transcript=LIGHT.session.transcript))
    with daemon(socket_folder, mailbox_of(LIGHT, 1)), ExitStack() as peers:
        begun = [peers.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(8)]
        for peer in begun:
            peer.connect(str(socket_folder / "s"))
            peer.sendall(b"POST /exchange HTTP/1.1\r\nHost: x\r\nContent-Length: 34\r\n\r\n" + greeting[:10])
        ends = time.monotonic() + 30
        while len(most) < 2 and time.monotonic() < ends:
            time.sleep(0.01)
        time.sleep(0.3)  # in which nobody else's is begun
        for peer in begun:
            peer.sendall(greeting[10:])
        assert all(peer.recv(12) == b"HTTP/1.1 200" for peer in begun)
    assert (len(most), max(most)) == (8, 2)


def test_replies_that_nobody_takes_are_few_and_make_room_after_a_while(socket_folder, monkeypatch):
    monkeypatch.setattr(daemon_api, "_REPLY_SECONDS", 1.0)
    asked = []

    class Long:
        def answer(self, request):
            asked.append(request)
            return bytes(16 << 20) if len(asked) < 6 else b"short"

    greeting = encode(Hello(transcript=LIGHT.session.transcript))
    monkeypatch.setattr(daemon_api, "_LEAST_PER_SECOND", 1 << 30)
    with daemon(socket_folder, Long()), ExitStack() as peers:
        for _ in range(5):
            peer = peers.enter_context(socket.socket(socket.AF_UNIX))
            peer.connect(str(socket_folder / "s"))
            peer.sendall(b"POST /exchange HTTP/1.1\r\nHost: x\r\nContent-Length: 34\r\n\r\n" + greeting)
        time.sleep(0.7)
        assert len(asked) == 2
        assert Daemon(socket_folder / "s").answer(greeting) == b"short"
    assert len(asked) == 6


@pytest.mark.parametrize("num_clients", [3, 12])
def test_a_session_of_sums_has_room_for_all_messages_to_a_client_and_for_little_more(socket_folder, num_clients):
    session = made_session(num_clients)
    host = MemoryHost(made_nodes(session))
    summing = SecureSum(host, session, identity(0), clock=host.clock)
    for spec in session.sums:
        summing.run(spec.name)
    whole = encode(Messages(transcript=session.transcript, first=0, payloads=tuple(summing._mail[1])))
    longest = daemon_api.longest_of_sums(session)
    assert len(whole) <= longest < 1 << 20
    with daemon(socket_folder, node(session=session)):
        status, body = ask(socket_folder, "POST", "/exchange", bytes(longest + 1))
        assert (status, b"more than" in body) == (400, True)


def test_whose_daemon_it_is_is_signed_for_before_anything_is_computed(socket_folder, tmp_path):
    """A tunnel ends when it has heard of a client nothing that this signed, while others are done."""
    with (
        pytest.raises(KeyboardInterrupt),  # else the end of the block would be told, and waited for
        aggregating(LIGHT, tmp_path / "server") as server,
        SocketChoice(path=socket_folder / "s", patience=30.0).ready(LIGHT.session, LIGHT.identities[1]),
    ):
        carrier = Carrier(url=server.url, transcript=LIGHT.session.transcript, end=Daemon(socket_folder / "s").answer)
        with carrying(carrier):
            ends = time.monotonic() + 20
            while sum(map(len, carrier.rounds)) < 1 and time.monotonic() < ends:
                time.sleep(0.05)
        (call,) = carrier.rounds[0]
        assert (call.method, call.target.rsplit("/", 2)[1:]) == ("HEAD", ["sums", "0"])
        assert carrier.ask(call).status in (409, 410)  # as who signs may hear: turns._LATE
        raise KeyboardInterrupt


def test_an_editing_session_takes_no_values(socket_folder):
    with daemon(socket_folder, mailbox_of(LIGHT, 1)), pytest.raises(ValueRefused, match="from this node's owner alone"):
        Daemon(socket_folder / "s").give("layer 1", {"gram": np.zeros(3)})


def test_a_repetition_that_comes_meanwhile_gets_the_same_reply(socket_folder):
    mailbox, request = mailbox_of(LIGHT, 1), encode(Carry(transcript=LIGHT.session.transcript, number=0))
    mailbox._wait_seconds = 20.0
    with daemon(socket_folder, mailbox):
        relay, replies = Daemon(socket_folder / "s"), []
        threads = [threading.Thread(target=lambda: replies.append(relay.answer(request))) for _ in range(3)]
        for thread in threads:
            thread.start()
        time.sleep(0.2)
        assert replies == []
        with pytest.raises(TimeoutError):
            mailbox.ask([Call(number=0, method="GET", target="/v1/x")], 0.5)
        for thread in threads:
            thread.join()
    assert len(set(replies)) == 1
    assert isinstance(decode_reply(replies[0]), Ready)


class FullDisk(MemoryStore):
    def write(self, name, parts):
        raise BadFile(name, found="no space", expected="some")


def test_a_disk_that_is_full_stops_the_daemon_and_says_no_more_to_who_asked(socket_folder):
    start = encode(Messages(transcript=SUMS.transcript, first=0, payloads=()))
    with daemon(socket_folder, node(FullDisk())) as api:
        with pytest.raises(NoDaemon, match=r"503.*the daemon had to stop: BadFile"):
            Daemon(socket_folder / "s").answer(start)
        assert ask(socket_folder, "GET", "/healthz")[0] == 503
        with pytest.raises(BadFile, match="no space"):
            api.wait(0)


def test_the_socket_is_its_owners_alone_while_it_is_there_and_gone_afterwards(socket_folder):
    with daemon(socket_folder, node()):
        assert stat.S_IMODE((socket_folder / "s").stat().st_mode) == 0o600
    assert list(socket_folder.iterdir()) == []
    with pytest.raises(NoDaemon, match="found no daemon"):
        Daemon(socket_folder / "s").answer(b"")


@pytest.mark.parametrize("is_abstract", [True, False])
def test_a_peer_that_has_an_address_of_its_own_is_served_as_any(socket_folder, monkeypatch, is_abstract):
    monkeypatch.chdir(socket_folder)
    with daemon(socket_folder, node()), socket.socket(socket.AF_UNIX) as peer:
        peer.settimeout(10)
        peer.bind(f"\0collabsecure-test-{os.getpid()}" if is_abstract else "peer")
        peer.connect(str(socket_folder / "s"))
        peer.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert peer.recv(12) == b"HTTP/1.1 200"
        assert ask(socket_folder, "GET", "/healthz")[0] == 200


def test_bytes_that_are_no_http_end_that_connection_alone(socket_folder):
    with daemon(socket_folder, node()):
        for data in (b"\x16\x03\x01\x02", b"GET / HTTP/9\r\n\r\n", bytes(100_000), b"POST /exchange HTTP/1.1\r\n"):
            with socket.socket(socket.AF_UNIX) as peer:
                peer.connect(str(socket_folder / "s"))
                peer.sendall(data)
        with pytest.raises(BadExchange):
            Daemon(socket_folder / "s").answer(b"")


def test_nothing_that_a_daemon_says_of_itself_has_a_secret_in_it(socket_folder):
    answering, said = node(), b""
    with daemon(socket_folder, answering):
        relay = Daemon(socket_folder / "s")
        relay.give(ROUND, made_values(SUMS, 1, ROUND))
        said += relay.answer(encode(Hello(transcript=SUMS.transcript))) + relay.answer(
            encode(Hello(transcript=bytes(32)))
        )
        for arguments, _, _ in REFUSED.values():
            said += ask(socket_folder, *arguments)[1]
    assert identity(1).reveal() not in said
    assert identity(1).reveal().hex().encode() not in said
    assert made_values(SUMS, 1, ROUND)["weights"].tobytes()[:8] not in said
