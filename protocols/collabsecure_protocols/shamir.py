"""Shamir's secret sharing over the prime field of 2^256 + 297 elements (Shamir 1979).

A client's roster position is its abscissa. Python's integers are not constant-time: see secagg.md, "Not promised".
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from itertools import accumulate

from .errors import LocalProtocolError
from .keys import KEY_BYTES, Label, context

PRIME = 2**256 + 297  # the smallest prime above 2^256, so that every 32-byte secret is an element
SHARE_BYTES = 33
_COEFFICIENT_BYTES = 48  # reduced mod PRIME: within 2^-127 of uniform


def split(secret: bytes, threshold: int, holders: Sequence[int], seed: bytes) -> dict[int, bytes]:
    """Shares of a 32-byte secret, any `threshold` of which give it back and fewer say nothing.

    The polynomial's coefficients are SHAKE-256 of `seed`, which must be secret, uniform and used for this secret alone.

    >>> shares = split(bytes(31) + b"!", 2, [1, 2, 3], b"only for this example")
    >>> reconstruct({1: shares[1], 3: shares[3]})[-1:]
    b'!'
    """
    if not 1 <= threshold <= len(holders):
        raise LocalProtocolError(f"threshold {threshold} is not in [1, {len(holders)}] holders")
    stream = hashlib.shake_256(context(Label.POLYNOMIAL, seed)).digest((threshold - 1) * _COEFFICIENT_BYTES)
    coefficients = [
        int.from_bytes(stream[at : at + _COEFFICIENT_BYTES], "big") % PRIME
        for at in range(0, len(stream), _COEFFICIENT_BYTES)
    ]
    constant = int.from_bytes(secret, "big")
    shares = {}
    for holder in holders:
        value = 0
        for coefficient in coefficients:
            value = (value + coefficient) * holder % PRIME
        shares[holder] = ((value + constant) % PRIME).to_bytes(SHARE_BYTES, "big")
    return shares


def weights_at_zero(holders: Sequence[int]) -> list[int]:
    """Lagrange's weights of `holders` at zero; the same for every secret that they hold.

    Weight i is Π_j h_j / (h_i · Π_{j≠i} (h_j − h_i)). All denominators are inverted with one inversion (Montgomery).
    """
    numerator = math.prod(holders)
    denominators = [
        holder * math.prod(other - holder for other in holders if other != holder) % PRIME for holder in holders
    ]
    *before, whole = accumulate(denominators, lambda left, right: left * right % PRIME, initial=1)
    inverse, weights = pow(whole, -1, PRIME), []
    for denominator, product in zip(reversed(denominators), reversed(before), strict=True):
        weights.append(numerator * product * inverse % PRIME)
        inverse = inverse * denominator % PRIME
    return weights[::-1]


def combine(shares: Sequence[bytes], weights: Sequence[int]) -> bytes | None:
    """The secret, or None where the shares' polynomial has no 32-byte value at zero (its dealer cheated)."""
    total = sum(int.from_bytes(share, "big") * weight for share, weight in zip(shares, weights, strict=True)) % PRIME
    return total.to_bytes(KEY_BYTES, "big") if total < 2 ** (8 * KEY_BYTES) else None


def reconstruct(shares: Mapping[int, bytes]) -> bytes | None:
    """The secret from exactly as many shares as its threshold, or more; see `combine`."""
    holders = sorted(shares)
    return combine([shares[holder] for holder in holders], weights_at_zero(holders))


def is_element(share: bytes) -> bool:
    """Whether the bytes are the canonical form of a field element."""
    return len(share) == SHARE_BYTES and int.from_bytes(share, "big") < PRIME
