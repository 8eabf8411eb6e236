"""All that a client remembers, as one frozen value, and its bytes."""

import hashlib
from dataclasses import dataclass, field

from .dealing import HeldShares
from .envelope import LINK_BYTES, advert_bytes
from .errors import ClientId, StateRefused
from .keys import KEY_BYTES, SIGNATURE_BYTES, Label, Secret, context
from .messages import SignedAdvert
from .policy import Ledger
from .session import Session
from .shamir import SHARE_BYTES
from .states import ClientState
from .wire import Malformed, Reader, Writer, read_bitmap, write_bitmap

NO_LINK = bytes(LINK_BYTES)  # what the first sum, and any sum that follows nothing, is bound to
_HASH_BYTES = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientData:
    """Replaced as a whole when a message was accepted, never changed in place."""

    state: ClientState
    contribution: bytes  # what is contributed, as the ledger calls it
    channel: Secret | None  # X25519 private key of the share channel; None once the shares have arrived
    sum_secrets: tuple[Secret | None, ...]  # one a sum; None once the sum is over
    ledger: Ledger
    adverts: tuple[SignedAdvert, ...] = ()  # of the neighbours, ascending
    advertisers: tuple[int, ...] = ()  # U1
    participants: tuple[int, ...] = ()  # U2
    held: tuple[dict[int, HeldShares], ...] = field(default=(), repr=False)  # by sum: dealer → shares
    next_sum: int = 0  # the lowest sum that may still start
    link: bytes = NO_LINK  # of sum next_sum − 1, while it goes on
    chunk_digests: tuple[bytes, ...] = ()  # of its chunks that have left masked_input
    survivors: tuple[int, ...] = ()  # U3 of it, once the server has named them
    outbox: tuple[bytes, ...] = field(default=(), repr=False)  # the answer to the last message
    last_received: bytes = b""  # fingerprint of the last accepted message

    @property
    def sum_index(self) -> int:
        """The sum that started or finished last, −1 before the first."""
        return self.next_sum - 1

    def encode(self, session: Session, public: bytes) -> bytes:
        """Bytes for a file that only this client can read; an SHA-256 at the end finds damage."""
        n = session.num_clients
        out = Writer().raw(_header(session, public)).u8(list(ClientState).index(self.state)).blob(self.contribution)
        for secret in (self.channel, *self.sum_secrets):
            out.u8(secret is not None).raw(b"" if secret is None else secret.reveal())
        out.blob(self.ledger.encode()).u16(len(self.adverts))
        for advert in self.adverts:
            out.u16(advert.client_id).raw(advert.body).raw(advert.signature)
        out.raw(write_bitmap(self.advertisers, n)).raw(write_bitmap(self.participants, n))
        for dealt in self.held or ({},) * len(self.sum_secrets):
            out.u16(len(dealt))
            for dealer, shares in sorted(dealt.items()):
                out.u16(dealer).raw(shares.self_seed).raw(shares.mask_key)
        out.u16(self.next_sum).raw(self.link).blob(b"".join(self.chunk_digests)).raw(write_bitmap(self.survivors, n))
        out.u8(len(self.outbox))
        for payload in self.outbox:
            out.blob(payload)
        body = out.blob(self.last_received).finish()
        return body + hashlib.sha256(body).digest()

    @classmethod
    def decode(cls, blob: bytes, session: Session, public: bytes) -> "ClientData":
        """Read what `encode` wrote.

        Raises:
            StateRefused: damaged, or of another session or identity (V35).

        """
        body = check_saved(blob, _header(session, public))
        try:
            return cls._decode(Reader(body), session)
        except (Malformed, IndexError) as error:
            raise StateRefused(f"V35: saved state is damaged: {error}") from error

    @classmethod
    def _decode(cls, data: Reader, session: Session) -> "ClientData":
        bitmap, sums = (session.num_clients + 7) // 8, len(session.sums)
        state, contribution = list(ClientState)[data.u8()], data.blob()
        channel, *sum_secrets = (Secret(data.raw(KEY_BYTES)) if data.flag() else None for _ in range(1 + sums))
        ledger = Ledger.decode(data.blob())
        adverts = tuple(
            SignedAdvert(
                client_id=ClientId(data.u16()), body=data.raw(advert_bytes(sums)), signature=data.raw(SIGNATURE_BYTES)
            )
            for _ in range(data.u16())
        )
        advertisers, participants = (read_bitmap(data.raw(bitmap), session.num_clients) for _ in range(2))
        held = tuple(
            {
                data.u16(): HeldShares(self_seed=data.raw(SHARE_BYTES), mask_key=data.raw(SHARE_BYTES))
                for _ in range(data.u16())
            }
            for _ in range(sums)
        )
        next_sum, link, digests = data.u16(), data.raw(LINK_BYTES), data.blob()
        survivors = read_bitmap(data.raw(bitmap), session.num_clients)
        outbox = tuple(data.blob() for _ in range(data.u8()))
        last_received = data.blob()
        data.finish()
        return cls(
            state=state,
            contribution=contribution,
            channel=channel,
            sum_secrets=tuple(sum_secrets),
            ledger=ledger,
            adverts=adverts,
            advertisers=advertisers,
            participants=participants,
            held=held,
            next_sum=next_sum,
            link=link,
            chunk_digests=tuple(digests[at : at + _HASH_BYTES] for at in range(0, len(digests), _HASH_BYTES)),
            survivors=survivors,
            outbox=outbox,
            last_received=last_received,
        )


def _header(session: Session, public: bytes) -> bytes:
    return context(Label.STATE, b"client", session.transcript, public)


def check_saved(blob: bytes | memoryview, header: bytes) -> memoryview:
    """The part of saved state behind its header, checked for damage and for whose it is (V35)."""
    view = memoryview(blob)
    body, checksum = view[:-_HASH_BYTES], view[-_HASH_BYTES:]
    if len(view) < _HASH_BYTES or hashlib.sha256(body).digest() != checksum:
        raise StateRefused(f"V35: saved state of {len(view)} bytes is damaged; its checksum does not match")
    if body[: len(header)] != header:
        raise StateRefused("V35: saved state is of another session, role or identity")
    return body[len(header) :]
