"""Requests that are signed by a client's identity: who asks is known from that alone, never from the connection.

Each signature is over one request's method and target, and unlocks what that request unlocks every time: one message,
one layer's update, one place in one upload. So there is no clock and no nonce to get wrong, and whoever records a
request gains nothing that its answer did not hold.
"""

import base64
import binascii
import re

from collabsecure_protocols import Identity, Session
from collabsecure_protocols.keys import SIGNATURE_BYTES, Label, context, verify

_FORM = re.compile(r"Collabsecure client=([1-9]\d{0,4}), signature=([A-Za-z0-9_-]{86})")


def party_of(session: Session, public: bytes) -> int:
    """By which number a party asks: a client's on the roster; the key holder's follows the last client's.

    Raises:
        InvalidSession: the session has no such party.
    """
    if session.is_encrypted and public == session.key_holder:
        return session.num_clients + 1
    return session.id_of(public)


def authorization(session: Session, identity: Identity, method: str, target: str, offset: int = 0) -> str:
    """The value of a request's Authorization header; `target` is what follows the party's number in the path."""
    client = party_of(session, identity.public)
    signature = identity.sign(_signed(session, client, method, target, offset))
    return f"Collabsecure client={client}, signature={base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"


def is_authentic(session: Session, client: int, header: str, method: str, target: str, offset: int = 0) -> bool:
    """Whether the header is that party's signature under this request."""
    match = _FORM.fullmatch(header)
    if match is None or int(match[1]) != client or not 1 <= client <= session.num_clients + session.is_encrypted:
        return False
    try:
        signature = base64.urlsafe_b64decode(match[2] + "==")
    except binascii.Error:
        return False
    if len(signature) != SIGNATURE_BYTES:
        return False
    key = session.key_holder if client > session.num_clients else session.key_of(client)
    return verify(key, signature, _signed(session, client, method, target, offset))


def _signed(session: Session, client: int, method: str, target: str, offset: int) -> bytes:
    return context(Label.TRANSPORT, session.transcript, client, method.encode(), target.encode(), offset)
