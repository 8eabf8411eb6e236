"""Which node is asked for what its client owes, when several say that they are that client."""

from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise

from memory_host import made_session

from collabsecure.integrations.asking import Asked, Nodes
from collabsecure.integrations.exchange import (
    Hello,
    Messages,
    Ready,
    Refused,
    Reply,
    Request,
    Wait,
    decode_request,
    encode,
)
from collabsecure.integrations.host import Arrived, Node

SESSION = made_session()
SILENT = 61.0  # seconds
FEW, TURN = 8, 10  # nodes that have proven nothing, asked in so many seconds

Answers = Callable[[Node, Request], Reply | None]  # None: silence


def hello(client: int) -> Ready:
    return Ready(payloads=(client.to_bytes(2, "big"),))


class ScriptedHost:
    """Nodes that answer at once, or never; each says that it is client 1, unless its answers say otherwise."""

    def __init__(self, *names: Node) -> None:
        self.names, self.now = list(names), 0.0
        self.answers: Answers = lambda node, request: None
        self.sent: list[tuple[float, Node]] = []  # what was no Hello
        self.told: list[str] = []
        self._arrived: list[Arrived] = []
        self.asker = Nodes(self, SESSION, clock=lambda: self.now, tell=self.told.append)

    def nodes(self) -> Sequence[Node]:
        return tuple(self.names)

    def send(self, node: Node, request: bytes) -> None:
        found = decode_request(request)
        if not isinstance(found, Hello):
            self.sent.append((self.now, node))
        reply = hello(1) if isinstance(found, Hello) else self.answers(node, found)
        if reply is not None:
            self._arrived.append(Arrived(node=node, reply=encode(reply)))

    def receive(self, seconds: float) -> Sequence[Arrived]:
        arrived, self._arrived = self._arrived, []
        return arrived

    def late(self, node: Node, reply: Reply) -> None:
        self._arrived.append(Arrived(node=node, reply=encode(reply)))

    def step(self, take: Callable[[Asked], None] = lambda _: None) -> None:
        """Ask who is free, and take what comes."""
        self.asker.meet([1])
        for node in self.asker.free(1):
            self.asker.ask(node, Messages(transcript=SESSION.transcript, first=0, payloads=()))
        for asked in self.asker.hear(0.0):
            take(asked)

    def run(self, seconds: int, take: Callable[[Asked], None] = lambda _: None) -> None:
        for _ in range(seconds):
            self.step(take)
            self.now += 1


def with_proven_node(*others: Node) -> ScriptedHost:
    """Node "own" has proven that it is client 1; the others come now."""
    host = ScriptedHost("own")
    host.answers = lambda node, request: Ready()
    host.step()
    host.step(host.asker.trust)
    assert host.asker.is_proven("own")
    host.names += others
    host.sent.clear()
    return host


def test_nobody_is_asked_beside_a_proven_node_that_is_well() -> None:
    host = with_proven_node("a", "b")
    host.run(30, host.asker.take)
    assert {node for _, node in host.sent} == {"own"}


def test_few_are_asked_beside_a_silent_node_and_all_in_their_turn() -> None:
    others = [f"other {number}" for number in range(30)]
    host = with_proven_node(*others)
    host.answers = lambda node, request: None
    host.run(int(SILENT) + 5 * TURN)
    assert host.sent[0] == (0.0, "own")
    asked = [(when, node) for when, node in host.sent if node != "own"]
    assert sorted(node for _, node in asked) == sorted(others)
    assert min(when for when, _ in asked) > SILENT - 2
    assert max(sum(start <= when < start + TURN for when, _ in asked) for start, _ in asked) == FEW


def test_a_proven_node_is_asked_at_its_time_whatever_others_say() -> None:
    """It says Wait, and 30 others nonsense, all at once."""
    host = with_proven_node(*(f"other {number}" for number in range(30)))
    host.answers = lambda node, request: Wait() if node == "own" else Ready()
    host.run(100, host.asker.put_off)
    own = [when for when, node in host.sent if node == "own"]
    assert max(after - before for before, after in pairwise(own)) <= TURN
    others = Counter(node for _, node in host.sent if node != "own")
    assert len(others) == 30
    assert max(others.values()) < 100 / TURN + 6


def test_whose_proof_came_last_is_the_clients_node() -> None:
    """A request that was on the way for long is refused, since another node has gone on: no reason to give up."""
    host = with_proven_node("new")
    host.answers = lambda node, request: Ready() if node == "new" else None
    host.run(int(SILENT) + 3, host.asker.trust)
    assert host.asker.is_proven("new")
    assert not host.asker.is_proven("own")
    host.late("own", Refused(check="", reason="come too late"))
    host.step(lambda asked: host.asker.refused(asked) if isinstance(asked.reply, Refused) else host.asker.trust(asked))
    assert not host.asker.has_given_up(1)
    assert host.asker.is_proven("new")


def test_a_client_is_given_up_by_its_proven_node_alone_and_taken_back_by_a_proof_alone() -> None:
    host = with_proven_node("liar", "new")
    host.answers = lambda node, request: Refused(check="", reason="no") if node != "new" else None
    host.run(30, host.asker.refused)
    assert host.asker.has_given_up(1)
    assert [node for _, node in host.sent].count("own") == 3  # it may have got something else than was sent
    host.late("new", Ready())
    host.step(host.asker.trust)
    assert not host.asker.has_given_up(1)
    assert host.asker.is_proven("new")


def test_what_a_node_says_is_told_once_and_not_without_end() -> None:
    host = with_proven_node()
    host.asker.forgive()
    host.told.clear()
    for number in range(100):
        host.asker.tell_of("own", f"{number % 50}\x1b[2J" + "x" * 1000)
    assert len(set(host.told)) == len(host.told) == 20
    assert all(words.isprintable() and len(words) < 600 for words in host.told)
    host.asker.forgive()
    host.asker.tell_of("own", "another run")
    assert host.told[-1] == "Node own: another run"


def test_nothing_is_kept_of_nodes_that_are_gone() -> None:
    host = with_proven_node()
    host.answers = lambda node, request: None if node == "own" else Ready()
    host.run(int(SILENT))
    for number in range(200):
        host.names = ["own", f"passer-by {number}"]
        host.run(3, host.asker.put_off)
    assert len(host.asker._lines) < 5
    assert sum(map(len, host.asker._claims.values())) < 5
