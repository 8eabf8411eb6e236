"""An editing session through an engine: what the nodes' daemons ask of an aggregator is carried to it, and back.

The aggregator (`collabsecure aggregate`) runs beside the engine's server, as it does on a network. A node never speaks
first, so it is asked what it wants to ask: its reply has HTTP requests, which are made here, and the answers go with
the next request to it. All of it is signed, end to end, and stays so; this needs no key and could use none.

Nodes say which client they are. Until the aggregator has taken a request that the client signed, a node's word counts
for nothing: it ends nothing, holds nobody up, and moves little.
"""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

from collabsecure.errors import CollabsecureError, said
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
    Reply,
    Request,
    decode_reply,
    encode,
)
from collabsecure.integrations.host import Arrived, Host, Node
from collabsecure.integrations.telling import Telling
from collabsecure.integrations.turns import (
    FIRST_PAUSE,
    LONGEST_PAUSE,
    SMALL,
    STRANGERS,
    Line,
    Turns,
    is_fault,
    is_upload,
    size,
)
from collabsecure_protocols import Session

OVER = "OVER"  # the check of the refusal by which a daemon says that its client has nothing more to ask

_LOOK = 1.0  # seconds between two looks at which nodes there are
_NUMBERS = 1 << 32
_MOST_AROUND = 4096  # bytes of a request beside its body: target, headers
_MOST_TOLD = 20  # different things that are told of one node


class NoAggregator(CollabsecureError):
    """It did not answer for too long, and no client was done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Carried:
    """How a tunnel's work ended."""

    over: tuple[int, ...]  # clients whose nodes said that they have nothing more to ask
    is_aggregator_gone: bool  # whether it ended because nothing answered there any more


class Tunnel:
    """Carries between an engine's nodes and the aggregator at `url` until all clients are done.

    `ca` is the authority of the aggregator's certificate, by default the system's; `http://` is for loopback addresses
    alone. `at_once` clients upload or download at a time, by turns. An aggregator that does not answer for `patience`
    seconds is gone. So is, once others are done, a client that nothing is heard of for so long, or that has not come
    since the tunnel began. `tell` hears what happens, in words.

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
        self._patience, self._tell = patience, tell
        self._lines: dict[Node, Line] = {}
        self._here: tuple[Node, ...] = ()
        self._began = self._looked = float("-inf")
        self._turns = Turns(self._lines, lambda: self._here, at_once)
        self._probe: Future[None] | None = None

    def run(self) -> Carried:
        """Carry until everybody who takes part is done, or the aggregator is gone.

        Raises:
            NoAggregator: it is gone, and nobody was done.
        """
        self._began = self._aggregator.contact = time.monotonic()
        pool = ThreadPoolExecutor(self._session.num_clients + STRANGERS + 1, "tunnel")
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
        now = time.monotonic()
        for line in self._lines.values():
            if line.work is not None and line.work.done():
                self._turns.made(line, line.work.result())
        quiet = now - self._aggregator.contact
        if self._probe is None and quiet > min(LONGEST_PAUSE, self._patience / 4):
            self._probe = pool.submit(self._aggregator.look)
        elif self._probe is not None and self._probe.done():
            self._probe = None
        if now - self._looked > _LOOK:
            self._look(now)
        for node in self._turns.order():
            line = self._lines[node]
            if line.calls and line.work is None and self._turns.may_make(line):
                line.work = pool.submit(_make, line, line.calls)
            self._ask(node, line)
        busy = any(line.work is not None for line in self._lines.values())
        for arrived in self._host.receive(0.1 if busy else FIRST_PAUSE):
            self._take(arrived)

    def _look(self, now: float) -> None:
        """Which nodes are there; of one that is gone, what it would take to go on is small."""
        self._here, self._looked = tuple(self._host.nodes()), now
        for node in self._here:
            if node not in self._lines:
                telling = Telling(self._tell, most=_MOST_TOLD)
                self._lines[node] = Line(connection=Connection(self._aggregator), tell=telling)
        for node in self._lines.keys() - set(self._here):
            line = self._lines[node]
            if line.work is None:
                line.connection.hang_up()
                line.calls, line.answers, line.has_place = (), (), False
                if not (line.asked or line.is_proven):
                    del self._lines[node]

    def _ask(self, node: Node, line: Line) -> None:
        """Send a node its answers, and ask for more, if it has nothing else to do."""
        if line.asked or line.calls or line.due > time.monotonic():
            return
        request: Request = Hello(transcript=self._session.transcript)
        if line.client:
            if (line.expects_upload or size(line.answers) > SMALL) and not self._turns.has_place(line):
                return
            request = Carry(transcript=self._session.transcript, number=line.number, answers=line.answers)
        line.asked, line.since = True, time.monotonic()
        self._host.send(node, encode(request))

    def _take(self, arrived: Arrived) -> None:
        line = self._lines.get(arrived.node)
        if line is None or not line.asked:
            return
        line.asked = False
        reply = self._read(arrived, line)
        if reply is None:
            line.has_place = False
            line.put_off()
            return
        line.heard = time.monotonic()
        if not line.client:
            self._introduce(arrived.node, line, reply)
        elif isinstance(reply, Refused) and reply.check == OVER:
            line.is_over, line.has_place = True, False
            line.due = time.monotonic() + LONGEST_PAUSE  # its daemon may be started again, and then have more to ask
            line.connection.hang_up()
            line.tell(f"Node {said(arrived.node)}: client {line.client} is done: {reply.reason}")
        elif isinstance(reply, Refused):
            line.tell(f"Node {said(arrived.node)} refuses: {reply.reason}")
            line.client, line.is_proven, line.has_place, line.answers = 0, False, False, ()
            line.put_off()
        else:  # it has the answers
            line.is_over = False
            line.number, line.answers = (line.number + 1) % _NUMBERS, ()
            payloads = reply.payloads if isinstance(reply, Ready) else ()
            line.calls = self._calls(payloads if line.is_proven else payloads[:1])
            if line.is_proven and not line.has_place and size(line.calls) > SMALL:
                line.calls, line.expects_upload = (), True  # not kept until there is a place, but asked for again then
                return
            line.has_place = line.has_place and line.expects_upload and any(map(is_upload, line.calls))
            if not line.calls:
                line.put_off()

    def _calls(self, payloads: Sequence[bytes]) -> tuple[Call, ...]:
        """Those that are any, none of which is longer than the API has."""
        calls = []
        for payload in payloads:
            if len(payload) <= self._aggregator.longest + _MOST_AROUND:
                with suppress(BadExchange):
                    calls.append(Call.decode(payload))
        return tuple(calls)

    def _read(self, arrived: Arrived, line: Line) -> Reply | None:
        """A reply, if it is any."""
        if arrived.reply is None:
            return None
        try:
            return decode_reply(arrived.reply)
        except BadExchange as error:
            line.tell(f"Node {said(arrived.node)}: {error}")
            return None

    def _introduce(self, node: Node, line: Line, reply: Reply) -> None:
        named = reply.payloads if isinstance(reply, Ready) else ()
        client = int.from_bytes(named[0], "big") if len(named) == 1 and len(named[0]) == 2 else 0
        if client not in self._session.client_ids:
            line.put_off()
            return
        line.client, line.pause = client, FIRST_PAUSE
        line.tell(f"Node {said(node)} says that it is client {client}")

    def _is_done(self) -> bool:
        heard = dict.fromkeys(map(int, self._session.client_ids), self._began)  # of clients that have proven it
        over = set()
        for line in self._lines.values():
            if line.is_proven:
                heard[line.client] = max(heard[line.client], line.heard)
                if line.is_over:
                    over.add(line.client)
        latest = time.monotonic() - self._patience
        return bool(over) and all(client in over or last < latest for client, last in heard.items())

    def _over(self) -> tuple[int, ...]:
        """Where none of a client's nodes has proven that it is one, as with a tunnel that began late, any will do."""
        lines = self._lines.values()
        proven = {line.client for line in lines if line.is_proven}
        return tuple(
            sorted({line.client for line in lines if line.is_over and line.is_proven >= (line.client in proven)})
        )

    def _gone(self) -> Carried:
        over = self._over()
        if not over:
            raise NoAggregator(
                f"{self._aggregator.address.url}: found nobody who answers, for {self._patience:.0f} s; expected "
                "`collabsecure aggregate` there, with this session"
            )
        return Carried(over=over, is_aggregator_gone=True)


def _make(line: Line, calls: Sequence[Call]) -> tuple[Answer, ...]:
    """Make a node's requests, one after the other, until there is trouble."""
    answers: list[Answer] = []
    for call in calls:
        if size(answers) >= SHARD_BYTES:
            break
        answers.append(line.connection.answer(call, line.client))
        if answers[-1].status >= HTTPStatus.INTERNAL_SERVER_ERROR or is_fault(answers[-1]):
            break
    return tuple(answers)
