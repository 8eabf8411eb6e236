"""What is no ciphertext, key or file gets a typed error; nobody but the key holder decrypts; nothing prints."""

import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from collabsecure_protocols.ciphertexts import Adder
from collabsecure_protocols.ckks import Decryptor, Encryptor, KeyPair, PublicKey
from collabsecure_protocols.encryption_parameters import DATA_PRIME, RING_DEGREE, SCHEMES, choose_encryption
from collabsecure_protocols.errors import CiphertextRefused, InvalidSession, LocalProtocolError, StateRefused
from collabsecure_protocols.seal_forms import Ring

HERE = Path(__file__).parent
KEYS = {scheme: KeyPair.generate(scheme) for scheme in SCHEMES}
OTHERS = {scheme: KeyPair.generate(scheme) for scheme in SCHEMES}
PARAMETERS = {scheme: choose_encryption(scheme, num_clients=10, bits=38) for scheme in SCHEMES}
VALUES = np.random.default_rng(3).integers(0, 2**38, 500, dtype=np.uint64)
both = pytest.mark.parametrize("scheme", SCHEMES)


def encrypted(scheme, key_pair=None, parameters=None, values=VALUES):
    return Encryptor((key_pair or KEYS[scheme]).public, parameters or PARAMETERS[scheme]).encrypt(values)


def decrypted(scheme, total, key_pair=None, parameters=None, num_values=500):
    decryptor = Decryptor(key_pair or KEYS[scheme], parameters or PARAMETERS[scheme])
    return decryptor.decrypt(total, num_values, num_summands=10)


@both
def test_wrong_sizes_are_refused_by_adder_and_decryptor_with_both_sizes(scheme):
    payload = encrypted(scheme)
    for wrong in (b"", payload[:-1], payload + b"\0", 2 * payload, payload[:8]):
        for read in (Adder(PARAMETERS[scheme], len(VALUES)).add, lambda total: decrypted(scheme, total)):
            with pytest.raises(CiphertextRefused, match=f"take {len(payload)} bytes, found {len(wrong)}"):
                read(wrong)


@both
def test_a_number_beyond_the_modulus_is_refused_and_the_total_stays(scheme):
    payload = bytearray(encrypted(scheme))
    adder = Adder(PARAMETERS[scheme], len(VALUES), bytes(payload))
    for at, number in ((0, DATA_PRIME), (5, 2**64 - 1), (2 * RING_DEGREE - 1, DATA_PRIME + 1)):
        wrong = payload.copy()
        wrong[8 * at : 8 * at + 8] = number.to_bytes(8, "little")
        with pytest.raises(CiphertextRefused, match=f"number {at} "):
            adder.add(wrong)
    assert adder.total() == payload


@both
def test_garbage_of_the_right_size_is_added_and_the_total_refused(scheme):
    """Any numbers below q are well formed: keeping strangers' out is the signature's work."""
    garbage = np.random.default_rng(4).integers(0, DATA_PRIME, 2 * RING_DEGREE, np.uint64)
    adder = Adder(PARAMETERS[scheme], len(VALUES), encrypted(scheme))
    adder.add(garbage.tobytes())
    with pytest.raises(CiphertextRefused, match=r"0\.[45]\d\d of a unit"):
        decrypted(scheme, adder.total())


@both
def test_ciphertext_of_another_key_is_refused(scheme):
    replayed = encrypted(scheme, OTHERS[scheme])
    assert (decrypted(scheme, replayed, OTHERS[scheme]) == VALUES).all()
    with pytest.raises(CiphertextRefused):
        decrypted(scheme, replayed)
    adder = Adder(PARAMETERS[scheme], len(VALUES), encrypted(scheme))
    adder.add(replayed)
    with pytest.raises(CiphertextRefused):
        decrypted(scheme, adder.total())


def test_seals_own_serialisation_and_other_levels_are_refused_by_their_size():
    import tenseal

    for sizes in ([60, 17], [36, 36, 37]):
        context = tenseal.context(tenseal.SCHEME_TYPE.CKKS, RING_DEGREE, coeff_mod_bit_sizes=sizes, n_threads=1)
        context.global_scale = 2.0**18
        with pytest.raises(CiphertextRefused, match="bytes, found"):
            Adder(PARAMETERS["ckks"], 100).add(tenseal.ckks_vector(context, [1.0] * 100).serialize())


@pytest.mark.parametrize(("scheme", "bits"), [("ckks", 48), ("bfv", 40)])
def test_ciphertext_of_finer_steps_under_the_same_key_is_refused(scheme, bits):
    """Of a coarser step it is not: 4·m is an integer too. Parameters follow from the session, which signatures bind."""
    other = choose_encryption(scheme, num_clients=300 if scheme == "ckks" else 10, bits=38)
    finer = choose_encryption(scheme, num_clients=10, bits=bits) if scheme == "bfv" else PARAMETERS["ckks"]
    assert finer != other
    payload = encrypted(scheme, parameters=finer)
    count = 1 if scheme == "ckks" else len(VALUES)
    with pytest.raises(CiphertextRefused):
        decrypted(scheme, payload[: other.payload_bytes(count)], parameters=other, num_values=count)


@both
def test_nothing_added_up_is_zero(scheme):
    """SEAL calls such a ciphertext transparent; it is the empty sum."""
    total = Adder(PARAMETERS[scheme], len(VALUES)).total()
    assert not decrypted(scheme, total).any()


def test_key_of_one_scheme_does_not_serve_the_other():
    for scheme, other in (SCHEMES, SCHEMES[::-1]):
        with pytest.raises(LocalProtocolError, match="does not serve"):
            Encryptor(KEYS[scheme].public, PARAMETERS[other])
        with pytest.raises(LocalProtocolError, match="does not serve"):
            Decryptor(KEYS[scheme], PARAMETERS[other])


def test_more_summands_than_are_proved_are_refused_before_decryption():
    limit = PARAMETERS["ckks"].max_clients
    with pytest.raises(InvalidSession, match=f"up to {limit} clients"):
        Decryptor(KEYS["ckks"], PARAMETERS["ckks"]).decrypt(b"", 1, num_summands=limit + 1)


@both
def test_what_a_client_holds_decrypts_nothing(scheme):
    """All of its state is the public key, whose bytes are the form's header and four polynomials."""
    public = PublicKey.decode(KEYS[scheme].public.encode())
    ring = Ring(scheme, public=public.words)
    assert ring.context.is_public()
    assert not ring.context.has_secret_key()
    with pytest.raises(ValueError, match="decrypt"):
        ring.context.decryptor()
    payload = encrypted(scheme)
    with pytest.raises(ValueError, match=r"decrypt|secret"):
        ring.load(np.frombuffer(payload, np.uint64), PARAMETERS["ckks"].scale if scheme == "ckks" else 1.0).decrypt()
    secret = KEYS[scheme]._ring.context.secret_key().data()
    assert secret[7].to_bytes(8, "little") not in KEYS[scheme].public.encode()
    assert len(KEYS[scheme].public.encode()) < 8 * 4 * RING_DEGREE + 64


@both
def test_key_pair_cannot_be_printed_compared_or_pickled(scheme):
    key_pair = KEYS[scheme]
    shown = f"{key_pair!r} {key_pair} {key_pair.public!r} {Decryptor(key_pair, PARAMETERS[scheme])!r}"
    assert len(shown) < 300
    assert key_pair.public.digest.hex()[:16] in shown
    with pytest.raises(TypeError):
        pickle.dumps(key_pair)
    with pytest.raises(TypeError):
        _ = key_pair == key_pair
    with pytest.raises(TypeError):
        hash(key_pair)


@both
def test_changed_public_keys_are_refused_or_encrypt_to_noise(scheme):
    encoded = KEYS[scheme].public.encode()
    for wrong in (b"", encoded[:-1], encoded + b"\0", b"\xff" + encoded[1:], encoded[:-8] + b"\xff" * 8):
        with pytest.raises(CiphertextRefused):
            PublicKey.decode(wrong)
    changed = bytearray(encoded)
    changed[len(encoded) // 4] ^= 1
    payload = Encryptor(PublicKey.decode(bytes(changed)), PARAMETERS[scheme]).encrypt(VALUES)
    with pytest.raises(CiphertextRefused):
        decrypted(scheme, payload)


@both
def test_damaged_key_files_are_refused(scheme):
    saved = KEYS[scheme].save()
    middle = bytearray(saved)
    middle[len(saved) // 2] ^= 1
    for wrong in (b"", saved[:-1], saved + b"\0", bytes(middle), KEYS[scheme].public.encode()):
        with pytest.raises(StateRefused, match="damaged"):
            KeyPair.restore(wrong)


def test_thousands_of_mutated_inputs_give_typed_errors_in_bounded_memory():
    cases = 3000
    command = [sys.executable, str(HERE / "ciphertext_fuzz.py"), str(cases)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert found.pop("growth") < 16 << 20
    assert sum(found.values()) == cases
    refused = {
        "total: CiphertextRefused",
        "payload: CiphertextRefused",
        "numbers: InvalidSession",
        "file: StateRefused",
    }
    assert {*refused, "key: CiphertextRefused"} <= set(found)
    assert found["total: CiphertextRefused"] > 400


WHOLE_RUN = """
import numpy as np
from collabsecure_protocols.ciphertexts import Adder
from collabsecure_protocols.ckks import Decryptor, Encryptor, KeyPair
from collabsecure_protocols.encryption_parameters import choose_encryption
for scheme in ("ckks", "bfv"):
    parameters, key_pair = choose_encryption(scheme, num_clients=3, bits=48), KeyPair.generate(scheme)
    payload = Encryptor(key_pair.public, parameters).encrypt(np.arange(9000, dtype=np.uint64))
    adder = Adder(parameters, 9000, payload)
    adder.add(payload)
    found = Decryptor(KeyPair.restore(key_pair.save()), parameters).decrypt(adder.total(), 9000, num_summands=2)
    assert (found == 2 * np.arange(9000)).all()
"""


def test_tenseal_prints_nothing_on_either_stream():
    done = subprocess.run([sys.executable, "-c", WHOLE_RUN], capture_output=True, check=True)
    assert (done.stdout, done.stderr) == (b"", b"")


WITHOUT = """
import sys
sys.modules["tenseal"] = None
from collabsecure_protocols import ckks, errors
try:
    ckks.KeyPair.generate("bfv")
except errors.EncryptionUnavailable as error:
    print(error)
"""


def test_without_tenseal_the_package_imports_and_names_the_extra():
    done = subprocess.run([sys.executable, "-c", WITHOUT], capture_output=True, text=True, check=True)
    assert "pip install 'collabsecure[ckks]'" in done.stdout


FORKED = """
import os, sys
import numpy as np
from collabsecure_protocols.ckks import Encryptor, KeyPair
from collabsecure_protocols.encryption_parameters import choose_encryption
encryptor = Encryptor(KeyPair.generate("bfv").public, choose_encryption("bfv", num_clients=3, bits=48))
child = os.fork()
sys.stdout.buffer.write(encryptor.encrypt(np.zeros(1, np.uint64)))
sys.stdout.flush()
if not child:
    os._exit(0)  # TenSEAL's destructor waits for threads that a fork does not take along
os.waitpid(child, 0)
"""


def test_forked_processes_do_not_repeat_each_others_randomness():
    done = subprocess.run([sys.executable, "-c", FORKED], capture_output=True, check=True, timeout=60)
    first, second = np.frombuffer(done.stdout, np.uint64).reshape(2, -1)
    assert (first != second).all()
