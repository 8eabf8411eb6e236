"""The envelope that every message travels in, and the checks that need nothing but the session: V01 to V06.

    envelope = version u8 | type u8 | sender u16 | transcript 32 | body | Ed25519 signature 64

The signature is over the label, the 36 header bytes and SHA-256 of the body.
"""

import enum
import hashlib
from dataclasses import dataclass

from .errors import ClientId, RemoteProtocolError, party
from .keys import KEY_BYTES, SIGNATURE_BYTES, Identity, Label, context, verify
from .session import VERSION, Session
from .shamir import SHARE_BYTES
from .tensors import Sum
from .wire import Malformed, Reader, Writer, member

HEADER_BYTES = 36
LINK_BYTES = 32
CIPHERTEXT_BYTES = 2 * SHARE_BYTES + 16  # self-mask seed's share, mask key's share, AEAD tag
CHUNK_HEADER_BYTES = 2 + 4 + LINK_BYTES  # sum, chunk, link
MASK_BYTES = KEY_BYTES + 1  # AES-256 key, whether it is subtracted


class MessageType(enum.IntEnum):
    """The second byte of every message."""

    ADVERTISE_KEYS = 1
    KEY_DIRECTORY = 2
    SHARE_KEYS = 3
    DELIVER_SHARES = 4
    START_SUM = 5
    MASKED_INPUT = 6
    SURVIVORS = 7
    CONSISTENCY_CHECK = 8
    CONFIRMATIONS = 9
    UNMASK = 10
    FINISH_SUM = 11
    ABORT = 12
    ENCRYPTED_SUM = 13


def advert_bytes(num_sums: int) -> int:
    """Length of an AdvertiseKeys body."""
    return KEY_BYTES + num_sums * 2 * KEY_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """A message whose header was checked (V01 to V05); its signature not yet."""

    type: MessageType
    sender: ClientId
    header: bytes
    body: memoryview
    body_digest: bytes  # SHA-256, computed once: of masked input it takes longer than all else
    signature: bytes

    @property
    def fingerprint(self) -> bytes:
        """SHA-256 by which a repeated message is known."""
        return hashlib.sha256(self.header + self.body_digest + self.signature).digest()

    def verify(self, session: Session) -> None:
        """V06."""
        message = signed_message(self.header, self.body_digest)
        if not verify(session.key_of(self.sender), self.signature, message):
            raise RemoteProtocolError(
                f"{self.type.name} is not signed by {party(self.sender)}", check="V06", culprits=(self.sender,)
            )


def header_bytes(session: Session, kind: MessageType, sender: int) -> bytes:
    """The 36 bytes before a body."""
    return Writer().u8(VERSION).u8(kind).u16(sender).raw(session.transcript).finish()


def signed_message(header: bytes, body_digest: bytes) -> bytes:
    """What an envelope's signature is over: header and SHA-256 of the body."""
    return context(Label.SIGNATURE, header, body_digest)


def seal(session: Session, identity: Identity, kind: MessageType, sender: int, body: bytes) -> bytes:
    """The whole signed message."""
    header = header_bytes(session, kind, sender)
    return header + body + identity.sign(signed_message(header, hashlib.sha256(body).digest()))


def max_body(session: Session, kind: MessageType) -> int:
    """The longest body that this session can hold, in bytes; known before anything is allocated (P11)."""
    if kind is MessageType.ENCRYPTED_SUM:
        return max(encrypted_sum_bytes(session, spec) for spec in session.sums)
    n, sums, degree = session.num_clients, len(session.sums), session.degree
    bitmap = (n + 7) // 8
    neighbors = min(n - 1, sums * degree)  # of all sums together
    entry = 2 * KEY_BYTES + CIPHERTEXT_BYTES
    return {
        MessageType.ADVERTISE_KEYS: advert_bytes(sums),
        MessageType.KEY_DIRECTORY: bitmap + neighbors * (2 + advert_bytes(sums) + SIGNATURE_BYTES),
        MessageType.SHARE_KEYS: sums * (degree * entry + 2 * KEY_BYTES),
        MessageType.DELIVER_SHARES: bitmap + sums * degree * entry,
        MessageType.START_SUM: 2 + LINK_BYTES,
        MessageType.MASKED_INPUT: CHUNK_HEADER_BYTES + session.max_chunk_bytes,
        MessageType.SURVIVORS: 2 + bitmap,
        MessageType.CONSISTENCY_CHECK: 2 + KEY_BYTES,
        MessageType.CONFIRMATIONS: 2 + 2 + (degree + 1) * (2 + SIGNATURE_BYTES),
        MessageType.UNMASK: 2 + (degree + 1) * (1 + SHARE_BYTES),
        MessageType.FINISH_SUM: 2 + bitmap,
        MessageType.ABORT: 1 + 1 + 2 + 2 + 2 + bitmap,
    }[kind]


def encrypted_sum_bytes(session: Session, spec: Sum) -> int:
    """The longest EncryptedSum body of this sum: place, survivors, masks by tensor, and a digest a chunk."""
    # A survivor has one mask; one that dropped has as many as it has surviving neighbours.
    masks = session.num_clients * (session.degree + 1)
    place = 2 + LINK_BYTES + (session.num_clients + 7) // 8
    return place + len(spec.tensors) * (4 + masks * MASK_BYTES) + spec.num_chunks * KEY_BYTES


def open_envelope(session: Session, payload: bytes | bytearray | memoryview, sender: ClientId) -> Envelope:
    """Check everything about a message that needs neither its state nor its signature: V01 to V05."""
    view = memoryview(payload)
    culprits = (sender,)
    body_length = len(view) - HEADER_BYTES - SIGNATURE_BYTES
    if body_length < 0:
        raise RemoteProtocolError(
            f"{len(view)} bytes from {party(sender)} are no message; the shortest has {HEADER_BYTES + SIGNATURE_BYTES}",
            check="V02",
            culprits=culprits,
        )
    header = Reader(view[:HEADER_BYTES])
    version, number, claimed, transcript = header.u8(), header.u8(), header.u16(), header.raw(KEY_BYTES)
    if version != VERSION:
        raise RemoteProtocolError(f"version {version}; this side speaks {VERSION}", check="V01", culprits=culprits)
    try:
        kind = member(MessageType, number)
    except Malformed as error:
        raise RemoteProtocolError(str(error), check="V04", culprits=culprits) from None
    if body_length > max_body(session, kind):
        raise RemoteProtocolError(
            f"{kind.name} of {body_length} bytes; at most {max_body(session, kind)} in this session",
            check="V02",
            culprits=culprits,
        )
    if transcript != session.transcript:
        raise RemoteProtocolError(
            f"{kind.name} for session {transcript.hex()[:16]}…; this is {session.transcript.hex()[:16]}…",
            check="V03",
            culprits=culprits,
        )
    if claimed != sender:
        raise RemoteProtocolError(
            f"{kind.name} names {party(claimed)} as sender; it came from {party(sender)}",
            check="V05",
            culprits=culprits,
        )
    body = view[HEADER_BYTES : HEADER_BYTES + body_length]
    return Envelope(
        type=kind,
        sender=sender,
        header=bytes(view[:HEADER_BYTES]),
        body=body,
        body_digest=hashlib.sha256(body).digest(),
        signature=bytes(view[HEADER_BYTES + body_length :]),
    )
