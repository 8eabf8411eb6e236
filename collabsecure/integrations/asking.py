"""Which node is which client, and one request at a time to each: what arrives, what is asked again, and when.

Nodes say which client they are, and nobody believes it until something new that the client signed has come from there.
The node where that was last is the client's proven one, and is asked for what the client owes. Others that say they are
that client are asked beside it, for little, few at a time, and only while it is silent, away or in trouble: so a client
is found again that comes back under another name, and nobody else is in its way.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

from collabsecure.errors import said
from collabsecure.integrations.exchange import (
    BadExchange,
    Hello,
    Messages,
    Ready,
    Refused,
    Request,
    Shard,
    Wait,
    decode_reply,
    encode,
)
from collabsecure.integrations.host import Arrived, Host, Node
from collabsecure.integrations.telling import Telling
from collabsecure_protocols import Session

_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 10.0  # seconds between two tries, doubled each time
_SILENT = 60.0  # seconds after which others who say that they are the same client are asked as well
_BESIDE, _TURN = 8, 10.0  # so many of those in so many seconds; what they answer later counts, too
_LOOK = 1.0  # seconds between two looks at which nodes there are
_MOST_REFUSALS = 3
_MOST_TOLD = 20  # different things that are told of one node in a run


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A reply that may be what was asked for, or says that there will be none."""

    node: Node
    client: int
    request: Messages | Shard
    reply: Ready | Refused


@dataclass(slots=True, kw_only=True)
class _Line:
    """What passes between this end and one node."""

    client: int | None = None  # as it says
    taken: int = 0  # of the messages to that client, this node has so many
    request: Request | None = None  # unanswered
    since: float = 0.0  # when that was sent
    due: float = 0.0  # not before then is it asked again
    pause: float = _FIRST_PAUSE
    refusals: int = 0  # since something new came
    tell: Telling  # of it, in this run


class Nodes:
    """The nodes of an engine, by client."""

    def __init__(
        self, host: Host, session: Session, *, clock: Callable[[], float], tell: Callable[[str], None]
    ) -> None:
        self._host, self._session, self._clock, self._tell = host, session, clock, tell
        self._lines: dict[Node, _Line] = {}
        self._claims: dict[int, dict[Node, None]] = {}  # client → the nodes that say so, in that order
        self._proven: dict[int, Node] = {}  # client → the node from which something new that it signed came last
        self._given_up: set[int] = set()
        self._here: dict[Node, None] = {}
        self._looked = float("-inf")

    def meet(self, wanted: Iterable[int]) -> None:
        """Ask nodes that are strangers who they are, if any of these clients has no proven node that is well."""
        if self._clock() - self._looked >= _LOOK:
            self._look()
        if all(map(self._is_well, wanted)):
            return
        for node in self._here:
            if node not in self._lines:
                self._lines[node] = _Line(tell=Telling(self._tell, most=_MOST_TOLD))
            line = self._lines[node]
            if line.client is None and line.request is None and line.due <= self._clock():
                self._send(node, Hello(transcript=self._session.transcript))

    def _look(self) -> None:
        self._here, self._looked = dict.fromkeys(self._host.nodes()), self._clock()
        for node in self._lines.keys() - self._here.keys():
            if self._lines[node].request is None and not self.is_proven(node):
                self._disbelieve(node)
                del self._lines[node]

    def free(self, client: int) -> list[Node]:
        """The nodes that may be asked for what a client owes, now: have nothing to answer, and it is time to ask."""
        proven = self._proven.get(client)
        asked = [] if proven is None or client in self._given_up else [proven]
        if not self._is_well(client):
            others = [node for node in self._claims.get(client, ()) if node != proven]
            lines = [self._lines[node] for node in others]
            lately = sum(line.request is not None and self._clock() - line.since <= _TURN for line in lines)
            asked += islice(filter(self._is_free, others), max(0, _BESIDE - lately))
        return list(filter(self._is_free, asked))

    def is_proven(self, node: Node) -> bool:
        """Whether something that its client signed has come from a node, and nothing later from another."""
        client = self._lines[node].client
        return client is not None and self._proven.get(client) == node

    def taken_by(self, node: Node) -> int:
        """How many of the messages to its client a node has."""
        return self._lines[node].taken

    def taken(self, client: int) -> int:
        """How many of the messages to a client its proven node has."""
        return self._lines[self._proven[client]].taken if client in self._proven else 0

    def ask(self, node: Node, request: Messages | Shard) -> None:
        """Send a node that is `free` a request."""
        self._send(node, request)

    def uploading(self) -> Iterator[tuple[int, float]]:
        """Clients whose proven nodes have been asked for masked input, and how long ago, in seconds."""
        for client, node in self._proven.items():
            line = self._lines[node]
            if isinstance(line.request, Shard) and line.request.count:
                yield client, self._clock() - line.since

    def hear(self, seconds: float) -> list[Asked]:
        """What has come, at the latest after so many seconds; or nothing, when it is time to ask somebody again."""
        now = self._clock()
        dues = [line.due - now for line in self._lines.values() if line.request is None and line.due > now]
        heard = []
        for arrived in self._host.receive(max(0.0, min([seconds, *dues]))):
            asked = self._heard(arrived)
            if asked is not None:
                heard.append(asked)
        return heard

    def trust(self, asked: Asked) -> None:
        """What a node answered was new, and signed by its client."""
        self._proven[asked.client] = asked.node
        self._given_up.discard(asked.client)
        self._lines[asked.node].refusals = 0
        self.take(asked)

    def take(self, asked: Asked) -> None:
        """What a node answered was in order, and proves nothing: if it is proven, it is well."""
        if self.is_proven(asked.node):
            line = self._lines[asked.node]
            line.pause, line.due = _FIRST_PAUSE, 0.0

    def put_off(self, asked: Asked) -> None:
        """An answer was none that holds: ask again, after a pause, or another node that says it is the same client.

        It may have missed a message, or got it changed, so all of them go with the next request.
        """
        self._lines[asked.node].taken = 0
        self._failed(asked.node)

    def refused(self, asked: Asked) -> None:
        """A node refuses, for good or because what it got was changed on the way: ask again, a few times.

        Of a proven node that refuses all of those the client is not asked again until `forgive`, or it is found
        elsewhere.
        """
        self._lines[asked.node].refusals += 1
        if self.is_proven(asked.node) and self._lines[asked.node].refusals >= _MOST_REFUSALS:
            self._given_up.add(asked.client)
        self.put_off(asked)

    def forgive(self) -> None:
        """A run begins: ask those again who were given up."""
        self._given_up.clear()
        for line in self._lines.values():
            line.tell.forget()
            line.refusals = 0

    def has_given_up(self, client: int) -> bool:
        """Whether nothing more need be expected of a client."""
        return client in self._given_up

    def tell_of(self, node: Node, words: str) -> None:
        """Tell what happens at a node, which may have said it itself; not twice, nor without end."""
        self._lines[node].tell(f"Node {said(node)}: {words}")

    def _is_free(self, node: Node) -> bool:
        line = self._lines[node]
        return node in self._here and line.request is None and line.due <= self._clock()

    def _is_well(self, client: int) -> bool:
        node = self._proven.get(client)
        if node is None or node not in self._here or client in self._given_up:
            return False
        line = self._lines[node]
        is_silent = line.request is not None and self._clock() - line.since > _SILENT
        return line.pause == _FIRST_PAUSE and not is_silent

    def _send(self, node: Node, request: Request) -> None:
        line = self._lines[node]
        line.request, line.since = request, self._clock()
        self._host.send(node, encode(request))

    def _heard(self, arrived: Arrived) -> Asked | None:
        line = self._lines.get(arrived.node)
        if line is None or line.request is None:
            return None
        request, line.request = line.request, None
        try:
            reply = None if arrived.reply is None else decode_reply(arrived.reply)
        except BadExchange as error:
            self.tell_of(arrived.node, str(error))
            reply = None
        if reply is None or isinstance(reply, Wait):
            self._failed(arrived.node)
        elif isinstance(request, Messages | Shard) and line.client is not None:
            if isinstance(request, Messages) and isinstance(reply, Ready):
                line.taken = max(line.taken, request.first + len(request.payloads))
            return Asked(node=arrived.node, client=line.client, request=request, reply=reply)
        elif isinstance(request, Hello):
            self._introduce(arrived.node, line, reply)
        return None

    def _introduce(self, node: Node, line: _Line, reply: Ready | Refused) -> None:
        named = reply.payloads if isinstance(reply, Ready) else ()
        client = int.from_bytes(named[0], "big") if len(named) == 1 and len(named[0]) == 2 else 0
        if client not in self._session.client_ids:
            if isinstance(reply, Refused):
                self.tell_of(node, f"takes no part: {reply.reason}")
            self._put_off(line)
            return
        line.client, line.due = client, 0.0
        self._claims.setdefault(client, {})[node] = None
        self.tell_of(node, f"says that it is client {client}")

    def _failed(self, node: Node) -> None:
        """Nothing of use came from a node: ask it later, and who has proven nothing is a stranger again."""
        self._put_off(self._lines[node])
        if not self.is_proven(node):
            self._disbelieve(node)

    def _disbelieve(self, node: Node) -> None:
        line = self._lines[node]
        if line.client is not None:
            del self._claims[line.client][node]
            line.client = None

    def _put_off(self, line: _Line) -> None:
        line.due = self._clock() + line.pause
        line.pause = min(2 * line.pause, _LONGEST_PAUSE)
