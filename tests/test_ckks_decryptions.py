"""Unrounded CKKS decryptions of two sums open every upload; rounded integers do not.

What it proves: on NVFlare's default parameters (N = 8192, primes of 60, 40 and 40 bits, scale 2^40), two encrypted sums
and the floats that they decrypt to give the whole secret key, and with it each client's numbers. On this package's own
parameters the same two views do as well if decryptions are released unrounded, and this attack finds nothing once they
are rounded. What it does not prove: that a rounded sum is secure, which follows from its being the sum; nor that anyone
in NVFlare is shown both things. NVFlare itself is not run: its filters call the same TenSEAL functions.
"""

import functools

import numpy as np
import pytest
import tenseal

from collabsecure.attacks.ckks_decryptions import PublishedSum, open_upload, recover_secret, ternary_fraction
from collabsecure_protocols.ciphertexts import Adder
from collabsecure_protocols.ckks import Encryptor, KeyPair
from collabsecure_protocols.encryption_parameters import DATA_PRIME, EncryptionParameters

NVFLARE = {"poly_modulus_degree": 8192, "coeff_mod_bit_sizes": [60, 40, 40]}
NVFLARE_SCALE = 2.0**40
LARGEST_PRIME = 2**60 - 2**14 + 1  # of 60 bits that is 1 mod 16384: the first of the chain
CLIENTS = 3


def words_of(vector, degree):
    """A ciphertext's numbers mod the chain's first prime."""
    (ciphertext,) = vector.ciphertext()
    primes = ciphertext.coeff_modulus_size()
    numbers = np.fromiter(map(ciphertext.__getitem__, range(2 * primes * degree)), np.uint64)
    return np.ascontiguousarray(numbers.reshape(2, primes, degree)[:, 0])


@functools.cache
def nvflare_rounds():
    """Two rounds of updates, encrypted and summed as NVFlare does."""
    context = tenseal.context(tenseal.SCHEME_TYPE.CKKS, n_threads=1, **NVFLARE)
    context.global_scale = NVFLARE_SCALE
    rng = np.random.default_rng(1)
    rounds = []
    for _ in range(2):
        updates = rng.normal(scale=0.02, size=(CLIENTS, 4096))
        uploads = [tenseal.ckks_vector(context, update.tolist()) for update in updates]
        total = functools.reduce(lambda left, right: left + right, uploads)
        rounds.append((updates, uploads, total))
    return context, rounds


def nvflare_view(total, decimals=None):
    slots = np.array(total.decrypt())
    return PublishedSum(
        ciphertext=words_of(total, 8192),
        slots=slots if decimals is None else slots.round(decimals),
        scale=NVFLARE_SCALE,
        prime=LARGEST_PRIME,
    )


def test_two_decrypted_sums_open_the_secret_key_and_each_clients_update_on_nvflares_default():
    context, rounds = nvflare_rounds()
    secret = recover_secret(*(nvflare_view(total) for _, _, total in rounds))
    assert ternary_fraction(secret) == 1.0
    updates, uploads, _ = rounds[0]
    for update, upload in zip(updates, uploads, strict=True):
        found = open_upload(secret, words_of(upload, 8192), scale=NVFLARE_SCALE, prime=LARGEST_PRIME)
        assert np.abs(found - update).max() < 1e-7
    # A check that it is the secret, and not something that works as well: SEAL's own numbers.
    true = context.secret_key().data.data()
    alone = open_upload(secret, np.array([[0] * 8192, [1] * 8192], np.uint64), scale=1.0, prime=LARGEST_PRIME)
    expected = open_upload(
        np.zeros(8192, object),
        np.array([[true[place] for place in range(8192)], [0] * 8192], np.uint64),
        scale=1.0,
        prime=LARGEST_PRIME,
    )
    assert (alone == expected).all()


def test_one_decrypted_sum_is_half_of_the_equations_and_not_enough():
    _, rounds = nvflare_rounds()
    view = nvflare_view(rounds[0][2])
    assert ternary_fraction(recover_secret(view, view)) < 0.01 or not recover_secret(view, view).any()


@pytest.mark.parametrize("decimals", [6])
def test_rounding_away_the_noise_ends_this_attack(decimals):
    _, rounds = nvflare_rounds()
    secret = recover_secret(*(nvflare_view(total, decimals) for _, _, total in rounds))
    assert ternary_fraction(secret) < 0.01


@functools.cache
def own_views():
    """Two sums under this package's parameters, small enough for float64 to hold what would be unrounded."""
    parameters = EncryptionParameters(scheme="ckks", value_bits=20, limbs=1, scale_bits=20)
    parameters.check(CLIENTS)
    key_pair = KeyPair.generate("ckks")
    encryptor, rng = Encryptor(key_pair.public, parameters), np.random.default_rng(2)
    views = []
    for _ in range(2):
        adder = Adder(parameters, parameters.capacity)
        for values in rng.integers(0, 2**20, (CLIENTS, parameters.capacity), dtype=np.uint64):
            adder.add(encryptor.encrypt(values))
        words = np.frombuffer(adder.total(), np.uint64)
        unrounded = key_pair._ring.decrypt_slots(words, parameters.scale)  # no method that is public returns this
        views.append(
            PublishedSum(ciphertext=words.reshape(2, -1), slots=unrounded, scale=parameters.scale, prime=DATA_PRIME)
        )
    return views


def test_the_same_attack_opens_this_packages_key_if_decryptions_were_not_rounded():
    assert ternary_fraction(recover_secret(*own_views())) == 1.0


def test_it_finds_nothing_in_the_rounded_integers_that_are_released():
    """It is even given the integers themselves, where the key holder releases them mod 2^k only."""
    rounded = [
        PublishedSum(ciphertext=view.ciphertext, slots=np.rint(view.slots), scale=view.scale, prime=view.prime)
        for view in own_views()
    ]
    assert np.abs(rounded[0].slots - own_views()[0].slots).max() < 3 / 8
    assert ternary_fraction(recover_secret(*rounded)) < 0.01
