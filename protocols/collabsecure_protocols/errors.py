"""What can go wrong, by who can act on it."""

from collections.abc import Iterable
from typing import NewType

ClientId = NewType("ClientId", int)  # position in the roster, [1, n]; also the client's Shamir abscissa
SERVER = ClientId(0)


class ProtocolError(Exception):
    """Base of every error that this package raises on purpose."""


class LocalProtocolError(ProtocolError):
    """This side misused the API; nothing was sent and nothing changed."""


class InvalidSession(LocalProtocolError):
    """A session descriptor that no party may run: it contradicts itself or proves no headroom."""


class ValueRefused(LocalProtocolError):
    """An input tensor has the wrong shape, a NaN, an infinity or a value beyond the session's bound."""

    def __init__(self, tensor: str, reason: str) -> None:
        super().__init__(f"tensor {tensor!r}: {reason}")
        self.tensor = tensor


class StateRefused(LocalProtocolError):
    """Saved state that is damaged or belongs to another session, role or identity."""


class EncryptionUnavailable(LocalProtocolError):
    """The session is encrypted and TenSEAL is not installed here."""


class CiphertextRefused(ProtocolError):
    """Bytes that are no ciphertext or key of these parameters, or a total that decrypts to no integers.

    Who sent them, the caller knows.
    """


class PolicyRefusal(ProtocolError):
    """This client's own policy forbids what the session or the server asks; nothing was revealed."""


class RemoteProtocolError(ProtocolError):
    """A peer broke the protocol; the message was refused and the state is as it was.

    `check` is the number in secagg.md of the check that failed; `culprits` (P12) are roster positions, 0 is the server.
    """

    def __init__(self, text: str, *, check: str, culprits: Iterable[ClientId] = ()) -> None:
        super().__init__(f"{check}: {text}")
        self.check = check
        self.culprits = tuple(culprits)


def party(client_id: int) -> str:
    """Name a party in a message to people."""
    return "the server" if client_id == SERVER else f"client {client_id}"
