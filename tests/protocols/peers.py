"""Malicious clients among honest ones, against an honest server.

A `Peers` network runs a whole session. The peers in `evil` send what `forge` makes of each of their messages, signed
with their own keys; what the server refuses is noted, and its saved state must be the same bytes as before (P8).
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from unittest import mock

from adversary import body_of, kind_of
from harness import Network, identity

from collabsecure_protocols import Aborted, Client, RemoteProtocolError, Session, dealing
from collabsecure_protocols.envelope import MessageType, seal
from collabsecure_protocols.events import ServerEvent
from collabsecure_protocols.messages import AdvertiseKeys, write_shares

Forge = Callable[[Client, MessageType, bytes], Iterable[bytes]]


def honest(client: Client, kind: MessageType, body: bytes) -> Iterable[bytes]:
    """The message as it was."""
    return (signed(client, kind, body),)


def signed(client: Client, kind: MessageType, body: bytes, *, session: Session | None = None, name: int = 0) -> bytes:
    """A message with the client's own signature; in another session, or in another's name, if asked for."""
    return seal(session or client.session, identity(client.client_id), kind, name or client.client_id, body)


@dataclass(kw_only=True)
class Peers(Network):
    """A session with some evil clients."""

    evil: Sequence[int] = (3,)
    forge: Forge = honest
    refused: list[RemoteProtocolError] = field(default_factory=list)

    def submit(self, number: int, payload: bytes) -> Sequence[ServerEvent]:
        payloads: Iterable[bytes] = (payload,)
        if number in self.evil:
            payloads = self.forge(self.clients[number], kind_of(payload), bytes(body_of(payload)))
        events: list[ServerEvent] = []
        for each in payloads:
            before = self.server.save()
            try:
                events += self.server.receive(number, each)
            except RemoteProtocolError as error:
                assert self.server.save() == before, f"P8: {error}"
                self.refused.append(error)
        return events

    @property
    def end(self) -> Aborted:
        assert self.aborted is not None
        return self.aborted

    def assert_exact(self) -> None:
        """P2: every sum that finished is the oracle's over its survivors, and all finished."""
        assert self.aborted is None, self.aborted
        finished = [event.survivors for number, event in self.events if not number and hasattr(event, "survivors")]
        assert len(self.totals) == len(finished) == len(self.session.sums)
        for index, survivors in enumerate(finished):
            assert self.totals[index] == self.expected(index, survivors)


def redeal(client: Client, change: Callable[[int, int, int, bytes], bytes]) -> bytes:
    """A ShareKeys body with other shares, rightly encrypted and committed to: `change(sum, kind, holder, share)`."""
    session, data, owner = client.session, client._data, client.client_id
    channels = {}
    for advert in data.adverts:
        key = AdvertiseKeys.decode(advert.body, session).channel_key
        channels[advert.client_id] = dealing.channel_ciphers(session, data.channel, owner, advert.client_id, key)
    entries, split = [], dealing.split
    for index, secret in enumerate(data.sum_secrets):
        holders = sorted({owner, *data.advertisers} & {owner, *client._me.neighbors[index]})
        kinds = iter((1, 2))

        def crooked(*arguments: object, index=index, kinds=kinds) -> dict[int, bytes]:
            kind = next(kinds)
            return {holder: change(index, kind, holder, share) for holder, share in split(*arguments).items()}

        with mock.patch.object(dealing, "split", crooked):
            entries += dealing.deal(session, index, owner, secret, holders, channels)[0]
    return write_shares(entries)
