"""What encryption costs on this machine: the chooser's figures, and times that were just measured."""

import time
from collections.abc import Callable

import numpy as np

from collabsecure_cli.durations import in_words
from collabsecure_protocols import KeyPair
from collabsecure_protocols.ckks import Decryptor, Encryptor
from collabsecure_protocols.encryption_parameters import EncryptionParameters, explain

_SECONDS = 0.5


def explained(parameters: EncryptionParameters, num_clients: int, num_values: int) -> dict[str, str | int | float]:
    """All that `explain` says, with the bytes and times of `num_values` values of each client.

    Raises:
        EncryptionUnavailable: TenSEAL is not installed.
    """
    pair = KeyPair.generate(parameters.scheme)
    values = np.random.default_rng(0).integers(0, 1 << 63, parameters.capacity, np.uint64)  # noqa: NPY002, RUF100
    values &= np.uint64((1 << parameters.value_bits) - 1)
    encryptor, decryptor = Encryptor(pair.public, parameters), Decryptor(pair, parameters)
    payload = encryptor.encrypt(values)
    encrypting = _seconds(lambda: encryptor.encrypt(values)) / len(values)
    decrypting = _seconds(lambda: decryptor.decrypt(payload, len(values), num_summands=1)) / len(values)
    return {
        **explain(parameters, num_clients),
        "values of a client": num_values,
        "upload of a client": f"{parameters.payload_bytes(num_values) / 1e6:.0f} MB",
        "encryption, a value": f"{encrypting * 1e9:.0f} ns",
        "encryption, a client, one process": in_words(encrypting * num_values),
        "decryption, a value": f"{decrypting * 1e9:.0f} ns",
        "decryption, the key holder": in_words(decrypting * num_values),
    }


def _seconds(work: Callable[[], object]) -> float:
    """The least time of one call, in seconds."""
    best, until = float("inf"), time.perf_counter() + _SECONDS
    while time.perf_counter() < until:
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
    return best
