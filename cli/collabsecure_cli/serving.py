"""uvicorn with guards: what strangers can make the server hold is bounded in number and in time.

Every connection is counted when it is accepted, before TLS, and one sweep over all connections ends those that take too
long with what they are at. uvicorn itself has neither, nor a way to bound a TLS handshake.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import resource
import socket
import ssl
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

import h11
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from collabsecure.errors import CollabsecureError
from collabsecure_cli.refusals import RefusalLimiter, address_block, limit_refusals
from collabsecure_cli.tls import Tls, server_context

__all__ = ["CannotListen", "Limits", "RefusalLimiter", "Tls", "limit_refusals", "serve"]

_GRACE_SECONDS = 2.0  # for answers under way, once the server is to stop
_SWEEP_SECONDS = 1.0  # a limit is kept to this precision, or to a quarter of itself if that is finer
_BACKLOG = 1024
_HEADER_BYTES = 16_384  # up to twice as much may pass
_NO_DESCRIPTOR_SECONDS = 0.5

_log = logging.getLogger(__name__)


class CannotListen(CollabsecureError):
    """The address to listen on is taken, not this machine's, or not an address."""


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


async def serve(
    app: ASGIApp,
    *,
    host: str,
    port: int,
    tls: Tls | None,
    limits: Limits,
    on_listening: Callable[[str], None],
    stop: asyncio.Event,
) -> None:
    """Serve `app` until `stop` is set; then end within some four seconds, whatever peers and long polls do.

    `on_listening` gets the URL, with the port that was bound (`port` 0 takes a free one). There are no lifespan events,
    no signal handlers and no access log. Answers under way get two seconds to end; what waits longer is cut off, so
    wake your long polls before you set `stop` if their peers are to learn something.

    Raises:
        BadFile: one of the TLS files is not right.
        CannotListen: nothing can be served at `host` and `port`.
    """
    context = None if tls is None else server_context(tls)
    raise_descriptor_limit()
    listeners = await _listen(host, port)
    guard = _Guard(app, limits, context)
    try:
        bound = listeners[0].getsockname()[1]
        on_listening(f"{'http' if tls is None else 'https'}://{f'[{host}]' if ':' in host else host}:{bound}")
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(work) for work in (guard.sweep(), *map(guard.accept, listeners))]
            await stop.wait()
            for task in tasks:
                task.cancel()
    finally:
        for listener in listeners:
            listener.close()
        await guard.close()


def raise_descriptor_limit() -> None:
    """Allow as many open files as the system lets this process have; each connection is one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(ValueError, OSError):  # some systems say "unlimited" and mean less
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


async def _listen(host: str, port: int) -> list[socket.socket]:
    listeners: list[socket.socket] = []
    try:
        found = await asyncio.get_running_loop().getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        for family, _, _, _, address in dict.fromkeys(found):
            at = (address[0], listeners[0].getsockname()[1] if listeners else port)  # port 0: the same for all
            both = host == "::" and socket.has_dualstack_ipv6()
            listener = socket.create_server(at, family=family, backlog=_BACKLOG, dualstack_ipv6=both)
            listener.setblocking(False)
            listeners.append(listener)
    except (OSError, UnicodeError) as error:
        for listener in listeners:
            listener.close()
        reason = getattr(error, "strerror", None) or "no address"
        raise CannotListen(
            f"cannot listen on {host}, port {port}: found {reason!r}; expected a free address of this machine"
        ) from error
    return listeners


class _Guard:
    """All connections of one server, from being accepted to being gone."""

    def __init__(self, app: ASGIApp, limits: Limits, context: ssl.SSLContext | None) -> None:
        self._limits = limits
        self._context = context
        self._config = Config(
            self._without_the_gone(app),
            http=_Connection,
            ws="none",
            lifespan="off",
            interface="asgi3",
            loop="asyncio",
            log_config=None,
            log_level="error",  # uvicorn warns of each odd request; anybody could fill the disk with that
            access_log=False,
            proxy_headers=False,  # else whoever comes from loopback may say that he comes from elsewhere
            server_header=False,
            date_header=False,
            h11_max_incomplete_event_size=_HEADER_BYTES,
            timeout_keep_alive=math.ceil(limits.idle_seconds),
        )
        self._config.load()
        self._state = ServerState()
        self._open: Counter[str] = Counter()  # connections by block of addresses
        self._starting: set[asyncio.Task[None]] = set()
        self._closing = False

    async def accept(self, listener: socket.socket) -> None:
        """Take connections for ever; one too many is closed at once, which costs no more than that."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(0)  # a flood gets in turn with everybody else: sock_accept need not pause
            try:
                accepted, address = await loop.sock_accept(listener)
            except ConnectionError:
                continue  # gone before it was accepted
            except OSError as error:
                _log.warning("cannot accept a connection: %s", error.strerror)
                await asyncio.sleep(_NO_DESCRIPTOR_SECONDS)
                continue
            block = address_block(address[0])
            if (
                self._open.total() >= self._limits.max_connections
                or self._open[block] >= self._limits.max_connections_per_address
            ):
                accepted.close()
                continue
            self._open[block] += 1
            task = loop.create_task(self._start(accepted, block))
            self._starting.add(task)
            task.add_done_callback(self._starting.discard)

    async def _start(self, accepted: socket.socket, block: str) -> None:
        """Let TLS begin, if there is any; the connection then lives by its own events."""
        loop = asyncio.get_running_loop()
        connection = _Connection(self._config, self._state, self._limits, lambda: self._forget(block))
        secure = self._context is not None
        try:
            await loop.connect_accepted_socket(
                lambda: connection,
                accepted,
                ssl=self._context,
                ssl_handshake_timeout=self._limits.header_seconds if secure else None,
                ssl_shutdown_timeout=self._limits.body_seconds if secure else None,  # what is buffered goes out first
            )
        except (OSError, asyncio.CancelledError):  # no TLS, no certificate, or no patience with it
            connection.forget()

    def _forget(self, block: str) -> None:
        self._open[block] -= 1
        if not self._open[block]:
            del self._open[block]

    async def sweep(self) -> None:
        """End, again and again, the connections that are overdue."""
        limits = self._limits
        pause = min(_SWEEP_SECONDS, limits.header_seconds / 4, limits.body_seconds / 4)
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(pause)
            for connection in self._connections():
                connection.end_if_overdue(loop.time())

    async def close(self) -> None:
        """Let answers under way end for a moment, then cut everything off."""
        self._closing = True
        for task in tuple(self._starting):
            task.cancel()
        for connection in self._connections():
            connection.end()
        await self._gone_within(_GRACE_SECONDS)
        for connection in self._connections():
            connection.cut()
        for cycle in tuple(self._state.tasks):
            cycle.cancel()
        await self._gone_within(_GRACE_SECONDS / 2)

    async def _gone_within(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while (self._state.connections or self._state.tasks or self._starting) and loop.time() < end:
            await asyncio.sleep(0.02)

    def _connections(self) -> list[_Connection]:
        return [connection for connection in self._state.connections if isinstance(connection, _Connection)]

    def _without_the_gone(self, app: ASGIApp) -> ASGIApp:
        """A peer that leaves, or a server that stops, is no error of the app's that deserves a traceback."""

        async def quiet(scope: Scope, receive: Receive, send: Send) -> None:
            try:
                await app(scope, receive, send)
            except ClientDisconnect:
                return
            except asyncio.CancelledError:
                if not self._closing:
                    raise

        return quiet


class _Stage(Enum):
    HEADERS = "headers"
    BODY = "body"
    REFUSED_BODY = "the body of a request that is answered already"
    WAITING = "waiting"  # for the app, or for a next request: uvicorn's keep-alive timer looks after that
    TAKING = "taking the answer"
    CLOSING = "closing"


class _Connection(H11Protocol):
    """uvicorn's connection, which also knows what it is at and since when."""

    def __init__(self, config: Config, server_state: ServerState, limits: Limits, on_end: Callable[[], None]) -> None:
        super().__init__(config, server_state, {})
        self._on_end: Callable[[], None] | None = on_end
        self._seconds = {
            _Stage.HEADERS: limits.header_seconds,
            _Stage.BODY: limits.body_seconds,
            _Stage.REFUSED_BODY: limits.header_seconds,
            _Stage.WAITING: math.inf,
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
        """Hand bytes on, not too many at a time: h11 bounds incomplete headers alone, and these would be complete."""
        if self.conn.their_state is h11.SEND_BODY:
            super().data_received(data)
            return
        for start in range(0, len(data), _HEADER_BYTES):
            if not self.transport.is_closing():
                super().data_received(data[start : start + _HEADER_BYTES])

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
            super().send_400_response(msg)
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
        if self.conn.their_state is h11.IDLE and (self.cycle is None or self._next_began):
            return _Stage.HEADERS
        return _Stage.WAITING
