"""What the server checks before it changes anything, phase by phase. The numbers are secagg.md's checks.

`check` returns the change as a function, to be called once nothing can go wrong any more; it says whether the client
has now answered.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass, replace

from .dealing import share_commitment
from .envelope import CHUNK_HEADER_BYTES, CIPHERTEXT_BYTES, HEADER_BYTES, LINK_BYTES, Envelope, MessageType
from .errors import CiphertextRefused, ClientId, LocalProtocolError, RemoteProtocolError
from .keys import KEY_BYTES, is_low_order
from .messages import (
    AbortReason,
    AdvertiseKeys,
    ConsistencyCheck,
    SealedShares,
    ShareKind,
    SignedAdvert,
    Unmask,
)
from .policy import corruption_bound
from .recovery import SumView
from .server_state import RunningSum, ServerData
from .session import Session
from .shamir import is_element
from .states import ServerState
from .wire import Malformed, Reader, write_bitmap

_OWN_ENTRY = 2 * KEY_BYTES
_ENTRY = 2 * KEY_BYTES + CIPHERTEXT_BYTES


def refuse(client_id: int, check: str, text: str) -> RemoteProtocolError:
    """The error for a check that a client failed."""
    return RemoteProtocolError(f"{text} (client {client_id})", check=check, culprits=(ClientId(client_id),))


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """The server's data with the session that it belongs to."""

    session: Session
    data: ServerData
    graph: tuple[
        Mapping[int, tuple[int, ...]], ...
    ]  # by sum: client → neighbours, that advertised keys once it is known
    waiting: Set[int]  # the clients from which the phase still takes a message

    @property
    def running(self) -> RunningSum:
        """The sum in progress."""
        if self.data.running is None:
            raise LocalProtocolError("no sum has started")
        return self.data.running

    def holders(self, number: int, dealer: int) -> list[int]:
        """Those to whom a dealer has dealt in one sum, itself included, ascending."""
        return sorted((dealer, *self.graph[number][dealer]))

    def sealed(self, number: int, dealer: int, holder: int) -> SealedShares:
        """One entry of a dealer's ShareKeys body."""
        start = 0
        for earlier in range(number):
            start += _ENTRY * len(self.graph[earlier][dealer]) + _OWN_ENTRY
        start += _ENTRY * bisect_left(self.graph[number][dealer], holder) + _OWN_ENTRY * (dealer < holder)
        entry = memoryview(self.data.share_bodies[dealer])[start:]
        return SealedShares.read(Reader(entry[: _OWN_ENTRY if dealer == holder else _ENTRY]), own=dealer == holder)

    def dealers(self, client_id: int) -> tuple[int, ...]:
        """Those whose shares a client holds in the running sum, itself included, ascending."""
        peers = self.graph[self.running.index][client_id]
        return tuple(sorted((client_id, *(peer for peer in peers if peer in self.data.share_bodies))))

    def adverts(self) -> dict[int, AdvertiseKeys]:
        """Everybody's keys."""
        return {client: AdvertiseKeys.decode(signed.body, self.session) for client, signed in self.data.adverts.items()}

    def recovery(self) -> SumView:
        """The running sum as `recovery` sees it."""
        participants = tuple(sorted(self.data.share_bodies))
        return SumView(
            session=self.session,
            sum_index=self.running.index,
            link=self.running.link,
            participants=participants,
            participants_bitmap=write_bitmap(participants, self.session.num_clients),
            survivors=self.running.survivors,
            neighbors=self.graph[self.running.index],
        )


@contextmanager
def malformed_is_refused(client_id: int, envelope: Envelope) -> Iterator[None]:
    """V07."""
    try:
        yield
    except Malformed as error:
        raise refuse(client_id, "V07", f"{envelope.type.name}: {error}") from error


def check(
    view: View,
    client_id: int,
    envelope: Envelope,
    payload: bytes | bytearray | memoryview,
    *,
    chunk: int | None = None,
) -> Callable[[], bool]:
    """All checks of a message in its phase; what is returned makes the change and says whether that was all.

    `chunk` is the number that masked input must have where it is not to be added yet; without it, the next one's.
    """
    if client_id not in view.waiting:
        raise refuse(client_id, "V08", f"{envelope.type.name} from a client that has answered or is out of this phase")
    envelope.verify(view.session)
    if envelope.type is MessageType.MASKED_INPUT:
        return _check_chunk(view, client_id, envelope, payload, chunk)
    return {
        MessageType.ADVERTISE_KEYS: _check_advert,
        MessageType.SHARE_KEYS: _check_shares,
        MessageType.CONSISTENCY_CHECK: _check_confirmation,
        MessageType.UNMASK: _check_unmask,
    }[envelope.type](view, client_id, envelope)


def _check_advert(view: View, client_id: int, envelope: Envelope) -> Callable[[], bool]:
    advert = AdvertiseKeys.decode(envelope.body, view.session)
    if any(is_low_order(key) for key in (advert.channel_key, *advert.mask_keys)):
        raise refuse(client_id, "V10", "a key of low order")
    signed = SignedAdvert(client_id=ClientId(client_id), body=bytes(envelope.body), signature=envelope.signature)

    def accept() -> bool:
        view.data.adverts[client_id] = signed
        return True

    return accept


def _check_shares(view: View, client_id: int, envelope: Envelope) -> Callable[[], bool]:
    expected = sum(_ENTRY * len(view.graph[number][client_id]) + _OWN_ENTRY for number in range(len(view.session.sums)))
    if len(envelope.body) != expected:
        raise Malformed(f"{len(envelope.body)} bytes of shares, expected {expected}")
    body = bytes(envelope.body)

    def accept() -> bool:
        view.data.share_bodies[client_id] = body
        return True

    return accept


def _check_chunk(
    view: View,
    client_id: int,
    envelope: Envelope,
    payload: bytes | bytearray | memoryview,
    expected: int | None,
) -> Callable[[], bool]:
    running = view.running
    data = Reader(envelope.body[:CHUNK_HEADER_BYTES])
    sum_index, index, link = data.u16(), data.u32(), data.raw(LINK_BYTES)
    expected = running.next_chunk[client_id] if expected is None else expected
    if sum_index != running.index:
        raise refuse(client_id, "V20", f"masked input of sum {sum_index} during sum {running.index}")
    if link != running.link:
        raise refuse(
            client_id, "V21", f"masked input bound to {link.hex()[:16]}…, the sum to {running.link.hex()[:16]}…"
        )
    if index != expected:
        raise refuse(client_id, "V22", f"chunk {index} where chunk {expected} is next")
    spec = view.session.sums[sum_index]
    chunk = spec.chunk(index)
    length = len(envelope.body) - CHUNK_HEADER_BYTES
    if length != view.session.chunk_bytes(spec, chunk):
        wanted = view.session.chunk_bytes(spec, chunk)
        raise refuse(client_id, "V22", f"chunk {index} has {length} bytes, expected {wanted}")
    form = view.session.form(spec.tensors[chunk.tensor])
    try:
        add = form.adding(payload, HEADER_BYTES + CHUNK_HEADER_BYTES, chunk.length)
    except CiphertextRefused as error:
        raise refuse(client_id, "V40", f"chunk {index}: {error}") from error
    total = running.totals[chunk.tensor][form.place(chunk)]

    def accept() -> bool:
        add(total)
        running.next_chunk[client_id] = index + 1
        return index + 1 == spec.num_chunks

    return accept


def _check_confirmation(view: View, client_id: int, envelope: Envelope) -> Callable[[], bool]:
    message, running = ConsistencyCheck.decode(envelope.body), view.running
    if message.sum_index != running.index:
        raise refuse(client_id, "V20", f"confirmation of sum {message.sum_index} during sum {running.index}")
    if message.view != running.view:
        raise refuse(client_id, "V24", f"a confirmation of another view of sum {running.index} than the server sent")

    def accept() -> bool:
        running.confirmations[client_id] = envelope.signature
        return True

    return accept


def _check_unmask(view: View, client_id: int, envelope: Envelope) -> Callable[[], bool]:
    running, dealers = view.running, view.dealers(client_id)
    message = Unmask.decode(envelope.body, len(dealers))
    if message.sum_index != running.index:
        raise refuse(client_id, "V20", f"shares of sum {message.sum_index} during sum {running.index}")
    alive = set(running.survivors)
    shares: list[tuple[int, bytes]] = []
    for dealer, (kind, share) in zip(dealers, message.shares, strict=True):
        if kind is ShareKind.ABSENT:
            if any(share):
                raise Malformed("an absent share has bytes")
            continue
        expected = ShareKind.SELF_SEED if dealer in alive else ShareKind.MASK_KEY
        if kind is not expected:
            raise refuse(client_id, "V26", f"a {kind.name} share of client {dealer}; expected {expected.name}")
        sealed = view.sealed(running.index, dealer, client_id)
        commitment = sealed.seed_commitment if kind is ShareKind.SELF_SEED else sealed.key_commitment
        found = share_commitment(view.session, running.index, dealer, client_id, kind, share)
        if not is_element(share) or found != commitment:
            raise refuse(client_id, "V27", f"a share of client {dealer} that is not the one dealt")
        shares.append((dealer, share))

    def accept() -> bool:
        running.unmasked_by.add(client_id)
        for dealer, share in shares:
            held = running.revealed.setdefault(dealer, {})
            if len(held) < view.session.threshold:
                held[client_id] = share
        return True

    return accept


def missing(session: Session, data: ServerData) -> set[int]:
    """The clients from which the phase still takes a message."""
    if data.state is ServerState.ADVERTISE_KEYS:
        return {int(client) for client in session.client_ids} - data.adverts.keys()
    if data.state is ServerState.SHARE_KEYS:
        return data.adverts.keys() - data.share_bodies.keys()
    if data.running is None:
        return set()
    if data.state is ServerState.MASKED_INPUT:
        return set(data.share_bodies) - set(uploaded(session, data.running))
    if data.state is ServerState.CONSISTENCY_CHECK:
        return set(data.running.survivors) - set(data.running.confirmations)
    if data.state is ServerState.UNMASK:
        return set(data.running.confirmations) - data.running.unmasked_by
    return set()


def uploaded(session: Session, running: RunningSum) -> tuple[int, ...]:
    """Participants whose masked input is complete."""
    count = session.sums[running.index].num_chunks
    return tuple(sorted(client for client, index in running.next_chunk.items() if index == count))


@dataclass(frozen=True, slots=True, kw_only=True)
class Shortage:
    """Why a phase cannot end well."""

    reason: AbortReason
    found: int
    needed: int
    culprits: tuple[int, ...] = ()


def shortage(view: View) -> Shortage | None:
    """Whether those who answered are too few to go on, in all or around some client."""
    data, session = view.data, view.session
    match data.state:
        case ServerState.ADVERTISE_KEYS:
            return _too_few(view, data.adverts, data.adverts, session.min_survivors, range(len(session.sums)))
        case ServerState.SHARE_KEYS:
            return _too_few(view, data.share_bodies, data.share_bodies, session.min_survivors, range(len(session.sums)))
        case ServerState.MASKED_INPUT:
            count = session.sums[view.running.index].num_chunks
            partial = tuple(sorted(client for client, at in view.running.next_chunk.items() if 0 < at < count))
            done = uploaded(session, view.running)
            if partial:
                return Shortage(
                    reason=AbortReason.PARTIAL_UPLOAD,
                    found=len(done),
                    needed=len(done) + len(partial),
                    culprits=partial,
                )
            dealers = replace(view.recovery(), survivors=done).dealers()
            return _too_few(view, done, dealers, session.min_survivors, [view.running.index])
        case ServerState.CONSISTENCY_CHECK:
            dealers = view.recovery().dealers()
            return _too_few(view, view.running.confirmations, dealers, session.threshold, [view.running.index])
        case _:
            shown = {dealer: view.running.revealed.get(dealer, {}).keys() for dealer in view.recovery().dealers()}
            short = {dealer: holders for dealer, holders in shown.items() if len(holders) < session.threshold}
            if not short:
                return None
            return Shortage(
                reason=AbortReason.TOO_FEW,
                found=min(len(holders) for holders in short.values()),
                needed=session.threshold,
                culprits=tuple(dealer for dealer, holders in short.items() if _dealt_badly(view, dealer, holders)),
            )


def _dealt_badly(view: View, dealer: int, shown: Set[int]) -> bool:
    """Whether more holders say that they were dealt no usable share than may be lying: an honest one is among them."""
    absent = (view.running.unmasked_by & set(view.holders(view.running.index, dealer))) - shown
    session = view.session
    return len(absent) > (corruption_bound(session.num_clients) if session.is_complete else session.threshold - 1)


def _too_few(
    view: View,
    present: Sequence[int] | Mapping[int, object],
    dealers: Sequence[int] | Mapping[int, object],
    floor: int,
    sums: Sequence[int],
) -> Shortage | None:
    """Whether fewer than `floor` are present, or fewer than the threshold hold some dealer's shares."""
    if len(present) < floor:
        return Shortage(reason=AbortReason.TOO_FEW, found=len(present), needed=floor)
    here, threshold = set(present), view.session.threshold
    for number in sums:
        for dealer in dealers:
            found = len(here & {dealer, *view.graph[number][dealer]})
            if found < threshold:
                return Shortage(reason=AbortReason.TOO_FEW, found=found, needed=threshold)
    return None
