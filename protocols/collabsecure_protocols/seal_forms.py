"""SEAL's objects as arrays of numbers, and back: the byte forms of SEAL 4 and TenSEAL 0.3.

TenSEAL hands out and takes objects only as protocol buffers around SEAL's own serialisation. These functions write such
bytes around numbers that were checked, and read them from what this process's own TenSEAL wrote; nothing that came
from elsewhere is parsed here, or by SEAL.
"""

import struct
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import numpy as np

from .ciphertexts import Words
from .encryption_parameters import COEFFICIENT_BITS, RING_DEGREE, Scheme
from .errors import EncryptionUnavailable

# SEAL's precision for what bfv decrypts: the largest prime of 57 bits that is 1 mod 2N, as TenSEAL's vectors want it.
# Encryption does not depend on it, so a session's own plain modulus may be any power of two.
PLAIN_PRIME = 2**57 - 40959

_MAGIC, _HEADER_BYTES, _UNCOMPRESSED = 0xA15E, 16, 0
_MEMBERS = struct.Struct("<4Q?QQQdQ")  # parms id, NTT form, polynomials, N, primes, scale, correction factor
_LENGTH_DELIMITED, _FIXED64 = 2, 1
_LAST_RAW_BLOCK = 1  # zstd: the last block, stored as it is


def load_tenseal() -> ModuleType:
    """TenSEAL's native module, imported when it is first needed."""
    try:
        import tenseal
    except ImportError as error:
        raise EncryptionUnavailable("encryption needs TenSEAL: pip install 'collabsecure[ckks]'") from error
    native: ModuleType = tenseal._ts_cpp
    return native


class Ring:
    """One TenSEAL context, with a fresh key pair, a given public key or both keys; one thread, no galois keys."""

    def __init__(self, scheme: Scheme, *, public: Words | None = None, saved: bytes | None = None) -> None:
        self.native = load_tenseal()
        self.scheme = scheme
        if saved is not None:
            self.context = self.native.TenSEALContext.deserialize(saved, 1)
        else:
            kind = self.native.SCHEME_TYPE.CKKS if scheme == "ckks" else self.native.SCHEME_TYPE.BFV
            plain, asymmetric = 0 if scheme == "ckks" else PLAIN_PRIME, self.native.ENCRYPTION_TYPE.ASYMMETRIC
            self.context = self.native.TenSEALContext.new(
                kind, RING_DEGREE, plain, list(COEFFICIENT_BITS), asymmetric, 1
            )
        without_keys: bytes = self.context.serialize(False, False, False, False)
        at = without_keys.index(_MAGIC.to_bytes(2, "little"))
        self._version = without_keys[at + 3 : at + 5]  # SEAL's own, major and minor
        if public is not None:
            # Protocol buffers merge a second occurrence of a field into the first.
            key = self._serialized(self.context.seal_context().key_parms_id(), public, True, len(COEFFICIENT_BITS), 1.0)
            self.context = self.native.TenSEALContext.deserialize(without_keys + _field(2, _field(1, key)), 1)
        self._parms_id = self.context.seal_context().first_parms_id()

    def public_words(self) -> Words:
        """The public key's two polynomials, each mod q and mod p, in NTT form."""
        return _numbers(self.context.public_key().data(), 2 * len(COEFFICIENT_BITS) * RING_DEGREE)

    def encrypt(self, values: Sequence[int] | Sequence[float], scale: float) -> Words:
        """A fresh ciphertext of at most as many values as there are slots: for ckks in NTT form, for bfv not."""
        if self.scheme == "ckks":
            vector = self.native.CKKSVector(self.context, values, scale)
        else:
            vector = self.native.BFVVector(self.context, values)
        serialized: bytes = vector.serialize()
        tail = 9 if self.scheme == "ckks" else 0  # the scale's field follows
        words = _stored_words(serialized[: len(serialized) - tail])
        return _numbers(vector.ciphertext()[0], 2 * RING_DEGREE) if words is None else words

    def load(self, words: Words, scale: float) -> Any:  # noqa: ANN401
        """TenSEAL's vector of a ciphertext whose numbers are below q; both keys are here to decrypt it."""
        is_ckks = self.scheme == "ckks"
        ciphertext = self._serialized(self._parms_id, words, is_ckks, 1, scale)
        fields = _field(1, _varint(RING_DEGREE // 2 if is_ckks else RING_DEGREE)) + _field(2, ciphertext)
        if is_ckks:
            return self.native.CKKSVector(self.context, fields + _varint(3 << 3 | _FIXED64) + struct.pack("<d", scale))
        return self.native.BFVVector(self.context, fields)

    def decrypt_coefficients(self, words: Words) -> Words:
        """Of bfv: round(c·PLAIN_PRIME/q) for each coefficient c of c0 + c1·s."""
        plain = self.native.Plaintext()
        self.context.decryptor().decrypt(self.load(words, 1.0).ciphertext()[0], plain)
        found = np.zeros(RING_DEGREE, np.uint64)
        count = plain.coeff_count()
        found[:count] = _numbers(plain, count)
        return found

    def decrypt_slots(self, words: Words, scale: float) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        """Of ckks: the real parts of all slots, unrounded. Nothing but rounded integers may leave the caller."""
        return np.array(self.load(words, scale).decrypt())

    def _serialized(self, parms_id: Sequence[int], words: Words, is_ntt: bool, num_primes: int, scale: float) -> bytes:
        """SEAL's form of a ciphertext of two polynomials, or of a public key, which is one."""
        numbers = self._object(struct.pack("<Q", len(words)) + words.tobytes())
        return self._object(_MEMBERS.pack(*parms_id, is_ntt, 2, RING_DEGREE, num_primes, scale, 1) + numbers)

    def _object(self, body: bytes) -> bytes:
        size = _HEADER_BYTES + len(body)
        return struct.pack("<HB2sBHQ", _MAGIC, _HEADER_BYTES, self._version, _UNCOMPRESSED, 0, size) + body


def _stored_words(serialized: bytes) -> Words | None:
    """The numbers at the end of a serialised ciphertext, if zstd stored them as they are.

    It does so nearly always, since numbers mod a prime of 60 bits are noise; asking SEAL for them one by one takes
    longer than encrypting.
    """
    data_bytes = 8 * 2 * RING_DEGREE
    raw_bytes = _MEMBERS.size + _HEADER_BYTES + 8 + data_bytes
    at = len(serialized) - raw_bytes - 3
    count = serialized[-data_bytes - 8 : -data_bytes]
    stored = at > 0 and serialized[at : at + 3] == (raw_bytes << 3 | _LAST_RAW_BLOCK).to_bytes(3, "little")
    if not stored or int.from_bytes(count, "little") != 2 * RING_DEGREE:
        return None
    return np.frombuffer(serialized, "<u8", offset=len(serialized) - data_bytes).copy()


def _numbers(source: Any, count: int) -> Words:  # noqa: ANN401
    """The first numbers of a SEAL object, one by one."""
    item: Callable[[int], int] = source.__getitem__
    return np.fromiter(map(item, range(count)), np.uint64, count)


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)


def _field(number: int, body: bytes) -> bytes:
    return _varint(number << 3 | _LENGTH_DELIMITED) + _varint(len(body)) + body
