"""A server app that has the session's server key, and tries to see one client's input; it prints what it is told."""

from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from collabsecure.integrations.exchange import Hello, Messages, Ready, Shard, decode_reply, encode
from collabsecure.integrations.flower import GridHost
from collabsecure_cli.identity import load_identity
from collabsecure_cli.session import load_session
from collabsecure_protocols import SERVER, SendToClient, Server
from collabsecure_protocols.envelope import MessageType, seal
from collabsecure_protocols.keys import SIGNATURE_BYTES
from collabsecure_protocols.messages import Confirmations, SurvivorSet

app = ServerApp()
EVERYBODY, WITHOUT_THE_LAST = (1, 2, 3, 4), (1, 2, 3)
DIFFERENT = {1: EVERYBODY, 2: EVERYBODY, 3: WITHOUT_THE_LAST, 4: (1, 2, 4)}


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Bring everybody to where their input is uploaded; then cheat."""
    config = context.run_config
    room = Room(grid, load_session(Path(config["session"])), load_identity(Path(config["key"])))
    room.set_up()
    room.collect()
    if config["attack"] == "survivors":
        signed = room.sign(DIFFERENT)
        room.say("another set", room.tell({client: room.confirmations(signed) for client in EVERYBODY}))
    else:  # the shares for the set with client 4, and then those for the set without
        signed = room.sign(dict.fromkeys(EVERYBODY, EVERYBODY))
        room.say("first shares", room.tell({client: room.confirmations(signed) for client in EVERYBODY}))
        room.say("second set", room.tell({client: room.survivors(WITHOUT_THE_LAST) for client in WITHOUT_THE_LAST}))
        again = [each for each in signed if each[0] < 4]
        room.say("second shares", room.tell({client: room.confirmations(again) for client in WITHOUT_THE_LAST}))
        room.say("second input", room.shards())
    print("The attack is over", flush=True)  # noqa: T201


class Room:
    """All clients at once: each is asked, and all are waited for."""

    def __init__(self, grid, session, identity):
        self.host, self.session, self.identity = GridHost(grid, seconds=60.0), session, identity
        self.server, self.told = Server(session, identity), {}
        replies = self.ask(dict.fromkeys(self.host.nodes(), Hello(transcript=session.transcript)))
        self.nodes = {int.from_bytes(reply.payloads[0]): node for node, reply in replies.items()}

    def ask(self, requests):
        """Replies by node."""
        missing, replies = set(requests), {}
        for node, request in requests.items():
            self.host.send(node, encode(request))
        while missing:
            for arrived in self.host.receive(10.0):
                if arrived.reply is None:
                    self.host.send(arrived.node, encode(requests[arrived.node]))
                else:
                    replies[arrived.node] = decode_reply(arrived.reply)
                    missing.discard(arrived.node)
        return replies

    def ask_clients(self, requests):
        """Replies by client."""
        replies = self.ask({self.nodes[client]: request for client, request in requests.items()})
        return {client: replies[self.nodes[client]] for client in requests}

    def tell(self, messages):
        """One more message to each client; its reply. What is refused does not count."""
        transcript = self.session.transcript
        requests = {
            client: Messages(
                transcript=transcript,
                first=self.told.get(client, 0),
                payloads=() if payload is None else (payload,),
            )
            for client, payload in messages.items()
        }
        replies = self.ask_clients(requests)
        for client, reply in replies.items():
            if isinstance(reply, Ready):
                self.told[client] = self.told.get(client, 0) + len(requests[client].payloads)
        return replies

    def deliver(self, events):
        """Until nobody has more to say."""
        while mail := {event.client_id: event.payload for event in events if isinstance(event, SendToClient)}:
            events = self.hand_in(self.tell(mail))

    def hand_in(self, replies):
        return [
            event
            for client, reply in replies.items()
            for payload in reply.payloads
            for event in self.server.receive(client, payload)
        ]

    def set_up(self):
        self.deliver(self.hand_in(self.tell(dict.fromkeys(EVERYBODY))))

    def collect(self):
        self.deliver(self.server.start_sum())
        self.shards()

    def shards(self):
        shard = Shard(transcript=self.session.transcript, sum_index=0, first=0, count=100)
        return self.ask_clients(dict.fromkeys(EVERYBODY, shard))

    def forged(self, kind, body):
        return seal(self.session, self.identity, kind, SERVER, body)

    def survivors(self, members):
        return self.forged(MessageType.SURVIVORS, SurvivorSet(sum_index=0, survivors=members).encode(self.session))

    def sign(self, sets):
        """Every client's signature under the set that it is told."""
        replies = self.tell({client: self.survivors(members) for client, members in sets.items()})
        self.say("sets", replies)
        return [(client, reply.payloads[0][-SIGNATURE_BYTES:]) for client, reply in replies.items()]

    def confirmations(self, signed):
        return self.forged(MessageType.CONFIRMATIONS, Confirmations(sum_index=0, signatures=tuple(signed)).encode())

    def say(self, what, replies):
        for client, reply in sorted(replies.items()):
            told = f"{len(reply.payloads)} messages" if isinstance(reply, Ready) else f"refused {reply.check}"
            print(f"{what}, client {client}: {told}", flush=True)  # noqa: T201
