"""The tunnel makes the requests that nodes have for an aggregator, no others, and takes the answers back."""

import datetime
import http.server
import ipaddress
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from memory_host import made_session
from threaded_host import ThreadedHost

from collabsecure.errors import BadFile
from collabsecure.integrations import calls, tunnel, turns
from collabsecure.integrations.calls import BadAddress
from collabsecure.integrations.exchange import (
    Answer,
    Call,
    Carry,
    Hello,
    Ready,
    Refused,
    Reply,
    Request,
    Wait,
    decode_request,
    encode,
)
from collabsecure.integrations.tunnel import OVER, Carried, NoAggregator, Tunnel

SESSION = made_session()
BASE = f"/v1/{SESSION.transcript.hex()}/clients/"
BYSTANDING = "messages/999"
DONE = Refused(check=OVER, reason="this client has its result")
ALL_DONE = Carried(over=(1, 2, 3, 4), is_aggregator_gone=False)


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tenth of those in earnest."""
    for module in (tunnel, turns):
        monkeypatch.setattr(module, "FIRST_PAUSE", 0.05)
    monkeypatch.setattr(tunnel, "_LOOK", 0.1)


@dataclass
class Seen:
    """What an aggregator was asked."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes = field(repr=False)


Says = Callable[[Seen], tuple[int, dict[str, str], bytes]]


def ok(_: Seen) -> tuple[int, dict[str, str], bytes]:
    return 200, {"Upload-Offset": "7", "Retry-After": "1", "Set-Cookie": "no"}, b"fine"


@contextmanager
def aggregator(
    says: Says = ok, *, context: ssl.SSLContext | None = None, port: int = 0
) -> Iterator[tuple[str, list[Seen]]]:
    """Somebody who says that; its address, and what it was asked but for its health, and by bystanders."""
    seen: list[Seen] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            asked = Seen(self.command, self.path, {name.lower(): value for name, value in self.headers.items()}, body)
            if self.path == "/healthz" or self.path.endswith(BYSTANDING):
                status, headers, content = 200, {}, b"{}"
            else:
                seen.append(asked)
                status, headers, content = says(asked)
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        do_GET = do_HEAD = do_POST = do_PATCH = do_DELETE = answer  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    class Server(http.server.ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None:
            pass

    with Server(("127.0.0.1", port), Handler) as server:
        if context is not None:
            server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http{'s' if context else ''}://127.0.0.1:{server.server_address[1]}", seen
        finally:
            server.shutdown()
            thread.join()


class Asking:
    """A node's daemon that asks some rounds of calls, each until all of it is answered, and then is done."""

    def __init__(self, client: int, *rounds: Sequence[Call]) -> None:
        self.client, self.rounds, self.answers = client, [list(calls) for calls in rounds], dict[int, Answer]()
        self.requests: list[Request] = []

    def __call__(self, request: bytes) -> bytes | None:
        found = decode_request(request)
        self.requests.append(found)
        return encode(self.reply(found))

    def reply(self, request: Request) -> Reply:
        if isinstance(request, Hello):
            return Ready(payloads=(self.client.to_bytes(2, "big"),))
        assert isinstance(request, Carry)
        self.answers |= {answer.number: answer for answer in request.answers}
        for calls_ in self.rounds:
            left = [call.encode() for call in calls_ if call.number not in self.answers]
            if left:
                return Ready(payloads=tuple(left))
        return DONE


class Trying(Asking):
    """Asks again, under a new number, as a client does."""

    def reply(self, request: Request) -> Reply:
        reply = super().reply(request)
        last = max(self.answers, default=0)
        if reply == DONE and self.answers[last].status == 503:
            self.rounds.append([replace(self.rounds[-1][0], number=last + 1)])
            return super().reply(request)
        return reply


def call(number: int, target: str = "messages/0", *, client: int = 1, method: str = "GET", **more: object) -> Call:
    return Call(number=number, method=method, target=f"{BASE}{client}/{target}", **more)


def carry(
    url: str, *asking: Callable[[bytes], bytes | None], clients: Sequence[int] = (), **options: object
) -> Carried:
    """Until all are done: with these nodes, which are those clients, the session's others ask for one thing."""
    taken = {node.client for node in asking if isinstance(node, Asking)} | set(clients)
    others = [
        Trying(client, [call(1, BYSTANDING, client=client)]) for client in SESSION.client_ids if client not in taken
    ]
    host = ThreadedHost({f"node {number}": answers for number, answers in enumerate((*asking, *others))})
    return Tunnel(host, url, session=SESSION, **{"patience": 20.0, **options}).run()


def test_requests_and_answers_arrive_with_the_headers_that_matter() -> None:
    headers = (
        ("Authorization", "signed"),
        ("Range", "bytes=5-"),
        ("Upload-Offset", "3"),
        ("Cookie", "x"),
        ("Host", "y"),
    )
    node = Asking(
        1,
        [call(7, headers=headers), call(8, "sums/0", method="HEAD")],
        [call(9, "sums/0", method="PATCH", body=b"chunk"), call(10, method="POST", body=b"message")],
    )
    with aggregator() as (url, seen):
        assert carry(url, node) == ALL_DONE
    assert [(asked.method, asked.target.removeprefix(BASE), asked.body) for asked in seen] == [
        ("GET", "1/messages/0", b""),
        ("HEAD", "1/sums/0", b""),
        ("PATCH", "1/sums/0", b"chunk"),
        ("POST", "1/messages/0", b"message"),
    ]
    first = seen[0].headers
    assert (first["authorization"], first["range"], first["upload-offset"]) == ("signed", "bytes=5-", "3")
    assert "cookie" not in first
    assert first["host"].startswith("127.0.0.1")
    answer = node.answers[7]
    assert (answer.status, dict(answer.headers), answer.body) == (
        200,
        {"Upload-Offset": "7", "Retry-After": "1"},
        b"fine",
    )
    assert node.answers[8].body == b""
    numbers = [request.number for request in node.requests if isinstance(request, Carry)]
    assert numbers == [0, 1, 2, 3]  # a node that has proven nothing yet gets one request made


@pytest.mark.parametrize(
    "wrong",
    [
        Call(number=1, method="GET", target="/metrics"),
        Call(number=1, method="GET", target=f"{BASE}1/../../metrics"),
        Call(number=1, method="GET", target=f"/v1/{'0' * 64}/clients/1/messages/0"),
        Call(number=1, method="GET", target=f"http://elsewhere{BASE}1/messages/0"),
        Call(number=1, method="GET", target=f"{BASE}1/messages/0 HTTP/1.1\r\nX: y"),
        Call(number=1, method="GET", target=f"{BASE}1/messages/0?a=b"),
        Call(number=1, method="GET", target=f"{BASE}2/messages/0"),
        call(1, method="DELETE"),
        call(1, method="GET / HTTP/1.1\r\n"),
        call(1, headers=(("Range", "a\r\nHost: b"),)),
    ],
)
def test_what_is_no_request_to_the_api_is_not_made(wrong: Call) -> None:
    node = Asking(1, [wrong], [call(2)])
    with aggregator() as (url, seen):
        carry(url, node)
    assert [asked.target for asked in seen] == [f"{BASE}1/messages/0"]
    assert node.answers[1].status == 400


def test_bytes_that_are_no_call_are_passed_over() -> None:
    class Strange(Asking):
        def reply(self, request: Request) -> Reply:
            reply = super().reply(request)
            is_calls = isinstance(request, Carry) and isinstance(reply, Ready)
            return Ready(payloads=(*reply.payloads, b"\0", too_long)) if is_calls else reply

    longest = calls.Aggregator("http://127.0.0.1", None, SESSION).longest
    too_long = call(9, method="PATCH", body=bytes(longest + 1)).encode()
    node = Strange(1, [call(3)])
    with aggregator() as (url, _):
        carry(url, node)
    assert node.answers.keys() == {3}


def test_a_request_that_was_lost_is_repeated_byte_for_byte() -> None:
    node, lost, requests = Asking(1, [call(1)], [call(2)]), {1, 2, 4}, []

    def losing(request: bytes) -> bytes | None:
        requests.append(request)
        return None if len(requests) - 1 in lost else node(request)

    with aggregator() as (url, _):
        carry(url, losing, clients=(1,))
    assert requests[1] == requests[2] == requests[3]
    assert requests[4] == requests[5]
    assert set(node.answers) == {1, 2}


def test_a_node_that_has_nothing_to_ask_yet_is_asked_again_with_the_next_number() -> None:
    class Computing(Asking):
        waits = 2

        def reply(self, request: Request) -> Reply:
            reply = super().reply(request)
            if isinstance(request, Carry) and self.answers and self.waits:
                self.waits -= 1
                return Wait()
            return reply

    node = Computing(1, [call(1)], [call(2)])
    with aggregator() as (url, _):
        carry(url, node)
    carries = [request for request in node.requests if isinstance(request, Carry)]
    assert [request.number for request in carries] == [0, 1, 2, 3, 4]
    assert [len(request.answers) for request in carries] == [0, 1, 0, 0, 1]


def says(client: int, *replies: Reply) -> Callable[[bytes], bytes]:
    """A node that says it is a client, and then these, the last one again and again."""
    left = list(replies)

    def node(request: bytes) -> bytes:
        if isinstance(decode_request(request), Hello):
            return encode(Ready(payloads=(client.to_bytes(2, "big"),)))
        return encode(left.pop(0) if len(left) > 1 else left[0])

    return node


def impostors_call(number: int = 1, **more: object) -> Call:
    return call(number, headers=(("Authorization", "forged"),), **more)


def is_signed(asked: Seen) -> tuple[int, dict[str, str], bytes]:
    return (401 if asked.headers.get("authorization") == "forged" else 204), {}, b""


def test_a_node_that_has_proven_nothing_does_not_end_it_by_saying_that_its_client_is_done() -> None:
    """Not even with the only word of that client so far."""
    slow = Idle(1, [call(1)], [call(2)])
    with aggregator() as (url, seen):
        assert carry(url, says(1, DONE), slow) == ALL_DONE
    assert len(seen) == 2


@pytest.mark.parametrize(
    "lie", [Wait(), Ready(), Ready(payloads=(impostors_call().encode(),))], ids=["wait", "ready", "forged"]
)
def test_a_node_that_has_proven_nothing_does_not_keep_it_running(lie: Reply) -> None:
    started = time.monotonic()
    with aggregator(is_signed) as (url, _):
        assert carry(url, says(1, lie), Asking(1, [call(1)]), says(2, lie), clients=(2,), patience=2.0).over == (
            1,
            3,
            4,
        )
    assert 2 < time.monotonic() - started < 6


def test_a_daemon_that_was_done_and_is_started_again_is_served(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that somebody told in the aggregator's name that all is over, for instance."""
    monkeypatch.setattr(tunnel, "LONGEST_PAUSE", 0.2)

    class Restarted(Asking):
        def reply(self, request: Request) -> Reply:
            reply = super().reply(request)
            if reply == DONE and len(self.rounds) == 1:
                self.rounds.append([call(2)])
            return reply

    with aggregator() as (url, seen):
        assert carry(url, Restarted(1, [call(1)]), Idle(2, [call(1, client=2)], [call(2, client=2)])) == ALL_DONE
    assert [asked.target for asked in seen].count(call(1).target) == 2


def test_of_a_request_that_is_too_long_in_any_part_nothing_is_kept() -> None:
    """Nobody's headers and target are as long as a body may be."""
    long = call(1, "x" * (tunnel._MOST_AROUND + (4 << 20)))
    node = says(1, Ready(payloads=(long.encode(),)))
    host = ThreadedHost({"node": node})
    with aggregator() as (url, _):
        carrying = Tunnel(host, url, session=SESSION, patience=1.0)
        with pytest.raises(NoAggregator):
            carrying._aggregator.look = lambda: None  # type: ignore[method-assign]
            carrying.run()
    (line,) = carrying._lines.values()
    assert line.client == 1
    assert line.calls == ()


def test_forgers_do_not_make_the_aggregator_deaf_to_clients(monkeypatch) -> None:
    """It hears nobody any more from an address where too many are refused, and all come from here."""
    monkeypatch.setattr(turns, "LONGEST_PAUSE", 0.05)
    monkeypatch.setattr(turns, "_REFUSALS", 6)
    monkeypatch.setattr(turns, "_MINUTE", 1.0)
    forgers = [says(1, Ready(payloads=(impostors_call().encode(),))) for _ in range(6)]
    when: list[float] = []

    def hears(asked: Seen) -> tuple[int, dict[str, str], bytes]:
        if is_signed(asked)[0] == 401:
            when.append(time.monotonic())
        return is_signed(asked)

    late = Idle(1, [call(1)])
    late.seconds = 3.0
    with aggregator(hears) as (url, _):
        assert carry(url, *forgers, late) == ALL_DONE  # who has signed is heard all the time, and has a turn to do so
    assert all(
        after - before > 0.9 for before, after in zip(when, when[10:], strict=False)
    )  # at most 6, and 4 on the way
    assert len(when) > 6


def test_a_node_that_has_proven_nothing_holds_no_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """It offers uploads that are refused, and is slow."""
    monkeypatch.setattr(turns, "LONGEST_PAUSE", 0.05)
    forged = Ready(
        payloads=tuple(impostors_call(number, method="PATCH", body=bytes(100)).encode() for number in (1, 2))
    )

    def slow(request: bytes) -> bytes:
        if isinstance(decode_request(request), Carry):
            time.sleep(3)
        return says(1, forged)(request)

    started = time.monotonic()
    with aggregator(is_signed) as (url, seen):
        assert carry(url, slow, slow, *map(Uploading, (1, 2, 3, 4)), at_once=1) == ALL_DONE
    assert time.monotonic() - started < 4
    assert sum(asked.headers.get("authorization") != "forged" for asked in seen) == 12


def test_one_client_has_one_place_on_however_many_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "SMALL", 10)
    monkeypatch.setattr(tunnel, "SMALL", 10)
    most, now, lock = [0], [0], threading.Lock()

    def counts(asked: Seen) -> tuple[int, dict[str, str], bytes]:
        with lock:
            now[0] += asked.method == "PATCH"
            most[0] = max(most[0], now[0])
        time.sleep(0.05)
        with lock:
            now[0] -= asked.method == "PATCH"
        return 204, {}, b""

    many = [Asking(1, [call(1, "sums/0", method="HEAD")], [call(2, method="PATCH", body=bytes(20))]) for _ in range(4)]
    with aggregator(counts) as (url, _):
        assert carry(url, *many, at_once=4) == ALL_DONE
    assert most[0] == 1


def test_much_that_comes_without_a_place_is_not_kept_and_comes_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "SMALL", 10)
    monkeypatch.setattr(tunnel, "SMALL", 10)
    node = Asking(1, [call(1)], [call(2, "sums/0", method="PATCH", body=bytes(20))])
    with aggregator() as (url, seen):
        assert carry(url, node) == ALL_DONE
    assert [asked.method for asked in seen] == ["GET", "PATCH"]
    assert [len(request.answers) for request in node.requests if isinstance(request, Carry)] == [0, 1, 0, 1]


def test_what_nodes_say_is_told_cut_and_printable() -> None:
    told: list[str] = []
    rude = says(
        2, *(Refused(check="", reason=f"{number % 50}\x1b[2J\nall is well" + 1000 * ".") for number in range(99))
    )
    with aggregator() as (url, _):
        carry(url, rude, tell=told.append)
    assert all(words.isprintable() and len(words) < 500 for words in told)
    assert len(told) == len({*told}) <= 20
    assert any("all is well" in words for words in told)


def test_all_nodes_are_served_and_a_late_one_too() -> None:
    nodes = {number: Asking(number, [call(number, client=number)]) for number in (1, 2, 3)}
    held = threading.Event()

    def waits_for_the_late_one(request: bytes) -> bytes | None:
        if isinstance(decode_request(request), Carry):
            host.answers.setdefault("late", nodes[3])
            held.wait(10)
        return nodes[1](request)

    def late(asked: Seen) -> tuple[int, dict[str, str], bytes]:
        if "/clients/3/" in asked.target:
            held.set()
        return ok(asked)

    with aggregator(late) as (url, _):
        host = ThreadedHost({"a": waits_for_the_late_one, "b": nodes[2]})
        assert Tunnel(host, url, session=SESSION, patience=3.0).run().over == (1, 2, 3)  # the fourth never comes


def test_strangers_are_left_alone() -> None:
    strangers = [
        lambda _: None,
        lambda _: b"<html>",
        lambda _: encode(Refused(check="", reason="another session")),
        lambda _: encode(Ready(payloads=(b"\0\x63",))),
    ]
    with aggregator() as (url, seen):
        assert carry(url, *strangers, Asking(2, [call(1, client=2)])) == ALL_DONE
    assert len(seen) == 1


def test_a_node_that_refuses_to_have_anything_carried_is_no_client() -> None:
    class OfSums(Asking):
        def reply(self, request: Request) -> Reply:
            return super().reply(request) if isinstance(request, Hello) else Refused(check="", reason="sums alone")

    with aggregator() as (url, _):
        assert carry(url, OfSums(1), Asking(2, [call(1, client=2)]), patience=1.0).over == (2, 3, 4)


def test_while_the_aggregator_is_away_requests_are_answered_with_503_and_then_made() -> None:
    with aggregator() as (url, _):
        pass
    port = int(url.rpartition(":")[2])

    node = Trying(1, [call(1)])
    outcome: list[Carried] = []
    thread = threading.Thread(target=lambda: outcome.append(carry(url, node)))
    thread.start()
    time.sleep(0.5)
    with aggregator(port=port):
        thread.join(20)
    assert outcome == [ALL_DONE]
    assert node.answers[1].status == 503
    assert node.answers[max(node.answers)].status == 200


def test_an_aggregator_that_is_gone_ends_it() -> None:
    with aggregator() as (url, _):
        pass
    with pytest.raises(NoAggregator, match="found nobody who answers"):
        carry(url, Trying(1, [call(1)]), patience=0.5)
    everybody = (Asking(1), *(Trying(client, [call(1, client=client)]) for client in (2, 3, 4)))
    assert carry(url, *everybody, patience=0.5) == Carried(over=(1,), is_aggregator_gone=True)


class Idle(Asking):
    """Asks for one thing, and for nothing more until so many seconds have gone by."""

    seconds = 1.5

    def reply(self, request: Request) -> Reply:
        self.started = getattr(self, "started", time.monotonic())
        reply = super().reply(request)
        return Ready() if reply == DONE and time.monotonic() - self.started < self.seconds else reply


def test_a_client_that_asks_for_nothing_is_waited_for_and_not_asked_all_the_time() -> None:
    idle = Idle(2, [call(1, client=2)])
    with aggregator() as (url, _):
        assert carry(url, idle, patience=1.0) == ALL_DONE
    assert len(idle.requests) < 14


def test_a_node_that_says_nothing_more_is_not_waited_for_for_ever() -> None:
    silent = threading.Event()

    class Dies(Asking):
        def reply(self, request: Request) -> Reply:
            reply = super().reply(request)
            if reply == DONE:
                silent.wait(30)
            return reply

    started = time.monotonic()
    with aggregator() as (url, _):
        assert carry(url, Dies(2, [call(1, client=2)]), patience=1.5).over == (1, 3, 4)
    silent.set()
    assert time.monotonic() - started < 10


def test_a_long_answer_is_cut_and_the_rest_comes_by_range(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "SHARD_BYTES", 10)
    whole = bytes(range(25))

    def file(asked: Seen) -> tuple[int, dict[str, str], bytes]:
        start = int(asked.headers["range"].removeprefix("bytes=").rstrip("-"))
        return 206, {"Content-Range": f"bytes {start}-24/25"}, whole[start:]

    asks = [[call(at, "layers/3", client=1, headers=(("Range", f"bytes={at}-"),))] for at in (0, 10, 20)]
    node = Asking(1, *asks)
    with aggregator(file) as (url, _):
        carry(url, node)
    assert b"".join(node.answers[at].body for at in (0, 10, 20)) == whole
    assert all(len(answer.body) <= 10 for answer in node.answers.values())


def test_answers_go_back_when_they_are_a_shard_and_the_other_calls_come_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tunnel, "SHARD_BYTES", 6)
    node = Asking(1, [call(number) for number in range(5)])
    with aggregator() as (url, seen):
        carry(url, node)
    assert len(seen) == 5
    assert [len(request.answers) for request in node.requests if isinstance(request, Carry)] == [0, 1, 2, 2]


def test_a_node_whose_requests_are_refused_is_slowed_down() -> None:
    """Or it would make the aggregator deaf to all who come from this address."""
    node = Asking(1, [call(0)], [call(number) for number in (1, 2, 3)])
    statuses = iter([200, 401, 401, 401])
    started = time.monotonic()
    with aggregator(lambda _: (next(statuses), {}, b"")) as (url, seen):
        carry(url, node)
    assert time.monotonic() - started > 0.05 + 0.1 + 0.2
    assert len(seen) == 4


def test_what_a_client_meets_that_comes_late_or_resumes_is_no_fault() -> None:
    node = Asking(1, [call(number) for number in range(9)])
    statuses = iter([409, 410, 429] * 3)
    started = time.monotonic()
    with aggregator(lambda _: (next(statuses), {}, b"")) as (url, _):
        carry(url, node)
    assert time.monotonic() - started < 2


class Uploading(Asking):
    """Uploads two chunks, one in each reply; `moving` has the clients whose chunk has left them and not arrived."""

    moving: ClassVar[set[int]] = set()
    order: ClassVar[list[int]] = []
    lock: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self, client: int) -> None:
        chunks = ([call(number, "sums/0", client=client, method="PATCH", body=b"x")] for number in (2, 3))
        super().__init__(client, [call(1, "sums/0", client=client, method="HEAD")], *chunks)

    def reply(self, request: Request) -> Reply:
        reply = super().reply(request)
        if isinstance(reply, Ready) and b"PATCH" in reply.payloads[0]:
            with self.lock:
                self.moving.add(self.client)
                self.order.append(self.client)
            time.sleep(0.05)
        return reply


@pytest.mark.parametrize("at_once", [1, 2])
def test_so_many_clients_upload_at_a_time_and_by_turns(at_once: int) -> None:
    Uploading.moving.clear()
    Uploading.order.clear()
    most = [0]

    def made(asked: Seen) -> tuple[int, dict[str, str], bytes]:
        with Uploading.lock:
            most[0] = max(most[0], len(Uploading.moving))
            if asked.method == "PATCH":
                Uploading.moving.discard(int(asked.target.removeprefix(BASE)[0]))
        return 204, {}, b""

    with aggregator(made) as (url, seen):
        assert carry(url, *map(Uploading, (1, 2, 3, 4)), at_once=at_once) == ALL_DONE
    assert len(seen) == 12
    assert 1 <= most[0] <= at_once
    assert set(Uploading.order[:4]) == {1, 2, 3, 4}, "one had a second turn before all had one"


def test_tls_to_whom_the_authority_names_alone(tmp_path: Path) -> None:
    certificate, key = self_signed(tmp_path, "127.0.0.1")
    other, _ = self_signed(tmp_path / "other", "127.0.0.1")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with aggregator(context=context) as (url, _):
        assert carry(url, Asking(1, [call(1)]), ca=certificate) == ALL_DONE
        with pytest.raises(NoAggregator):
            carry(url, Trying(1, [call(1)]), ca=other, patience=0.3)


def self_signed(folder: Path, ip: str) -> tuple[Path, Path]:
    folder.mkdir(exist_ok=True)
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.datetime.now(datetime.UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(ip))]), False)
        .sign(key, SHA256())
    )
    (folder / "cert.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
    (folder / "key.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return folder / "cert.pem", folder / "key.pem"


@pytest.mark.parametrize(
    "url", ["http://sum.example.org", "ftp://127.0.0.1", "nothing", "https://", "https://user:word@h", "https://h:port"]
)
def test_addresses_that_are_none_or_would_send_sums_in_the_clear_are_refused(url: str) -> None:
    with pytest.raises(BadAddress) as refused:
        Tunnel(ThreadedHost({}), url, session=SESSION)
    assert "word" not in str(refused.value)


def test_an_authority_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("nothing")
    for name in ("ca.pem", "absent.pem"):
        with pytest.raises(BadFile, match=name):
            Tunnel(ThreadedHost({}), "https://localhost", session=SESSION, ca=tmp_path / name)
