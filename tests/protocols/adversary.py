"""A malicious server: it has the server's signing key, runs no honest code and writes down all that leaves a client.

`Attacker` drives real clients one message at a time. Every message that a client refuses is checked at once for P8: the
client's saved state must be the same bytes as before. Clients in `corrupt` work for the attacker, who reads their state
and signs with their keys.
"""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from harness import LENIENT, identity, make_session, make_values, seeded

from collabsecure_protocols import Client, Ledger, NeedInput, Policy, ProtocolError, SendToServer, Session
from collabsecure_protocols.client_state import NO_LINK
from collabsecure_protocols.envelope import (
    CIPHERTEXT_BYTES,
    HEADER_BYTES,
    MessageType,
    header_bytes,
    seal,
    signed_message,
)
from collabsecure_protocols.graph import neighbors_of
from collabsecure_protocols.keys import SIGNATURE_BYTES
from collabsecure_protocols.messages import (
    AdvertiseKeys,
    Confirmations,
    ConsistencyCheck,
    KeyDirectory,
    SealedShares,
    ShareKind,
    SignedAdvert,
    StartSum,
    SurvivorSet,
    Unmask,
    view_digest,
    write_shares,
)
from collabsecure_protocols.wire import Reader, write_bitmap

NOTHING = SealedShares(seed_commitment=bytes(32), key_commitment=bytes(32), ciphertext=bytes(CIPHERTEXT_BYTES))


def body_of(payload: bytes) -> memoryview:
    """A message without its header and signature."""
    return memoryview(payload)[HEADER_BYTES:-SIGNATURE_BYTES]


def kind_of(payload: bytes) -> MessageType:
    return MessageType(payload[1])


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """A message that a client would not take."""

    client: int
    error: ProtocolError

    @property
    def check(self) -> str:
        return str(self.error)[:3]


@dataclass(frozen=True, order=True)
class Shown:
    """One share that one holder has shown to the server."""

    dealer: int
    sum_index: int
    kind: ShareKind
    holder: int
    share: bytes = field(repr=False)


@dataclass(kw_only=True)
class Attacker:
    """The malicious server and the honest clients that it is after."""

    session: Session = field(default_factory=make_session)
    corrupt: Iterable[int] = ()
    policy: Policy = LENIENT
    sent: list[tuple[int, bytes]] = field(default_factory=list)  # by honest clients, in order
    refused: list[Refusal] = field(default_factory=list)
    events: list[tuple[int, object]] = field(default_factory=list)
    adverts: dict[int, SignedAdvert] = field(default_factory=dict)
    told: dict[tuple[int, MessageType], tuple[int, ...]] = field(default_factory=dict)  # U1 and U2, as each was told
    share_bodies: dict[int, bytes] = field(default_factory=dict)
    links: Mapping[int, bytes] = field(default_factory=dict)  # what a client itself knows the sum to follow
    ledgers: Mapping[int, Ledger] = field(default_factory=dict)
    values: Callable = make_values

    def __post_init__(self) -> None:
        self.everybody = tuple(int(number) for number in self.session.client_ids)
        self.clients = {number: self.new_client(number) for number in self.everybody}
        self.corrupt = set(self.corrupt)
        self.honest = tuple(number for number in self.everybody if number not in self.corrupt)

    def new_client(self, number: int) -> Client:
        rng, ledger = seeded(f"client {number}"), self.ledgers.get(number)
        return Client(self.session, identity(number), policy=self.policy, rng=rng, ledger=ledger)

    # What goes out.

    def to(self, number: int, payload: bytes) -> tuple[object, ...]:
        """Deliver one message; what the client answers, its whole upload included, is noted."""
        client = self.clients[number]
        before = client.save()
        try:
            events = client.receive(payload)
        except ProtocolError as error:
            assert client.save() == before, f"P8: {error}"
            self.refused.append(Refusal(client=number, error=error))
            return ()
        for event in events:
            self.events.append((number, event))
            if isinstance(event, SendToServer):
                self.take(number, event.payload)
            if isinstance(event, NeedInput):
                self.upload(number)
        return events

    def upload(self, number: int) -> None:
        client = self.clients[number]
        try:
            values = self.values(self.session, number, client.sum_index)
            for chunk in client.masked_input(values, link=self.links.get(number, NO_LINK)):
                self.take(number, bytes(chunk))
        except ProtocolError as error:
            self.refused.append(Refusal(client=number, error=error))

    def take(self, number: int, payload: bytes) -> None:
        if number in self.honest:
            self.sent.append((number, payload))
        if kind_of(payload) is MessageType.ADVERTISE_KEYS:
            body, signature = bytes(body_of(payload)), payload[-SIGNATURE_BYTES:]
            self.adverts[number] = SignedAdvert(client_id=number, body=body, signature=signature)
        if kind_of(payload) is MessageType.SHARE_KEYS:
            self.share_bodies[number] = bytes(body_of(payload))

    def seal(self, kind: MessageType, body: bytes) -> bytes:
        return seal(self.session, identity("server"), kind, 0, body)

    def to_all(self, make: Callable[[int], bytes], clients: Iterable[int] | None = None) -> None:
        for number in clients or self.everybody:
            self.to(number, make(number))

    # The messages, honest unless told otherwise.

    def directory(
        self,
        number: int,
        *,
        advertisers: Iterable[int] | None = None,
        adverts: Mapping[int, SignedAdvert] | None = None,
    ) -> bytes:
        shown = {**self.adverts, **(adverts or {})}
        members = tuple(sorted(self.adverts if advertisers is None else advertisers))
        self.told[number, MessageType.KEY_DIRECTORY] = members
        peers = {peer for index in range(len(self.session.sums)) for peer in self.neighbors(index, number)}
        listed = tuple(shown[peer] for peer in sorted(peers & set(members) & set(shown)))
        return self.seal(
            MessageType.KEY_DIRECTORY, KeyDirectory(advertisers=members, adverts=listed).encode(self.session)
        )

    def deliver(self, number: int, *, participants: Iterable[int] | None = None) -> bytes:
        members = tuple(sorted(self.share_bodies if participants is None else participants))
        self.told[number, MessageType.DELIVER_SHARES] = members
        entries = [
            self.entry(index, dealer, number)
            for index in range(len(self.session.sums))
            for dealer in self.neighbors(index, number)
            if dealer in members
        ]
        body = write_bitmap(members, self.session.num_clients) + write_shares(entries)
        return self.seal(MessageType.DELIVER_SHARES, body)

    def start_sum(self, index: int, link: bytes = NO_LINK) -> bytes:
        return self.seal(MessageType.START_SUM, StartSum(sum_index=index, link=link).encode())

    def survivors(self, index: int, members: Iterable[int] | None = None) -> bytes:
        return self._members(MessageType.SURVIVORS, index, members)

    def finish(self, index: int, members: Iterable[int] | None = None) -> bytes:
        return self._members(MessageType.FINISH_SUM, index, members)

    def _members(self, kind: MessageType, index: int, members: Iterable[int] | None) -> bytes:
        survivors = tuple(sorted(self.everybody if members is None else members))
        return self.seal(kind, SurvivorSet(sum_index=index, survivors=survivors).encode(self.session))

    def confirmations(self, index: int, signatures: Mapping[int, bytes] | Iterable[tuple[int, bytes]]) -> bytes:
        pairs = tuple(sorted(signatures.items()) if isinstance(signatures, Mapping) else signatures)
        return self.seal(MessageType.CONFIRMATIONS, Confirmations(sum_index=index, signatures=pairs).encode())

    # What came back.

    def neighbors(self, index: int, number: int) -> tuple[int, ...]:
        return neighbors_of(self.session, index, number)

    def entry(self, index: int, dealer: int, holder: int) -> SealedShares:
        """What a dealer has dealt to one holder in one sum; zeros if it has dealt nothing."""
        if dealer not in self.share_bodies or holder not in self.told[dealer, MessageType.KEY_DIRECTORY]:
            return NOTHING
        reader, found = Reader(self.share_bodies[dealer]), None
        for at in range(index + 1):
            known = set(self.told[dealer, MessageType.KEY_DIRECTORY]) & {dealer, *self.neighbors(at, dealer)}
            for member in sorted(known):
                read = SealedShares.read(reader, own=member == dealer)
                found = read if (at, member) == (index, holder) else found
        return found

    def signatures(self, index: int) -> dict[int, bytes]:
        """Each honest client's signature of the survivor set that it was told."""
        return {
            number: payload[-SIGNATURE_BYTES:]
            for number, payload in self.sent
            if kind_of(payload) is MessageType.CONSISTENCY_CHECK
            and ConsistencyCheck.decode(body_of(payload)).sum_index == index
        }

    def sign_view(self, number: int, index: int, members: Iterable[int], *, signer: object = None) -> bytes:
        """A signature in a client's name of whatever the attacker likes, with its own key or that of `signer`."""
        view = view_digest(self.session, participants=self.everybody, survivors=members, sum_index=index, link=NO_LINK)
        header = header_bytes(self.session, MessageType.CONSISTENCY_CHECK, number)
        body = hashlib.sha256(ConsistencyCheck(sum_index=index, view=view).encode()).digest()
        return identity(number if signer is None else signer).sign(signed_message(header, body))

    def advert(self, number: int, index: int) -> tuple[bytes, bytes]:
        """A client's mask key and seed commitment of one sum."""
        keys = AdvertiseKeys.decode(self.adverts[number].body, self.session)
        return keys.mask_keys[index], keys.seed_commitments[index]

    def shown(self) -> set[Shown]:
        """Every share that honest clients have shown."""
        found = set()
        for holder, payload in self.sent:
            if kind_of(payload) is MessageType.UNMASK:
                index = int.from_bytes(body_of(payload)[:2], "big")
                known = set(self.told[holder, MessageType.DELIVER_SHARES])
                dealers = sorted(known & {holder, *self.neighbors(index, holder)})
                message = Unmask.decode(body_of(payload), len(dealers))
                for dealer, (kind, share) in zip(dealers, message.shares, strict=True):
                    if kind is not ShareKind.ABSENT:
                        found.add(Shown(dealer, index, kind, holder, share))
        return found

    def opened(self) -> dict[tuple[int, int], set[ShareKind]]:
        """Which secrets of which honest (dealer, sum) the attacker could open, its corrupt clients' shares counted."""
        holders = defaultdict(set)
        for share in self.shown():
            holders[share.dealer, share.sum_index, share.kind].add(share.holder)
        found = defaultdict(set)
        for (dealer, index, kind), members in holders.items():
            if dealer in self.honest and len(members | self.corrupt) >= self.session.threshold:
                found[dealer, index].add(kind)
        return dict(found)

    # The honest course of a session, up to some point.

    def advertise(self) -> "Attacker":
        for number, client in self.clients.items():
            for event in client.start():
                self.take(number, event.payload)
        return self

    def share_keys(self) -> "Attacker":
        self.advertise().to_all(self.directory)
        return self

    def set_up(self) -> "Attacker":
        self.share_keys().to_all(self.deliver)
        return self

    def collect(self, index: int = 0, link: bytes = NO_LINK) -> "Attacker":
        """One sum's masked inputs; the set-up first, where it has not been."""
        if not self.share_bodies:
            self.set_up()
        self.to_all(lambda _: self.start_sum(index, link))
        return self

    def confirm(self, index: int = 0) -> "Attacker":
        self.collect(index).to_all(lambda _: self.survivors(index))
        return self

    def unmask(self, index: int = 0) -> "Attacker":
        self.confirm(index)
        signatures = self.signatures(index)
        self.to_all(lambda _: self.confirmations(index, signatures), self.honest)
        return self

    def complete(self, index: int = 0) -> "Attacker":
        self.unmask(index).to_all(lambda _: self.finish(index))
        return self
