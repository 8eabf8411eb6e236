"""What a client does with each message: pure functions from its data and a message's body to new data and events.

Each raises before it returns anything, so a refused message changes nothing (P8). The numbers are secagg.md's checks
and promises.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from . import dealing
from .client_state import ClientData
from .envelope import MessageType, header_bytes, seal, signed_message
from .errors import SERVER, ClientId, LocalProtocolError, PolicyRefusal, RemoteProtocolError
from .events import Aborted, ClientEvent, Excluded, NeedInput, PeerMisbehaved, SendToServer, SumFinished
from .keys import Identity, Secret, is_low_order, verify
from .masks import Mask, MaskContext
from .messages import (
    Abort,
    AdvertiseKeys,
    Confirmations,
    ConsistencyCheck,
    KeyDirectory,
    SealedShares,
    ShareKind,
    StartSum,
    SurvivorSet,
    Unmask,
    view_digest,
    write_shares,
)
from .session import Session
from .shamir import SHARE_BYTES
from .states import ClientState, ServerState
from .wire import Malformed, Reader, read_bitmap, write_bitmap

_Step = tuple[ClientData, tuple[ClientEvent, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Party:
    """Who a client is; the same for the whole session."""

    session: Session
    identity: Identity
    client_id: ClientId
    neighbors: tuple[tuple[int, ...], ...]  # by sum, ascending


def masks(me: Party, data: ClientData) -> list[list[Mask]]:
    """Self mask and pairwise masks of the current sum, by tensor."""
    secret = data.sum_secrets[data.sum_index]
    if secret is None:
        raise LocalProtocolError(f"sum {data.sum_index} is over; its secrets are gone")
    number = data.sum_index
    secrets = dealing.sum_secrets(me.session, number, me.client_id, secret)
    binding = MaskContext(
        transcript=me.session.transcript,
        participants=write_bitmap(data.participants, me.session.num_clients),
        sum_index=number,
        link=data.link,
    )
    num_tensors = len(me.session.sums[number].tensors)
    lists = [binding.self_masks(secrets.self_seed, me.client_id, num_tensors)]
    for peer in _among(me, data.participants, number):
        public = _advert_of(me, data, peer).mask_keys[number]
        lists.append(binding.pairwise_masks(secrets.mask_key, me.client_id, public, peer, num_tensors))
    return [list(of_tensor) for of_tensor in zip(*lists, strict=True)]


def _among(me: Party, members: Iterable[int], sum_index: int) -> tuple[int, ...]:
    """This client's neighbours among the members, ascending."""
    present = set(members)
    return tuple(peer for peer in me.neighbors[sum_index] if peer in present)


def _closed(me: Party, members: Iterable[int], sum_index: int) -> tuple[int, ...]:
    """The same with this client itself."""
    return tuple(sorted((*_among(me, members, sum_index), me.client_id)))


def _advert_of(me: Party, data: ClientData, peer: int) -> AdvertiseKeys:
    """The keys of a neighbour."""
    signed = next(advert for advert in data.adverts if advert.client_id == peer)
    return AdvertiseKeys.decode(signed.body, me.session)


def _check_quorum(me: Party, members: Sequence[int], what: str, check: str) -> None:
    """The session's floors, which the policy has agreed to, hold for this set of clients around this client."""
    if len(members) < me.session.min_survivors:
        raise refuse(check, f"{len(members)} {what}; the session needs {me.session.min_survivors}")


def _check_holders(me: Party, members: Sequence[int], sum_index: int, what: str, check: str) -> None:
    """Enough of them around this client hold shares."""
    holders = len(_closed(me, members, sum_index))
    if holders < me.session.threshold:
        raise refuse(check, f"{holders} {what} around this client in sum {sum_index}; threshold {me.session.threshold}")


def on_key_directory(me: Party, data: ClientData, body: memoryview) -> _Step:
    """Deal shares to the neighbours that advertised keys (V10, V11, V12)."""
    expected = {peer for peers in me.neighbors for peer in peers}
    directory = KeyDirectory.decode(body, me.session, expected)
    advertisers = directory.advertisers
    if me.client_id not in advertisers:
        raise refuse("V12", "the directory leaves out this client, which advertised its keys")
    _check_quorum(me, advertisers, "clients advertised keys", "V12")
    channels: dict[int, dealing.ChannelCiphers] = {}
    for signed in directory.adverts:
        peer = signed.client_id
        if not signed.is_genuine(me.session):
            raise refuse("V11", f"the keys of client {peer} are not signed by it")
        advert = AdvertiseKeys.decode(signed.body, me.session)
        channel = dealing.channel_ciphers(me.session, channel_of(data), me.client_id, peer, advert.channel_key)
        if channel is None or any(is_low_order(key) for key in advert.mask_keys):
            raise refuse("V10", f"a key of client {peer} is of low order")
        channels[peer] = channel
    sealed: list[SealedShares] = []
    held = []
    for number, secret in enumerate(secrets_of(data)):
        _check_holders(me, advertisers, number, "share holders", "V12")
        holders = _closed(me, advertisers, number)
        entries, own = dealing.deal(me.session, number, me.client_id, secret, holders, channels)
        sealed += entries
        held.append({int(me.client_id): own})
    payload = seal_from(me, MessageType.SHARE_KEYS, write_shares(sealed))
    data = replace(
        data,
        state=ClientState.KEYS_SHARED,
        adverts=directory.adverts,
        advertisers=advertisers,
        held=tuple(held),
    )
    return data, (SendToServer(payload=payload),)


def on_deliver_shares(me: Party, data: ClientData, body: memoryview) -> _Step:
    """Open the shares that the neighbours dealt (V13, V14)."""
    reader = Reader(body)
    participants = read_bitmap(reader.raw((me.session.num_clients + 7) // 8), me.session.num_clients)
    if me.client_id not in participants or not set(participants) <= set(data.advertisers):
        raise refuse("V13", "the participants leave out this client or add one that advertised no keys")
    _check_quorum(me, participants, "clients shared keys", "V13")
    channels: dict[int, dealing.ChannelCiphers] = {}
    held, culprits = [dict(own) for own in data.held], set()
    for number, dealt in enumerate(held):
        _check_holders(me, participants, number, "share holders", "V13")
        for dealer in _among(me, participants, number):
            sealed = SealedShares.read(reader, own=False)
            if dealer not in channels:
                channels[dealer] = _channel_to(me, data, dealer)
            pair = dealing.open_shares(me.session, number, dealer, me.client_id, sealed, channels[dealer])
            if pair is None:
                culprits.add(ClientId(dealer))
            else:
                dealt[dealer] = pair
    reader.finish()
    # Without the channel key, what was dealt for sums that are over cannot be decrypted again by a later thief.
    data = replace(data, state=ClientState.READY, channel=None, participants=participants, held=tuple(held))
    if not culprits:
        return data, ()
    reason = "its shares do not decrypt or do not match their commitments"
    return data, (PeerMisbehaved(culprits=tuple(sorted(culprits)), check="V14", reason=reason),)


def _channel_to(me: Party, data: ClientData, peer: int) -> dealing.ChannelCiphers:
    """The share channel with a neighbour whose key has passed V10."""
    key = _advert_of(me, data, peer).channel_key
    channel = dealing.channel_ciphers(me.session, channel_of(data), me.client_id, peer, key)
    if channel is None:
        raise LocalProtocolError(f"client {peer}'s channel key is of low order, though it passed V10")
    return channel


def on_start_sum(me: Party, data: ClientData, body: memoryview) -> _Step:
    """Ask for input, once per sum and contribution (V20, V34)."""
    message = StartSum.decode(body)
    number = message.sum_index
    if not data.next_sum <= number < len(me.session.sums):
        raise refuse(
            "V20", f"sum {number} of {len(me.session.sums)} cannot start; {data.next_sum} is the lowest that may"
        )
    _check_unopened(me, data, number)
    # V34: a sum that went on without word to this client may have been opened with its whole input.
    uploading = data.state is ClientState.CONTRIBUTING
    may_be_open = data.state is ClientState.CONFIRMED or (uploading and _has_uploaded(me, data))
    ledger = data.ledger
    if may_be_open:
        ledger = ledger.adding(data.contribution, me.session.sums[data.sum_index].name)
    started = replace(
        _without_secrets_below(data, number),
        state=ClientState.CONTRIBUTING,
        ledger=ledger,
        next_sum=number + 1,
        link=message.link,
        chunk_digests=(),
        survivors=(),
    )
    events: tuple[ClientEvent, ...] = (NeedInput(sum_index=number, link=message.link),)
    if uploading and not may_be_open:
        left_out = Excluded(sum_index=data.sum_index, reason=f"the server has gone on to sum {number}")
        events = (left_out, *events)
    return started, events


def _check_unopened(me: Party, data: ClientData, number: int) -> None:
    """V34, asked again before signing and before showing shares: another session may have opened it meanwhile."""
    name = me.session.sums[number].name
    if (data.contribution, name) in data.ledger.opened:
        raise PolicyRefusal(
            f"V34: this contribution to {name!r} was opened before; the difference of two sums over other cohorts "
            "would show it alone"
        )


def on_survivors(me: Party, data: ClientData, body: memoryview) -> _Step:
    """Sign one survivor set per sum (V20, V23)."""
    message = SurvivorSet.decode(body, me.session)
    survivors, number = message.survivors, message.sum_index
    included = me.client_id in survivors
    if data.state is ClientState.READY:
        if not data.next_sum <= number < len(me.session.sums):
            raise refuse("V20", f"survivors of sum {number}; {data.next_sum} is the lowest that may go on")
    elif number != data.sum_index:
        raise refuse("V20", f"survivors of sum {number} during sum {data.sum_index}")
    if not set(survivors) <= set(data.participants):
        raise refuse("V23", "survivors that are not participants")
    _check_quorum(me, survivors, "survivors", "V23")
    if data.state is ClientState.READY:
        if included:
            raise refuse("V23", f"the survivors include this client, which sits out sum {number}")
        data = replace(_without_secrets_below(data, number + 1), next_sum=number + 1)
        return replace(data, state=ClientState.LEFT_OUT, survivors=survivors), ()
    if not included:
        reason = "its masked input did not reach the server in time"
        data = replace(_without_secrets_below(data, number + 1), state=ClientState.LEFT_OUT, survivors=survivors)
        return data, (Excluded(sum_index=number, reason=reason),)
    if not _has_uploaded(me, data):
        raise refuse("V23", "the survivors include this client, which has not sent all of its input")
    _check_holders(me, survivors, number, "survivors", "V23")
    _check_unopened(me, data, number)
    check = ConsistencyCheck(sum_index=number, view=_view(me, data, survivors))
    payload = seal_from(me, MessageType.CONSISTENCY_CHECK, check.encode())
    data = replace(data, state=ClientState.CONFIRMED, survivors=survivors)
    return data, (SendToServer(payload=payload),)


def _has_uploaded(me: Party, data: ClientData) -> bool:
    """Whether every chunk of the current sum has left this client."""
    return len(data.chunk_digests) == me.session.sums[data.sum_index].num_chunks


def _view(me: Party, data: ClientData, survivors: Sequence[int]) -> bytes:
    """What this client signs about who takes part."""
    return view_digest(
        me.session,
        participants=data.participants,
        survivors=survivors,
        sum_index=data.sum_index,
        link=data.link,
    )


def on_confirmations(me: Party, data: ClientData, body: memoryview) -> _Step:
    """Show one share per dealer for the set that a quorum signed (V20, V25, V26; P1, P3)."""
    message = Confirmations.decode(body)
    number, survivors = data.sum_index, data.survivors
    if message.sum_index != number:
        raise refuse("V20", f"confirmations of sum {message.sum_index} during sum {number}")
    signers = [client_id for client_id, _ in message.signatures]
    if sorted(set(signers)) != signers or not set(signers) <= set(_closed(me, survivors, number)):
        raise refuse("V25", "confirmations repeat a client, are out of order or come from no surviving neighbour")
    if len(signers) < me.session.threshold:
        raise refuse("V25", f"{len(signers)} confirmations; threshold {me.session.threshold}")
    check = ConsistencyCheck(sum_index=number, view=_view(me, data, survivors)).encode()
    for client_id, signature in message.signatures:
        header = header_bytes(me.session, MessageType.CONSISTENCY_CHECK, client_id)
        signed = signed_message(header, hashlib.sha256(check).digest())
        if not verify(me.session.key_of(client_id), signature, signed):
            raise refuse("V25", f"client {client_id} did not sign this client's view of sum {number}")
    _check_unopened(me, data, number)
    held, alive = data.held[number], set(survivors)
    shares = []
    for dealer in _closed(me, data.participants, number):
        pair = held.get(dealer)
        # V26: the survivor set alone decides which of the two is shown, and it was fixed when this client signed it.
        if pair is None:
            shares.append((ShareKind.ABSENT, bytes(SHARE_BYTES)))
        elif dealer in alive:
            shares.append((ShareKind.SELF_SEED, pair.self_seed))
        else:
            shares.append((ShareKind.MASK_KEY, pair.mask_key))
    payload = seal_from(me, MessageType.UNMASK, Unmask(sum_index=number, shares=tuple(shares)).encode())
    ledger = data.ledger.adding(data.contribution, me.session.sums[number].name)
    data = replace(_without_secrets_below(data, number + 1), state=ClientState.UNMASKED, ledger=ledger)
    return data, (SendToServer(payload=payload),)


def on_finish_sum(me: Party, data: ClientData, body: memoryview) -> _Step:
    """Leave the sum (V20, V24)."""
    message = SurvivorSet.decode(body, me.session)
    number, survivors = message.sum_index, message.survivors
    begun = data.state is not ClientState.READY
    if number != data.sum_index if begun else not data.next_sum <= number < len(me.session.sums):
        raise refuse("V20", f"sum {number} cannot finish; {data.sum_index} started last")
    included = me.client_id in survivors
    if data.state in (ClientState.LEFT_OUT, ClientState.CONFIRMED, ClientState.UNMASKED):
        if survivors != data.survivors:
            raise refuse("V24", f"sum {number} finishes over other survivors than this client was told")
    elif not set(survivors) <= set(data.participants):
        raise refuse("V24", f"sum {number} finishes over survivors that are no participants")
    elif included and not (begun and _has_uploaded(me, data)):
        raise refuse("V24", f"sum {number} finishes with this client, which has not sent all of its input")
    last = number + 1 == len(me.session.sums)
    finished = replace(
        _without_secrets_below(data, number + 1),
        state=ClientState.FINISHED if last else ClientState.READY,
        next_sum=number + 1,
        # V34: this sum shows the contribution, whether or not this client's own shares helped to open it.
        ledger=data.ledger.adding(data.contribution, me.session.sums[number].name) if included else data.ledger,
    )
    events: tuple[ClientEvent, ...] = (SumFinished(sum_index=number, survivors=survivors),)
    if data.state is ClientState.CONTRIBUTING and not included:
        events = (Excluded(sum_index=number, reason="the sum finished without its masked input"), *events)
    return finished, events


def on_abort(me: Party, data: ClientData, body: memoryview) -> _Step:
    """End the session."""
    message = Abort.decode(body, me.session)
    phases = list(ServerState)
    if message.phase >= len(phases):
        raise Malformed(f"phase {message.phase} is unknown")
    aborted = Aborted(
        reason=message.reason,
        phase=phases[message.phase],
        sum_index=message.sum_index,
        found=message.found,
        needed=message.needed,
        culprits=message.culprits,
    )
    return replace(_without_secrets_below(data, len(me.session.sums)), state=ClientState.ABORTED), (aborted,)


def _without_secrets_below(data: ClientData, number: int) -> ClientData:
    """Forget the secrets and shares of sums before `number`: what is over cannot be opened by a later thief."""
    kept = tuple(secret if at >= number else None for at, secret in enumerate(data.sum_secrets))
    held = tuple(dealt if at >= number else {} for at, dealt in enumerate(data.held))
    return replace(data, sum_secrets=kept, held=held)


def channel_of(data: ClientData) -> Secret:
    """The share channel's private key, while it is kept."""
    if data.channel is None:
        raise LocalProtocolError(f"the share channel's key is gone in state {data.state}")
    return data.channel


def secrets_of(data: ClientData) -> Iterator[Secret]:
    """The sums' secrets that are still kept, by sum."""
    return (secret for secret in data.sum_secrets if secret is not None)


def seal_from(me: Party, kind: MessageType, body: bytes) -> bytes:
    """A signed message from this client."""
    return seal(me.session, me.identity, kind, me.client_id, body)


def refuse(check: str, text: str, culprit: ClientId = SERVER) -> RemoteProtocolError:
    """The error for a check that failed."""
    return RemoteProtocolError(text, check=check, culprits=(culprit,))
