"""Who was refused too often is not listened to for a while, before anything costly such as a signature is checked."""

from __future__ import annotations

import ipaddress
import math
from collections import OrderedDict
from collections.abc import Callable

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_REMEMBERED = 10_000  # addresses; some 2 MB
_NO_FAULT = frozenset({409, 410, 429})  # a client that resumes or comes late meets these, and does nothing wrong
_TOO_MANY = 429


def address_block(host: str) -> str:
    """Who is counted as one peer: an IPv4 address, or the /64 that one IPv6 customer has for himself.

    >>> address_block("192.0.2.7"), address_block("::ffff:192.0.2.7"), address_block("2001:db8::1:2:3")
    ('192.0.2.7', '192.0.2.7', '2001:db8::/64')
    """
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host  # no address, such as a test client's name
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is None:
            return str(ipaddress.ip_network((int(address), 64), strict=False))
        address = address.ipv4_mapped
    return str(address)


class RefusalLimiter:
    """Counts the refusals of each address: a bucket of `per_minute` of them that fills again within a minute.

    It remembers the 10 000 addresses that were refused last. Who commands more can make it forget some of his own, and
    gains no more than a fresh address has anyway.

    >>> limiter = RefusalLimiter(2, clock=lambda: 0.0)
    >>> limiter.refused("192.0.2.7"), limiter.seconds_to_wait("192.0.2.7")
    (None, 0.0)
    >>> limiter.refused("192.0.2.7"), limiter.seconds_to_wait("192.0.2.7"), limiter.seconds_to_wait("192.0.2.8")
    (None, 30.0, 0.0)
    """

    def __init__(self, per_minute: int, *, clock: Callable[[], float]) -> None:
        self._per_minute = per_minute  # [1, ∞)
        self._seconds_each = 60 / per_minute
        self._clock = clock
        self._spent: OrderedDict[str, tuple[float, float]] = OrderedDict()  # block → (refusals that count, when)

    def __len__(self) -> int:
        """How many addresses are remembered."""
        return len(self._spent)

    def refused(self, host: str) -> None:
        """A request from `host` was refused."""
        block = address_block(host)
        self._spent[block] = (min(self._still_spent(block) + 1, self._per_minute), self._clock())
        self._spent.move_to_end(block)
        if len(self._spent) > _REMEMBERED:
            self._spent.popitem(last=False)

    def seconds_to_wait(self, host: str) -> float:
        """How long `host` is not listened to; 0.0 if it is."""
        excess = self._still_spent(address_block(host)) - (self._per_minute - 1)
        return max(0.0, round(excess * self._seconds_each, 3))  # whoever comes back in time is not a rounding late

    def _still_spent(self, block: str) -> float:
        spent, when = self._spent.get(block, (0.0, 0.0))
        return max(0.0, spent - (self._clock() - when) / self._seconds_each)


def limit_refusals(app: ASGIApp, limiter: RefusalLimiter) -> ASGIApp:
    """Answer 429 with Retry-After to an address that was refused too often; the app never sees such a request.

    A refusal is any 4xx but 409, 410 and 429. Behind a reverse proxy all peers have the proxy's address, and one that
    misbehaves would lock out all others: there, set `refusals_per_minute` far above what all together may cost, set
    `max_connections_per_address` to `max_connections`, and let the proxy limit each peer.
    """

    async def limited(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["client"] is None:
            await app(scope, receive, send)
            return
        host = scope["client"][0]
        wait = math.ceil(limiter.seconds_to_wait(host))
        if wait:
            text = f"found too many refused requests from this address; ask again in {wait} s"
            await JSONResponse({"error": text}, _TOO_MANY, {"Retry-After": str(wait)})(scope, receive, send)
            return

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                status = message["status"]
                if 400 <= status < 500 and status not in _NO_FAULT:
                    limiter.refused(host)
            await send(message)

        await app(scope, receive, counted)

    return limited
