"""The twelve messages' bodies: what each holds and its bytes.

A body's layout needs no lengths where the session fixes them; secagg.md, "Messages", is normative.
"""

import enum
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field

from .envelope import CIPHERTEXT_BYTES, LINK_BYTES, MessageType, advert_bytes, header_bytes, signed_message
from .errors import ClientId
from .keys import KEY_BYTES, SIGNATURE_BYTES, Label, Secret, digest, verify
from .masks import Mask
from .session import Session
from .shamir import SHARE_BYTES
from .wire import Malformed, Reader, Writer, member, read_bitmap, write_bitmap


class ShareKind(enum.IntEnum):
    """Which of a dealer's two secrets a revealed share belongs to."""

    ABSENT = 0  # the holder was dealt no usable share
    SELF_SEED = 1  # the dealer survived
    MASK_KEY = 2  # the dealer dropped


class AbortReason(enum.IntEnum):
    """Why the server ended a session."""

    TOO_FEW = 1  # clients left in a phase than the threshold or the session's floor
    PARTIAL_UPLOAD = 2  # a client left in the middle of its masked input, part of which is in the sum
    BAD_DEALER = 3  # a client's shares do not give the secret that it committed to
    CANCELLED = 4  # the operator ended it


@dataclass(frozen=True, slots=True, kw_only=True)
class AdvertiseKeys:
    """Client to server: one channel key, and per sum a mask key and a commitment to the self-mask seed."""

    channel_key: bytes  # X25519 public key
    mask_keys: tuple[bytes, ...]  # one a sum
    seed_commitments: tuple[bytes, ...]  # one a sum

    def encode(self) -> bytes:
        """The body."""
        pairs = zip(self.mask_keys, self.seed_commitments, strict=True)
        return self.channel_key + b"".join(key + commitment for key, commitment in pairs)

    @classmethod
    def decode(cls, body: bytes | memoryview, session: Session) -> "AdvertiseKeys":
        """Raises `Malformed`."""
        data = Reader(body)
        channel_key = data.raw(KEY_BYTES)
        pairs = [(data.raw(KEY_BYTES), data.raw(KEY_BYTES)) for _ in session.sums]
        data.finish()
        return cls(
            channel_key=channel_key,
            mask_keys=tuple(key for key, _ in pairs),
            seed_commitments=tuple(commitment for _, commitment in pairs),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedAdvert:
    """A client's AdvertiseKeys body with its envelope's signature, as the server passes it on."""

    client_id: ClientId
    body: bytes
    signature: bytes

    def is_genuine(self, session: Session) -> bool:
        """Whether that client signed it for this session."""
        header = header_bytes(session, MessageType.ADVERTISE_KEYS, self.client_id)
        return verify(
            session.key_of(self.client_id), self.signature, signed_message(header, hashlib.sha256(self.body).digest())
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyDirectory:
    """Server to a client: who advertised keys (U1), and the adverts of its neighbours in any sum."""

    advertisers: tuple[int, ...]
    adverts: tuple[SignedAdvert, ...]  # ascending

    def encode(self, session: Session) -> bytes:
        """The body."""
        out = Writer().raw(write_bitmap(self.advertisers, session.num_clients))
        for advert in self.adverts:
            out.u16(advert.client_id).raw(advert.body).raw(advert.signature)
        return out.finish()

    @classmethod
    def decode(cls, body: memoryview, session: Session, expected: Iterable[int]) -> "KeyDirectory":
        """`expected` are the receiver's neighbours; those among the advertisers must be listed, and no others."""
        data = Reader(body)
        advertisers = read_bitmap(data.raw((session.num_clients + 7) // 8), session.num_clients)
        adverts = []
        for client_id in sorted(set(expected) & set(advertisers)):
            found = data.u16()
            if found != client_id:
                raise Malformed(f"the directory lists client {found} where client {client_id} belongs")
            length = advert_bytes(len(session.sums))
            adverts.append(
                SignedAdvert(client_id=ClientId(found), body=data.raw(length), signature=data.raw(SIGNATURE_BYTES))
            )
        data.finish()
        return cls(advertisers=advertisers, adverts=tuple(adverts))


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedShares:
    """A dealer's two shares for one holder in one sum: their commitments, and both encrypted for the holder."""

    seed_commitment: bytes
    key_commitment: bytes
    ciphertext: bytes = field(repr=False)  # empty where dealer and holder are the same client

    def encode(self) -> bytes:
        """Commitments, then ciphertext."""
        return self.seed_commitment + self.key_commitment + self.ciphertext

    @classmethod
    def read(cls, data: Reader, *, own: bool) -> "SealedShares":
        """Take one off a body."""
        commitments = data.raw(KEY_BYTES), data.raw(KEY_BYTES)
        ciphertext = b"" if own else data.raw(CIPHERTEXT_BYTES)
        return cls(seed_commitment=commitments[0], key_commitment=commitments[1], ciphertext=ciphertext)


def write_shares(entries: Iterable[SealedShares]) -> bytes:
    """ShareKeys' body, and DeliverShares' after its bitmap: by sum, within it by ascending client."""
    return b"".join(entry.encode() for entry in entries)


@dataclass(frozen=True, slots=True, kw_only=True)
class StartSum:
    """Server to all participants: sum `sum_index` begins, bound to `link`."""

    sum_index: int
    link: bytes

    def encode(self) -> bytes:
        """The body."""
        return Writer().u16(self.sum_index).raw(self.link).finish()

    @classmethod
    def decode(cls, body: memoryview) -> "StartSum":
        """Raises `Malformed`."""
        data = Reader(body)
        message = cls(sum_index=data.u16(), link=data.raw(LINK_BYTES))
        data.finish()
        return message


@dataclass(frozen=True, slots=True, kw_only=True)
class SurvivorSet:
    """Survivors and FinishSum, server to all participants: whose masked input is in sum `sum_index` (U3)."""

    sum_index: int
    survivors: tuple[int, ...]

    def encode(self, session: Session) -> bytes:
        """The body."""
        return Writer().u16(self.sum_index).raw(write_bitmap(self.survivors, session.num_clients)).finish()

    @classmethod
    def decode(cls, body: memoryview, session: Session) -> "SurvivorSet":
        """Raises `Malformed`."""
        data = Reader(body)
        sum_index = data.u16()
        survivors = read_bitmap(data.raw((session.num_clients + 7) // 8), session.num_clients)
        data.finish()
        return cls(sum_index=sum_index, survivors=survivors)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsistencyCheck:
    """Client to server: the digest of everything it knows about who takes part in this sum, signed."""

    sum_index: int
    view: bytes

    def encode(self) -> bytes:
        """The body."""
        return Writer().u16(self.sum_index).raw(self.view).finish()

    @classmethod
    def decode(cls, body: memoryview) -> "ConsistencyCheck":
        """Raises `Malformed`."""
        data = Reader(body)
        message = cls(sum_index=data.u16(), view=data.raw(KEY_BYTES))
        data.finish()
        return message


def view_digest(
    session: Session, *, participants: Iterable[int], survivors: Iterable[int], sum_index: int, link: bytes
) -> bytes:
    """What a consistency check signs: U2, U3, sum and link under the transcript (P4)."""
    bitmaps = (write_bitmap(members, session.num_clients) for members in (participants, survivors))
    return digest(Label.VIEW, session.transcript, sum_index, link, *bitmaps)


@dataclass(frozen=True, slots=True, kw_only=True)
class Confirmations:
    """Server to a client: its neighbours' and its own signatures under ConsistencyCheck."""

    sum_index: int
    signatures: tuple[tuple[ClientId, bytes], ...]  # ascending

    def encode(self) -> bytes:
        """The body."""
        out = Writer().u16(self.sum_index).u16(len(self.signatures))
        for client_id, signature in self.signatures:
            out.u16(client_id).raw(signature)
        return out.finish()

    @classmethod
    def decode(cls, body: memoryview) -> "Confirmations":
        """Raises `Malformed`."""
        data = Reader(body)
        sum_index = data.u16()
        signatures = tuple((ClientId(data.u16()), data.raw(SIGNATURE_BYTES)) for _ in range(data.u16()))
        data.finish()
        return cls(sum_index=sum_index, signatures=signatures)


@dataclass(frozen=True, slots=True, kw_only=True)
class Unmask:
    """Client to server: for each dealer among its neighbours and itself, one share of one secret."""

    sum_index: int
    shares: tuple[tuple[ShareKind, bytes], ...] = field(repr=False)  # by ascending dealer

    def encode(self) -> bytes:
        """The body."""
        out = Writer().u16(self.sum_index)
        for kind, share in self.shares:
            out.u8(kind).raw(share)
        return out.finish()

    @classmethod
    def decode(cls, body: memoryview, num_dealers: int) -> "Unmask":
        """Raises `Malformed`."""
        data = Reader(body)
        sum_index = data.u16()
        shares = tuple((member(ShareKind, data.u8()), data.raw(SHARE_BYTES)) for _ in range(num_dealers))
        data.finish()
        return cls(sum_index=sum_index, shares=shares)


@dataclass(frozen=True, slots=True, kw_only=True)
class EncryptedSum:
    """Server to the key holder: a finished sum's ciphertexts, by digest, and the masks that are still in it."""

    sum_index: int
    link: bytes
    survivors: tuple[int, ...]
    masks: tuple[tuple[Mask, ...], ...] = field(repr=False)  # by tensor: their addition leaves the plain sum
    digests: tuple[bytes, ...]  # SHA-256 of each chunk's ciphertexts

    def encode(self, session: Session) -> bytes:
        """The body."""
        out = Writer().u16(self.sum_index).raw(self.link).raw(write_bitmap(self.survivors, session.num_clients))
        for of_tensor in self.masks:
            out.u32(len(of_tensor))
            for mask in of_tensor:
                out.raw(mask.key.reveal()).u8(mask.negative)
        return out.raw(b"".join(self.digests)).finish()

    @classmethod
    def decode(cls, body: memoryview, session: Session) -> "EncryptedSum":
        """Raises `Malformed`."""
        data = Reader(body)
        sum_index, link = data.u16(), data.raw(LINK_BYTES)
        survivors = read_bitmap(data.raw((session.num_clients + 7) // 8), session.num_clients)
        if sum_index >= len(session.sums):
            raise Malformed(f"sum {sum_index} of {len(session.sums)}")
        spec = session.sums[sum_index]
        masks = tuple(
            tuple(Mask(key=Secret(data.raw(KEY_BYTES)), negative=data.flag()) for _ in range(data.u32()))
            for _ in spec.tensors
        )
        digests = tuple(data.raw(KEY_BYTES) for _ in range(spec.num_chunks))
        data.finish()
        return cls(sum_index=sum_index, link=link, survivors=survivors, masks=masks, digests=digests)


@dataclass(frozen=True, slots=True, kw_only=True)
class Abort:
    """Server to all: the session is over, in which phase, with how many clients of how many needed, and whose fault."""

    reason: AbortReason
    phase: int  # position of the server's state in its table
    found: int
    needed: int
    sum_index: int
    culprits: tuple[int, ...]

    def encode(self, session: Session) -> bytes:
        """The body."""
        out = Writer().u8(self.reason).u8(self.phase).u16(self.found).u16(self.needed).u16(self.sum_index)
        return out.raw(write_bitmap(self.culprits, session.num_clients)).finish()

    @classmethod
    def decode(cls, body: memoryview, session: Session) -> "Abort":
        """Raises `Malformed`."""
        data = Reader(body)
        reason = member(AbortReason, data.u8())
        phase, found, needed, sum_index = data.u8(), data.u16(), data.u16(), data.u16()
        culprits = read_bitmap(data.raw((session.num_clients + 7) // 8), session.num_clients)
        data.finish()
        return cls(reason=reason, phase=phase, found=found, needed=needed, sum_index=sum_index, culprits=culprits)
