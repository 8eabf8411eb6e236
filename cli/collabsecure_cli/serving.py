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
from collections.abc import Callable, Sequence

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.config import Config
from uvicorn.server import ServerState

from collabsecure.errors import CollabsecureError
from collabsecure_cli.guarded import HEADER_BYTES, Connection, Limits
from collabsecure_cli.refusals import RefusalLimiter, address_block, limit_refusals
from collabsecure_cli.tls import Tls, server_context

__all__ = ["CannotListen", "Limits", "RefusalLimiter", "Tls", "limit_refusals", "serve", "serve_on"]

_GRACE_SECONDS = 2.0  # for answers under way, once the server is to stop
_SWEEP_SECONDS = 1.0  # a limit is kept to this precision, or to a quarter of itself if that is finer
_BACKLOG = 1024
_NO_DESCRIPTOR_SECONDS = 0.5

_log = logging.getLogger(__name__)


class CannotListen(CollabsecureError):
    """The address to listen on is taken, not this machine's, or not an address."""


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
    try:
        bound = listeners[0].getsockname()[1]
        on_listening(f"{'http' if tls is None else 'https'}://{f'[{host}]' if ':' in host else host}:{bound}")
        await serve_on(listeners, app, context=context, limits=limits, stop=stop)
    finally:
        for listener in listeners:
            listener.close()


async def serve_on(
    listeners: Sequence[socket.socket],
    app: ASGIApp,
    *,
    context: ssl.SSLContext | None = None,
    limits: Limits,
    stop: asyncio.Event,
) -> None:
    """Serve at sockets that listen already and do not block, which are closed at the end; otherwise as `serve`."""
    guard = _Guard(app, limits, context)
    try:
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
            http=Connection,
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
            h11_max_incomplete_event_size=HEADER_BYTES,
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
            # A Unix socket's peers have no address, but may have bound their end to a path, or to bytes.
            block = address_block(address[0]) if isinstance(address, tuple) else ""
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
        connection = Connection(self._config, self._state, self._limits, lambda: self._forget(block))
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

    def _connections(self) -> list[Connection]:
        return [connection for connection in self._state.connections if isinstance(connection, Connection)]

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
