"""The HTTP API: who may ask for what in which phase, and with which status and words it is refused."""

import asyncio
import json
import os
import time

import numpy as np
import pytest
from asking import BOUNDS, LIGHT, Asker, asking, in_upload, is_over
from cohort import Cohort
from light_session import SERVER, engine_in

from collabsecure_cli.results import is_signed
from collabsecure_protocols import ServerState
from collabsecure_protocols.envelope import MessageType


def test_session_is_carried_out_over_the_api_alone(tmp_path):
    """All that a client needs, with no peeking: advertise, share, upload, confirm, unmask, results, layers, the end."""

    async def take_part(asker, client, cohort):
        member, read = cohort.members[client], 0
        while True:
            while member.outbox:
                reply = await asker.signed(client, "POST", "messages", body=member.outbox.popleft())
                assert reply.status == 204
            while member.sent < len(member.chunks):
                index, offset = member.sum_index, BOUNDS[member.sent]
                head = await asker.signed(client, "HEAD", f"sums/{index}")
                assert (head.status, head.headers["upload-offset"], head.content) == (204, str(offset), b"")
                reply = await asker.signed(
                    client, "PATCH", f"sums/{index}", offset=offset, body=member.chunks[member.sent]
                )
                member.sent += 1
                assert (reply.status, reply.headers["upload-offset"]) == (204, str(BOUNDS[member.sent]))
            reply = await asker.signed(client, "GET", f"messages/{read}")
            if reply.status == 410:
                assert reply.error == "the session has finished; there are no more messages"
                return
            if reply.status == 204:
                continue
            assert reply.headers["content-type"] == "application/octet-stream"
            read += 1
            for event in member.client.receive(reply.content):
                match type(event).__name__:
                    case "SendToServer":
                        member.outbox.append(event.payload)
                    case "NeedInput":
                        link = asker.engine.results.link
                        values = dict(member.given.statistics(event.sum_index))
                        member.chunks = [bytes(chunk) for chunk in member.client.masked_input(values, link=link)]
                        member.sum_index, member.sent = event.sum_index, 0

    async def run(asker, cohort):
        running = asyncio.create_task(asker.service.run())
        await asyncio.gather(*(take_part(asker, client, cohort) for client in (1, 2, 3, 4)))
        await running
        assert asker.service.is_served
        assert asker.service.done == {1, 2, 3, 4}
        for layer in LIGHT.agreement.layers:
            result = json.loads((await asker.signed(2, "GET", f"results/{layer - 1}")).content)
            entry = result["layers"][str(layer)]
            digest, signature = bytes.fromhex(entry["digest"]), bytes.fromhex(entry["signature"])
            assert is_signed(LIGHT.session, layer, digest, signature)
            assert result["survivors"] == [1, 2, 3, 4]
            content = (await asker.signed(2, "GET", f"layers/{layer}")).content
            delta = np.frombuffer(content, "<f8").reshape(5, 12)
            expected = LIGHT.expected(layer, (1, 2, 3, 4))
            assert np.linalg.norm(delta - expected) <= 1e-8 * np.linalg.norm(expected)

    with asking(tmp_path) as (asker, cohort):
        asyncio.run(run(asker, cohort))


def test_upload_at_another_offset_is_409_with_the_true_one_and_repeats_grow_nothing(tmp_path):
    async def run(asker, cohort):
        chunks = cohort.members[1].chunks
        for offset, expected in ((BOUNDS[1], 0), (10**14, 0)):
            reply = await asker.signed(1, "PATCH", "sums/0", offset=offset, body=chunks[1])
            assert (reply.status, reply.headers["upload-offset"]) == (409, str(expected))
        assert (await asker.signed(1, "PATCH", "sums/0", offset=0, body=chunks[0])).status == 204
        for _ in range(3):
            reply = await asker.signed(1, "PATCH", "sums/0", offset=0, body=chunks[0])
            assert (reply.status, reply.headers["upload-offset"]) == (409, str(BOUNDS[1]))
        assert (await asker.signed(1, "PATCH", "sums/0", offset=BOUNDS[1], body=chunks[1])).status == 204
        reply = await asker.signed(1, "PATCH", "sums/0", offset=BOUNDS[2], body=chunks[1])
        assert (reply.status, reply.headers["upload-offset"]) == (409, str(BOUNDS[2]))
        head = await asker.signed(1, "HEAD", "sums/0")
        assert head.headers["upload-offset"] == str(BOUNDS[2])

    with asking(tmp_path, in_upload) as (asker, cohort):
        asyncio.run(run(asker, cohort))


def test_long_poll_ends_at_its_time_with_204(tmp_path):
    async def run(asker):
        for target in ("messages/0", "results/0"):
            started = time.monotonic()
            reply = await asker.signed(1, "GET", target)
            assert (reply.status, reply.content) == (204, b"")
            assert 0.15 <= time.monotonic() - started < 2

    with asking(tmp_path, poll_seconds=0.15) as (asker, _):
        asyncio.run(run(asker))


def test_long_polls_wake_at_once_when_there_is_something(tmp_path):
    async def run(asker, cohort):
        polls = [asyncio.create_task(asker.signed(client, "GET", "messages/0")) for client in (1, 2, 3, 4)]
        await asyncio.sleep(0.05)
        assert not any(poll.done() for poll in polls)
        for client in (1, 2, 3, 4):
            await asker.signed(client, "POST", "messages", body=cohort.members[client].outbox[0])
        async with asyncio.timeout(2):
            replies = await asyncio.gather(*polls)
        assert [reply.status for reply in replies] == [200] * 4
        assert all(reply.content[1] == MessageType.KEY_DIRECTORY for reply in replies)

    with asking(tmp_path, poll_seconds=60) as (asker, cohort):
        asyncio.run(run(asker, cohort))


def test_aggregator_that_stops_lets_nobody_wait(tmp_path):
    async def run(asker):
        polls = [asyncio.create_task(asker.signed(1, "GET", target)) for target in ("messages/0", "results/0")]
        await asyncio.sleep(0.05)
        asker.service.stop()
        async with asyncio.timeout(2):
            assert [(await poll).status for poll in polls] == [204, 204]
            assert (await asker.signed(1, "GET", "messages/0")).status == 204

    with asking(tmp_path, poll_seconds=60) as (asker, _):
        asyncio.run(run(asker))


def test_client_without_whom_the_set_up_ended_is_told_so_and_gets_no_result(tmp_path):
    async def run(asker):
        left_out = {
            ("GET", "messages/0"): "the set-up ended without this client; it takes part in no sum of this session",
            ("HEAD", "sums/0"): None,
            ("PATCH", "sums/0"): "this session takes no more input from this client",
            ("GET", "results/0"): "the set-up ended without this client; the result is not for it",
            ("GET", "layers/1"): "the set-up ended without this client; the result is not for it",
            ("POST", "messages"): "the session is over for this client",
        }
        for (method, target), text in left_out.items():
            reply = await asker.signed(4, method, target, offset=0, body=b"x")
            assert reply.status == 410, (method, target)
            assert text is None or reply.error == text
        assert (await asker.signed(1, "GET", "layers/1")).status == 200
        assert (await asker.signed(1, "GET", "results/0")).status == 200

    with asking(tmp_path, lambda engine: engine.results.has(0), gone=(4,)) as (asker, _):
        asyncio.run(run(asker))


def test_session_without_a_result_says_why_to_everybody(tmp_path):
    async def run(asker):
        await asker.service.call(asker.engine.fail, "the operator has ended it")
        assert (await asker.signed(1, "GET", "messages/2")).content[1] == MessageType.START_SUM
        last = len(asker.engine.mailboxes[1])
        assert (await asker.signed(1, "GET", f"messages/{last - 1}")).content[1] == MessageType.ABORT
        for target in (f"messages/{last}", "messages/999", "results/0"):
            reply = await asker.signed(1, "GET", target)
            assert (reply.status, reply.error) == (410, "the operator has ended it")
        assert (await asker.signed(1, "HEAD", "sums/0")).status == 410
        assert (await asker.signed(1, "POST", "messages", body=b"x")).status == 410
        assert (await asker.signed(1, "GET", "layers/1")).status == 404
        assert asker.service.done == {1}
        assert json.loads((await asker.ask("GET", "/status.json")).content)["outcome"] == (
            "No result: the operator has ended it"
        )

    with asking(tmp_path, in_upload) as (asker, _):
        asyncio.run(run(asker))


RANGES = {
    "bytes=0-": (206, 0, 480),
    "bytes=100-": (206, 100, 480),
    "bytes=0-0": (206, 0, 1),
    "bytes=479-": (206, 479, 480),
    "bytes=-10": (206, 470, 480),
    "bytes=100-199": (206, 100, 200),
    "bytes=100-99999999999999": (206, 100, 480),
}


def test_layer_is_served_whole_and_in_ranges(tmp_path):
    async def run(asker):
        whole = asker.engine.results.path(1).read_bytes()
        reply = await asker.signed(1, "GET", "layers/1")
        assert (reply.status, reply.content) == (200, whole)
        assert reply.headers["content-length"] == "480"
        head = await asker.signed(1, "HEAD", "layers/1")
        assert (head.status, head.content, head.headers["content-length"]) == (200, b"", "480")
        for text, (status, start, end) in RANGES.items():
            reply = await asker.signed(1, "GET", "layers/1", headers={"range": text})
            assert (reply.status, reply.content) == (status, whole[start:end]), text

    with asking(tmp_path, is_over) as (asker, _):
        asyncio.run(run(asker))


def test_disk_that_failed_is_503_for_clients_and_for_health_checks_without_its_path(tmp_path, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    async def run(asker, cohort):
        assert json.loads((await asker.ask("GET", "/healthz")).content) == {"healthy": True}
        poll = asyncio.create_task(asker.signed(2, "GET", "messages/0"))
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            reply = await asker.signed(1, "POST", "messages", body=cohort.members[1].outbox[0])
        again = await asker.signed(1, "POST", "messages", body=cohort.members[1].outbox[0])
        for found in (reply, again):
            assert found.status == 503
            assert str(tmp_path) not in found.content.decode()
        assert (await asker.ask("GET", "/healthz")).status == 503
        with pytest.raises(Exception, match="no space left on device"):
            await asker.service.run()
        asker.service.stop()
        assert (await poll).status == 204

    with asking(tmp_path, poll_seconds=60) as (asker, cohort):
        asyncio.run(run(asker, cohort))


@pytest.mark.parametrize("until", [None, in_upload, is_over], ids=["before", "in between", "after"])
def test_what_is_open_to_all_holds_no_secret_and_no_message(tmp_path, until):
    async def run(asker, cohort):
        open_to_all = [await asker.ask("GET", path) for path in ("/", "/status.json", "/healthz", "/metrics")]
        assert {reply.status for reply in open_to_all} == {200}
        told = b" ".join(reply.content for reply in open_to_all).lower()
        secret = [identity.reveal() for identity in (*LIGHT.identities.values(), SERVER)]
        secret += [payload[40:72] for box in asker.engine.mailboxes.values() for payload in box if len(payload) > 140]
        secret += [payload[-64:] for box in asker.engine.mailboxes.values() for payload in box]
        secret += [chunk[-64:] for member in cohort.members.values() for chunk in member.chunks]
        secret += list(asker.engine.results.digests.values())
        for found in secret:
            assert found.hex().encode() not in told
            assert found not in told
        assert str(tmp_path).encode() not in told

    with asking(tmp_path, until) as (asker, cohort):
        asyncio.run(run(asker, cohort))


def test_strangers_are_not_told_who_takes_part(tmp_path):
    async def run(asker):
        for path in ("/", "/status.json", "/metrics"):
            assert (await asker.ask("GET", path, app=asker.api.app)).status == 404

    with asking(tmp_path) as (asker, _):
        asyncio.run(run(asker))


@pytest.mark.parametrize("until", [None, in_upload, is_over], ids=["before", "in between", "after"])
def test_what_is_open_to_all_cannot_be_made_to_do_anything(tmp_path, until):
    async def run(asker):
        before = sorted((file, file.stat().st_mtime_ns) for file in tmp_path.rglob("*"))
        for path in ("/?x=1", "/status.json?callback=x", "/metrics?name[]=x", "/healthz?fail=1"):
            assert (await asker.ask("GET", path, headers={"authorization": "x", "range": "bytes=0-"})).status == 200
            assert (await asker.ask("HEAD", path)).status == 200
        assert sorted((file, file.stat().st_mtime_ns) for file in tmp_path.rglob("*")) == before

    with asking(tmp_path, until) as (asker, _):
        asyncio.run(run(asker))


def test_time_that_is_up_while_the_last_answer_is_in_the_queue_does_not_end_the_next_phase(tmp_path):
    class Clock:
        now = 0.0

        def __call__(self):
            return self.now

    clock = Clock()

    async def run(asker, cohort):
        running = asyncio.create_task(asker.service.run())
        await asyncio.sleep(0.01)
        chunk, last = cohort.members[4].chunks[-1], BOUNDS[-2]
        busy = asyncio.create_task(asker.service.call(lambda: time.sleep(0.2)))
        uploading = asyncio.create_task(asker.signed(4, "PATCH", "sums/0", offset=last, body=chunk))
        await asyncio.sleep(0.05)
        clock.now += 10**6  # the upload's time is up …
        asker.service._wake()  # … and the service looks at the clock before the engine is at the chunk
        assert (await uploading).status == 204
        await busy
        for _ in range(20):
            await asyncio.sleep(0.01)
        assert asker.engine.failure is None
        assert asker.engine.state is ServerState.CONSISTENCY_CHECK
        running.cancel()

    with engine_in(LIGHT, tmp_path / "server") as engine:
        cohort = Cohort(LIGHT)
        cohort.play(engine, until=lambda engine: engine.missing == (4,) and cohort.members[4].sent == 1)
        asker = Asker(LIGHT, engine, clock=clock)
        asyncio.run(run(asker, cohort))
        asker.service.close()
