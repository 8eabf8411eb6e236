"""A second implementation of protocols/secagg.md, part 1 of 4: primitives and the shapes of bytes.

Written from the text alone, in plain integers and bytes; it shares no code with `collabsecure_protocols` and imports
nothing of it. It is slow, keeps everything in memory and has no interest in side channels: it is here to disagree.
"""

from hashlib import sha256, shake_256
from math import prod

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

PRIME = 2**256 + 297
ZERO = bytes(32)
SEED, KEY = 1, 2  # kinds of share
SUITE = "collabsecure/1 "


class Refused(Exception):
    """A numbered check of secagg.md failed."""

    def __init__(self, check, words, *culprits):
        super().__init__(f"{check} {words}")
        self.check, self.culprits = check, culprits


def need(condition, check, words, *culprits):
    if not condition:
        raise Refused(check, words, *culprits)


def ctx(label, *parts):
    out = b""
    for part in (SUITE + label, *parts):
        raw = part.encode() if isinstance(part, str) else part.to_bytes(8, "big") if isinstance(part, int) else part
        out += len(raw).to_bytes(4, "big") + raw
    return out


def hashed(label, *parts):
    return sha256(ctx(label, *parts)).digest()


def kdf(secret, label, *parts):
    return HKDF(algorithm=SHA256(), length=32, salt=b"", info=ctx(label, *parts)).derive(secret)


def public_key(secret):
    return X25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw()


def agree(secret, public):
    """X25519; None for a public key of low order."""
    try:
        return X25519PrivateKey.from_private_bytes(secret).exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError:
        return None


def is_low_order(public):
    return agree(b"\x01" * 32, public) is None


def keystream(key, values):
    """The first values of a mask, as integers mod 2^64."""
    stream = Cipher(algorithms.AES256(key), modes.CTR(bytes(16))).encryptor().update(bytes(8 * values))
    return [int.from_bytes(stream[8 * v : 8 * v + 8], "little") for v in range(values)]


def coefficients(seed, threshold):
    """Of x, x^2, … x^(t-1), as the vectors' dealers draw them."""
    stream = shake_256(ctx("share polynomial", seed)).digest(48 * (threshold - 1))
    return [int.from_bytes(stream[at : at + 48], "big") % PRIME for at in range(0, len(stream), 48)][::-1]


def deal(secret, polynomial, holder):
    """One holder's share of a secret: the polynomial at its roster position."""
    value = int.from_bytes(secret, "big") + sum(c * holder**power for power, c in enumerate(polynomial, 1))
    return (value % PRIME).to_bytes(33, "big")


def is_element(share):
    return int.from_bytes(share, "big") < PRIME


def reconstruct(shares):
    """Lagrange at zero; None if what comes out is no 32-byte secret."""
    total = 0
    for x, share in shares.items():
        weight = prod(z * pow(z - x, -1, PRIME) for z in shares if z != x)
        total += weight * int.from_bytes(share, "big")
    total %= PRIME
    return total.to_bytes(32, "big") if total < 2**256 else None


class Reader:
    """Fields in their order; whatever does not fit fails the given check."""

    def __init__(self, data, check="V07"):
        self.data, self.at, self.check = data, 0, check

    def take(self, size):
        need(self.at + size <= len(self.data), self.check, "short")
        self.at += size
        return self.data[self.at - size : self.at]

    def number(self, size, signed=False):
        return int.from_bytes(self.take(size), "big", signed=signed)

    def blob(self):
        return self.take(self.number(4))

    def text(self):
        try:
            return self.blob().decode()
        except UnicodeDecodeError:
            raise Refused(self.check, "text is not UTF-8") from None

    def many(self, size, read):
        return [read() for _ in range(self.number(size))]

    def members(self, n):
        raw = int.from_bytes(self.take((n + 7) // 8), "little")
        need(raw < 1 << n, self.check, "bits beyond the roster")
        return [u for u in range(1, n + 1) if raw >> (u - 1) & 1]

    def end(self):
        need(self.at == len(self.data), self.check, "long")


def bitmap(members, n):
    return sum(1 << (u - 1) for u in members).to_bytes((n + 7) // 8, "little")


def blob(raw):
    raw = raw.encode() if isinstance(raw, str) else raw
    return len(raw).to_bytes(4, "big") + raw
