"""Encrypted sums equal integer sums bit for bit."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collabsecure_protocols import InvalidSession
from collabsecure_protocols.ciphertexts import Adder, join, split
from collabsecure_protocols.ckks import Decryptor, Encryptor, KeyPair, PublicKey
from collabsecure_protocols.encryption_parameters import DATA_PRIME, SCHEMES, choose_encryption
from collabsecure_protocols.errors import CiphertextRefused

KEYS = {scheme: KeyPair.generate(scheme) for scheme in SCHEMES}


def added(parameters, payloads, num_values):
    adder = Adder(parameters, num_values)
    for payload in payloads:
        adder.add(payload)
    return adder.total()


def total_of(parameters, vectors):
    """The sum of vectors of uint64, by way of the ciphertexts."""
    key_pair = KEYS[parameters.scheme]
    encryptor = Encryptor(key_pair.public, parameters)
    total = added(parameters, (encryptor.encrypt(vector) for vector in vectors), len(vectors[0]))
    return Decryptor(key_pair, parameters).decrypt(total, len(vectors[0]), num_summands=len(vectors))


def expected(parameters, vectors):
    """Python's integers, mod 2^k."""
    columns = zip(*(vector.tolist() for vector in vectors), strict=True)
    return [sum(column) % 2**parameters.value_bits for column in columns]


def uniform(shape, bits, seed=0):
    return np.random.default_rng(seed).integers(0, 2**bits - 1, shape, dtype=np.uint64, endpoint=True)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("bits", [32, 38, 40, 48, 64])
def test_sum_of_ten_is_exact(scheme, bits):
    parameters = choose_encryption(scheme, num_clients=10, bits=bits)
    vectors = uniform((10, parameters.capacity + 37), bits)
    assert total_of(parameters, vectors).tolist() == expected(parameters, vectors)


@pytest.mark.parametrize("scheme", SCHEMES)
@settings(max_examples=8)
@given(data=st.data())
def test_sum_is_exact_for_any_count_and_size(scheme, data):
    bits = data.draw(st.integers(1, 64), "bits")
    num_clients = data.draw(st.integers(1, 40), "clients")
    parameters = choose_encryption(scheme, num_clients=num_clients, bits=bits)
    size = data.draw(st.integers(1, parameters.capacity + 5), "size")
    vectors = uniform((num_clients, size), bits, seed=data.draw(st.integers(0, 2**32)))
    assert total_of(parameters, vectors).tolist() == expected(parameters, vectors)


@pytest.mark.parametrize(("scheme", "bits"), [("bfv", 48), ("bfv", 40), ("ckks", 38)])
def test_sum_is_exact_at_the_largest_number_of_clients_and_refused_one_beyond_it(scheme, bits):
    parameters = choose_encryption(scheme, num_clients=30, bits=bits)
    limit = min(parameters.max_clients, 500)  # bfv with 40 bits: 10 000, which is much to encrypt
    vectors = uniform((limit, 100), bits)
    assert total_of(parameters, vectors).tolist() == expected(parameters, vectors)
    total = added(parameters, [], 100)
    with pytest.raises(InvalidSession, match=f"{parameters.max_clients} clients"):
        Decryptor(KEYS[scheme], parameters).decrypt(total, 100, num_summands=parameters.max_clients + 1)


@pytest.mark.parametrize(("scheme", "bits"), [("bfv", 48), ("bfv", 64), ("ckks", 38), ("ckks", 48)])
def test_boundary_values_among_uniform_ones_are_exact(scheme, bits):
    parameters = choose_encryption(scheme, num_clients=5, bits=bits)
    vectors = uniform((5, parameters.capacity), bits)
    edges = [0, 1, 2 ** (bits - 1) - 1, 2 ** (bits - 1), 2 ** (bits - 1) + 1, 2**bits - 2, 2**bits - 1]
    for at, edge in enumerate(edges):
        vectors[:, at] = edge
    vectors[:, -1] = 2**bits - 1
    assert total_of(parameters, vectors).tolist() == expected(parameters, vectors)


@pytest.mark.parametrize("value", ["zero", "largest", "middle"])
@pytest.mark.parametrize(("scheme", "bits"), [("bfv", 48), ("bfv", 64), ("ckks", 38)])
def test_equal_values_are_exact_although_only_uniform_ones_are_promised(scheme, bits, value):
    """No masked upload looks so. bfv does not care; ckks' one coefficient wraps by a multiple of 2^k."""
    parameters = choose_encryption(scheme, num_clients=30, bits=bits)
    chosen = {"zero": 0, "largest": 2**bits - 1, "middle": 2 ** (bits - 1) + 12345}[value]
    vectors = np.full((30, parameters.capacity), chosen, np.uint64)
    assert total_of(parameters, vectors).tolist() == expected(parameters, vectors)


def test_values_made_to_fill_another_coefficient_of_ckks_are_refused_and_not_summed_wrongly():
    """All 30 clients hold the signs of one cosine, at full height: (2/π)·30·2^37 · scale in coefficient 1."""
    parameters = choose_encryption("ckks", num_clients=30, bits=38)
    powers = np.array([pow(3, slot, 8192) for slot in range(parameters.slots)])
    vector = np.where(np.cos(np.pi * powers / 4096) > 0, 2**37 - 1, 2**37).astype(np.uint64)
    with pytest.raises(CiphertextRefused, match="of a unit from an integer"):
        total_of(parameters, np.tile(vector, (30, 1)))


def test_bits_above_the_ring_are_dropped_as_in_packing():
    parameters = choose_encryption("bfv", num_clients=3, bits=40)
    vectors = uniform((3, 50), 64)
    assert total_of(parameters, vectors).tolist() == expected(parameters, vectors)


@pytest.mark.parametrize(("scheme", "bits", "num_clients"), [("bfv", 48, 100), ("bfv", 64, 10_000), ("ckks", 48, 10)])
def test_limbs_carry(scheme, bits, num_clients):
    parameters = choose_encryption(scheme, num_clients=num_clients, bits=bits)
    values = uniform(parameters.capacity, bits)
    slots = split(parameters, values)
    assert parameters.limbs > 1
    found = join(parameters, slots * np.uint64(num_clients), len(values))
    assert found.tolist() == [value * num_clients % 2**bits for value in values.tolist()]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_ciphertexts_of_one_value_differ_and_have_the_size_that_was_announced(scheme):
    parameters = choose_encryption(scheme, num_clients=3, bits=38)
    encryptor = Encryptor(KEYS[scheme].public, parameters)
    for size in (1, parameters.capacity, parameters.capacity + 1):
        first, second = (encryptor.encrypt(np.zeros(size, np.uint64)) for _ in range(2))
        assert len(first) == parameters.payload_bytes(size)
        words = [np.frombuffer(payload, np.uint64) for payload in (first, second)]
        assert (words[0] != words[1]).all()
    assert parameters.bytes_per_value <= (32.3 if scheme == "ckks" else 16.3)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_ciphertext_is_noise(scheme):
    """The mean of uniform numbers below q, and each of their eight top bits, within 6 deviations."""
    parameters = choose_encryption(scheme, num_clients=3, bits=38)
    payload = Encryptor(KEYS[scheme].public, parameters).encrypt(np.zeros(20 * parameters.capacity, np.uint64))
    words = np.frombuffer(payload, np.uint64)
    deviation = 6 / np.sqrt(len(words))
    assert abs(words.mean() / DATA_PRIME - 0.5) < deviation / np.sqrt(12)
    for bit in range(52, 60):
        assert abs((words >> np.uint64(bit) & np.uint64(1)).mean() - 0.5) < deviation / 2


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_running_total_goes_on_from_its_bytes(scheme):
    parameters = choose_encryption(scheme, num_clients=4, bits=38)
    vectors = uniform((4, 10), 38)
    encryptor = Encryptor(KEYS[scheme].public, parameters)
    payloads = [encryptor.encrypt(vector) for vector in vectors]
    half = added(parameters, payloads[:2], 10)
    adder = Adder(parameters, 10, half)
    for payload in payloads[2:]:
        adder.add(payload)
    assert adder.total() == added(parameters, payloads, 10)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_restored_key_pair_decrypts_and_has_the_same_public_key(scheme):
    parameters = choose_encryption(scheme, num_clients=1, bits=38)
    restored = KeyPair.restore(KEYS[scheme].save())
    assert restored.public.digest == KEYS[scheme].public.digest
    values = uniform(20, 38)
    payload = Encryptor(PublicKey.decode(restored.public.encode()), parameters).encrypt(values)
    assert (Decryptor(restored, parameters).decrypt(payload, 20, num_summands=1) == values).all()


@pytest.mark.parametrize(("bits", "num_clients"), [(38, 30), (48, 30), (64, 10), (64, 10_000), (1, 3), (7, 3)])
def test_ckks_digits_are_balanced_uniform_and_give_the_value_back(bits, num_clients):
    parameters = choose_encryption("ckks", num_clients=num_clients, bits=bits)
    values = uniform(parameters.capacity, bits)
    edges = [0, 1, 2**bits - 1, 2 ** (bits - 1), 2 ** (bits - 1) - 1]
    values[: len(edges)] = np.array(edges, np.uint64) & np.uint64(2**bits - 1)
    slots = split(parameters, values)
    half = 2 ** (parameters.limb_bits - 1)
    signed = slots.view(np.int64)
    assert -half <= signed.min()
    assert signed.max() < half
    assert abs(signed.mean()) < half * 6 / np.sqrt(3 * len(signed)) + 1
    assert (join(parameters, slots, len(values)) == values).all()
