"""Encryption in several processes: TenSEAL holds the interpreter's lock, so threads gain nothing.

Workers are started afresh, not forked: a fork that inherits TenSEAL's state hangs when it ends.
"""

import os
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context

import numpy as np
from numpy.typing import NDArray

from collabsecure_protocols import Session
from collabsecure_protocols.encrypting import ChunkEncryptor
from collabsecure_protocols.seal_forms import load_tenseal
from collabsecure_protocols.upload import Encrypt

_here: list[ChunkEncryptor] = []  # in a worker: its own


def default_workers() -> int:
    """One for each core but the one that masks and signs."""
    return max(1, (os.cpu_count() or 2) - 1)


@contextmanager
def encryption_pool(session: Session, workers: int) -> Iterator[Encrypt | None]:
    """What encrypts a session's chunks, some `workers` at a time; None where a session is not encrypted.

    Raises:
        EncryptionUnavailable: TenSEAL is not installed.
    """
    if not session.is_encrypted:
        yield None
        return
    load_tenseal()  # so that it is missed here, and not in a worker
    arguments = (session.encryption, session.encryption_key, session.num_clients)
    with ProcessPoolExecutor(workers, get_context("spawn"), _start, arguments) as pool:

        def encrypt(values: NDArray[np.uint64], bits: int) -> Future[bytes]:
            return pool.submit(_encrypt, values, bits)

        yield encrypt


def _start(scheme: str, public: bytes, num_clients: int) -> None:
    _here[:] = [ChunkEncryptor(scheme, public, num_clients)]


def _encrypt(values: NDArray[np.uint64], bits: int) -> bytes:
    return _here[0].encrypt(values, bits)
