"""The coordinating end of carried sessions: takes clients' requests to an aggregator and brings the answers, and can
be as unreliable as an engine.
"""

import http.client
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from light_session import take_part_as

from collabsecure.integrations.exchange import Answer, Call, Carry, Ready, Refused, Wait, decode_reply, encode
from collabsecure_cli.carried import OVER, CarriedConnection, Mailbox

End = Callable[[bytes], bytes]  # a node's: request in, reply out


class Gone(Exception):
    """There is no daemon at the moment."""


@dataclass(kw_only=True)
class Carrier:
    """Carries for one client until it is over. `deliver` is how a request reaches the node: maybe twice, maybe not."""

    url: str
    transcript: bytes
    end: End
    deliver: Callable[[End, bytes, int], bytes] = lambda end, request, _number: end(request)
    restarts: Callable[[int], bool] = lambda _number: False  # whether it forgets all before this round
    tamper: Callable[[Call, Answer], Answer] = lambda _call, answer: answer
    sent: dict = field(default_factory=dict)  # an upload's place → its bytes, which never change
    rounds: list = field(default_factory=list)  # the calls of each
    stopped: threading.Event = field(default_factory=threading.Event)

    def run(self):
        number, answers, round_ = 0, (), 0
        while not self.stopped.is_set():
            if self.restarts(round_):
                number, answers = 0, ()
            round_ += 1
            try:
                request = encode(Carry(transcript=self.transcript, number=number, answers=answers))
                reply = decode_reply(self.deliver(self.end, request, number))
            except Gone:
                time.sleep(0.01)
                continue
            match reply:
                case Ready(payloads=payloads):
                    calls = [Call.decode(payload) for payload in payloads]
                    self.rounds.append(calls)
                    answers = tuple(self.tamper(call, self.ask(call)) for call in calls)
                    number += 1
                case Refused(check=check):
                    assert check == OVER, reply
                    return
                case Wait():
                    pass

    def ask(self, call):
        """Make a client's request."""
        if call.method == "PATCH":
            place = call.target, dict(call.headers)["Upload-Offset"]
            assert self.sent.setdefault(place, call.body) == call.body, f"other bytes at {place}"
        address = urlsplit(self.url)
        connection = http.client.HTTPConnection(address.hostname, address.port, timeout=40)
        try:
            connection.request(call.method, call.target, call.body or None, dict(call.headers))
            response = connection.getresponse()
            body = response.read()
        except OSError:
            return Answer(number=call.number, status=503)
        finally:
            connection.close()
        return Answer(number=call.number, status=response.status, headers=tuple(response.getheaders()), body=body)


def carried(light, client, path, mailbox, *, patience=30.0, shard_bytes=1 << 12, **how):
    """One client's part by way of a mailbox, to the end."""

    def connect(tell):
        return CarriedConnection(
            mailbox, light.session, light.identity(client), patience=patience, tell=tell, shard_bytes=shard_bytes
        )

    outcome = take_part_as(light, client, "", path, connect=connect, **how)
    mailbox.end("done", 10.0)
    return outcome


def mailbox_of(light, client):
    return Mailbox(light.session, light.identity(client), wait_seconds=0.2)


@contextmanager
def carrying(*carriers):
    """Let them carry, each in a thread, until they are over or the block ends."""
    with ThreadPoolExecutor(len(carriers)) as pool:
        running = [pool.submit(carrier.run) for carrier in carriers]
        try:
            yield
        finally:
            for carrier in carriers:
                carrier.stopped.set()
        for run in running:
            run.result()


def take_part_carried(light, url, path, **how):
    """All clients at once; their outcomes, and who carried for them."""
    clients = [int(client) for client in light.session.client_ids]
    mailboxes = {client: mailbox_of(light, client) for client in clients}
    carriers = {
        client: Carrier(url=url, transcript=light.session.transcript, end=mailboxes[client].answer, **how)
        for client in clients
    }
    with carrying(*carriers.values()), ThreadPoolExecutor(len(clients)) as pool:
        parts = {
            client: pool.submit(carried, light, client, path / f"client-{client}", mailboxes[client])
            for client in clients
        }
        return {client: part.result() for client, part in parts.items()}, carriers
