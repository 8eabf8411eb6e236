"""What the API refuses: before it reads a body where it can, and always in words."""

import asyncio
import json

import pytest
from asking import LIGHT, asking, in_upload, is_over
from light_session import make_session

from collabsecure_cli.authorization import authorization

EVERYTHING = [  # method and target of every route for clients
    ("POST", "messages"), ("GET", "messages/0"), ("HEAD", "messages/0"), ("HEAD", "sums/0"), ("PATCH", "sums/0"),
    ("GET", "results/0"), ("GET", "layers/1"), ("HEAD", "layers/1"),
]  # fmt: skip


def wrong_headers(asker, method, target):
    """Everything that a signature can be wrong in, for client 2's request."""
    other, identities = make_session(seed=8), LIGHT.identities
    good = asker.signature(2, method, target)
    yield "none", ""
    yield "another client's", asker.signature(3, method, target)
    yield "another client's in this one's name", asker.signature(3, method, target).replace("client=3", "client=2")
    yield "for another method", asker.signature(2, "DELETE", target)
    yield "for another target", asker.signature(2, method, target + "0")
    yield "for another offset", asker.signature(2, method, target, 1)
    yield "of another session", authorization(other.session, identities[2], method, target)
    yield "with a bit flipped", good[:-5] + ("A" if good[-5] != "A" else "B") + good[-4:]
    yield "another scheme", good.replace("Collabsecure", "Basic")
    yield "malformed", good + ","
    yield "not in ASCII", "Collabsecure client=2, signature=é" + good[-85:]
    yield "of enormous length", good * 200


@pytest.mark.parametrize(("method", "target"), EVERYTHING)
def test_whoever_has_not_signed_this_request_gets_401_before_a_byte_of_the_body_is_read(tmp_path, method, target):
    async def run(asker):
        for what, header in wrong_headers(asker, method, target):
            reply = await asker.ask(
                method, asker.path(2, target), headers={"authorization": header}, body=[b"x" * 10**6] * 100
            )
            assert reply.status == 401, what
            assert reply.body_parts_read == 0
            assert reply.headers["connection"] == "close"
            assert reply.error == "the request is not signed by a client of this session"
        assert asker.service.seen == {}
        assert set(asker.service.bytes_of.values()) == {0}

    with asking(tmp_path, in_upload) as (asker, _):
        asyncio.run(run(asker))


@pytest.mark.parametrize(
    ("path", "status"),
    [("/v1/{other}/clients/2/messages/0", 404), ("/v1/{here}/clients/0/messages/0", 401),
     ("/v1/{here}/clients/5/messages/0", 401), ("/v1/{here}/clients/-1/messages/0", 400),
     ("/v1/{here}/clients/٢/messages/0", 400), ("/v1/{here}/clients/9999999999999999/messages/0", 400),
     ("/v1/{here}/clients/2/messages/" + "0" * 200, 400), ("/v1/{here}/clients/2/messages/0/", 307),
     ("/v1/{here}/clients/2/messages/0/0", 404), ("/v1/{here}/clients/2/", 404), ("/v1/{here}/clients/2", 404),
     ("/v2/{here}/clients/2/messages/0", 404), ("/v1//clients/2/messages/0", 404), ("//", 404), ("/etc/passwd", 404),
     ("/v1/{here}/clients/2/../../../../etc/passwd", 404), ("/docs", 404), ("/openapi.json", 404)],
)  # fmt: skip
def test_path_that_leads_nowhere_is_refused_whatever_is_signed(tmp_path, path, status):
    async def run(asker):
        found = path.format(here=LIGHT.session.transcript.hex(), other="ab" * 32)
        header = asker.signature(2, "GET", found.split("/", 5)[-1])
        reply = await asker.ask("GET", found, headers={"authorization": header}, body=[b"x"] * 3)
        assert reply.status == status
        assert reply.body_parts_read == 0

    with asking(tmp_path) as (asker, _):
        asyncio.run(run(asker))


@pytest.mark.parametrize("method", ["DELETE", "PUT", "OPTIONS", "TRACE", "PATCH", "POST", "CONNECT", "BREW"])
def test_method_that_a_route_does_not_have_is_405_even_when_signed(tmp_path, method):
    async def run(asker):
        for target in ("messages/0", "results/0", "layers/1"):
            assert (await asker.signed(1, method, target)).status == 405
        for path in ("/", "/status.json", "/healthz", "/metrics"):
            assert (await asker.ask(method, path)).status == 405

    with asking(tmp_path) as (asker, _):
        asyncio.run(run(asker))


@pytest.mark.parametrize(
    ("method", "target", "offset"),
    [("GET", "messages/x", None), ("GET", "messages/-1", None), ("GET", "messages/1.0", None),
     ("GET", "messages/" + "9" * 16, None), ("HEAD", "sums/x", None), ("PATCH", "sums/x", 0), ("PATCH", "sums/0", None),
     ("GET", "results/x", None), ("GET", "results/2", None), ("GET", "results/999999999999999", None)],
)  # fmt: skip
def test_number_that_is_none_or_too_large_is_400(tmp_path, method, target, offset):
    async def run(asker):
        reply = await asker.signed(1, method, target, offset=offset, body=[b"x" * 10**6] * 100)
        assert reply.status == 400
        assert reply.body_parts_read == 0
        assert reply.headers["connection"] == "close"

    with asking(tmp_path, in_upload) as (asker, _):
        asyncio.run(run(asker))


@pytest.mark.parametrize("offset", ["x", "", "-1", "1.5", "1e3", "9" * 16, "0x0", "+0", "٠"])
def test_offset_that_is_no_number_is_400_and_no_signature_helps(tmp_path, offset):
    async def run(asker):
        header = asker.signature(1, "PATCH", "sums/0")
        sent = {"authorization": header, "upload-offset": offset.encode().decode("latin-1")}
        reply = await asker.ask("PATCH", asker.path(1, "sums/0"), headers=sent, body=[b"x"] * 3)
        assert reply.status == 400
        assert reply.body_parts_read == 0

    with asking(tmp_path, in_upload) as (asker, _):
        asyncio.run(run(asker))


@pytest.mark.parametrize(("method", "target", "offset"), [("POST", "messages", None), ("PATCH", "sums/0", 0)])
def test_body_that_is_too_long_is_413_as_soon_as_it_is(tmp_path, method, target, offset):
    async def run(asker):
        reply = await asker.signed(1, method, target, offset=offset, body=[b"x" * 100] * 10_000)
        assert reply.status == 413
        assert reply.headers["connection"] == "close"
        assert reply.body_parts_read < 100
        assert reply.error.endswith("the longest in this session")

    with asking(tmp_path, in_upload) as (asker, _):
        asyncio.run(run(asker))


def test_peer_that_goes_in_the_middle_of_a_body_changes_nothing(tmp_path):
    async def run(asker, cohort):
        chunk = cohort.members[1].chunks[0]
        gone = [{"type": "http.request", "body": chunk[:100], "more_body": True}, {"type": "http.disconnect"}]
        sent = []

        async def receive():
            return gone.pop(0)

        async def send(message):
            sent.append(message)

        path = asker.path(1, "sums/0")
        headers = [(b"authorization", asker.signature(1, "PATCH", "sums/0", 0).encode()), (b"upload-offset", b"0")]
        scope = {"type": "http", "method": "PATCH", "path": path, "headers": headers, "query_string": b""}
        await asker.api.app(scope, receive, send)
        assert asker.engine.offset(1, 0) == 0

    with asking(tmp_path, in_upload) as (asker, cohort):
        asyncio.run(run(asker, cohort))


def test_message_that_fails_a_check_is_400_with_its_number_and_one_that_is_late_409(tmp_path):
    async def run(asker, cohort):
        chunk = cohort.members[1].chunks[0]
        flipped = chunk[:-1] + bytes([chunk[-1] ^ 1])
        reply = await asker.signed(1, "PATCH", "sums/0", offset=0, body=flipped)
        assert (reply.status, json.loads(reply.content)["check"]) == (400, "V06")
        reply = await asker.signed(1, "POST", "messages", body=chunk)
        assert (reply.status, json.loads(reply.content)["check"]) == (409, "V04")
        reply = await asker.signed(1, "POST", "messages", body=b"")
        assert (reply.status, json.loads(reply.content)["check"]) == (400, "V02")
        reply = await asker.signed(2, "POST", "messages", body=cohort.members[1].said)
        assert (reply.status, json.loads(reply.content)["check"]) == (400, "V05")
        reply = await asker.signed(1, "POST", "messages", body=cohort.members[1].said)  # once more: no harm
        assert reply.status == 204
        metrics = (await asker.ask("GET", "/metrics")).content.decode()
        assert 'collabsecure_refused_total{check="V06"} 1.0' in metrics

    with asking(tmp_path, in_upload) as (asker, cohort):
        asyncio.run(run(asker, cohort))


@pytest.mark.parametrize(
    "text",
    ["bytes=480-", "bytes=9999999999999999999999-", "bytes=5-4", "bytes=", "bytes=a-b", "lines=1-2", "bytes=--1",
     "bytes=" + "0-," * 4000, "bytes=" + ",".join(f"{n}-{n}" for n in range(0, 480, 2)), "\xe9", "bytes=1-2=3"],
)  # fmt: skip
def test_range_of_nonsense_is_refused_or_bounded(tmp_path, text):
    async def run(asker):
        reply = await asker.signed(1, "GET", "layers/1", headers={"range": text})
        assert reply.status in (200, 206, 400, 416)
        assert len(reply.content) < 100_000

    with asking(tmp_path, is_over) as (asker, _):
        asyncio.run(run(asker))


def test_layer_of_a_sum_that_is_not_merged_or_of_no_session_is_404(tmp_path):
    async def run(asker):
        for target in ("layers/2", "layers/0", "layers/999999999999999", "layers/x"):
            reply = await asker.signed(1, "GET", target)
            assert (reply.status, reply.error) == (404, "there is no update of that layer")
        assert (await asker.signed(1, "GET", "layers/1")).status == 200

    with asking(tmp_path, lambda engine: engine.results.has(0)) as (asker, _):
        asyncio.run(run(asker))
