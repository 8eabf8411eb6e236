"""What the chooser chooses and refuses, and that its proof's premises hold."""

import dataclasses
import math
from fractions import Fraction

import numpy as np
import pytest

from collabsecure_protocols import InvalidSession
from collabsecure_protocols.encryption_parameters import (
    DATA_PRIME,
    MARGIN,
    RING_DEGREE,
    SCHEMES,
    SPECIAL_PRIME,
    EncryptionParameters,
    choose_encryption,
    explain,
    require_secure,
)
from collabsecure_protocols.seal_forms import PLAIN_PRIME, Ring


def is_prime(number):
    """Fermat to twelve bases: enough to catch a slip of the pen."""
    return all(pow(base, number - 1, number) == 1 for base in (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37))


@pytest.mark.parametrize(("prime", "bits"), [(DATA_PRIME, 60), (SPECIAL_PRIME, 17), (PLAIN_PRIME, 57)])
def test_primes_are_the_largest_of_their_bits_with_roots_for_the_ring(prime, bits):
    larger = range(prime + 2 * RING_DEGREE, 1 << bits, 2 * RING_DEGREE)
    assert prime % (2 * RING_DEGREE) == 1
    assert prime.bit_length() == bits
    assert is_prime(prime)
    assert not any(is_prime(number) for number in larger)


def test_the_primes_are_those_that_seal_takes():
    words = Ring("bfv").public_words().reshape(2, 2, RING_DEGREE)
    assert 0.999 < int(words[:, 0].max()) / DATA_PRIME < 1
    assert 0.99 < int(words[:, 1].max()) / SPECIAL_PRIME < 1


@pytest.mark.parametrize(
    ("scheme", "num_clients", "bits", "limbs", "bytes_per_value"),
    [
        ("bfv", 52, 48, 1, 16.0),
        ("bfv", 53, 48, 2, 32.0),
        ("bfv", 10_000, 40, 1, 16.0),
        ("bfv", 10_000, 64, 3, 48.0),
        ("ckks", 30, 38, 1, 32.0),
        ("ckks", 100, 34, 1, 32.0),
        ("ckks", 10, 40, 1, 32.0),
        ("ckks", 100, 48, 2, 64.0),
        ("ckks", 10_000, 64, 3, 96.1),
    ],
)
def test_packing_takes_the_fewest_bytes_that_are_proved_exact(scheme, num_clients, bits, limbs, bytes_per_value):
    found = choose_encryption(scheme, num_clients=num_clients, bits=bits)
    assert (found.limbs, round(found.bytes_per_value, 1)) == (limbs, bytes_per_value)
    assert found.max_clients >= num_clients


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("bits", [32, 40, 48, 64])
def test_parameters_are_proved_up_to_their_limit_and_refused_one_beyond_it_with_numbers(scheme, bits):
    found = choose_encryption(scheme, num_clients=10, bits=bits)
    limit = found.max_clients
    found.check(limit)
    with pytest.raises(
        InvalidSession, match=f"up to {limit} clients, not for {limit + 1}|10000 clients, found"
    ) as refused:
        found.check(limit + 1)
    assert sum(character.isdigit() for character in str(refused.value)) > 8


def test_the_designs_own_example_would_wrap_at_its_scale_and_is_sound_when_centred():
    """30 clients × 38 bits at 2^18, uncentred: the mean alone fills the constant coefficient beyond q/2."""
    assert DATA_PRIME / 2 < 30 * 2**37 * 2**18
    assert choose_encryption("ckks", num_clients=30, bits=38).limbs == 1


@pytest.mark.parametrize("scheme", ["none", "paillier"])
def test_unknown_scheme_is_refused(scheme):
    with pytest.raises(InvalidSession, match="unknown"):
        choose_encryption(scheme, num_clients=3, bits=48)


@pytest.mark.parametrize(("num_clients", "bits"), [(0, 48), (10_001, 48), (3, 0), (3, 65)])
def test_counts_out_of_range_are_refused_with_what_was_found(num_clients, bits):
    with pytest.raises(InvalidSession, match=r"found (0|10001|65)"):
        choose_encryption("bfv", num_clients=num_clients, bits=bits)


def test_rings_below_128_bits_of_security_are_refused():
    require_secure(4096, 109)
    for degree, bits in ((4096, 110), (2048, 60), (8192, 219), (1024, 20)):
        with pytest.raises(InvalidSession, match="is secure up to"):
            require_secure(degree, bits)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_encoding_is_canonical(scheme):
    found = choose_encryption(scheme, num_clients=10, bits=48)
    encoded = found.encode()
    assert EncryptionParameters.decode(encoded) == found
    for at in range(len(encoded)):
        changed = encoded[:at] + bytes([encoded[at] ^ 1]) + encoded[at + 1 :]
        try:
            other = EncryptionParameters.decode(changed)
        except InvalidSession:
            continue
        assert other != found
        assert other.encode() == changed
    for wrong in (encoded[:-1], encoded + b"\0", b""):
        with pytest.raises(InvalidSession):
            EncryptionParameters.decode(wrong)


@pytest.mark.parametrize(
    "change",
    [
        {"plain_bits": 47},
        {"plain_bits": None},
        {"scale_bits": 20},
        {"limbs": 0},
        {"limbs": 5},
        {"value_bits": 65},
        {"ring_degree": 2048},
        {"coefficient_bits": (60, 50)},
        {"scheme": "ckks"},
    ],
)
def test_parameters_that_contradict_themselves_cannot_be_made(change):
    found = choose_encryption("bfv", num_clients=10, bits=48)
    with pytest.raises(InvalidSession):
        dataclasses.replace(found, **change)


def test_explanation_has_every_figure_of_the_proof():
    for scheme in SCHEMES:
        found = choose_encryption(scheme, num_clients=30, bits=32)
        shown = explain(found, 30)
        assert shown["bytes per value"] in (16.0, 32.0)
        assert set(found.budget(30)) <= set(shown)


# The proof's premises, on a key and ciphertexts.


def noise_of(ring, words):
    """Of a bfv encryption of zero, in steps of q, to q/2^57 = 8."""
    found = ring.decrypt_coefficients(words).astype(np.int64)
    return np.where(found > PLAIN_PRIME // 2, found - PLAIN_PRIME, found) * (DATA_PRIME / PLAIN_PRIME)


def test_noise_of_a_ciphertext_is_what_the_proof_says():
    """r₀ + r₁s has variance (1 + weight of s)/12, weight 2N/3 ± 6 deviations; decryption's own rounding adds 8²/12."""
    ring = Ring("bfv")
    noise = np.concatenate([noise_of(ring, ring.encrypt([0], 1.0)) for _ in range(10)])
    expected = (1 + 2 * RING_DEGREE / 3) / 12 + 64 / 12
    assert 0.85 < noise.var() / expected < 1.15
    assert abs(noise.mean()) < 6 * math.sqrt(expected / len(noise)) + 1
    proved = choose_encryption("bfv", num_clients=1, bits=48).budget(1)["noise, in steps of the modulus"][0]
    assert np.abs(noise).max() < 0.6 * float(proved) ** 0.5


def test_floating_point_error_of_the_embedding_is_below_what_the_proof_allows():
    """In a ring with room for a scale at which noise is nothing: the error of encoding and decoding together."""
    import tenseal

    context = tenseal.context(tenseal.SCHEME_TYPE.CKKS, RING_DEGREE, coeff_mod_bit_sizes=[46, 46, 17], n_threads=1)
    rng = np.random.default_rng(5)
    for bits in (38, 46):
        for values in (
            rng.integers(-(1 << bits - 1), 1 << bits - 1, RING_DEGREE // 2).astype(np.float64),
            rng.choice([-1.0, 1.0], RING_DEGREE // 2) * 2.0 ** (bits - 1),
        ):
            found = np.array(tenseal.ckks_vector(context, values.tolist(), 2.0 ** (84 - bits)).decrypt())
            assert np.abs(found - values).max() < 2.0 ** (bits - 1) * 2.0**-49  # allowed: 2^-47


def test_the_margin_leaves_room_on_both_sides():
    assert Fraction(1, 4) < MARGIN < Fraction(1, 2)
