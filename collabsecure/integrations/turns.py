"""Whose requests a tunnel makes next, and who may move much: by turns, and by what a node has proven.

A node says which client it is. Until the aggregator has taken a request that the client signed, that counts for little:
of such nodes few are served at a time, one small request each.
"""

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from http import HTTPStatus

from collabsecure.integrations.calls import Connection
from collabsecure.integrations.exchange import Answer, Call
from collabsecure.integrations.host import Node
from collabsecure.integrations.telling import Telling

SMALL = 1 << 20  # bytes that need no place
STRANGERS = 4  # nodes that have proven nothing, whose requests are made at a time
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 10.0  # seconds between two tries, doubled each time

_SILENT = 60.0  # seconds without a reply after which a node's place goes to another
_REFUSALS = 60  # in a minute, after which none is made for who was refused before: half of what the aggregator bears
_MINUTE = 60.0
_LATE = (HTTPStatus.CONFLICT, HTTPStatus.GONE)  # what a client that signed may hear, as well as that all is well
_NO_FAULT = (*_LATE, HTTPStatus.TOO_MANY_REQUESTS)


@dataclass(slots=True, kw_only=True, eq=False)
class Line:
    """What passes between a tunnel and one node."""

    connection: Connection  # for its requests
    client: int = 0  # as it says; 0 before it has said so
    is_proven: bool = False  # the aggregator has taken a request that the client signed
    number: int = 0  # of the next, or the unanswered, Carry
    answers: tuple[Answer, ...] = field(default=(), repr=False)  # that go with it
    calls: tuple[Call, ...] = field(default=(), repr=False)  # that are being made, or wait to be
    work: Future[tuple[Answer, ...]] | None = None  # making them
    asked: bool = False  # whether a request is unanswered
    since: float = 0.0  # when that was sent
    due: float = 0.0  # not before then is it asked again
    pause: float = FIRST_PAUSE
    faults: int = 0  # requests of its that were refused, one after the other
    heard: float = 0.0  # when it last answered
    expects_upload: bool = False  # what it asked for last makes it send much next
    has_place: bool = False
    waits_since: float | None = None  # for a place, or to have its calls made
    is_over: bool = False
    tell: Telling  # of it

    def put_off(self) -> None:
        """Ask again later, and each time later."""
        self.due = time.monotonic() + self.pause
        self.pause = min(2 * self.pause, LONGEST_PAUSE)


class Turns:
    """Decides for a tunnel's lines, of which those `here` can be reached; `at_once` clients may move much."""

    def __init__(self, lines: Mapping[Node, Line], here: Callable[[], Sequence[Node]], at_once: int) -> None:
        self._lines, self._here, self._at_once = lines, here, at_once
        self._refused: deque[float] = deque(maxlen=_REFUSALS)  # when requests were

    def order(self) -> list[Node]:
        """The nodes that are here, those first that have waited longest."""

        def since(node: Node) -> float:
            waits = self._lines[node].waits_since
            return float("inf") if waits is None else waits

        return sorted(self._here(), key=since)

    def may_make(self, line: Line) -> bool:
        """Whether it is time to make a node's calls."""
        working = [other for other in self._lines.values() if other.work is not None]
        if line.is_proven:
            may = all(not (other.is_proven and other.client == line.client) for other in working)
        else:
            may = sum(not other.is_proven for other in working) < STRANGERS
        if not line.is_proven or line.faults:  # the aggregator becomes deaf to an address that is refused too often
            is_full = len(self._refused) == _REFUSALS
            may = may and not (is_full and time.monotonic() - self._refused[0] < _MINUTE)
        if may and (size(line.calls) > SMALL or any("/layers/" in call.target for call in line.calls)):
            return self.has_place(line)
        return self._granted(line, may=may)

    def has_place(self, line: Line) -> bool:
        """Whether a node has, or gets, one of the places for those that move much."""
        if not line.has_place:
            now, here = time.monotonic(), set(self._here())
            others = [other for node, other in self._lines.items() if other.has_place and node in here]
            taken = sum(not (other.asked and now - other.since > _SILENT) for other in others)
            line.has_place = taken < self._at_once and all(other.client != line.client for other in others)
        return self._granted(line, may=line.has_place)

    def _granted(self, line: Line, *, may: bool) -> bool:
        line.waits_since = None if may else (line.waits_since or time.monotonic())
        return may

    def made(self, line: Line, answers: tuple[Answer, ...]) -> None:
        """A node's calls were made, with these answers; a call without one comes again with its next reply."""
        calls, line.calls, line.work, line.answers = {call.number: call for call in line.calls}, (), None, answers
        line.expects_upload, now = False, time.monotonic()
        for answer in answers:
            if answer.status < HTTPStatus.BAD_REQUEST or answer.status in _LATE:
                line.is_proven, line.faults, line.heard = True, 0, now
                line.expects_upload |= answer.status < HTTPStatus.BAD_REQUEST and is_upload(calls[answer.number])
            elif is_fault(answer):
                self._refused.append(now)
                line.due = now + min(FIRST_PAUSE * 2**line.faults, LONGEST_PAUSE)
                line.faults = min(line.faults + 1, 10)
        if answers:
            line.pause = FIRST_PAUSE
        else:
            line.put_off()
        if not line.is_proven:
            line.connection.hang_up()  # the aggregator has only so many for one address
        line.has_place = line.has_place and size(answers) > SMALL


def is_upload(call: Call) -> bool:
    """Whether a client that asks this, and is answered well, sends masked input next."""
    return call.method == "PATCH" or (call.method == "HEAD" and "/sums/" in call.target)


def is_fault(answer: Answer) -> bool:
    """Whether a request was refused for what it is."""
    return HTTPStatus.BAD_REQUEST <= answer.status < HTTPStatus.INTERNAL_SERVER_ERROR and answer.status not in _NO_FAULT


def size(items: Sequence[Answer | Call]) -> int:
    """Of their bodies, bytes."""
    return sum(len(item.body) for item in items)
