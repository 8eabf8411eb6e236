"""Encrypted sessions: the same protocol, and a key holder who opens each sum once and nothing finer."""

import hashlib
from itertools import pairwise

import numpy as np
import pytest
from harness import Network, identity, make_session, make_values, tensor

from collabsecure_protocols import InvalidSession, LocalProtocolError, RemoteProtocolError, Server, ServerState, Session
from collabsecure_protocols.ciphertexts import add_mod
from collabsecure_protocols.ckks import Decryptor, KeyPair
from collabsecure_protocols.encryption_parameters import DATA_PRIME, RING_DEGREE, choose_encryption
from collabsecure_protocols.envelope import CHUNK_HEADER_BYTES, HEADER_BYTES, MessageType, seal, signed_message
from collabsecure_protocols.fixedpoint import signed
from collabsecure_protocols.key_holder import KeyHolder
from collabsecure_protocols.messages import EncryptedSum

HOLDER = identity("key holder")
PAIRS = {scheme: KeyPair.generate(scheme) for scheme in ("bfv", "ckks")}
FORMS = [("bfv", 48), ("ckks", 38), ("ckks", 48)]


def encrypted(scheme, bits, n=5, sums=2, **changes):
    tensors = [
        tensor("x", (37, 61), n=n, bits=bits),
        tensor("y", (70, 70), n=n, bits=bits, symmetric=True),
    ]
    return make_session(
        n,
        sums,
        tensors=tensors,
        encryption=scheme,
        key_holder=HOLDER.public,
        encryption_key=PAIRS[scheme].public.encode(),
        **changes,
    )


class Encrypted(Network):
    """A network whose sums a key holder opens."""

    def __post_init__(self):
        super().__post_init__()
        self.holder = KeyHolder(self.session, HOLDER, PAIRS[self.session.encryption])

    def read(self, index):
        self.holder.begin(self.server.encrypted_sum())
        for chunk in self.holder.missing:
            self.holder.decrypt(chunk, self.server.encrypted_chunk(chunk))
        return {
            spec.name: signed(self.holder.ring(spec.name), 64 - spec.bits).tolist()
            for spec in self.session.sums[index].tensors
        }


@pytest.mark.parametrize(("scheme", "bits"), FORMS)
def test_the_key_holder_gets_the_integers_bit_for_bit_with_dropouts(scheme, bits):
    """secagg.md P2 in an encrypted session; the oracle is in Python integers."""
    network = Encrypted(session=encrypted(scheme, bits), drops={(ServerState.MASKED_INPUT, 0): [2]}).run()
    assert network.survivors == [(1, 3, 4, 5), (1, 2, 3, 4, 5)]
    for index, survivors in enumerate(network.survivors):
        assert network.totals[index] == network.expected(index, survivors)


def test_the_encrypted_sum_is_the_masked_sum():
    """Both sessions encode alike, so their integers are the same."""
    session = encrypted("bfv", 48)
    plain = make_session(5, 2, tensors=session.sums[0].tensors)
    assert Encrypted(session=session).run().totals == Network(session=plain).run().totals


@pytest.fixture(scope="module")
def finished():
    """A network after its first sum, with the key holder not asked yet."""
    network = Encrypted(session=encrypted("bfv", 48))
    network.from_clients({number: client.start() for number, client in network.clients.items()})
    network.to_clients(network.server.start_sum())
    return network


@pytest.fixture
def holder(finished):
    return KeyHolder(finished.session, HOLDER, PAIRS["bfv"])


def test_the_server_cannot_read_its_sum(finished):
    """secagg.md P14."""
    with pytest.raises(LocalProtocolError, match="the key holder alone"):
        finished.server.decode("x")
    with pytest.raises(LocalProtocolError, match="the key holder alone"):
        finished.server.total("x")


def test_the_servers_state_survives_a_restart(finished):
    blob = finished.server.save()
    again = Server.restore(blob, finished.session, identity("server"))
    assert again.save() == blob
    assert again.encrypted_sum() == finished.server.encrypted_sum()


def test_a_sum_is_decrypted_once_and_no_other_in_its_place(finished, holder):
    """secagg.md P15, V41: a total of other ciphertexts would be an oracle for the key."""
    message = finished.server.encrypted_sum()
    holder.begin(message)
    before = holder.save()
    finished.server._data.running.totals[0][:4096] = 0
    try:
        with pytest.raises(RemoteProtocolError, match="V41"):
            holder.begin(finished.server.encrypted_sum())
    finally:
        finished.server._data.running.totals[0][:4096] = 1
    assert holder.save() == before
    again = KeyHolder(finished.session, HOLDER, PAIRS["bfv"], saved=before)
    again.begin(message)  # the same one, after a crash
    with pytest.raises(RemoteProtocolError, match="V41"):
        again.begin(finished.server.encrypted_sum())


def test_a_sum_over_too_few_is_not_decrypted(finished, holder):
    body = EncryptedSum(sum_index=0, link=bytes(32), survivors=(1, 2), masks=((), ()), digests=(bytes(32),) * 2).encode(
        finished.session
    )
    message = seal(finished.session, identity("server"), MessageType.ENCRYPTED_SUM, 0, body)
    with pytest.raises(RemoteProtocolError, match="V41: a sum over 2 clients"):
        holder.begin(message)
    assert holder.sum_index == -1


def test_no_state_but_the_key_holders_decrypts_a_ciphertext(finished):
    """secagg.md P14: with all that server and clients have saved, there is a public key and no other."""
    secret = PAIRS["bfv"].save()
    ring = secret[-4096:]
    saved = [finished.server.save(), *(client.save() for client in finished.clients.values())]
    assert len(secret) > len(ring)
    for blob in [*saved, finished.session.encode()]:
        assert not any(secret[at : at + 24] in blob for at in range(len(secret) - 20_000, len(secret) - 24, 997))
    with pytest.raises(LocalProtocolError):
        KeyHolder(finished.session, HOLDER, KeyPair.generate("bfv"))


@pytest.mark.parametrize("scheme", ["bfv", "ckks"])
def test_what_the_key_holder_decrypts_of_one_client_is_uniform_noise(scheme):
    """secagg.md P15: a server that has it decrypt a single upload gives it masked integers; χ² over 256 byte values."""
    bits = 48 if scheme == "bfv" else 38
    seen = []
    for constant in (-8.0, 8.0):  # two inputs as far apart as can be
        network = Encrypted(session=encrypted(scheme, bits, sums=1))
        network.values = lambda session, number, index, c=constant: {
            spec.name: np.full(spec.shape, c) for spec in session.sums[index].tensors
        }
        network.run()
        chunk = next(payload for way, number, payload in network.transcript if number == 1 and payload[1] == 6)
        parameters = network.session.form(network.session.sums[0].tensors[0]).encryption
        decryptor = Decryptor(PAIRS[scheme], parameters)
        ciphertexts = chunk[HEADER_BYTES + CHUNK_HEADER_BYTES : -64]
        seen.append(decryptor.decrypt(ciphertexts, 37 * 61, num_summands=1))
    for values in seen:
        low = np.concatenate([(values >> np.uint64(shift)) & np.uint64(255) for shift in range(0, bits - 7, 8)])
        counts = np.bincount(low.astype(np.int64), minlength=256)
        statistic = float(((counts - len(low) / 256) ** 2 / (len(low) / 256)).sum())
        assert 255 - 6 * (2 * 255) ** 0.5 < statistic < 255 + 6 * (2 * 255) ** 0.5
    assert not (seen[0] == seen[1]).any()


def test_a_client_can_have_the_secret_key_added_to_its_sum_and_nobody_notices():
    """What secagg.md does not promise: with c₁ + const, the total has const times the secret, in whole units."""
    session, times = encrypted("bfv", 48, sums=1), 2**20
    network, start = Encrypted(session=session), HEADER_BYTES + CHUNK_HEADER_BYTES

    def submit(number, payload):
        if number == 3 and payload[1] == MessageType.MASKED_INPUT and payload[38:42] == bytes(4):
            words = np.frombuffer(payload[start:-64], "<u8").copy()
            made_up = np.array([round(times * DATA_PRIME / 2**48)], np.uint64)
            add_mod(words[RING_DEGREE : RING_DEGREE + 1], made_up)
            body = payload[HEADER_BYTES:start] + words.tobytes()
            signature = identity(3).sign(signed_message(payload[:HEADER_BYTES], hashlib.sha256(body).digest()))
            payload = payload[:HEADER_BYTES] + body + signature
        return network.server.receive(number, payload)

    network.submit = submit
    network.run()
    expected = network.expected(0, (1, 2, 3, 4, 5))
    secret = (np.array(network.totals[0]["x"]) - np.array(expected["x"])) / times
    assert set(secret) == {-1, 0, 1}
    assert network.totals[0]["y"] == expected["y"]


def test_ciphertexts_that_were_not_signed_are_not_decrypted(finished, holder):
    holder.begin(finished.server.encrypted_sum())
    spoilt = bytearray(finished.server.encrypted_chunk(0))
    spoilt[7] ^= 1
    with pytest.raises(RemoteProtocolError, match="V42"):
        holder.decrypt(0, spoilt)
    assert 0 in holder.missing


def test_what_decrypts_to_no_integers_ends_the_sum(finished, holder):
    """secagg.md V43: rounding it would give a wrong sum."""
    total = finished.server._data.running.totals[1]
    before = total.copy()
    total[:] = np.random.default_rng(1).integers(0, 2**59, len(total), np.uint64)
    try:
        message, chunk = finished.server.encrypted_sum(), bytes(finished.server.encrypted_chunk(1))
    finally:
        total[:] = before
    holder.begin(message)
    with pytest.raises(RemoteProtocolError, match="V43"):
        holder.decrypt(1, chunk)


def test_the_key_holder_takes_nothing_from_others(finished, holder):
    message = bytearray(finished.server.encrypted_sum())
    message[-1] ^= 1
    with pytest.raises(RemoteProtocolError, match="V06"):
        holder.begin(message)
    with pytest.raises(RemoteProtocolError, match="V04"):
        holder.begin(finished.server.pending(1))
    for payload in (b"", message[:40], bytes(200)):
        with pytest.raises(RemoteProtocolError):
            holder.begin(payload)
    assert holder.sum_index == -1


def test_any_bytes_give_the_key_holder_a_typed_error_and_change_nothing(finished, holder):
    message, rng = finished.server.encrypted_sum(), np.random.default_rng(7)
    before = holder.save()
    for _ in range(2000):
        spoilt = bytearray(message[: rng.integers(0, len(message) + 1)] if rng.random() < 0.5 else message)
        for at in rng.integers(0, max(len(spoilt), 1), 1 + rng.integers(0, 4)) if spoilt else ():
            spoilt[at] ^= 1 << int(rng.integers(0, 8))
        if spoilt != message:
            with pytest.raises(RemoteProtocolError):
                holder.begin(spoilt)
            assert holder.save() == before


def test_a_number_beyond_the_modulus_is_no_ciphertext_and_changes_nothing():
    """secagg.md V40."""
    network = Encrypted(session=encrypted("bfv", 48, sums=1))
    refused = []

    def submit(number, payload):
        if payload[1] == 6 and number == 3 and not refused:
            spoilt = payload[:74] + b"\xff" * 8 + payload[82:]
            body = spoilt[HEADER_BYTES:-64]
            signature = identity(3).sign(signed_message(spoilt[:HEADER_BYTES], hashlib.sha256(body).digest()))
            before = network.server.save()
            with pytest.raises(RemoteProtocolError, match="V40") as error:
                network.server.receive(3, spoilt[:-64] + signature)
            refused.append(error.value.culprits)
            assert network.server.save() == before
        return network.server.receive(number, payload)

    network.submit = submit
    network.run()
    assert refused == [(3,)]
    assert network.totals[0] == network.expected(0, (1, 2, 3, 4, 5))


def test_a_restarted_client_sends_the_same_masked_integers_freshly_encrypted():
    """secagg.md P10: other values under the same masks are refused, other ciphertexts of the same are not."""
    network = Encrypted(session=encrypted("bfv", 48, sums=1))
    network.from_clients({number: client.start() for number, client in network.clients.items()})
    client, mine = network.clients[1], make_values(network.session, 1, 0)
    client.receive(network.server.start_sum()[0].payload)
    first, again = ([bytes(chunk) for chunk in client.masked_input(mine)] for _ in range(2))
    assert len(first) == len(again)
    assert all(one != other for one, other in zip(first, again, strict=True))
    with pytest.raises(LocalProtocolError, match="V33"):
        list(client.masked_input({name: array * 0.5 for name, array in mine.items()}))


def test_sessions_that_cannot_be_exact_are_refused_with_the_numbers():
    """secagg.md V30; one more client than the proof allows."""
    most = choose_encryption("ckks", num_clients=30, bits=38).max_clients
    with pytest.raises(InvalidSession, match="exact for up to"):
        choose_encryption("ckks", num_clients=30, bits=38).check(most + 1)


@pytest.mark.parametrize(
    "changes",
    [
        {"key_holder": b""},
        {"key_holder": identity("server").public},
        {"key_holder": identity(1).public},
        {"encryption_key": b""},
        {"encryption_key": PAIRS["ckks"].public.encode()},
        {"encryption_key": PAIRS["bfv"].public.encode()[:-1]},
        {"encryption": "none"},
        {"encryption": "rot13"},
    ],
)
def test_an_encrypted_session_that_contradicts_itself_is_none(changes):
    fields = {"encryption": "bfv", "key_holder": HOLDER.public, "encryption_key": PAIRS["bfv"].public.encode()}
    with pytest.raises(InvalidSession):
        make_session(5, 2, **(fields | changes))


def test_bits_that_are_no_whole_bytes_are_for_encrypted_sessions_alone():
    with pytest.raises(InvalidSession, match="no whole bytes"):
        make_session(5, 1, tensors=[tensor("x", (4,), n=5, bits=38)])


def test_the_descriptor_has_one_encoding():
    session = encrypted("ckks", 38)
    assert Session.decode(session.encode()) == session
    assert Session.from_json(session.to_json()) == session
    for one, other in pairwise([session, encrypted("bfv", 48), make_session(5, 2)]):
        assert one.transcript != other.transcript
    assert PAIRS["ckks"].public.encode().hex() not in repr(session)
