"""The key holder's routes: sums out once they are finished, updates in as they were signed, nothing for others."""

import asyncio
import json

import numpy as np
import pytest
from asking import Asker
from cohort import Cohort
from light_session import HOLDER, SERVER, engine_in, make_session

from collabsecure.links import delta_digest
from collabsecure.merge import merge_delta
from collabsecure.sessions import cross_name, gram_name
from collabsecure_cli.authorization import authorization
from collabsecure_cli.results import is_signed, sign_result
from collabsecure_cli.service import Durations
from collabsecure_cli.uploads import DELTA_CHUNK_BYTES
from collabsecure_protocols import KeyHolder, KeyPair, ServerState

pytest.importorskip("tenseal", reason="encryption is of the extra ckks")

PAIR = KeyPair.generate("bfv")
LIGHT = make_session(key_pair=PAIR)
PARTY = LIGHT.session.num_clients + 1
DELTA_BYTES = 8 * 5 * 12
ROUTES = (  # of the key holder: method, target, offset
    ("GET", "encrypted/0", None),
    ("GET", "encrypted/0/0", None),
    ("HEAD", "layers/1", None),
    ("PATCH", "layers/1", 0),
    ("POST", "results/0", None),
)


class Waiting:
    """An aggregator whose first sum waits for the key holder, and a key holder in the same process."""

    def __init__(self, engine, light=LIGHT, **options):
        self.engine, self.light = engine, light
        self.cohort = Cohort(light)
        self.go_on()
        self.asker = Asker(light, engine, **options)
        self.holder = KeyHolder(light.session, HOLDER, PAIR)

    def go_on(self):
        """Let the clients take the session to the next sum that is finished."""
        self.cohort.play(self.engine, until=lambda engine: engine.wants_merge)

    async def ask(self, method, target, **how):
        return await self.asker.signed(PARTY, method, target, **how)

    async def open(self, index):
        """What a key holder does with a sum; Δ by layer."""
        self.holder.begin((await self.ask("GET", f"encrypted/{index}")).content)
        for chunk in self.holder.missing:
            self.holder.decrypt(chunk, (await self.ask("GET", f"encrypted/{index}/{chunk}")).content)
        return {
            layer: merge_delta(
                self.light.moments[layer], self.holder.decode(gram_name(layer)), self.holder.decode(cross_name(layer))
            )
            for layer in self.engine.results.layers_of(index)
        }

    async def upload(self, layer, delta):
        data = np.ascontiguousarray(delta, "<f8").tobytes()
        reply = await self.ask("PATCH", f"layers/{layer}", offset=0, body=data)
        assert (reply.status, reply.headers["upload-offset"]) == (204, str(len(data)))

    async def hand_back(self, index, deltas, **how):
        return await self.ask("POST", f"results/{index}", body=signed(deltas, **how))


def signed(deltas, *, identity=HOLDER, session=LIGHT.session):
    entries = {}
    for layer, delta in deltas.items():
        digest = delta_digest(layer, delta)
        signature = sign_result(session, identity, layer, digest)
        entries[str(layer)] = {"digest": digest.hex(), "signature": signature.hex()}
    return json.dumps({"layers": entries}).encode()


@pytest.fixture
def waiting(tmp_path):
    with engine_in(LIGHT, tmp_path) as engine:
        yield Waiting(engine, poll_seconds=0.2)


def test_the_sums_go_out_and_the_updates_come_back_and_the_clients_get_them(waiting):
    async def run():
        for index, layer in enumerate(LIGHT.agreement.layers):
            early = await waiting.ask("GET", f"encrypted/{index + 1}")
            assert early.status == (204 if index == 0 else 410)
            deltas = await waiting.open(index)
            expected = LIGHT.expected(layer, (1, 2, 3, 4))
            assert np.linalg.norm(deltas[layer] - expected) <= 1e-8 * np.linalg.norm(expected)
            assert (await waiting.ask("HEAD", f"layers/{layer}")).headers["upload-offset"] == "0"
            await waiting.upload(layer, deltas[layer])
            assert (await waiting.hand_back(index, deltas)).status == 204
            assert (await waiting.hand_back(index, deltas)).status == 204  # a repetition, whose answer was lost
            result = json.loads((await waiting.asker.signed(2, "GET", f"results/{index}")).content)
            entry = result["layers"][str(layer)]
            digest, signature = bytes.fromhex(entry["digest"]), bytes.fromhex(entry["signature"])
            assert is_signed(LIGHT.session, layer, digest, signature)
            assert result["survivors"] == [1, 2, 3, 4]
            found = (await waiting.asker.signed(2, "GET", f"layers/{layer}")).content
            assert found == np.ascontiguousarray(deltas[layer], "<f8").tobytes()
            assert (await waiting.ask("GET", f"encrypted/{index}")).status == 410
            waiting.go_on()
            waiting.asker.service.picture = waiting.asker.service._take_picture()
        assert waiting.engine.is_over
        assert waiting.engine.state is ServerState.FINISHED
        assert not waiting.asker.service.is_served
        for client in LIGHT.identities:
            await waiting.asker.signed(client, "GET", f"messages/{len(waiting.engine.mailboxes[client])}")
        assert not waiting.asker.service.is_served, "the key holder does not know yet"
        assert (await waiting.ask("GET", "encrypted/2")).status == 410
        assert waiting.asker.service.is_served

    asyncio.run(run())


@pytest.mark.parametrize(("method", "target", "offset"), ROUTES)
def test_a_client_may_not_use_the_key_holders_routes(waiting, method, target, offset):
    async def run():
        for client in (1, 4):
            reply = await waiting.asker.signed(client, method, target, offset=offset)
            # The path that clients have for layers and results takes other methods alone.
            assert reply.status in (401, 405)
        # Nor in the key holder's name, with its own signature.
        path, number = waiting.asker.path(PARTY, target), offset or 0
        for client in LIGHT.identities:
            header = authorization(LIGHT.session, LIGHT.identities[client], method, target, number)
            for forged in (header, header.replace(f"client={client}", f"client={PARTY}")):
                headers = {"authorization": forged, "upload-offset": str(number)}
                assert (await waiting.asker.ask(method, path, headers=headers)).status == 401
        assert (await waiting.asker.ask(method, path)).status == 401

    asyncio.run(run())


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("POST", "messages"),
        ("GET", "messages/0"),
        ("HEAD", "sums/0"),
        ("PATCH", "sums/0"),
        ("GET", "results/0"),
        ("GET", "layers/1"),
    ],
)
def test_the_key_holder_may_not_use_the_clients_routes(waiting, method, target):
    async def run():
        assert (await waiting.ask(method, target, offset=0)).status == 401
        header = authorization(LIGHT.session, HOLDER, method, target).replace(f"client={PARTY}", "client=1")
        headers = {"authorization": header, "upload-offset": "0"}
        assert (await waiting.asker.ask(method, waiting.asker.path(1, target), headers=headers)).status == 401

    asyncio.run(run())


def test_a_session_without_encryption_has_no_such_routes(tmp_path):
    async def run(asker):
        for method, target, offset in ROUTES:
            assert (await asker.signed(1, method, target, offset=offset)).status in (404, 405)

    light = make_session()
    with engine_in(light, tmp_path) as engine:
        asyncio.run(run(Asker(light, engine)))


def test_only_the_sum_that_is_finished_can_be_had_chunk_by_chunk(waiting):
    async def run():
        assert (await waiting.ask("GET", "encrypted/0/0")).status == 200
        for target, status in {
            "encrypted/1/0": 410,  # not finished
            "encrypted/0/99": 400,
            "encrypted/7/0": 400,
            "encrypted/7": 400,
            "encrypted/x": 400,
            "encrypted/0/-1": 400,
            "layers/2": 410,
            "layers/9": 410,
            "layers/x": 410,
        }.items():
            method = "GET" if target.startswith("encrypted") else "HEAD"
            assert (await waiting.ask(method, target)).status == status, target

    asyncio.run(run())


def test_before_any_sum_is_finished_the_key_holder_waits(tmp_path):
    async def run(asker):
        assert (await asker.signed(PARTY, "GET", "encrypted/0")).status == 204
        assert (await asker.signed(PARTY, "GET", "encrypted/0/0")).status == 410
        assert (await asker.signed(PARTY, "POST", "results/0", body=b"{}")).status == 400
        engine.fail("the organiser has changed its mind")
        asker.service.picture = asker.service._take_picture()
        reply = await asker.signed(PARTY, "GET", "encrypted/0")
        assert (reply.status, reply.error) == (410, "the organiser has changed its mind")

    with engine_in(LIGHT, tmp_path) as engine:
        asyncio.run(run(Asker(LIGHT, engine, poll_seconds=0.1)))


def test_an_update_comes_in_its_pieces_in_order_and_once(tmp_path):
    wide = make_session(d_in=40, d_out=2000, key_pair=PAIR)  # an update of 640 kB: two pieces
    data = np.random.default_rng(1).standard_normal((2000, 40)).tobytes()
    first, second = data[:DELTA_CHUNK_BYTES], data[DELTA_CHUNK_BYTES:]

    async def run(waiting):
        async def patch(offset, body):
            reply = await waiting.ask("PATCH", "layers/1", offset=offset, body=body)
            return reply.status, int(reply.headers.get("upload-offset", -1))

        assert await patch(DELTA_CHUNK_BYTES, second) == (409, 0)
        for piece in (b"", first[:-1], second, first[: len(second)]):
            assert await patch(0, piece) == (409, 0)
        assert (await patch(0, first + b"\0"))[0] == 413
        assert await patch(0, first) == (204, DELTA_CHUNK_BYTES)
        assert await patch(0, first) == (409, DELTA_CHUNK_BYTES)
        assert await patch(DELTA_CHUNK_BYTES, second[:-8]) == (409, DELTA_CHUNK_BYTES)
        assert await patch(DELTA_CHUNK_BYTES, second) == (204, len(data))
        assert await patch(len(data), b"") == (409, len(data))
        assert await patch(10**14, second) == (409, len(data))
        headers = {"upload-offset": "x"}
        assert (await waiting.ask("PATCH", "layers/1", headers=headers)).status == 400

    with engine_in(wide, tmp_path) as engine:
        asyncio.run(run(Waiting(engine, wide)))


def test_results_that_are_not_what_was_signed_are_refused_and_the_right_ones_taken(waiting):
    async def run():
        deltas = await waiting.open(0)
        (layer,) = deltas
        right = signed(deltas)
        reply = await waiting.ask("POST", "results/0", body=right)
        assert (reply.status, reply.error) == (400, "RESULT: there is no whole and signed update of layer 1")
        await waiting.upload(layer, deltas[layer])
        other = make_session(seed=8, key_pair=PAIR)
        for body, told in {
            signed(deltas, identity=SERVER): "no whole and signed update",
            signed(deltas, identity=LIGHT.identities[1]): "no whole and signed update",
            signed(deltas, session=other.session): "no whole and signed update",
            right.replace(b'"1"', b'"2"'): "no signed digest of layer 1",
            b"{}": "no signed digest of layer 1",
            b"[]": "a JSON object",
            b"no JSON": "a JSON object",
        }.items():
            reply = await waiting.ask("POST", "results/0", body=body)
            assert reply.status == 400, told
            assert told in reply.error
        assert (await waiting.ask("POST", "results/0", body=bytes(1 << 21))).status == 413
        for number, status in ((1, 410), (2, 400), ("x", 400)):  # of a sum that is not there yet, or never is
            reply = await waiting.ask("POST", f"results/{number}", body=signed({2: deltas[layer]}))
            assert reply.status == status, number
        assert (await waiting.ask("HEAD", "layers/1")).headers["upload-offset"] == str(DELTA_BYTES)
        # Another update than the signed one is forgotten, so that the right one can come.
        wrong = signed({layer: deltas[layer] * 2})
        reply = await waiting.ask("POST", "results/0", body=wrong)
        assert (reply.status, reply.error) == (400, "RESULT: another update of layer 1 came than was signed")
        assert (await waiting.ask("HEAD", "layers/1")).headers["upload-offset"] == "0"
        assert not waiting.engine.results.has(0)
        await waiting.upload(layer, deltas[layer])
        assert (await waiting.hand_back(0, deltas)).status == 204
        assert np.array_equal(waiting.engine.results.load(layer), deltas[layer])
        # It is over for this sum.
        assert (await waiting.ask("PATCH", "layers/1", offset=0, body=bytes(DELTA_BYTES))).status == 410
        assert (await waiting.ask("HEAD", "layers/1")).status == 410

    asyncio.run(run())


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_update_that_is_not_finite_is_refused_though_it_is_signed(waiting, value):
    async def run():
        deltas = {1: np.full((5, 12), value)}
        await waiting.upload(1, deltas[1])
        assert (await waiting.hand_back(0, deltas)).status == 400
        assert not waiting.engine.results.has(0)

    asyncio.run(run())


def test_an_aggregator_that_was_restarted_between_upload_and_results_goes_on(tmp_path):
    async def upload(waiting):
        deltas = await waiting.open(0)
        before = (await waiting.ask("GET", "encrypted/0")).content
        await waiting.upload(1, deltas[1])
        return deltas, before

    async def hand_back(asker, deltas, before):
        assert (await asker.signed(PARTY, "GET", "encrypted/0")).content == before
        assert (await asker.signed(PARTY, "HEAD", "layers/1")).headers["upload-offset"] == str(DELTA_BYTES)
        assert (await asker.signed(PARTY, "POST", "results/0", body=signed(deltas))).status == 204

    with engine_in(LIGHT, tmp_path) as engine:
        deltas, before = asyncio.run(upload(Waiting(engine)))
    with engine_in(LIGHT, tmp_path) as engine:
        asyncio.run(hand_back(Asker(LIGHT, engine), deltas, before))
        assert np.array_equal(engine.results.load(1), deltas[1])
        assert not list(tmp_path.glob("update-*"))


def test_what_was_uploaded_and_taken_over_is_not_left_behind_by_a_crash(tmp_path):
    with engine_in(LIGHT, tmp_path) as engine:
        Waiting(engine)
        delta = np.ones((5, 12))
        digest = delta_digest(1, delta)
        engine.updates.upload(1, 0, delta.tobytes())
        engine.results.keep(0, {1: delta}, (1, 2, 3, 4), {1: sign_result(LIGHT.session, HOLDER, 1, digest)})
    assert list(tmp_path.glob("update-*"))
    with engine_in(LIGHT, tmp_path) as engine:
        assert engine.results.has(0)
    assert not list(tmp_path.glob("update-*"))


def test_a_key_holder_that_never_comes_ends_the_session_after_its_time_and_clients_are_told(tmp_path):
    now = [0.0]

    async def run(waiting):
        service = waiting.asker.service
        assert (service.phase_seconds, service.seconds_left) == (7200.0, 7200.0)
        assert waiting.asker.api._describe().phase == "OPENING"
        running = asyncio.create_task(service.run())
        poll = asyncio.create_task(waiting.asker.signed(1, "GET", "results/0"))
        await asyncio.sleep(0.05)
        now[0] = 7000.0
        assert service.seconds_left == 200.0
        assert not running.done()
        now[0] = 7200.0
        service._wake()
        await running
        told = "the key holder has not opened layer 1 within 2 h"
        reply = await poll
        assert (reply.status, reply.error) == (410, told)
        late = await waiting.ask("GET", "encrypted/0/0")
        assert (late.status, late.error) == (410, told)
        assert (await waiting.ask("HEAD", "layers/1")).status == 410
        reply = await waiting.ask("POST", "results/0", body=signed({1: np.ones((5, 12))}))
        assert (reply.status, reply.error) == (410, told)
        assert waiting.asker.api._describe().outcome == f"No result: {told}"

    with engine_in(LIGHT, tmp_path) as engine:
        options = {"durations": Durations(opening=7200.0), "clock": lambda: now[0], "poll_seconds": 1e9}
        asyncio.run(run(Waiting(engine, **options)))
    with engine_in(LIGHT, tmp_path) as engine:
        assert engine.failure == "the key holder has not opened layer 1 within 2 h"
        assert engine.is_over


def test_results_that_come_as_the_time_is_up_are_taken_whole_or_not_at_all(tmp_path):
    with engine_in(LIGHT, tmp_path) as engine:
        waiting = Waiting(engine)

        async def run():
            deltas = await waiting.open(0)
            await waiting.upload(1, deltas[1])
            assert (await waiting.hand_back(0, deltas)).status == 204

        asyncio.run(run())
        engine.close_opening(0, "6 h")
        assert engine.failure is None
        engine.close_opening(1, "6 h")  # not at that sum yet
        assert engine.failure is None
