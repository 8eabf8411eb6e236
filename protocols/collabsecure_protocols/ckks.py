"""Encrypted sums: key pair, encryption and decryption of masked integers, with TenSEAL (the extra `ckks`).

Three roles that never share a secret. A client encrypts its *masked* integers with `Encryptor`, which holds a public
key and nothing else. The aggregator adds numbers mod q (`forms.Form`) and holds no key at all. The key holder has the
`KeyPair`, decrypts totals with `Decryptor`, and releases integers mod 2^k: masked ones, from which the protocol removes
what masks are left. So even the key holder and the aggregator together learn the sum and nothing finer.

- A ckks decryption before rounding contains the noise, which is a linear equation in the secret key; two of them gave
  the whole key (Li and Micciancio, EUROCRYPT 2021). `Decryptor` has no way to return one.
- RLWE ciphertexts can be changed by whoever carries them, and a key holder that decrypts what it is given is an oracle
  for its own key: (0, 1) decrypts to the secret. So totals are signed by the aggregator, each is decrypted once, and a
  key pair serves one session. Who chooses totals *and* sees the answers opens ciphertexts; masks remain under them.
- Randomness comes from SEAL (BLAKE2x, seeded for each ciphertext from the operating system), and cannot be passed in.
- TenSEAL holds the interpreter's lock: use processes, each with an `Encryptor` that it made itself. A forked process
  that inherits one may wait for ever when it ends: TenSEAL's destructor joins threads that only the parent has.
"""

import hashlib
from dataclasses import dataclass, field
from fractions import Fraction
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from .ciphertexts import Payload, Words, add_mod, join, read_payload, split
from .encryption_parameters import (
    COEFFICIENT_BITS,
    DATA_PRIME,
    MARGIN,
    RING_DEGREE,
    SCHEMES,
    SPECIAL_PRIME,
    EncryptionParameters,
    Scheme,
)
from .errors import CiphertextRefused, LocalProtocolError, StateRefused
from .seal_forms import PLAIN_PRIME, Ring
from .wire import Malformed, Reader, Writer

_PUBLIC_FORMAT, _SAVED_FORMAT, _VERSION = "collabsecure encryption key", "collabsecure encryption key pair", 1
_PUBLIC_WORDS = 2 * len(COEFFICIENT_BITS) * RING_DEGREE
_PRECISION = 57  # bits of a decrypted coefficient: PLAIN_PRIME, nearly


@dataclass(frozen=True, slots=True, kw_only=True)
class PublicKey:
    """What clients encrypt with. Its form has no place for a secret, and no bytes of it reach SEAL unchecked."""

    scheme: Scheme
    words: Words = field(repr=False, compare=False)  # two polynomials, each mod q and mod p
    digest: bytes = field(init=False)  # SHA-256 of the encoding, to sign and to compare

    def __post_init__(self) -> None:
        if self.scheme not in SCHEMES or self.words.shape != (_PUBLIC_WORDS,) or self.words.dtype != np.uint64:
            raise CiphertextRefused(f"expected a key of {_PUBLIC_WORDS} numbers, found {self.words.shape}")
        primes = np.array((DATA_PRIME, SPECIAL_PRIME), np.uint64)[:, None]
        if not bool((self.words.reshape(2, len(COEFFICIENT_BITS), RING_DEGREE) < primes).all()):
            raise CiphertextRefused("a number of an encryption key is not below its modulus")
        object.__setattr__(self, "digest", hashlib.sha256(self.encode()).digest())

    def encode(self) -> bytes:
        """The canonical encoding, of about 131 kB."""
        out = Writer().text(_PUBLIC_FORMAT).u8(_VERSION).u8(SCHEMES.index(self.scheme))
        return out.raw(self.words.tobytes()).finish()

    @classmethod
    def decode(cls, data: bytes) -> "PublicKey":
        """Read what `encode` wrote, after its signature was checked; anything else raises `CiphertextRefused`."""
        try:
            source = Reader(data)
            form, version, scheme = source.text(), source.u8(), source.u8()
            if (form, version) != (_PUBLIC_FORMAT, _VERSION) or scheme >= len(SCHEMES):
                raise CiphertextRefused(f"not an encryption key that is known here: {form[:40]!r} {version} {scheme}")
            words = np.frombuffer(source.raw(8 * _PUBLIC_WORDS), "<u8")
            source.finish()
        except Malformed as error:
            raise CiphertextRefused(f"not an encryption key: {error}") from error
        return cls(scheme=SCHEMES[scheme], words=words)


class KeyPair:
    """The key holder's secret, which cannot be printed, compared or pickled, and its public key."""

    __slots__ = ("_ring", "public")
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, ring: Ring) -> None:
        self._ring = ring
        self.public = PublicKey(scheme=ring.scheme, words=ring.public_words())

    @classmethod
    def generate(cls, scheme: Scheme) -> "KeyPair":
        """A fresh pair from SEAL's generator. One session, one pair."""
        return cls(Ring(scheme))

    def save(self) -> bytes:
        """The secret, for the key holder's own file; every call is a place for a reviewer to look at."""
        out = Writer().text(_SAVED_FORMAT).u8(_VERSION).u8(SCHEMES.index(self.public.scheme))
        body = out.blob(self._ring.context.serialize(True, True, False, False)).finish()
        return body + hashlib.sha256(body).digest()

    @classmethod
    def restore(cls, saved: bytes) -> "KeyPair":
        """The pair that `save` wrote; a damaged file raises `StateRefused` before SEAL sees it."""
        body, checksum = saved[:-32], saved[-32:]
        if hashlib.sha256(body).digest() != checksum:
            raise StateRefused("V35: the saved encryption key pair is damaged")
        source = Reader(body)
        form, version, scheme = source.text(), source.u8(), source.u8()
        if (form, version) != (_SAVED_FORMAT, _VERSION) or scheme >= len(SCHEMES):
            raise StateRefused(f"V35: expected {_SAVED_FORMAT!r} {_VERSION}, found {form[:40]!r} {version}")
        return cls(Ring(SCHEMES[scheme], saved=source.blob()))

    def __repr__(self) -> str:
        return f"KeyPair({self.public.digest.hex()[:16]}…)"

    def __eq__(self, other: object) -> NoReturn:
        raise TypeError("secrets are not compared")

    def __reduce__(self) -> NoReturn:
        raise TypeError("secrets are not pickled or copied")


class Encryptor:
    """Encrypts masked integers with a public key. One per process; not for threads."""

    def __init__(self, public: PublicKey, parameters: EncryptionParameters) -> None:
        _require_scheme(public, parameters)
        self._parameters = parameters
        self._ring = Ring(public.scheme, public=public.words)

    def encrypt(self, values: NDArray[np.uint64]) -> bytes:
        """The payload of any stretch of masked integers; bits above `value_bits` are dropped."""
        capacity = self._parameters.capacity
        blocks = (values[at : at + capacity] for at in range(0, len(values), capacity))
        return b"".join(self._encrypt(split(self._parameters, block)).tobytes() for block in blocks)

    def _encrypt(self, slots: NDArray[np.uint64]) -> Words:
        if self._parameters.scheme == "ckks":
            return self._ring.encrypt(slots.view(np.int64).astype(np.float64).tolist(), self._parameters.scale)
        words = self._ring.encrypt([0], 1.0)  # SEAL's encryption of zero; the message is added as SEAL would
        add_mod(words[:RING_DEGREE], _scaled(slots, self._parameters.plain_bits or 0))
        return words


class Decryptor:
    """Decrypts totals to integers mod 2^k, or refuses."""

    def __init__(self, key_pair: KeyPair, parameters: EncryptionParameters) -> None:
        _require_scheme(key_pair.public, parameters)
        self._parameters = parameters
        self._ring = key_pair._ring

    def __repr__(self) -> str:
        return "<decryptor>"

    def decrypt(self, total: Payload, num_values: int, *, num_summands: int) -> NDArray[np.uint64]:
        """The sum, mod 2^k, of the integers that `num_summands` clients encrypted.

        Raises:
            InvalidSession: the parameters are not exact for so many summands.
            CiphertextRefused: not the exact size, a number not below q, or a slot further than `MARGIN` from an
                integer: the total has ciphertexts of another key or session, or more than were said.

        """
        self._parameters.check(num_summands)
        words = read_payload(self._parameters, num_values, total)
        capacity, size = self._parameters.capacity, self._parameters.ciphertext_words
        values = np.empty(num_values, np.uint64)
        for number, at in enumerate(range(0, num_values, capacity)):
            count = min(capacity, num_values - at)
            try:
                slots, stray = self._decrypt(words[number * size : (number + 1) * size])
            except (RuntimeError, ValueError) as error:  # what SEAL throws; none is known that gets here
                raise CiphertextRefused(f"SEAL refuses ciphertext {number} of a total: {error}") from error
            if not stray <= MARGIN:  # also where it is not a number
                raise CiphertextRefused(
                    f"ciphertext {number} of a total decrypts to {stray:.3f} of a unit from an integer, at most "
                    f"{float(MARGIN)}: it is not the sum of at most {num_summands} ciphertexts of this key and session"
                )
            values[at : at + count] = join(self._parameters, slots, count)
        return values

    def _decrypt(self, words: Words) -> tuple[NDArray[np.uint64], float]:
        """Slots rounded to integers, and how far the furthest was from one."""
        if self._parameters.scheme == "bfv":
            return _rounded(self._ring.decrypt_coefficients(words), self._parameters.plain_bits or 0)
        found = self._ring.decrypt_slots(words, self._parameters.scale)
        rounded = np.rint(found)
        stray = float(np.abs(found - rounded).max())
        if not float(np.abs(rounded).max()) < 2.0**62:
            return np.zeros(0, np.uint64), float("inf")
        return rounded.astype(np.int64).view(np.uint64), stray


def _require_scheme(public: PublicKey, parameters: EncryptionParameters) -> None:
    if public.scheme != parameters.scheme:
        raise LocalProtocolError(f"a key for {public.scheme} does not serve a session with {parameters.scheme}")


def _scaled(slots: NDArray[np.uint64], plain_bits: int) -> Words:
    """q·m/2^t for m < 2^t, rounded up: within 1 of it and below q."""
    below = np.uint64(2**60 - DATA_PRIME)  # q·m/2^t = m·2^(60−t) − (2^60 − q)·m/2^t
    spare = np.uint64(max(0, plain_bits - 48))  # low bits of m that would overflow and do not count
    correction = ((slots >> spare) * below) >> (np.uint64(plain_bits) - spare)
    return (slots << np.uint64(60 - plain_bits)) - correction


def _rounded(found: Words, plain_bits: int) -> tuple[NDArray[np.uint64], float]:
    """Coefficients of 0 … PLAIN_PRIME as integers mod 2^t, and the furthest from one in units.

    PLAIN_PRIME is a little less than 2^57, so what is found is brought to that range first.
    """
    missing = 2**_PRECISION - PLAIN_PRIME
    fraction = found + np.rint(found.astype(np.float64) * (missing / PLAIN_PRIME)).astype(np.uint64)
    shift = np.uint64(_PRECISION - plain_bits)
    rounded = (fraction + (np.uint64(1) << (shift - np.uint64(1)))) >> shift
    strays = (fraction - (rounded << shift)).view(np.int64)
    stray = float(Fraction(int(np.abs(strays).max()), 1 << int(shift)))
    return rounded & np.uint64((1 << plain_bits) - 1), stray
