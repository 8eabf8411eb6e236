"""Every attack that the protocol's tests have for a malicious server, against nodes that answer over an engine.

Whoever writes the coordinating end's code can do no more than such a server: it has the server's key, and asks what it
likes in any order.
"""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "protocols"))  # where the attacks are

import adversary
import attacks_on_sums  # enters its scenarios in the list, too
from adversary import Attacker
from attacks import ATTACKS
from harness import identity, seeded

from collabsecure.integrations.exchange import Messages, Ready, Reply, Request, Shard, decode_reply, encode
from collabsecure.integrations.node import SumNode
from collabsecure.integrations.stores import MemoryStore
from collabsecure_protocols import ClientState, NeedInput, Policy, RemoteProtocolError, SendToServer, Session
from collabsecure_protocols.client_state import NO_LINK

# Of what a node remembers, and not of what it is asked: test_node has it.
ELSEWHERE = "retries an opened sum with one client fewer, in a new session"


class NodeAsClient:
    """A node with what the attacker's code asks of a protocol's client; every request comes to a new process."""

    def __init__(self, session: Session, number: int, policy: Policy) -> None:
        self.session, self.client_id, self.store, self._policy = session, number, MemoryStore(), policy
        self._told = 0

    def _node(self) -> SumNode:
        rng = seeded(f"client {self.client_id}")
        return SumNode(self.session, identity(self.client_id), policy=self._policy, store=self.store, rng=rng)

    def _ask(self, request: Request) -> Reply:
        reply = decode_reply(self._node().answer(encode(request)))
        if not isinstance(reply, Ready):
            raise RemoteProtocolError(reply.reason.removeprefix(f"{reply.check}: "), check=reply.check)
        return reply

    def _tell(self, *payloads: bytes) -> tuple[SendToServer, ...]:
        reply = self._ask(Messages(transcript=self.session.transcript, first=self._told, payloads=payloads))
        self._told += len(payloads)
        return tuple(SendToServer(payload=payload) for payload in reply.payloads)

    def start(self) -> tuple[SendToServer, ...]:
        return self._tell()

    def receive(self, payload: bytes) -> tuple[object, ...]:
        before = self._node()
        sent, after = self._tell(payload), self._node()
        index = after._client.sum_index
        starts = after.state is ClientState.CONTRIBUTING and index > before._client.sum_index
        return (*sent, NeedInput(sum_index=index, link=NO_LINK)) if starts else sent

    def masked_input(self, values: dict, *, link: bytes) -> tuple[bytes, ...]:
        spec = self.session.sums[self.sum_index]
        self._node().give(spec.name, values, link=link)
        request = Shard(transcript=self.session.transcript, sum_index=self.sum_index, first=0, count=spec.num_chunks)
        return self._ask(request).payloads

    def save(self) -> dict[str, bytes]:
        return dict(self.store._files)

    @property
    def sum_index(self) -> int:
        return self._node()._client.sum_index


@pytest.mark.parametrize("attack", [attack for attack in ATTACKS if attack.name != ELSEWHERE], ids=str)
def test_attack_is_refused_and_no_second_secret_is_shown(attack: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Attacker, "new_client", lambda a, number: NodeAsClient(a.session, number, a.policy))
    monkeypatch.setattr(attacks_on_sums, "_restart", lambda attacker: attacker)  # every request is a restart here
    attacker = attack.run()
    assert all(isinstance(client, NodeAsClient) for client in attacker.clients.values())
    assert attack.check in {refusal.check for refusal in attacker.refused}, attacker.refused
    shown = {number for number, payload in attacker.sent if adversary.kind_of(payload) is adversary.MessageType.UNMASK}
    assert bool(shown) == attack.shows
    kinds = {}
    for share in attacker.shown():
        assert kinds.setdefault((share.holder, share.dealer, share.sum_index), share.kind) is share.kind
    assert all(len(opened) == 1 for opened in attacker.opened().values())
