"""Encryption of a client's masked integers in one process; a host with more makes one `ChunkEncryptor` in each."""

from concurrent.futures import Future

import numpy as np
from numpy.typing import NDArray

from .ckks import Encryptor, PublicKey
from .encryption_parameters import SCHEMES, choose_encryption
from .session import Session
from .upload import Encrypt


class ChunkEncryptor:
    """Encrypts stretches of masked integers under one session's public key. Not for threads.

    Raises:
        EncryptionUnavailable: TenSEAL is not installed.

    """

    def __init__(self, scheme: str, public: bytes, num_clients: int) -> None:
        self._scheme = next(known for known in SCHEMES if known == scheme)
        self._public, self._num_clients = PublicKey.decode(public), num_clients
        self._encryptors: dict[int, Encryptor] = {}  # by bits

    @classmethod
    def of(cls, session: Session) -> "ChunkEncryptor":
        """For an encrypted session."""
        return cls(session.encryption, session.encryption_key, session.num_clients)

    def encrypt(self, values: NDArray[np.uint64], bits: int) -> bytes:
        """The ciphertexts of masked integers below 2^bits."""
        if bits not in self._encryptors:
            parameters = choose_encryption(self._scheme, num_clients=self._num_clients, bits=bits)
            self._encryptors[bits] = Encryptor(self._public, parameters)
        return self._encryptors[bits].encrypt(values)


def encrypting_here(session: Session) -> Encrypt:
    """Encrypt in the calling thread."""
    encryptor = ChunkEncryptor.of(session)

    def encrypt(values: NDArray[np.uint64], bits: int) -> Future[bytes]:
        done: Future[bytes] = Future()
        done.set_result(encryptor.encrypt(values, bits))
        return done

    return encrypt
