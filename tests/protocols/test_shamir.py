"""Shamir's sharing: any threshold of shares reconstruct, fewer say nothing, and the field is one."""

import itertools
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collabsecure_protocols import LocalProtocolError
from collabsecure_protocols.shamir import (
    PRIME,
    SHARE_BYTES,
    combine,
    is_element,
    reconstruct,
    split,
    weights_at_zero,
)

secrets = st.binary(min_size=32, max_size=32) | st.sampled_from([bytes(32), b"\xff" * 32])


def numbers(shares):
    return {holder: int.from_bytes(share, "big") for holder, share in shares.items()}


def test_the_modulus_is_the_smallest_prime_above_every_secret():
    """Miller–Rabin over forty fixed bases; every smaller candidate has a witness."""

    def is_prime(candidate):
        odd, twos = candidate - 1, 0
        while odd % 2 == 0:
            odd, twos = odd // 2, twos + 1
        for base in range(2, 42):
            power = pow(base, odd, candidate)
            if power not in (1, candidate - 1) and not any(
                (power := power * power % candidate) == candidate - 1 for _ in range(twos - 1)
            ):
                return False
        return True

    assert is_prime(PRIME)
    assert not any(is_prime(candidate) for candidate in range(2**256, PRIME))


@given(secrets, st.integers(1, 7), st.integers(0, 4), st.binary(min_size=32, max_size=32), st.data())
def test_any_threshold_of_shares_or_more_reconstruct(secret, threshold, spare, seed, data):
    holders = data.draw(
        st.lists(st.integers(1, 10_000), min_size=threshold + spare, max_size=threshold + spare, unique=True)
    )
    shares = split(secret, threshold, holders, seed)
    assert all(len(share) == SHARE_BYTES and is_element(share) for share in shares.values())
    size = data.draw(st.integers(threshold, len(holders)))
    chosen = data.draw(st.permutations(holders))[:size]
    assert reconstruct({holder: shares[holder] for holder in chosen}) == secret
    assert combine([shares[holder] for holder in chosen], weights_at_zero(chosen)) == secret


def test_every_subset_of_five_with_threshold_three():
    secret, holders = bytes(range(32)), [1, 2, 3, 4, 5]
    shares = split(secret, 3, holders, b"seed")
    for size in range(6):
        for chosen in itertools.combinations(holders, size):
            found = reconstruct({holder: shares[holder] for holder in chosen})
            assert (found == secret) == (size >= 3)


@given(secrets, secrets, st.integers(2, 6), st.binary(min_size=32, max_size=32))
def test_fewer_shares_than_the_threshold_fit_any_secret(secret, other, threshold, seed):
    """For every other secret there is one polynomial through the same t − 1 shares: they rule nothing out."""
    shares = numbers(split(secret, threshold, range(1, threshold + 1), seed))
    del shares[threshold]
    points = {0: int.from_bytes(other, "big"), **shares}
    # Lagrange through (0, other) and the shares, evaluated at a further holder: a legal share of `other`.
    further, value = threshold + 100, 0
    for at, y in points.items():
        weight = 1
        for elsewhere in points:
            if elsewhere != at:
                weight = weight * (further - elsewhere) * pow(at - elsewhere, -1, PRIME) % PRIME
        value = (value + y * weight) % PRIME
    completed = {**shares, further: value}
    assert reconstruct({holder: y.to_bytes(SHARE_BYTES, "big") for holder, y in completed.items()}) == other


def test_a_single_share_is_uniform_over_the_seeds():
    """χ² of a share's low byte over 25 600 seeds of one secret: 255 degrees of freedom, below the 1 − 1e-6 quantile."""
    counts = Counter(split(bytes(32), 2, [1, 2], number.to_bytes(4, "big"))[1][-1] for number in range(25_600))
    chi_squared = sum((counts[byte] - 100) ** 2 / 100 for byte in range(256))
    assert chi_squared < 377.1  # scipy.stats.chi2.isf(1e-6, 255)


def test_coefficients_differ_by_seed_and_by_power():
    first, second = (numbers(split(bytes(32), 3, [1, 2, 3], seed)) for seed in (b"a", b"b"))
    assert first != second
    # With secret 0, f(1) = a + b and f(2) = 2a + 4b.
    b = (first[2] - 2 * first[1]) * pow(2, -1, PRIME) % PRIME
    a = (first[1] - b) % PRIME
    assert len({0, a, b}) == 3


@given(secrets, st.integers(2, 5), st.binary(min_size=32, max_size=32), st.integers(1, PRIME - 1))
def test_an_altered_share_never_gives_the_secret(secret, threshold, seed, change):
    shares = split(secret, threshold, range(1, threshold + 1), seed)
    shares[1] = ((int.from_bytes(shares[1], "big") + change) % PRIME).to_bytes(SHARE_BYTES, "big")
    assert reconstruct(shares) != secret


def test_a_polynomial_without_a_32_byte_value_at_zero_gives_none():
    for outside in (2**256, PRIME - 1):
        assert combine([outside.to_bytes(SHARE_BYTES, "big")], [1]) is None


@pytest.mark.parametrize(
    ("share", "expected"),
    [
        (bytes(33), True),
        ((PRIME - 1).to_bytes(33, "big"), True),
        (PRIME.to_bytes(33, "big"), False),
        (b"\xff" * 33, False),
        (bytes(32), False),
        (bytes(34), False),
        (b"", False),
    ],
)
def test_only_canonical_field_elements_pass(share, expected):
    assert is_element(share) is expected


@pytest.mark.parametrize("threshold", [0, -1, 4])
def test_a_threshold_outside_the_holders_is_refused(threshold):
    with pytest.raises(LocalProtocolError, match="threshold"):
        split(bytes(32), threshold, [1, 2, 3], b"seed")
