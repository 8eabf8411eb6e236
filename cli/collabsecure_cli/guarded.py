"""One connection that knows what it is at and since when, so that a peer who takes too long can be hung up on.

uvicorn bounds neither the time for headers, body or taking an answer, nor the size of headers that come at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

import h11
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

HEADER_BYTES = 16_384  # of one request; up to twice as much may pass


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one peer, or all together, may cost; seconds and counts.

    A peer is an IPv4 address or an IPv6 /64. Behind a reverse proxy all peers are one: see `limit_refusals`.
    """

    max_connections: int = 512
    max_connections_per_address: int = 64
    header_seconds: float = 10.0  # from connecting, or the first new byte after an answer, to the end of the headers
    idle_seconds: float = 75.0  # a kept-alive connection without a request
    body_seconds: float = 120.0  # from the headers to the end of the body; also to take a buffer full of an answer
    refusals_per_minute: int = 120  # of one address, answers 4xx other than 409, 410 and 429; beyond it, 429


class _Stage(Enum):
    HEADERS = "headers"
    BODY = "body"
    REFUSED_BODY = "the body of a request that is answered already"
    WAITING = "waiting for the app"
    IDLE = "between requests"  # uvicorn's own timer for that is off once the rest of a refused body has come
    TAKING = "taking the answer"
    CLOSING = "closing"


class Connection(H11Protocol):
    """uvicorn's connection, which also knows what it is at and since when."""

    def __init__(self, config: Config, server_state: ServerState, limits: Limits, on_end: Callable[[], None]) -> None:
        super().__init__(config, server_state, {})
        self._on_end: Callable[[], None] | None = on_end
        self._seconds = {
            _Stage.HEADERS: limits.header_seconds,
            _Stage.BODY: limits.body_seconds,
            _Stage.REFUSED_BODY: limits.header_seconds,
            _Stage.WAITING: math.inf,
            _Stage.IDLE: limits.idle_seconds,
            _Stage.TAKING: limits.body_seconds,
            _Stage.CLOSING: limits.body_seconds,
        }
        self._next_began = False  # some bytes of a next request are here, not yet all its headers
        self._pauses = 0  # how often the peer was slower than the answer
        self._at: tuple[_Stage, object, int] = (_Stage.HEADERS, None, 0)  # stage, request, pause
        self._since = self.loop.time()  # accepted: the handshake is the peer's time as well

    def forget(self) -> None:
        """Count it no more."""
        if self._on_end is not None:
            self._on_end()
            self._on_end = None

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone."""
        self.forget()
        self._unset_keepalive_if_required()  # uvicorn keeps the timer, and so all of this, after an error
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Hand bytes on, headers in pieces: h11 bounds incomplete ones alone, and these would be complete."""
        start = 0
        while start < len(data) and not self.transport.is_closing():
            in_body = self.conn.their_state is h11.SEND_BODY
            stop = len(data) if in_body else start + HEADER_BYTES
            super().data_received(data[start:stop])
            start = stop

    def handle_events(self) -> None:
        """Let uvicorn do what the bytes say."""
        super().handle_events()
        self._next_began = self.conn.their_state is h11.IDLE and bool(self.conn.trailing_data[0])

    def send_400_response(self, msg: str) -> None:
        """Refuse what is not HTTP, unless an answer is under way: then there is only hanging up."""
        if self.cycle is not None:
            self.cycle.disconnected = True  # the app may go on; nobody listens
            self.cycle.message_event.set()
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            try:
                super().send_400_response(msg)
            except h11.LocalProtocolError:  # it was a HEAD request, whose answer has no text
                self.transport.close()
        else:
            self.transport.abort()

    def pause_writing(self) -> None:
        """The peer is slower than the answer."""
        self._pauses += 1
        super().pause_writing()

    def end_if_overdue(self, now: float) -> None:
        """Hang up if it has been at one thing for too long."""
        at = (self._stage(), self.cycle, self._pauses)
        if at != self._at:
            self._at, self._since = at, now
        elif now - self._since > self._seconds[at[0]]:
            self.cut()

    def end(self) -> None:
        """Close once the answer under way, if there is one, is out."""
        try:
            self.shutdown()
        except h11.LocalProtocolError:  # it has gone wrong already
            self.cut()

    def cut(self) -> None:
        """Hang up without a word; the app, if it is at this request, sees the peer as gone."""
        if self.cycle is not None:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self.transport.abort()

    def _stage(self) -> _Stage:
        if self.transport.is_closing():
            return _Stage.CLOSING
        if self.flow.write_paused:
            return _Stage.TAKING
        if self.conn.their_state is h11.SEND_BODY:
            return _Stage.REFUSED_BODY if self.conn.our_state is h11.DONE else _Stage.BODY
        if self.conn.their_state is h11.IDLE:
            return _Stage.HEADERS if self.cycle is None or self._next_began else _Stage.IDLE
        return _Stage.WAITING
