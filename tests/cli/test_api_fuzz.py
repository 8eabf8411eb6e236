"""Whatever arrives at the aggregator's socket, it answers with reason or hangs up, and the session goes on unharmed."""

import asyncio
import contextlib
import logging
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from cohort import Cohort, view
from light_session import aggregating, engine_in, make_session
from noise import Noise

from collabsecure_cli.serving import Limits
from collabsecure_protocols import ServerState

LIGHT = make_session(num_clients=3)
SOON = Limits(header_seconds=1, body_seconds=1, idle_seconds=1)
CONNECTIONS, AT_ONCE = 250, 24
REFUSED = {400, 401, 404, 405, 409, 410, 413, 414, 416, 417, 426, 431}
MOST_GROWTH = 40 * 2**20  # bytes; a few hundred connections, each with a body of up to a megabyte

PHASES = [
    (ServerState.ADVERTISE_KEYS, -1),
    (ServerState.SHARE_KEYS, -1),
    (ServerState.MASKED_INPUT, 0),
    (ServerState.CONSISTENCY_CHECK, 0),
    (ServerState.UNMASK, 0),
    (ServerState.MASKED_INPUT, 1),
    (ServerState.FINISHED, 1),
]


def resident():
    return int(re.search(r"VmRSS:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024


async def exchange(port, parts, ends, *, patient):
    """Write, then read until the server hangs up or, unless patient, has been silent for a moment."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    answer = b""
    with contextlib.suppress(OSError):
        for part in parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(0)
        if ends:
            writer.write_eof()
    with contextlib.suppress(OSError):
        while True:
            try:
                async with asyncio.timeout(8 if patient else 0.5):
                    found = await reader.read(1 << 16)
            except TimeoutError:
                assert not patient, f"the server holds a connection for ever: {parts!r}"
                break
            if not found:
                break
            answer += found
    writer.transport.abort()
    writer.close()
    return answer


def statuses(answer):
    """Of the answers on one connection, found by their lines: whether an answer has a body depends on the request."""
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) [^\r\n]*\r\n", answer)]


async def bombard(port, noise):
    counted, turn = Counter(), asyncio.Semaphore(AT_ONCE)

    async def one(number):
        parts, ends = noise.connection()
        async with turn:
            answer = await exchange(port, parts, ends, patient=number % 20 == 0)
        assert b"Traceback" not in answer
        for status in statuses(answer):
            assert status < 500, (status, parts)
            counted[status] += 1

    await asyncio.gather(*(one(number) for number in range(CONNECTIONS)))
    return counted


@pytest.mark.parametrize(("state", "sum_index"), PHASES, ids=lambda found: str(found))
def test_noise_in_any_phase_is_refused_and_changes_nothing(tmp_path, state, sum_index, caplog, capfd):
    caplog.set_level(logging.WARNING)
    cohort = Cohort(LIGHT)
    with engine_in(LIGHT, tmp_path) as engine:

        def there(engine):
            part = engine.is_over if state is ServerState.FINISHED else len(engine.missing) == 2
            begun = state is not ServerState.MASKED_INPUT or cohort.members[2].sent == 1  # in the middle of an upload
            return (engine.state, engine.sum_index) == (state, sum_index) and part and begun

        cohort.play(engine, until=there)
        assert there(engine)
        before = view(engine)
    pieces = [found for member in cohort.members.values() for found in (*member.outbox, *member.chunks, member.said)]
    pieces += [payload for box in before["mailboxes"].values() for payload in box]
    noise = Noise(LIGHT, [piece for piece in pieces if piece], seed=f"{state} {sum_index}")
    with aggregating(LIGHT, tmp_path, limits=SOON, poll_seconds=0.05) as server:
        port = int(server.url.rpartition(":")[2])
        asyncio.run(bombard(port, Noise(LIGHT, noise.pieces, seed=0)))  # what is allocated once, is
        resting = resident()
        counted = asyncio.run(bombard(port, noise))
        grown = resident() - resting
        assert server.service.broken is None
    assert counted[200] > 0
    assert sum(counted[status] for status in REFUSED) > CONNECTIONS / 2
    assert grown < MOST_GROWTH
    assert not [record for record in caplog.records if record.exc_info or record.levelno >= logging.ERROR]
    told = capfd.readouterr()
    assert "Traceback" not in told.out + told.err
    assert told.err == ""

    with engine_in(LIGHT, tmp_path) as engine:
        assert view(engine) == before
        cohort.play(engine)
        for layer in LIGHT.agreement.layers:
            assert engine.results.survivors[layer] == (1, 2, 3)
            expected = LIGHT.expected(layer, (1, 2, 3))
            assert np.linalg.norm(engine.results.load(layer) - expected) <= 1e-8 * np.linalg.norm(expected)
