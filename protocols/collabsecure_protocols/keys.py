"""Identities, secrets and the key schedule. Every KDF, hash and signature label stands in `Label`, once."""

import enum
import hashlib
from collections.abc import Callable
from typing import NoReturn

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from .errors import LocalProtocolError

Rng = Callable[[int], bytes]  # os.urandom, or in tests a seeded stream

KEY_BYTES = 32
SIGNATURE_BYTES = 64

# The u-coordinates of curve25519 and its twist, below 2^255, of points whose order divides the cofactor.
_PRIME = 2**255 - 19
_ORDER_8 = (
    0xB8495F16056286FDB1329CEB8D09DA6AC49FF1FAE35616AEB8413B7C7AEBE0,
    0x57119FD0DD4E22D8868E1C58C45C44045BEF839C55B1D0B1248C50A3BC959C5F,
)
_LOW_ORDER = frozenset((0, 1, *_ORDER_8, _PRIME - 1, _PRIME, _PRIME + 1))


class Label(bytes, enum.Enum):
    """Domain separation: what each derived value is for."""

    TRANSCRIPT = b"collabsecure/1 transcript"  # hash of the session descriptor
    SIGNATURE = b"collabsecure/1 signature"  # every signed message
    GRAPH = b"collabsecure/1 graph order"  # per-sum order of the k-regular graph
    CHANNEL = b"collabsecure/1 share channel"  # AEAD key, one per direction
    SHARE_DATA = b"collabsecure/1 share data"  # AEAD associated data
    MASK_KEY = b"collabsecure/1 mask key pair"  # a sum's X25519 private key, from the sum's secret
    SELF_SEED = b"collabsecure/1 self mask seed"  # a sum's self-mask seed, from the sum's secret
    POLYNOMIAL = b"collabsecure/1 share polynomial"  # a sum's Shamir coefficients, from the sum's secret
    SEED_COMMITMENT = b"collabsecure/1 seed commitment"
    SHARE_COMMITMENT = b"collabsecure/1 share commitment"
    PAIRWISE_MASK = b"collabsecure/1 pairwise mask"  # AES-256 key of one tensor's pairwise mask
    SELF_MASK = b"collabsecure/1 self mask"  # AES-256 key of one tensor's self mask
    VIEW = b"collabsecure/1 view"  # what a consistency check signs
    STATE = b"collabsecure/1 saved state"  # integrity of saved state
    TRANSPORT = b"collabsecure/1 transport request"  # a client's signature under a host's own request
    RESULT = b"collabsecure/1 result"  # the server's, or the key holder's, signature under what was made of a sum
    ENCRYPTION_KEY = b"collabsecure/1 encryption key"  # the key holder's signature under its encryption key


class Secret:
    """Thirty-two bytes that cannot be printed, compared, hashed, pickled or put in an error by accident (P13)."""

    __slots__ = ("_private", "_value")
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, value: bytes) -> None:
        if len(value) != KEY_BYTES:
            raise LocalProtocolError(f"a secret has {KEY_BYTES} bytes, found {len(value)}")
        self._value = value
        self._private: X25519PrivateKey | None = None

    def reveal(self) -> bytes:
        """The bytes; every call is a place for a reviewer to look at."""
        return self._value

    def agree(self, public: bytes) -> bytes | None:
        """The X25519 shared secret (RFC 7748), or None where `public` is of low order (it would be all zeros)."""
        if self._private is None:  # loading takes as long as agreeing, and a key agrees with many
            self._private = X25519PrivateKey.from_private_bytes(self._value)
        try:
            return self._private.exchange(X25519PublicKey.from_public_bytes(public))
        except ValueError:
            return None

    def __repr__(self) -> str:
        return "<secret>"

    def __eq__(self, other: object) -> NoReturn:
        raise TypeError("secrets are not compared")

    def __reduce__(self) -> NoReturn:
        raise TypeError("secrets are not pickled or copied")


class Identity:
    """A long-term Ed25519 signing key (RFC 8032).

    >>> Identity(bytes(32)).public.hex()[:16]
    '3b6a27bcceb6a42d'
    """

    __slots__ = ("_key", "public")

    def __init__(self, seed: bytes) -> None:
        if len(seed) != KEY_BYTES:
            raise LocalProtocolError(f"an identity's seed has {KEY_BYTES} bytes, found {len(seed)}")
        self._key = Ed25519PrivateKey.from_private_bytes(seed)
        self.public = self._key.public_key().public_bytes_raw()  # 32 bytes, goes into the roster

    @classmethod
    def generate(cls, rng: Rng) -> "Identity":
        """A new identity from `rng`, which in earnest is `os.urandom`."""
        return cls(rng(KEY_BYTES))

    def sign(self, message: bytes) -> bytes:
        """A deterministic 64-byte signature."""
        return self._key.sign(message)

    def reveal(self) -> bytes:
        """The seed, for a key file; every call is a place for a reviewer to look at."""
        return self._key.private_bytes_raw()

    def __repr__(self) -> str:
        return f"Identity({self.public.hex()[:16]}…)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("identities are not pickled or copied")


def verify(public: bytes, signature: bytes, message: bytes) -> bool:
    """Whether `signature` is `public`'s over `message`."""
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def context(label: Label, *parts: bytes | int) -> bytes:
    """Label and parts, each length-prefixed, so that no two lists of parts have the same bytes.

    Integers are eight bytes big-endian.
    """
    encoded = bytearray()
    for part in (label, *parts):
        field = part.to_bytes(8, "big") if isinstance(part, int) else part
        encoded += len(field).to_bytes(4, "big") + field
    return bytes(encoded)


def digest(label: Label, *parts: bytes | int) -> bytes:
    """SHA-256 over `context`."""
    return hashlib.sha256(context(label, *parts)).digest()


def derive(secret: bytes, label: Label, *parts: bytes | int) -> bytes:
    """Thirty-two bytes of HKDF-SHA256 (RFC 5869), no salt, `context` as info."""
    return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=None, info=context(label, *parts)).derive(secret)


def public_of(private: bytes) -> bytes:
    """The X25519 public key (RFC 7748) of a private key."""
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def is_low_order(public: bytes) -> bool:
    """Whether every private key agrees on zero with `public`, so that a mask from it would be public."""
    return int.from_bytes(public, "little") % 2**255 in _LOW_ORDER  # X25519 ignores the highest bit
