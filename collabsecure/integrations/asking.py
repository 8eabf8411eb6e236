"""Which node is which client, and one request at a time to each: what arrives, what is asked again, and when.

Nodes say which client they are, and nobody believes it until something new that the client signed has come from there.
A client's proven node is asked for what the client owes. Whoever else says that he is that client is asked beside it,
for little, and only while the proven node is silent, away or in trouble: so a client is found again that comes back
under another name, and nobody else is in its way.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

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
from collabsecure_protocols import Session

_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 10.0  # seconds between two tries, doubled each time
_SILENT = 60.0  # seconds after which others who say that they are the same client are asked as well
_LOOK = 1.0  # seconds between two looks at which nodes there are


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A reply that may be what was asked for, or says that there will be none."""

    node: Node
    client: int
    request: Messages | Shard
    reply: Ready | Refused


@dataclass(slots=True)
class _Line:
    """What passes between this end and one node."""

    client: int | None = None  # as it says
    is_proven: bool = False  # by something that the client signed
    taken: int = 0  # of the messages to that client, this node has so many
    request: Request | None = None  # unanswered
    since: float = 0.0  # when that was sent
    due: float = 0.0  # not before then is it asked again
    pause: float = _FIRST_PAUSE
    told: str = ""  # the last that was told of it


class Nodes:
    """The nodes of an engine, by client."""

    def __init__(
        self, host: Host, session: Session, *, clock: Callable[[], float], tell: Callable[[str], None]
    ) -> None:
        self._host, self._session, self._clock, self._tell = host, session, clock, tell
        self._lines: dict[Node, _Line] = {}
        self._claims: dict[int, list[Node]] = {}  # client → the nodes that say so; who failed comes last
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
            line = self._lines.setdefault(node, _Line())
            if line.client is None and line.request is None and line.due <= self._clock():
                self._send(node, Hello(transcript=self._session.transcript))

    def _look(self) -> None:
        self._here, self._looked = dict.fromkeys(self._host.nodes()), self._clock()
        gone = [node for node, line in self._lines.items() if node not in self._here and not line.is_proven]
        for node in gone:
            line = self._lines[node]
            if line.client is not None:
                self._claims[line.client].remove(node)
                line.client = None
            if line.request is None:
                del self._lines[node]

    def free(self, client: int) -> list[Node]:
        """The nodes that may be asked for what a client owes, now: have nothing to answer, and it is time to ask."""
        if client in self._given_up:
            return []
        main, nodes = self._proven(client), self._claims.get(client, ())
        asked = [main] if main is not None and self._is_well(client) else [node for node in nodes if node in self._here]
        now = self._clock()
        return [
            node
            for node in asked
            if (node == main or not self.is_proven(node))
            and self._lines[node].request is None
            and self._lines[node].due <= now
        ]

    def is_proven(self, node: Node) -> bool:
        """Whether something that its client signed has come from a node."""
        return self._lines[node].is_proven

    def taken_by(self, node: Node) -> int:
        """How many of the messages to its client a node has."""
        return self._lines[node].taken

    def taken(self, client: int) -> int:
        """How many of the messages to a client its proven node has."""
        node = self._proven(client)
        return 0 if node is None else self._lines[node].taken

    def ask(self, node: Node, request: Messages | Shard) -> None:
        """Send a node that is `free` a request."""
        self._send(node, request)

    def uploading(self) -> Iterator[tuple[int, float]]:
        """Clients whose proven nodes have been asked for masked input, and how long ago, in seconds."""
        for line in self._lines.values():
            if line.client is not None and line.is_proven and isinstance(line.request, Shard) and line.request.count:
                yield line.client, self._clock() - line.since

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
        line = self._lines[asked.node]
        line.is_proven, line.pause, line.due = True, _FIRST_PAUSE, 0.0

    def put_off(self, asked: Asked) -> None:
        """An answer was none that holds: ask again, after a pause, or another node that says it is the same client."""
        self._failed(asked.node)

    def give_up(self, asked: Asked) -> None:
        """A node refuses: if it is proven, ask its client nothing more until `forgive`, whoever else says he is it."""
        if self._lines[asked.node].is_proven:
            self._given_up.add(asked.client)
        else:
            self._failed(asked.node)

    def forgive(self) -> None:
        """Ask those again who were given up."""
        self._given_up.clear()

    def has_given_up(self, client: int) -> bool:
        """Whether a client is not asked any more."""
        return client in self._given_up

    def tell_of(self, node: Node, words: str) -> None:
        """Tell what happens at a node, which may have said it itself; not twice in a row."""
        line = self._lines[node]
        if words != line.told:
            line.told = words
            self._tell(f"Node {said(node)}: {said(words)}")

    def _proven(self, client: int) -> Node | None:
        """A client's node, if it has one: of several, the first that is not silent."""
        nodes = [node for node in self._claims.get(client, ()) if node in self._here and self._lines[node].is_proven]
        return next((node for node in nodes if not self._is_silent(node)), nodes[0] if nodes else None)

    def _is_well(self, client: int) -> bool:
        node = self._proven(client)
        return node is not None and self._lines[node].pause == _FIRST_PAUSE and not self._is_silent(node)

    def _is_silent(self, node: Node) -> bool:
        line = self._lines[node]
        return line.request is not None and self._clock() - line.since > _SILENT

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
        if reply is None or (isinstance(reply, Wait) and not line.is_proven):
            self._failed(arrived.node)
        elif isinstance(reply, Wait):
            self._put_off(line)
        elif isinstance(request, Messages | Shard) and line.client is not None:
            if line.is_proven:
                line.pause, line.due = _FIRST_PAUSE, 0.0
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
            self._put_off(line)
            return
        line.client, line.due = client, 0.0
        self._claims.setdefault(client, []).append(node)
        self.tell_of(node, f"says that it is client {client}")

    def _failed(self, node: Node) -> None:
        """Nothing of use came from a node: others come before it, and who has proven nothing is a stranger again."""
        line = self._lines[node]
        self._put_off(line)
        if line.client is not None:
            self._claims[line.client].remove(node)
            if line.is_proven:
                self._claims[line.client].append(node)
            else:
                line.client = None

    def _put_off(self, line: _Line) -> None:
        line.due = self._clock() + line.pause
        line.pause = min(2 * line.pause, _LONGEST_PAUSE)
