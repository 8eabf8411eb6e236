"""What a peer may cost, over real sockets and TLS: slow ones are hung up on, floods stay out, others get through."""

import asyncio
import contextlib
import http.client
import logging
import socket
import ssl
import subprocess
import sys
import threading
import time

import pytest
from certificates import issue, make_authority
from served import served
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route

from collabsecure.errors import BadFile
from collabsecure_cli.serving import CannotListen, Limits, Tls

QUICK = Limits(header_seconds=0.4, idle_seconds=1, body_seconds=0.5)
HUNG_UP = 4.0  # seconds within which a peer that exceeds one of QUICK's limits must be rid of


async def echo(request):
    return PlainTextResponse(str(len(await request.body())))


async def refuse_unread(_request):
    return PlainTextResponse("no", 403)


async def long_poll(_request):
    await asyncio.sleep(60)
    return PlainTextResponse("late")


async def endless(_request):
    async def chunks():
        while True:
            yield b"x" * 65536

    return StreamingResponse(chunks())


APP = Starlette(
    routes=[
        Route("/", echo, methods=["GET", "POST"]),
        Route("/refused", refuse_unread, methods=["POST"]),
        Route("/poll", long_poll),
        Route("/endless", endless),
    ]
)


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return make_authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def tls(authority):
    issued = issue(authority, "localhost")
    return Tls(certificate=issued.certificate, key=issued.key)


@pytest.fixture
def quiet(caplog):
    """Nothing that a peer does ends in the log as an error, let alone with a traceback."""
    with caplog.at_level(logging.WARNING):
        yield
    assert not caplog.get_records("call")


def connect(server, source="127.0.0.1", context=None):
    raw = socket.create_connection(("127.0.0.1", server.port), timeout=HUNG_UP, source_address=(source, 0))
    return raw if context is None else context.wrap_socket(raw, server_hostname="127.0.0.1")


def trusting(authority):
    return ssl.create_default_context(cafile=authority.certificate)


def seconds_until_hung_up(peer):
    """How long until the server closes; whatever it says before that is read."""
    begun = time.monotonic()
    with contextlib.suppress(ConnectionError, ssl.SSLEOFError):
        while peer.recv(65536):
            pass
    return time.monotonic() - begun


def drip(peer, data, pause=0.05):
    """Send byte after byte until the server hangs up; how long that took."""
    begun = time.monotonic()
    peer.settimeout(pause)
    for byte in data * 1000:
        with contextlib.suppress(TimeoutError, ssl.SSLWantReadError):
            try:
                peer.sendall(bytes([byte]))
                if not peer.recv(1):
                    break
            except (ConnectionError, ssl.SSLEOFError):
                break
        assert time.monotonic() - begun < HUNG_UP, "the server takes it for ever"
    return time.monotonic() - begun


def get(server, path="/", source="127.0.0.1"):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=5, source_address=(source, 0))
    with contextlib.closing(connection):
        connection.request("GET", path)
        return connection.getresponse().read()


@pytest.mark.parametrize("secure", [False, True])
@pytest.mark.parametrize(
    "sent",
    [b"", b"GET / HTTP/1.1\r\nHost: x\r\n", b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf"],
    ids=["nothing", "half-the-headers", "half-a-body"],
)
def test_a_peer_that_stops_half_way_is_hung_up_on(sent, secure, authority, tls, quiet):
    context = trusting(authority) if secure else None
    with served(APP, tls=tls if secure else None, limits=QUICK) as server, connect(server, context=context) as peer:
        peer.sendall(sent)
        assert 0.3 < seconds_until_hung_up(peer) < 2


@pytest.mark.parametrize(
    ("first", "dripped"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow: ", b"a"),
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\nX-Slow: ", b"a"),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n", b"a"),
        (b"POST /refused HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n", b"a"),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\na\r\n"),
    ],
    ids=["headers", "headers-of-a-second-request", "body", "body-of-a-refused-request", "chunks"],
)
def test_a_peer_that_drips_is_hung_up_on(first, dripped, quiet):
    with served(APP, limits=QUICK) as server, connect(server) as peer:
        peer.sendall(first)
        assert 0.3 < drip(peer, dripped) < 2.5


def test_a_tls_handshake_that_never_ends_is_bounded_and_counts_as_a_connection(authority, tls, quiet):
    limits = Limits(header_seconds=0.5, max_connections_per_address=2)
    with served(APP, tls=tls, limits=limits) as server, connect(server) as silent, connect(server) as half:
        half.sendall(b"\x16\x03\x01\x02\x00")  # a ClientHello's first bytes
        with connect(server) as third:
            assert seconds_until_hung_up(third) < 0.4  # no room, so at once
        assert 0.3 < seconds_until_hung_up(silent) < 2
        seconds_until_hung_up(half)
        with connect(server, context=trusting(authority)) as peer:  # there is room again
            peer.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert peer.recv(12) == b"HTTP/1.1 200"


def test_a_peer_that_does_not_take_its_answer_is_hung_up_on(quiet):
    ended = threading.Event()

    async def app(scope, receive, send):
        try:
            await APP(scope, receive, send)
        finally:
            ended.set()

    with served(app, limits=QUICK) as server, connect(server) as peer:
        peer.sendall(b"GET /endless HTTP/1.1\r\nHost: x\r\n\r\n")
        assert not ended.wait(0.3)
        assert ended.wait(HUNG_UP)


def test_an_idle_connection_is_kept_for_idle_seconds_and_no_longer(quiet):
    with served(APP, limits=QUICK) as server:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=5)
        for _ in range(2):
            connection.request("POST", "/", body=b"abc")
            assert connection.getresponse().read() == b"3"
            time.sleep(0.8)  # longer than a request's headers may take
        assert seconds_until_hung_up(connection.sock) < 2
        connection.close()


def test_a_connection_whose_body_came_after_the_answer_is_not_kept_for_ever(quiet):
    with served(APP, limits=QUICK) as server, connect(server) as peer:
        peer.sendall(b"POST /refused HTTP/1.1\r\nHost: here\r\nContent-Length: 4\r\n\r\n")
        assert b" 403 " in peer.recv(65536)
        peer.sendall(b"late")
        assert seconds_until_hung_up(peer) < HUNG_UP


def test_a_head_request_with_a_broken_body_is_no_traceback(quiet):
    with served(APP, limits=QUICK) as server, connect(server) as peer:
        peer.sendall(b"HEAD / HTTP/1.1\r\nHost: here\r\nTransfer-Encoding: chunked\r\n\r\nno number\r\n")
        assert b" 400 " in peer.recv(65536)
        assert seconds_until_hung_up(peer) < HUNG_UP


def test_a_long_poll_may_last_longer_than_all_limits(quiet):
    async def poll(_request):
        await asyncio.sleep(1)
        return PlainTextResponse("late")

    with served(Starlette(routes=[Route("/", poll)]), limits=QUICK) as server:
        assert get(server) == b"late"


def test_a_flood_from_one_address_leaves_room_for_another(quiet):
    with served(APP, limits=Limits(max_connections=50, max_connections_per_address=8)) as server:
        with contextlib.ExitStack() as stack:
            flood = [stack.enter_context(connect(server)) for _ in range(60)]
            assert get(server, source="127.0.0.2") == b"0"
            over = [peer for peer in flood[8:] if seconds_until_hung_up(peer) < 1]
            assert len(over) == 52
            with pytest.raises((http.client.HTTPException, ConnectionError)):
                get(server)
        assert eventually(lambda: get(server)) == b"0"  # and the flood is over


def test_all_together_are_limited_as_well(quiet):
    with served(APP, limits=Limits(max_connections=3, max_connections_per_address=2)) as server:
        with contextlib.ExitStack() as stack:
            for source in ("127.0.0.1", "127.0.0.1", "127.0.0.2"):
                stack.enter_context(connect(server, source=source))
            assert seconds_until_hung_up(stack.enter_context(connect(server, source="127.0.0.3"))) < 1
        assert eventually(lambda: get(server, source="127.0.0.3")) == b"0"


def eventually(ask):
    """The server learns of closed connections a moment later."""
    for _ in range(50):
        with contextlib.suppress(http.client.HTTPException, ConnectionError):
            return ask()
        time.sleep(0.05)
    return ask()


@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\nX-Big: " + b"a" * 100_000 + b"\r\n\r\n",
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nno chunk\r\n",
    ],
    ids=["big-header", "big-target", "tls-to-a-plain-port", "no-host", "bad-chunk"],
)
def test_what_is_not_http_gets_a_4xx_and_is_closed(sent, quiet):
    with served(APP) as server, connect(server) as peer:
        with contextlib.suppress(ConnectionError):
            peer.sendall(sent)
        answer = b""
        with contextlib.suppress(ConnectionError):
            while data := peer.recv(65536):
                answer += data
        assert answer.startswith(b"HTTP/1.1 4")


def test_garbage_after_the_answer_began_only_hangs_up(quiet):
    with served(APP) as server, connect(server) as peer:
        peer.sendall(b"GET /endless HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        assert peer.recv(12) == b"HTTP/1.1 200"
        peer.sendall(b"no chunk\r\n")
        assert seconds_until_hung_up(peer) < 2


def test_a_stop_ends_long_polls_and_slow_peers_within_seconds(authority, tls, quiet):
    with served(APP, tls=tls) as server, contextlib.ExitStack() as stack:
        context = trusting(authority)
        for sent in (
            b"GET /poll HTTP/1.1\r\nHost: x\r\n\r\n",
            b"GET /endless HTTP/1.1\r\nHost: x\r\n\r\n",
            b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n",
            b"GET / HT",
            b"",
        ):
            stack.enter_context(connect(server, context=context)).sendall(sent)
        stack.enter_context(connect(server))  # no handshake at all
        time.sleep(0.2)
        begun = time.monotonic()
        server.stop()
        assert time.monotonic() - begun < 4


def test_an_answer_under_way_is_finished_before_the_stop(quiet):
    async def slow(_request):
        await asyncio.sleep(0.6)
        return PlainTextResponse("done")

    with served(Starlette(routes=[Route("/", slow)])) as server, connect(server) as peer:
        peer.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        time.sleep(0.2)
        server.stop()
        assert peer.recv(65536).endswith(b"done")


def test_mutual_tls_lets_in_who_has_a_certificate_and_nobody_else(authority, tls, tmp_path, quiet):
    client, other = issue(authority, "alice"), make_authority(tmp_path)
    mutual = Tls(certificate=tls.certificate, key=tls.key, client_ca=authority.certificate)
    with served(APP, tls=mutual) as server:
        for stranger in (None, issue(other, "mallory")):
            context = trusting(authority)
            if stranger is not None:
                context.load_cert_chain(stranger.certificate, stranger.key)
            with pytest.raises((ssl.SSLError, ConnectionError)), connect(server, context=context) as peer:
                peer.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                if not peer.recv(100):
                    raise ConnectionError
        context = trusting(authority)
        context.load_cert_chain(client.certificate, client.key)
        with connect(server, context=context) as peer:
            peer.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert peer.recv(12) == b"HTTP/1.1 200"


def test_tls_older_than_1_2_is_refused(authority, tls, quiet):
    context = trusting(authority)
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    with served(APP, tls=tls) as server, pytest.raises((ssl.SSLError, ConnectionError)):
        connect(server, context=context)


def test_answers_name_no_server_and_uvicorns_log_stays_silent(capfd, quiet):
    with served(APP) as server, connect(server) as peer:
        assert server.url == f"http://127.0.0.1:{server.port}"
        peer.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: upgrade, close\r\n\r\n")
        assert b"server:" not in peer.recv(65536).lower()
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        ({"certificate": None}, "No such file"),
        ({"certificate": b"hello"}, "no certificate that can be read"),
        ({"key": b"hello"}, "no key that can be read"),
        ({"client_ca": b"hello"}, "no certificate that can be read"),
        ({"key": "another"}, "a key that is not the one of"),
        ({"key": "encrypted"}, "a key that needs a passphrase"),
    ],
)
def test_tls_files_that_are_not_right_are_one_line(broken, says, authority, tls, tmp_path):
    ((name, content),) = broken.items()
    path = tmp_path / "file.pem"
    if content == "another":
        path = issue(authority, "another").key
    elif content == "encrypted":
        command = ["openssl", "ec", "-in", tls.key, "-aes128", "-passout", "pass:secret", "-out", path]
        subprocess.run(command, check=True, capture_output=True)
    elif content is not None:
        path.write_bytes(content)
    files = {"certificate": tls.certificate, "key": tls.key, "client_ca": None, name: path}
    with pytest.raises(BadFile, match=says) as refusal, served(APP, tls=Tls(**files)):
        pass
    assert "\n" not in str(refusal.value)
    assert str(path) in str(refusal.value)


@pytest.mark.parametrize("host", ["127.0.0.1", "192.0.2.1", "no.such.host.invalid", "a" * 70 + ".example"])
def test_an_address_that_cannot_be_had_is_one_line(host):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with (
            pytest.raises(CannotListen, match=f"cannot listen on {host}, port {port}"),
            served(APP, host=host, port=port),
        ):
            pass


def test_the_limit_on_open_files_is_raised():
    code = (
        "import resource; from collabsecure_cli.serving import raise_descriptor_limit as more\n"
        "files = resource.RLIMIT_NOFILE; hard = resource.getrlimit(files)[1]; resource.setrlimit(files, (100, hard))\n"
        "more(); print(resource.getrlimit(files)[0] == hard)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "True\n"
