"""A client's line to the aggregator where none leads out: somebody comes, takes its requests, and brings the answers.

Whoever that is can lose, repeat and change them as any network can, and no more: each request is signed, and so is what
an answer says of a sum. Two threads meet here: the client's, and the one that hears the coordinating end.
"""

import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import islice

import httpx2

from collabsecure.integrations.exchange import (
    MOST_PARTS,
    SHARD_BYTES,
    Answer,
    Call,
    Carry,
    Hello,
    Ready,
    Refused,
    Reply,
    Request,
    Wait,
    decode_request,
    encode,
)
from collabsecure_cli.answers import Refused as RefusedByAggregator
from collabsecure_cli.authorization import party_of
from collabsecure_cli.connection import Connection
from collabsecure_cli.uploads import OFFSET_HEADER
from collabsecure_protocols import Identity, Session

OVER = "OVER"  # the check of a refusal that says that this client will ask nothing more
_WAIT_SECONDS = 5.0  # for the client's next request, before who came is told to come again
_END_SECONDS = 60.0  # to say that all has arrived: two rounds, for each of which an engine may take seconds
_SENT = ("Authorization", OFFSET_HEADER, "Range", "Accept-Encoding")
_HEARD = (OFFSET_HEADER.lower(), "retry-after")


class Mailbox:
    """A client's requests until they are answered."""

    def __init__(self, session: Session, identity: Identity, *, wait_seconds: float = _WAIT_SECONDS) -> None:
        self._transcript, self._client = session.transcript, party_of(session, identity.public)
        self._wait_seconds = wait_seconds
        self._changed = threading.Condition()
        # From anywhere, so that what was answered to a process before this one is no answer to this one.
        self._next = secrets.randbits(32)
        self._open: dict[int, Call] = {}  # calls without an answer, by number
        self._answers: dict[int, Answer] = {}
        self._last: tuple[int, tuple[Call, ...]] | None = None  # the last request that got calls, and those
        self._end = ""  # why there will be no more calls
        self._is_told = self._is_stopping = False

    def ask(self, calls: Sequence[Call], seconds: float | None) -> list[Answer]:
        """The answers to calls that go out together, and get their numbers here.

        Raises:
            TimeoutError: not all came within so many seconds.
        """
        with self._changed:
            numbers = []
            for call in calls:
                numbers.append(self._next)
                self._open[self._next] = replace(call, number=self._next)
                self._next = (self._next + 1) % (1 << 32)
            self._changed.notify_all()
            try:
                if not self._changed.wait_for(lambda: self._open.keys().isdisjoint(numbers), seconds):
                    raise TimeoutError
                return [self._answers[number] for number in numbers]
            finally:  # what nobody waits for any more is not asked again
                for number in numbers:
                    self._open.pop(number, None)
                    self._answers.pop(number, None)

    def end(self, reason: str, seconds: float) -> bool:
        """Ask nothing more; whether the coordinating end has heard so, within so many seconds."""
        with self._changed:
            self._end = reason
            self._changed.notify_all()
            return self._changed.wait_for(lambda: self._is_told, seconds)

    def stop(self) -> None:
        """Let nobody wait any longer: this process ends, and another may go on."""
        with self._changed:
            self._is_stopping = True
            self._changed.notify_all()

    def answer(self, request: bytes) -> bytes:
        """The reply to a request; waits a little for calls if there are none.

        Raises:
            BadExchange: it is none.
        """
        return encode(self._reply(decode_request(request)))

    def _reply(self, request: Request) -> Reply:
        if request.transcript != self._transcript:
            return Refused(check="", reason=f"this daemon is of session {self._transcript.hex()[:16]}… alone")
        match request:
            case Hello():
                return Ready(payloads=(self._client.to_bytes(2, "big"),))
            case Carry():
                return self._carry(request)
            case _:
                reason = "this is an editing session: its requests are carried to an aggregator, and answered there"
                return Refused(check="", reason=reason)

    def _carry(self, request: Carry) -> Reply:
        with self._changed:
            if self._last is not None and self._last[0] == request.number:
                return _ready(self._last[1])
            self._last = None  # whoever has a new number has its reply
            for answer in request.answers:
                if self._open.pop(answer.number, None) is not None:
                    self._answers[answer.number] = answer
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._open or self._end or self._is_stopping, self._wait_seconds)
            if self._open:  # with those that a reply before had, for it may be lost, and so may who got it
                self._last = request.number, tuple(islice(self._open.values(), MOST_PARTS))
                return _ready(self._last[1])
            if self._end:
                self._is_told = True
                self._changed.notify_all()
                return Refused(check=OVER, reason=self._end)
            return Wait()


def _ready(calls: Sequence[Call]) -> Ready:
    """Calls as bytes; not kept so, as there may be a hundred megabytes of them."""
    return Ready(payloads=tuple(call.encode() for call in calls))


class CarriedConnection(Connection):
    """Asks an aggregator by way of a mailbox; the chunks of an upload go together, as each round costs seconds."""

    def __init__(
        self,
        mailbox: Mailbox,
        session: Session,
        identity: Identity,
        *,
        patience: float,  # seconds without any answer before giving up
        tell: Callable[[str], None],
        shard_bytes: int = SHARD_BYTES,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._end_seconds = min(_END_SECONDS, patience)
        self._line = _CarriedLine(mailbox, patience)
        super().__init__(self._line, session, identity, patience=patience, tell=tell, clock=clock, sleep=sleep)
        self._shard_bytes = shard_bytes
        self._chunks: deque[Call] = deque()
        self._held = 0  # bytes

    def upload(self, sum_index: int, offset: int, chunk: bytes | bytearray) -> None:
        """Hold a chunk until there are enough of them."""
        target = f"sums/{sum_index}"
        headers = self._headers("PATCH", target, offset)
        self._chunks.append(_call("PATCH", self._base + target, headers, bytes(chunk)))
        self._held += len(chunk)
        if self._held >= self._shard_bytes:
            self.settle()

    def settle(self) -> None:
        """Send the chunks that are held, and wait until all are taken.

        Raises:
            OtherOffset, Refused, NoAnswer: as `Connection.upload` does.
        """
        chunks, self._chunks, self._held = self._chunks, deque(), 0
        refusals = list[RefusedByAggregator]()
        for pause in self._tries():
            if not chunks:
                return
            with self._lost_is_tried_again(pause):
                self.bytes_sent += sum(len(call.body) for call in chunks)
                for response in self._line.ask(chunks):
                    if not self._is_done("PATCH", self._read(response), pause, refusals):
                        break
                    chunks.popleft()


class _CarriedLine(httpx2.BaseTransport):
    """A mailbox as a transport of the HTTP library."""

    host = "the coordinating end"

    def __init__(self, mailbox: Mailbox, patience: float) -> None:
        self._mailbox, self._patience = mailbox, patience

    def open(self, base: str, *, patience: float) -> httpx2.Client:
        """An HTTP client that asks by way of the mailbox."""
        return httpx2.Client(
            base_url=f"http://carried{base}",
            transport=self,
            timeout=patience,
            trust_env=False,
            follow_redirects=False,
        )

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """Ask, and wait for the answer."""
        seconds = request.extensions["timeout"]["read"]
        call = _call(request.method, request.url.raw_path.decode("ascii"), request.headers, request.read())
        return self.ask([call], seconds)[0]

    def ask(self, calls: Sequence[Call], seconds: float | None = None) -> list[httpx2.Response]:
        """Ask all at once.

        Raises:
            httpx2.ReadTimeout: not all answers came in time.
        """
        try:
            answers = self._mailbox.ask(calls, self._patience if seconds is None else seconds)
        except TimeoutError as error:
            raise httpx2.ReadTimeout("nobody brought the answer") from error
        return [_response(answer) for answer in answers]


def _call(method: str, target: str, headers: Mapping[str, str], body: bytes) -> Call:
    sent = tuple((name, headers[name]) for name in _SENT if name in headers)
    return Call(number=0, method=method, target=target, headers=sent, body=body)


def _response(answer: Answer) -> httpx2.Response:
    """An answer as the HTTP library has it; of its headers, what this program reads."""
    heard = {name: value for name, value in answer.headers if name.lower() in _HEARD and value.isascii()}
    return httpx2.Response(answer.status, headers=heard, stream=httpx2.ByteStream(answer.body))
