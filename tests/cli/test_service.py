"""An engine at work: a refusal changes nothing, anything else ends it before half a step is gone on from."""

import asyncio

import pytest
from asking import LIGHT, asking, is_over
from light_session import engine_in

from collabsecure_cli.aggregator import TooLate
from collabsecure_cli.service import EngineFailed


def too_late():
    raise TooLate("no")


def bug():
    raise ZeroDivisionError


def test_a_refusal_leaves_the_engine_at_work(tmp_path):
    async def run(service):
        with pytest.raises(TooLate):
            await service.call(too_late)
        assert service.broken is None
        assert await service.call(lambda: 7) == 7

    with asking(tmp_path) as (asker, _):
        asyncio.run(run(asker.service))


def test_a_bug_ends_the_engines_work_and_healthz_says_so(tmp_path):
    async def run(asker):
        with pytest.raises(ZeroDivisionError):
            await asker.service.call(bug)
        with pytest.raises(EngineFailed, match="ZeroDivisionError"):
            await asker.service.call(lambda: 7)
        assert (await asker.ask("GET", "/healthz")).status == 503
        reply = await asker.signed(1, "HEAD", "sums/0")
        assert reply.status == 503

    with asking(tmp_path) as (asker, _):
        asyncio.run(run(asker))


def test_who_knows_how_it_ended_is_known_after_a_restart(tmp_path):
    async def run(asker):
        beyond = len(asker.engine.mailboxes[1])
        assert (await asker.signed(1, "GET", f"messages/{beyond - 1}")).status == 200
        assert asker.engine.served == set()
        assert (await asker.signed(1, "GET", f"messages/{beyond}")).status == 410

    with asking(tmp_path, is_over) as (asker, _):
        asyncio.run(run(asker))
    with engine_in(LIGHT, tmp_path / "server") as engine:
        assert engine.served == {1}
