"""An editing session through an engine: what the nodes' daemons ask of an aggregator is carried to it, and back.

The aggregator (`collabsecure aggregate`) runs beside the engine's server, as it does on a network. A node never speaks
first, so it is asked what it wants to ask: its reply has HTTP requests, which are made here, and the answers go with
the next request to it. All of it is signed, end to end, and stays so; this needs no key and could use none.
"""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path

from collabsecure.errors import CollabsecureError
from collabsecure.integrations.calls import Aggregator, Connection
from collabsecure.integrations.exchange import (
    SHARD_BYTES,
    Answer,
    BadExchange,
    Call,
    Carry,
    Hello,
    Ready,
    Refused,
    Request,
    Wait,
    decode_reply,
    encode,
)
from collabsecure.integrations.host import Arrived, Host, Node
from collabsecure_protocols import Session

OVER = "OVER"  # the check of the refusal by which a daemon says that its client has nothing more to ask

_NO_FAULT = (HTTPStatus.CONFLICT, HTTPStatus.GONE, HTTPStatus.TOO_MANY_REQUESTS)
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 10.0  # seconds between two tries, doubled each time
_SILENT = 60.0  # seconds without a reply after which a node's place goes to another
_LOOK = 1.0  # seconds between two looks at which nodes there are
_SMALL = 1 << 20  # bytes of answers that need no place
_NUMBERS = 1 << 32


class NoAggregator(CollabsecureError):
    """It did not answer for too long, and no client was done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Carried:
    """How a tunnel's work ended."""

    over: tuple[int, ...]  # clients whose daemons said that they have nothing more to ask
    is_aggregator_gone: bool  # whether it ended because nothing answered there any more


@dataclass(slots=True, kw_only=True, eq=False)
class _Line:
    """What passes between this end and one node."""

    connection: Connection  # for its requests
    client: int | None = None  # as it says; the aggregator knows by signatures
    number: int = 0  # of the next, or the unanswered, Carry
    answers: tuple[Answer, ...] = field(default=(), repr=False)  # that go with it
    calls: tuple[bytes, ...] = field(default=(), repr=False)  # that wait to be made
    work: Future[tuple[Answer, ...]] | None = None  # making them
    asked: bool = False  # whether a request is unanswered
    since: float = 0.0  # when that was sent
    due: float = 0.0  # not before then is it asked again
    pause: float = _FIRST_PAUSE
    faults: int = 0  # requests of its that were refused, one after the other
    heard: float = 0.0  # when it last answered
    expects_upload: bool = False  # what it asked for last makes it send much next
    has_place: bool = False
    is_over: bool = False


class Tunnel:
    """Carries between an engine's nodes and the aggregator at `url` until all clients are done.

    `ca` is the authority of the aggregator's certificate, by default the system's; `http://` is for loopback addresses
    alone. `at_once` nodes upload or download at a time. An aggregator that does not answer for `patience` seconds is
    gone; so is, once others are done, a node. `tell` hears what happens, in words.

    Raises:
        BadFile: `ca` holds no certificates.
        BadAddress: `url` is no address of an aggregator.
    """

    def __init__(
        self,
        host: Host,
        url: str,
        *,
        session: Session,
        ca: Path | None = None,
        patience: float = 600.0,
        at_once: int = 2,
        tell: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._host, self._session = host, session
        self._aggregator = Aggregator(url, ca, session)
        self._patience, self._at_once, self._tell = patience, at_once, tell
        self._lines: dict[Node, _Line] = {}
        self._here: tuple[Node, ...] = ()
        self._looked = float("-inf")
        self._probe: Future[None] | None = None

    def run(self) -> Carried:
        """Carry until everybody who is here is done, or the aggregator is gone.

        Raises:
            NoAggregator: it is gone, and nobody was done.
        """
        self._aggregator.contact = time.monotonic()
        pool = ThreadPoolExecutor(self._session.num_clients + 4, "tunnel")
        try:
            while not self._is_done():
                if time.monotonic() - self._aggregator.contact > self._patience:
                    return self._gone()
                self._step(pool)
        finally:
            for line in self._lines.values():
                line.connection.end()
            pool.shutdown(wait=False, cancel_futures=True)
        return Carried(over=self._over(), is_aggregator_gone=False)

    def _step(self, pool: ThreadPoolExecutor) -> None:
        """Take what was answered to where it belongs, and wait a little for more."""
        for line in self._lines.values():
            if line.work is not None and line.work.done():
                line.answers, line.work = line.work.result(), None
                if line.answers:
                    line.pause = _FIRST_PAUSE
                else:
                    _put_off(line)
                line.has_place = line.has_place and _size(line.answers) > _SMALL
        quiet = time.monotonic() - self._aggregator.contact
        if self._probe is None and quiet > min(_LONGEST_PAUSE, self._patience / 4):
            self._probe = pool.submit(self._aggregator.look)
        elif self._probe is not None and self._probe.done():
            self._probe = None
        if time.monotonic() - self._looked > _LOOK:
            self._here, self._looked = tuple(self._host.nodes()), time.monotonic()
        for node in self._here:
            if node not in self._lines:
                self._lines[node] = _Line(connection=Connection(self._aggregator), heard=time.monotonic())
            line = self._lines[node]
            if line.calls and self._may(line, bulky=_is_bulk(line.calls)):
                line.work, line.calls = pool.submit(_make, line, line.calls), ()
            self._ask(node, line)
        busy = any(line.work is not None for line in self._lines.values())
        for arrived in self._host.receive(0.1 if busy else _FIRST_PAUSE):
            self._take(arrived)

    def _ask(self, node: Node, line: _Line) -> None:
        """Send a node its answers, and ask for more, if it has nothing else to do."""
        if line.asked or line.calls or line.work is not None or line.is_over or line.due > time.monotonic():
            return
        request: Request = Hello(transcript=self._session.transcript)
        if line.client is not None:
            if not self._may(line, bulky=line.expects_upload or _size(line.answers) > _SMALL):
                return
            request = Carry(transcript=self._session.transcript, number=line.number, answers=line.answers)
        line.asked, line.since = True, time.monotonic()
        self._host.send(node, encode(request))

    def _may(self, line: _Line, *, bulky: bool) -> bool:
        """Whether a node has, or gets, one of the places for those that move much; others need none."""
        if not bulky or line.has_place:
            return True
        now = time.monotonic()
        taken = [other for node, other in self._lines.items() if other.has_place and node in self._here]
        if sum(not (other.asked and now - other.since > _SILENT) for other in taken) >= self._at_once:
            return False
        line.has_place = True
        return True

    def _take(self, arrived: Arrived) -> None:
        line = self._lines.get(arrived.node)
        if line is None or not line.asked:
            return
        line.asked = False
        try:
            reply = Wait() if arrived.reply is None else decode_reply(arrived.reply)
        except BadExchange as error:
            self._tell(f"Node {arrived.node}: {error}")
            arrived, reply = Arrived(node=arrived.node, reply=None), Wait()
        if arrived.reply is not None:
            line.heard = time.monotonic()
        if line.client is None:
            self._introduce(arrived.node, line, reply)
        elif isinstance(reply, Ready):
            line.number, line.answers = (line.number + 1) % _NUMBERS, ()
            line.calls = reply.payloads
            line.has_place = line.has_place and _is_bulk(reply.payloads)
            if not line.calls:
                _put_off(line)
        elif isinstance(reply, Refused) and reply.check == OVER:
            line.is_over, line.has_place = True, False
            self._tell(f"Client {line.client} is done: {reply.reason}")
        else:
            if isinstance(reply, Refused):
                self._tell(f"Node {arrived.node} refuses: {reply.reason}")
                line.client = None
            elif arrived.reply is not None:  # it has the answers
                line.number, line.answers = (line.number + 1) % _NUMBERS, ()
            line.has_place = False
            _put_off(line)

    def _introduce(self, node: Node, line: _Line, reply: Ready | Wait | Refused) -> None:
        said = reply.payloads if isinstance(reply, Ready) else ()
        client = int.from_bytes(said[0], "big") if len(said) == 1 and len(said[0]) == 2 else 0
        if client not in self._session.client_ids:
            _put_off(line)
            return
        line.client, line.pause = client, _FIRST_PAUSE
        self._tell(f"Node {node} says that it is client {client}")

    def _is_done(self) -> bool:
        known = {node: line for node, line in self._lines.items() if line.client is not None}
        now = time.monotonic()
        return any(line.is_over for line in known.values()) and all(
            line.is_over or now - line.heard > (self._patience if node in self._here else min(_SILENT, self._patience))
            for node, line in known.items()
        )

    def _over(self) -> tuple[int, ...]:
        return tuple(sorted({line.client for line in self._lines.values() if line.is_over and line.client is not None}))

    def _gone(self) -> Carried:
        over = self._over()
        if not over:
            raise NoAggregator(
                f"{self._aggregator.address.url}: found nobody who answers, for {self._patience:.0f} s; expected "
                "`collabsecure aggregate` there, with this session"
            )
        return Carried(over=over, is_aggregator_gone=True)


def _make(line: _Line, calls: Sequence[bytes]) -> tuple[Answer, ...]:
    """Make a node's requests, one after the other, until there is trouble; what has no answer then comes again."""
    answers: list[Answer] = []
    line.expects_upload = False
    for encoded in calls:
        try:
            call = Call.decode(encoded)
        except BadExchange:
            continue
        if _size(answers) >= SHARD_BYTES:
            break
        answer = line.connection.answer(call)
        answers.append(answer)
        line.expects_upload |= _is_upload(call)
        if answer.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            break
        if answer.status >= HTTPStatus.BAD_REQUEST and answer.status not in _NO_FAULT:
            # Whoever is refused too often makes the aggregator deaf to all who come from here.
            line.due = time.monotonic() + min(_FIRST_PAUSE * 2**line.faults, _LONGEST_PAUSE)
            line.faults = min(line.faults + 1, 10)
            break
        line.faults = 0
    return tuple(answers)


def _is_bulk(calls: Sequence[bytes]) -> bool:
    """Whether making these moves much."""
    for encoded in calls:
        with suppress(BadExchange):
            call = Call.decode(encoded)
            if call.method == "PATCH" or "/layers/" in call.target:
                return True
    return False


def _is_upload(call: Call) -> bool:
    """Whether a client that asked this sends masked input next."""
    return call.method == "PATCH" or (call.method == "HEAD" and "/sums/" in call.target)


def _size(answers: Sequence[Answer]) -> int:
    return sum(len(answer.body) for answer in answers)


def _put_off(line: _Line) -> None:
    line.due = time.monotonic() + line.pause
    line.pause = min(2 * line.pause, _LONGEST_PAUSE)
