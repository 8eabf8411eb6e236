"""Who is refused too often gets 429 before the app sees the request; what honest clients meet does not count."""

import json

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from collabsecure_cli.refusals import RefusalLimiter, address_block, limit_refusals


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def test_a_minute_of_peace_forgives_everything_and_a_part_of_it_a_part(clock):
    limiter = RefusalLimiter(4, clock=clock)
    for _ in range(10):
        limiter.refused("192.0.2.7")
    assert limiter.seconds_to_wait("192.0.2.7") == 15
    clock.now += 14
    assert limiter.seconds_to_wait("192.0.2.7") == 1
    clock.now += 16
    assert limiter.seconds_to_wait("192.0.2.7") == 0
    for allowed in (True, False):
        limiter.refused("192.0.2.7")
        assert (limiter.seconds_to_wait("192.0.2.7") == 0) is allowed
    clock.now += 60
    for _ in range(3):
        limiter.refused("192.0.2.7")
    assert limiter.seconds_to_wait("192.0.2.7") == 0


def test_one_ipv6_customer_is_one_peer_and_ipv4_stays_ipv4(clock):
    limiter = RefusalLimiter(1, clock=clock)
    limiter.refused("2001:db8:1:2::1")
    assert limiter.seconds_to_wait("2001:db8:1:2:ffff::9") > 0
    assert limiter.seconds_to_wait("2001:db8:1:3::1") == 0
    assert address_block("fe80::1%eth0") == "fe80::/64"
    assert address_block("::ffff:192.0.2.7") == address_block("192.0.2.7")


def test_memory_is_bounded_and_the_latest_offenders_are_remembered(clock):
    limiter = RefusalLimiter(1, clock=clock)
    for number in range(12_000):
        limiter.refused(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}")
    assert len(limiter) == 10_000
    assert limiter.seconds_to_wait("10.0.46.223") > 0  # number 11 999
    assert limiter.seconds_to_wait("10.0.0.0") == 0


@pytest.fixture
def asked():
    return []


@pytest.fixture
def client(clock, asked):
    async def answer(request):
        asked.append(request.url.path)
        return PlainTextResponse("", int(request.path_params["status"]))

    app = Starlette(routes=[Route("/{status}", answer)])
    with TestClient(limit_refusals(app, RefusalLimiter(3, clock=clock)), client=("192.0.2.7", 1)) as client:
        yield client


def test_the_app_is_not_asked_until_the_time_is_up(client, clock, asked):
    assert [client.get("/403").status_code for _ in range(3)] == [403] * 3
    refused = client.get("/200")
    assert refused.status_code == 429
    assert refused.headers["retry-after"] == "20"
    assert "ask again in 20 s" in json.loads(refused.text)["error"]
    clock.now += 20
    assert client.get("/200").status_code == 200
    assert asked == ["/403"] * 3 + ["/200"]


@pytest.mark.parametrize("status", [200, 204, 308, 409, 410, 429, 503])
def test_what_is_no_refusal_does_not_count(client, status):
    assert {client.get(f"/{status}", follow_redirects=False).status_code for _ in range(9)} == {status}


def test_a_peer_without_an_address_is_not_limited(clock):
    async def answer(scope, receive, send):
        await PlainTextResponse("", 403)(scope, receive, send)

    app = limit_refusals(answer, RefusalLimiter(1, clock=clock))

    async def without_address(scope, receive, send):
        await app({**scope, "client": None}, receive, send)

    client = TestClient(without_address)
    assert [client.get("/").status_code for _ in range(3)] == [403] * 3
