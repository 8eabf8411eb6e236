"""Which node is which client, and one request at a time to each: what arrives, what is asked again, and when.

Nodes say which client they are, and nobody believes it until something that the client signed has come from there. If
several say that they are one client, they take turns: the next one's comes when a node is gone, refuses, answers what
does not hold, or keeps silent.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

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
_TURN = 60.0  # seconds of silence after which another node that says it is the same client has its turn
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


class Nodes:
    """The nodes of an engine, by client."""

    def __init__(
        self, host: Host, session: Session, *, clock: Callable[[], float], tell: Callable[[str], None]
    ) -> None:
        self._host, self._session, self._clock, self._tell = host, session, clock, tell
        self._lines: dict[Node, _Line] = {}
        self._claims: dict[int, list[Node]] = {}  # client → the nodes that say so; the first has its turn
        self._given_up: set[int] = set()
        self._here: tuple[Node, ...] = ()
        self._looked = float("-inf")

    def meet(self, wanted: Iterable[int]) -> None:
        """Ask nodes that are strangers who they are, if any of these clients has no node that answers."""
        if self._clock() - self._looked >= _LOOK:
            self._here, self._looked = tuple(self._host.nodes()), self._clock()
        if all(map(self._is_well, wanted)):
            return
        for node in self._here:
            line = self._lines.setdefault(node, _Line())
            if line.client is None and line.request is None and line.due <= self._clock():
                self._send(node, Hello(transcript=self._session.transcript))

    def can_ask(self, client: int) -> bool:
        """Whether a client's node is here and has nothing to answer, and it is time to ask it."""
        node = self._node_of(client)
        if node is None or client in self._given_up:
            return False
        line = self._lines[node]
        return line.request is None and line.due <= self._clock()

    def taken(self, client: int) -> int:
        """How many of the messages to a client its node has."""
        node = self._node_of(client)
        return 0 if node is None else self._lines[node].taken

    def ask(self, client: int, request: Messages | Shard) -> None:
        """Send a client's node a request; `can_ask` must be true."""
        node = self._node_of(client)
        if node is not None:
            self._send(node, request)

    def unanswered(self) -> Iterator[tuple[int, Request, float]]:
        """Clients with the requests that they have not answered, and for how long, in seconds."""
        for line in self._lines.values():
            if line.client is not None and line.request is not None:
                yield line.client, line.request, self._clock() - line.since

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
        """What a node answered was signed by its client."""
        self._lines[asked.node].is_proven = True

    def put_off(self, asked: Asked) -> None:
        """An answer was none that holds: ask again, after a pause, or another node that says it is the same client."""
        self._failed(asked.node)

    def give_up(self, asked: Asked) -> None:
        """Ask that client nothing more, until `forgive`; unless the node was none of its, or is not the only one."""
        if self._lines[asked.node].is_proven and self._claims[asked.client] == [asked.node]:
            self._given_up.add(asked.client)
        else:
            self._failed(asked.node)

    def forgive(self) -> None:
        """Ask those again who were given up."""
        self._given_up.clear()

    def has_given_up(self, client: int) -> bool:
        """Whether a client is not asked any more."""
        return client in self._given_up

    def _is_well(self, client: int) -> bool:
        node = self._node_of(client)
        return node is not None and self._lines[node].pause == _FIRST_PAUSE and not self._is_silent(node)

    def _is_silent(self, node: Node) -> bool:
        line = self._lines[node]
        return line.request is not None and self._clock() - line.since > _TURN

    def _node_of(self, client: int) -> Node | None:
        """The node whose turn it is to be that client, if it can be reached."""
        for _ in range(len(self._claims.get(client, ()))):
            node = self._claims[client][0]
            if node in self._here and not (self._is_silent(node) and len(self._claims[client]) > 1):
                return node
            self._next_turn(client)
        return None

    def _next_turn(self, client: int) -> None:
        claims = self._claims.get(client, [])
        claims.append(claims.pop(0))

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
            self._tell(f"Node {arrived.node}: {error}")
            reply = None
        if reply is None or (isinstance(reply, Wait) and not line.is_proven):
            self._failed(arrived.node)
        elif isinstance(reply, Wait):
            self._put_off(line)
        elif isinstance(request, Messages | Shard) and line.client is not None:
            line.pause, line.due = _FIRST_PAUSE, 0.0
            if isinstance(request, Messages) and isinstance(reply, Ready):
                line.taken = max(line.taken, request.first + len(request.payloads))
            return Asked(node=arrived.node, client=line.client, request=request, reply=reply)
        elif isinstance(request, Hello):
            self._introduce(arrived.node, line, reply)
        return None

    def _introduce(self, node: Node, line: _Line, reply: Ready | Refused) -> None:
        said = reply.payloads if isinstance(reply, Ready) else ()
        client = int.from_bytes(said[0], "big") if len(said) == 1 and len(said[0]) == 2 else 0
        if client not in self._session.client_ids:
            self._put_off(line)
            return
        line.client, line.due = client, 0.0
        self._claims.setdefault(client, []).append(node)
        self._given_up.discard(client)  # that was another node
        self._tell(f"Node {node} says that it is client {client}")

    def _failed(self, node: Node) -> None:
        """Nothing of use came from a node: others have their turn, and who has proven nothing is a stranger again."""
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
