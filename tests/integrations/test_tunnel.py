"""The tunnel makes the requests that nodes have for an aggregator, no others, and takes the answers back."""

import datetime
import http.server
import ipaddress
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from memory_host import made_session
from threaded_host import ThreadedHost

from collabsecure.errors import BadFile
from collabsecure.integrations import calls, tunnel
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
DONE = Refused(check=OVER, reason="this client has its result")


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tenth of those in earnest."""
    monkeypatch.setattr(tunnel, "_FIRST_PAUSE", 0.05)
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
    """Somebody who says that; its address, and what it was asked but for its health."""
    seen: list[Seen] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            asked = Seen(self.command, self.path, {name.lower(): value for name, value in self.headers.items()}, body)
            if self.path == "/healthz":
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
            self.rounds.append([call(last + 1)])
            return super().reply(request)
        return reply


def call(number: int, target: str = "messages/0", *, client: int = 1, method: str = "GET", **more: object) -> Call:
    return Call(number=number, method=method, target=f"{BASE}{client}/{target}", **more)


def carry(url: str, *asking: Callable[[bytes], bytes | None], **options: object) -> Carried:
    host = ThreadedHost({f"node {number}": answers for number, answers in enumerate(asking)})
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
        assert carry(url, node) == Carried(over=(1,), is_aggregator_gone=False)
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
    assert numbers == [0, 1, 2]


@pytest.mark.parametrize(
    "wrong",
    [
        Call(number=1, method="GET", target="/metrics"),
        Call(number=1, method="GET", target=f"{BASE}1/../../metrics"),
        Call(number=1, method="GET", target=f"/v1/{'0' * 64}/clients/1/messages/0"),
        Call(number=1, method="GET", target=f"http://elsewhere{BASE}1/messages/0"),
        Call(number=1, method="GET", target=f"{BASE}1/messages/0 HTTP/1.1\r\nX: y"),
        Call(number=1, method="GET", target=f"{BASE}1/messages/0?a=b"),
        call(1, method="DELETE"),
        call(1, method="GET / HTTP/1.1\r\n"),
        call(1, headers=(("Range", "a\r\nHost: b"),)),
    ],
)
def test_what_is_no_request_to_the_api_is_not_made(wrong: Call) -> None:
    node = Asking(1, [wrong])
    with aggregator() as (url, seen):
        carry(url, node)
    assert seen == []
    assert node.answers[1].status == 400


def test_bytes_that_are_no_call_are_passed_over() -> None:
    class Strange(Asking):
        def reply(self, request: Request) -> Reply:
            reply = super().reply(request)
            is_calls = isinstance(request, Carry) and isinstance(reply, Ready)
            return Ready(payloads=(b"\0", *reply.payloads)) if is_calls else reply

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
        carry(url, losing)
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
        assert Tunnel(host, url, session=SESSION).run().over == (1, 2, 3)


def test_strangers_are_left_alone() -> None:
    strangers = [
        lambda _: None,
        lambda _: b"<html>",
        lambda _: encode(Refused(check="", reason="another session")),
        lambda _: encode(Ready(payloads=(b"\0\x63",))),
    ]
    with aggregator() as (url, seen):
        assert carry(url, *strangers, Asking(2, [call(1, client=2)])).over == (2,)
    assert len(seen) == 1


def test_a_node_that_refuses_to_have_anything_carried_is_no_client() -> None:
    class OfSums(Asking):
        def reply(self, request: Request) -> Reply:
            return super().reply(request) if isinstance(request, Hello) else Refused(check="", reason="sums alone")

    with aggregator() as (url, _):
        assert carry(url, OfSums(1), Asking(2, [call(1)])).over == (2,)


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
    assert outcome == [Carried(over=(1,), is_aggregator_gone=False)]
    assert node.answers[1].status == 503
    assert node.answers[max(node.answers)].status == 200


def test_an_aggregator_that_is_gone_ends_it() -> None:
    with aggregator() as (url, _):
        pass
    with pytest.raises(NoAggregator, match="found nobody who answers"):
        carry(url, Trying(1, [call(1)]), patience=0.5)
    outcome = carry(url, Asking(1), Trying(2, [call(1, client=2)]), patience=0.5)
    assert outcome == Carried(over=(1,), is_aggregator_gone=True)


def test_a_node_that_asks_for_nothing_is_not_asked_all_the_time() -> None:
    asked, started = [0], time.monotonic()

    def idle(request: bytes) -> bytes:
        asked[0] += 1
        if isinstance(decode_request(request), Hello):
            return encode(Ready(payloads=(b"\0\2",)))
        return encode(Ready() if time.monotonic() - started < 1.5 else DONE)

    with aggregator() as (url, _):
        assert carry(url, Asking(1, [call(1)]), idle, patience=1.0) == Carried(over=(1, 2), is_aggregator_gone=False)
    assert asked[0] < 12


def test_a_node_that_says_nothing_more_is_not_waited_for_for_ever() -> None:
    silent = threading.Event()

    def dies(request: bytes) -> bytes | None:
        if isinstance(decode_request(request), Hello):
            return encode(Ready(payloads=(b"\0\2",)))
        silent.wait(30)
        return None

    started = time.monotonic()
    with aggregator() as (url, _):
        assert carry(url, Asking(1, [call(1)]), dies, patience=1.5).over == (1,)
    silent.set()
    assert time.monotonic() - started < 10


def test_a_long_answer_is_cut_and_the_rest_comes_by_range(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "SHARD_BYTES", 10)
    whole = bytes(range(25))

    def file(asked: Seen) -> tuple[int, dict[str, str], bytes]:
        start = int(asked.headers["range"].removeprefix("bytes=").rstrip("-"))
        return 206, {"Content-Range": f"bytes {start}-24/25"}, whole[start:]

    asks = [[call(at, "layers/3", headers=(("Range", f"bytes={at}-"),))] for at in (0, 10, 20)]
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
    assert [len(request.answers) for request in node.requests if isinstance(request, Carry)] == [0, 2, 2, 1]


def test_a_node_whose_requests_are_refused_is_slowed_down() -> None:
    """Or it would make the aggregator deaf to all who come from this address."""
    node = Asking(1, [call(number) for number in range(3)])
    started = time.monotonic()
    with aggregator(lambda _: (401, {}, b"")) as (url, seen):
        carry(url, node)
    assert time.monotonic() - started > 0.05 + 0.1 + 0.2
    assert len(seen) == 3


def test_what_a_client_meets_that_comes_late_or_resumes_is_no_fault() -> None:
    node = Asking(1, [call(number) for number in range(9)])
    statuses = iter([409, 410, 429] * 3)
    started = time.monotonic()
    with aggregator(lambda _: (next(statuses), {}, b"")) as (url, _):
        carry(url, node)
    assert time.monotonic() - started < 2


def test_so_many_nodes_upload_at_a_time() -> None:
    lock, uploading, most = threading.Lock(), set[int](), [0]

    class Uploading(Asking):
        def reply(self, request: Request) -> Reply:
            reply = super().reply(request)
            with lock:
                if isinstance(reply, Ready) and b"PATCH" in reply.payloads[0]:
                    uploading.add(self.client)
                else:
                    uploading.discard(self.client)
                most[0] = max(most[0], len(uploading))
            time.sleep(0.05)
            return reply

    nodes = [
        Uploading(
            client,
            [call(1, "sums/0", client=client, method="HEAD")],
            *([call(number, "sums/0", client=client, method="PATCH", body=b"x")] for number in (2, 3)),
        )
        for client in (1, 2, 3, 4)
    ]
    with aggregator() as (url, seen):
        assert carry(url, *nodes, at_once=1).over == (1, 2, 3, 4)
    assert len(seen) == 12
    assert most[0] == 1


def test_tls_to_whom_the_authority_names_alone(tmp_path: Path) -> None:
    certificate, key = self_signed(tmp_path, "127.0.0.1")
    other, _ = self_signed(tmp_path / "other", "127.0.0.1")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with aggregator(context=context) as (url, _):
        assert carry(url, Asking(1, [call(1)]), ca=certificate).over == (1,)
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
