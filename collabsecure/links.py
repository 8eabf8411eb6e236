"""What a sum follows, as 32 bytes: masks of the next sum are bound to all updates before it.

Clients that were told different updates never have masks that cancel (secagg.md P4), so a server cannot show one client
another model than the rest. NumPy only.
"""

import hashlib
from collections.abc import Iterable

import numpy as np
from jaxtyping import Float64

FIRST_LINK = bytes(hashlib.sha256().digest_size)
"""What the first sum follows: nothing."""


def delta_digest(layer: int, delta: Float64[np.ndarray, "d_out d_in"]) -> bytes:
    """SHA-256 of a layer's Δ, its shape and number included."""
    header = f"collabsecure delta layer {layer} {delta.shape[0]} {delta.shape[1]} ".encode()
    digest = hashlib.sha256(header)
    digest.update(np.ascontiguousarray(delta, "<f8").data)
    return digest.digest()


def next_link(link: bytes, digests: Iterable[bytes]) -> bytes:
    """What the sum after the one with `link` follows: SHA-256 of that link and the digests of what the sum gave.

    >>> next_link(FIRST_LINK, [b"1" * 32]) == next_link(FIRST_LINK, [b"2" * 32])
    False
    """
    return hashlib.sha256(b"".join((link, *digests))).digest()
