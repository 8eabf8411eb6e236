"""A coordinator one step at a time, honest or not: it has the server's key, and nodes to ask."""

from collections.abc import Sequence

from memory_host import identity, made_values

from collabsecure.integrations.exchange import Hello, Messages, Ready, Reply, Request, Shard, decode_reply, encode
from collabsecure.integrations.node import SumNode
from collabsecure_protocols import SERVER, SendToClient, Server, Session
from collabsecure_protocols.envelope import MessageType, seal
from collabsecure_protocols.messages import SurvivorSet

ALL_CHUNKS = 1 << 20


class Coordinating:
    """Nodes by client number, and how many messages each has had."""

    def __init__(self, session: Session, nodes: dict[int, SumNode]) -> None:
        self.session, self.nodes = session, nodes
        self.server = Server(session, identity(0))
        self.told = dict.fromkeys(nodes, 0)

    def ask(self, client: int, request: Request) -> Reply:
        return decode_reply(self.nodes[client].answer(encode(request)))

    def hello(self, client: int) -> Reply:
        return self.ask(client, Hello(transcript=self.session.transcript))

    def tell(self, client: int, *payloads: bytes) -> Reply:
        """The next messages; those that are refused do not count."""
        request = Messages(transcript=self.session.transcript, first=self.told[client], payloads=payloads)
        reply = self.ask(client, request)
        if isinstance(reply, Ready):
            self.told[client] += len(payloads)
        return reply

    def shard(self, client: int, sum_index: int = 0, *, first: int = 0, count: int = ALL_CHUNKS) -> Reply:
        return self.ask(
            client, Shard(transcript=self.session.transcript, sum_index=sum_index, first=first, count=count)
        )

    def deliver(self, events: Sequence[object], *, without: Sequence[int] = ()) -> list[object]:
        """Take the server's messages to the nodes and their answers back, until nobody has more to say."""
        queue, seen = list(events), []
        while queue:
            event = queue.pop(0)
            seen.append(event)
            if isinstance(event, SendToClient) and event.client_id not in without:
                queue += self.hand_in(event.client_id, self.tell(event.client_id, event.payload))
        return seen

    def hand_in(self, client: int, reply: Reply) -> list[object]:
        """A node's answer, to the server."""
        assert isinstance(reply, Ready), reply
        return [event for payload in reply.payloads for event in self.server.receive(client, payload)]

    def set_up(self) -> None:
        for client in self.nodes:
            self.deliver(self.hand_in(client, self.tell(client)))

    def start_sum(self, *, link: bytes = bytes(32)) -> None:
        self.deliver(self.server.start_sum(link=link))

    def give(self, client: int, sum_index: int = 0, *, link: bytes = bytes(32)) -> None:
        name = self.session.sums[sum_index].name
        self.nodes[client].give(name, made_values(self.session, client, name), link=link)

    def upload(self, client: int, sum_index: int = 0) -> None:
        self.give(client, sum_index)
        self.deliver(self.hand_in(client, self.shard(client, sum_index)))

    def whole_sum(self, sum_index: int = 0) -> None:
        self.start_sum()
        for client in self.nodes:
            self.upload(client, sum_index)

    def forged(self, kind: MessageType, body: bytes) -> bytes:
        """Whatever the server's key can sign."""
        return seal(self.session, identity(0), kind, SERVER, body)

    def survivors(self, *clients: int, sum_index: int = 0, kind: MessageType = MessageType.SURVIVORS) -> bytes:
        return self.forged(kind, SurvivorSet(sum_index=sum_index, survivors=clients).encode(self.session))
