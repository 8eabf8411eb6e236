"""What a node's daemon answers on its socket: HTTP, in a thread of its own.

    POST /exchange               a request of the coordinating end, with the reply; 428: values are needed first
    PUT  /values/{sum}/{tensor}  an array of a sum, float64, little-endian; which of the sum's are still missing
                                 (in a session of sums, unless the owner alone gives them)
    GET  /healthz                whether it works

Who comes may be anybody's program that runs here: bytes are bounded, checked, and answered in a few fixed ways.
"""

import asyncio
import math
import re
import signal
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager, suppress
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote

import numpy as np
from numpy.typing import NDArray
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from collabsecure.errors import CollabsecureError
from collabsecure.integrations.arrays import refuse_shape
from collabsecure.integrations.exchange import HEAD_BYTES, SHARD_BYTES, BadExchange, Hello, encode, head
from collabsecure.integrations.host import ValuesNeeded
from collabsecure.integrations.node import SumNode
from collabsecure.integrations.relay import LINK_HEADER, SHAPE_HEADER
from collabsecure_cli.daemon_socket import private_socket
from collabsecure_cli.requests import BINARY, TooLong, as_json, problem
from collabsecure_cli.serving import Limits, serve_on
from collabsecure_protocols import LocalProtocolError, Session
from collabsecure_protocols.client_state import NO_LINK
from collabsecure_protocols.envelope import HEADER_BYTES, MessageType, max_body
from collabsecure_protocols.keys import SIGNATURE_BYTES

MOST_BYTES = 2 * SHARD_BYTES  # of one request
_PIECE_BYTES = 1 << 20
_AT_ONCE = 2  # requests of which more than the headers is in memory, or the reply
_REPLY_SECONDS, _LEAST_PER_SECOND = 60.0, 1 << 20  # for a reply to go out; and bytes
_NONE_TAKEN = "found values; expected none: here they come from this node's owner alone"
_ONCE = (MessageType.KEY_DIRECTORY, MessageType.DELIVER_SHARES, MessageType.ABORT)
_EACH_SUM = (MessageType.START_SUM, MessageType.SURVIVORS, MessageType.CONFIRMATIONS, MessageType.FINISH_SUM)
_LIMITS = Limits(max_connections=16, max_connections_per_address=16, body_seconds=60.0)


class Exchanging(Protocol):
    """Whose requests and replies are on the socket."""

    def answer(self, request: bytes) -> bytes:
        """The reply to a request, as `host.Answering` has it."""


class DaemonApi:
    """Answers for one client; a request has at most `longest` bytes.

    `taking` is who takes values, if anybody, and `tell` is told why some were not taken.
    """

    def __init__(
        self,
        session: Session,
        answering: Exchanging,
        *,
        longest: int = MOST_BYTES,
        taking: SumNode | None = None,
        tell: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._session, self._answering, self._longest, self._taking = session, answering, longest, taking
        self._tell = tell
        self._places, self._one_at_a_time = asyncio.Semaphore(_AT_ONCE), asyncio.Lock()
        self._changed = threading.Condition()
        self._heard = time.monotonic()
        self.failure: CollabsecureError | None = None
        self.app = Starlette(
            routes=[
                Route("/exchange", self._exchange, methods=["POST"]),
                Route("/values/{names:path}", self._put_values, methods=["PUT"]),
                Route("/healthz", self._get_health, methods=["GET"]),
            ]
        )

    @property
    def silence(self) -> float:
        """Seconds since the last request."""
        return time.monotonic() - self._heard

    def wait(self, seconds: float) -> None:
        """Until something was asked, or so many seconds.

        Raises:
            CollabsecureError: what made an answer impossible, such as a full disk.
        """
        with self._changed:
            if self.failure is None:
                self._changed.wait(seconds)
            if self.failure is not None:
                raise self.failure

    async def _exchange(self, request: Request) -> Response:
        try:
            async with AsyncExitStack() as held:
                await held.enter_async_context(self._places)
                body = await self._body(request)
                async with self._one_at_a_time:  # one that is repeated meanwhile gets its answer afterwards
                    if self.failure is not None:  # what is known may be ahead of the disk
                        raise self.failure
                    reply = await asyncio.to_thread(self._answering.answer, body)
                return _Reply(reply, held.pop_all())
        except ValuesNeeded as needed:
            return as_json({"sum": needed.sum_name}, status=428)
        except (BadExchange, TooLong) as error:
            return problem(400, str(error))
        except CollabsecureError as error:
            self.failure = error
            return problem(503, f"the daemon had to stop: {type(error).__name__}")
        finally:
            self._note()

    async def _body(self, request: Request) -> bytes:
        """A request; if it is another session's, a greeting of that, which has the same answer."""
        body, is_ours = bytearray(), False
        async for part in request.stream():
            body += part
            if len(body) > self._longest:
                raise TooLong(f"more than {self._longest} bytes, the longest in this session")
            if not is_ours and len(body) >= HEAD_BYTES:
                transcript = head(bytes(body[:HEAD_BYTES]))
                if transcript != self._session.transcript:
                    return encode(Hello(transcript=transcript))
                is_ours = True
        return bytes(body)

    async def _put_values(self, request: Request) -> Response:
        sum_name = None
        try:
            node = self._taking
            if node is None:  # said before anything is looked at
                raise _NoValues(_NONE_TAKEN)  # noqa: TRY301
            sum_name, tensor = _names(request)
            refuse_shape(node.tensor(sum_name, tensor), shape := _shape(request.headers.get(SHAPE_HEADER)))
            async with self._places:
                values = (await _numbers(request, math.prod(shape))).reshape(shape)
                if self.failure is not None:
                    raise self.failure
                link = _link(request.headers.get(LINK_HEADER))
                missing = await asyncio.to_thread(node.put, sum_name, tensor, values, link=link)
        except (LocalProtocolError, _NoValues) as error:
            of = "" if sum_name is None else f" for sum {sum_name}"
            self._tell(f"Refused values{of} from the app: {error}")
            return problem(422, str(error), headers={"Connection": "close"})  # its body may be unread
        except CollabsecureError as error:
            self.failure = error
            return problem(503, f"the daemon had to stop: {type(error).__name__}")
        finally:
            self._note()
        return as_json({"missing": missing})

    async def _get_health(self, _: Request) -> Response:
        return as_json({"healthy": True}) if self.failure is None else problem(503, "the disk failed")

    def _note(self) -> None:
        with self._changed:
            self._heard = time.monotonic()
            self._changed.notify_all()


def longest_of_sums(session: Session) -> int:
    """The bytes of the longest request in a session of sums: all of the server's messages to a client."""
    around = HEADER_BYTES + SIGNATURE_BYTES + 4
    once = sum(around + max_body(session, kind) for kind in _ONCE)
    each = sum(around + max_body(session, kind) for kind in _EACH_SUM)
    return min(MOST_BYTES, HEAD_BYTES + 8 + once + len(session.sums) * each)


class _Reply(StreamingResponse):
    """A reply. There are as few in memory at a time as requests: it has its place until it is out."""

    def __init__(self, reply: bytes, held: AsyncExitStack) -> None:
        headers = {"Content-Length": str(len(reply)), "Connection": "close"}  # the request's body may be unread
        super().__init__(_pieces(reply), media_type=BINARY, headers=headers)
        self._held, self._seconds = held, _REPLY_SECONDS + len(reply) / _LEAST_PER_SECOND

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it, to whoever takes it in a time."""
        async with self._held:
            try:
                async with asyncio.timeout(self._seconds):
                    await super().__call__(scope, receive, send)
            except TimeoutError as error:
                raise ClientDisconnect from error


async def _pieces(reply: bytes) -> AsyncIterator[bytes]:
    """A reply that may be of a hundred megabytes, each of which goes out before the next is copied."""
    for start in range(0, len(reply), _PIECE_BYTES):
        yield reply[start : start + _PIECE_BYTES]


class _NoValues(Exception):
    """A request with values that can be none of the session's."""


def _names(request: Request) -> tuple[str, str]:
    """A sum's name and an array's, each of which may have a / in it."""
    parts = request.scope["raw_path"].split(b"/")[2:]
    if len(parts) != 2:
        raise _NoValues("found another path; expected /values/{sum}/{tensor}, percent-encoded")
    sum_name, tensor = (unquote(part.decode("ascii"), errors="replace") for part in parts)
    return sum_name, tensor


async def _numbers(request: Request, count: int) -> NDArray[np.float64]:
    """So many numbers, given up as soon as there are more."""
    values = np.empty(count, "<f8")
    into, at = values.data.cast("B"), 0
    async for part in request.stream():
        if at + len(part) > len(into):
            raise _NoValues(f"found more than {len(into)} bytes; expected {count} float64")
        into[at : at + len(part)] = part
        at += len(part)
    if at < len(into):
        raise _NoValues(f"found {at} bytes; expected {len(into)}, {count} float64")
    return values


def _shape(text: str | None) -> tuple[int, ...]:
    if text is None or re.fullmatch("([0-9]{1,19}(,[0-9]{1,19}){0,63})?", text) is None:
        raise _NoValues(f"{SHAPE_HEADER}: found {text and text[:80]!r}; expected the array's shape, such as 768,3072")
    return tuple(map(int, text.split(","))) if text else ()


def _link(text: str | None) -> bytes:
    if text is None:
        return NO_LINK
    if re.fullmatch("[0-9a-f]{64}", text) is None:
        raise _NoValues(f"{LINK_HEADER}: found {text[:80]!r}; expected 64 hex digits")
    return bytes.fromhex(text)


@contextmanager
def listening(path: Path, app: ASGIApp) -> Iterator[None]:
    """Serve an app on a private socket, until the block ends.

    Raises:
        BadFile: the socket cannot be there.
    """
    stop, failed = asyncio.Event(), list[BaseException]()

    def serve() -> None:
        try:
            with asyncio.Runner(loop_factory=lambda: loop) as runner:
                runner.run(serve_on([listener], app, limits=_LIMITS, stop=stop))
        except BaseException as error:  # noqa: BLE001 - raised again in the thread that waits for it
            failed.append(error)
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)  # end whatever waits for us

    with private_socket(path) as listener:
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=serve, name="daemon")
        thread.start()
        try:
            yield
        finally:
            with suppress(RuntimeError):  # it has failed, and its loop is closed
                loop.call_soon_threadsafe(stop.set)
            thread.join()
            if failed:
                raise failed[0]
