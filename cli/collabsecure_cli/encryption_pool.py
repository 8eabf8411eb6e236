"""Encryption in several processes: TenSEAL holds the interpreter's lock, so threads gain nothing.

Workers are started afresh, not forked: a fork that inherits TenSEAL's state hangs when it ends. None outlives the
process that it works for, however that ends.
"""

import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context, parent_process

import numpy as np
from numpy.typing import NDArray

from collabsecure.errors import CollabsecureError
from collabsecure_protocols import Session
from collabsecure_protocols.encrypting import ChunkEncryptor
from collabsecure_protocols.seal_forms import load_tenseal
from collabsecure_protocols.upload import Encrypt

_here: list[ChunkEncryptor] = []  # in a worker: its own


class EncryptionStopped(CollabsecureError):
    """A process that encrypted was killed; nothing of its chunk has left."""


def default_workers() -> int:
    """One for each core but the one that masks and signs."""
    return max(1, (os.cpu_count() or 2) - 1)


@contextmanager
def encryption_pool(session: Session, workers: int) -> Iterator[Encrypt | None]:
    """What encrypts a session's chunks, some `workers` at a time; None where a session is not encrypted.

    Raises:
        EncryptionUnavailable: TenSEAL is not installed.
        EncryptionStopped: a worker was killed.
    """
    if not session.is_encrypted:
        yield None
        return
    load_tenseal()  # so that it is missed here, and not in a worker
    arguments = (session.encryption, session.encryption_key, session.num_clients)
    pool = ProcessPoolExecutor(workers, get_context("spawn"), _start, arguments)

    def encrypt(values: NDArray[np.uint64], bits: int) -> Future[bytes]:
        return pool.submit(_encrypt, values, bits)

    try:
        yield encrypt
    except BrokenProcessPool as error:
        raise EncryptionStopped(
            "A process that encrypts was killed, perhaps for want of memory (--encryption-processes takes fewer). "
            "Everything is on the disk; the same command goes on."
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _start(scheme: str, public: bytes, num_clients: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the one that we work for ends us
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _here[:] = [ChunkEncryptor(scheme, public, num_clients)]


def _end_with_parent() -> None:
    """A parent that was killed takes nobody with it, and its queue stays open: the workers hold it themselves."""
    if (parent := parent_process()) is not None:
        parent.join()
    os._exit(1)


def _encrypt(values: NDArray[np.uint64], bits: int) -> bytes:
    return _here[0].encrypt(values, bits)
