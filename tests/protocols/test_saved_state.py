"""Saved state: damaged or another's is refused (V35), and it holds no secret of a sum that is over."""

import functools
import hashlib

import pytest
from harness import LENIENT, Network, identity, make_session
from hypothesis import given
from hypothesis import strategies as st

from collabsecure_protocols import Client, ClientState, Server, ServerState, StateRefused
from collabsecure_protocols.client_state import ClientData
from collabsecure_protocols.dealing import sum_secrets
from collabsecure_protocols.server_state import ServerData

SESSION = make_session(4, 3)


@functools.cache
def history(drops=()):
    """Every saved state of every party of one session, in order, by party (0 is the server), each once."""
    network, states = Network(session=SESSION, drops=dict(drops)), {number: [] for number in range(5)}

    def note(*_):
        for number, party in {0: network.server, **network.clients}.items():
            blob = party.save()
            if blob not in states[number]:
                states[number].append(blob)
        return _[-1]

    network.tamper = note
    network.run()
    note(None)
    return states


def restore(number, blob, session=SESSION, owner=None):
    who = identity(owner or number or "server")
    return Client.restore(blob, session, who, policy=LENIENT) if number else Server.restore(blob, session, who)


PARTIES = {"client": 2, "server": 0}


def samples(number):
    """Four states of a party: early, in the middle of a sum, between sums, at the end."""
    states = history()[number]
    return [states[len(states) * part // 4 if part < 4 else -1] for part in range(1, 5)]


@pytest.mark.parametrize("party", PARTIES)
def test_every_state_is_restored_as_it_was(party):
    number = PARTIES[party]
    assert len(history()[number]) > 15
    for blob in history()[number]:
        assert restore(number, blob).save() == blob


@pytest.mark.parametrize("party", PARTIES)
def test_a_state_with_any_byte_changed_is_refused(party):
    """secagg.md V35."""
    number = PARTIES[party]
    for blob in samples(number):
        step = max(len(blob) // 500, 1)
        for at in {*range(0, len(blob), step), *range(200), *range(len(blob) - 40, len(blob))}:
            damaged = blob[:at] + bytes([blob[at] ^ 0x10]) + blob[at + 1 :]
            with pytest.raises(StateRefused, match="V35"):
                restore(number, damaged)


@pytest.mark.parametrize("party", PARTIES)
def test_a_state_cut_short_or_drawn_out_is_refused(party):
    number = PARTIES[party]
    for blob in samples(number):
        step = max(len(blob) // 300, 1)
        for end in {*range(0, len(blob), step), 31, 32, 33, len(blob) - 1}:
            with pytest.raises(StateRefused, match="V35"):
                restore(number, blob[:end])
        for longer in (blob + b"\0", b"\0" + blob, blob * 2):
            with pytest.raises(StateRefused, match="V35"):
                restore(number, longer)


def test_a_state_of_another_is_refused():
    """secagg.md V35: another session, client, role."""
    client, server = history()[2][-3], history()[0][-3]
    renamed = make_session(4, 3, task="others")
    for attempt in (
        lambda: restore(2, client, owner=3),
        lambda: restore(2, client, session=renamed),
        lambda: restore(2, server),
        lambda: restore(0, client),
        lambda: restore(0, server, session=renamed),
    ):
        with pytest.raises(StateRefused, match="V35: saved state is of another"):
            attempt()


def resealed(body):
    return body + hashlib.sha256(body).digest()


@pytest.mark.parametrize("party", PARTIES)
@given(data=st.data())
def test_a_damage_under_a_valid_checksum_is_refused_or_read_and_nothing_else(party, data):
    """A checksum keeps no attacker out; what it lets through still ends in a party or a typed error."""
    number = PARTIES[party]
    blob = data.draw(st.sampled_from(samples(number)))
    body = bytearray(blob[:-32])
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(body) - 1) | st.integers(0, 300))
        match data.draw(st.sampled_from(["set", "cut", "insert"])):
            case "set":
                body[at % len(body)] = data.draw(st.integers(0, 255))
            case "cut":
                del body[at : at + data.draw(st.integers(1, 64))]
            case "insert":
                body[at:at] = data.draw(st.binary(min_size=1, max_size=8))
    codec, public = (ClientData, identity(2).public) if number else (ServerData, identity("server").public)
    try:
        codec.decode(resealed(bytes(body)), SESSION, public)
    except StateRefused as error:
        assert "V35" in str(error)


@given(st.binary(max_size=400), st.booleans(), st.sampled_from([0, 2]))
def test_random_bytes_are_no_state(data, sealed, number):
    with pytest.raises(StateRefused, match="V35"):
        restore(number, resealed(data) if sealed else data)


def decoded(number, blob):
    return ClientData.decode(blob, SESSION, identity(number).public)


def secrets_by_sum(number, states):
    """All that a client ever held of each sum: its own secret and what comes of it, and every share, by kind."""
    found = [{"own": set(), "self_seed": set(), "mask_key": set()} for _ in SESSION.sums]
    for blob in states:
        data = decoded(number, blob)
        for index, secret in enumerate(data.sum_secrets):
            if secret is not None:
                opened = sum_secrets(SESSION, index, number, secret)
                found[index]["own"] |= {each.reveal() for each in (secret, opened.self_seed, opened.mask_key)}
        for index, held in enumerate(data.held):
            for shares in held.values():
                found[index]["self_seed"].add(shares.self_seed)
                found[index]["mask_key"].add(shares.mask_key)
    return found


LEAVING = {
    "nobody leaves": (),
    "one misses a sum": (((ServerState.MASKED_INPUT, 0), (2,)),),
    "one falls silent before the check": (((ServerState.CONSISTENCY_CHECK, 1), (2,)),),
    "the session aborts": (((ServerState.UNMASK, 1), (1, 3)),),
}


@pytest.mark.parametrize("name", LEAVING)
def test_what_is_over_is_erased(name):
    """secagg.md, "Forward secrecy": the state of a client that is past a sum holds none of its secrets or shares."""
    states, erased = history(LEAVING[name]), 0
    for number in range(1, 5):
        secrets = secrets_by_sum(number, states[number])
        assert all(len(kinds["own"]) == 3 and len(kinds["self_seed"]) == 4 for kinds in secrets)
        for blob in states[number]:
            data = decoded(number, blob)
            for index, kinds in enumerate(secrets):
                if data.state is ClientState.ABORTED or index < data.sum_index:
                    over, shown = True, False
                else:
                    in_it = index == data.sum_index
                    over = in_it and data.state in (
                        ClientState.READY,
                        ClientState.LEFT_OUT,
                        ClientState.UNMASKED,
                        ClientState.FINISHED,
                    )
                    shown = in_it and data.state is ClientState.UNMASKED
                if over:
                    erased += 1
                    assert not any(secret in blob for secret in kinds["own"])
                    leftovers = {share for kind in ("self_seed", "mask_key") for share in kinds[kind] if share in blob}
                    assert shown or not leftovers
                    assert len(leftovers) <= 4  # the answer that may have to be sent again: one share a dealer
                elif data.sum_secrets[index] is not None:
                    assert any(secret in blob for secret in kinds["own"])  # the control: it would be found
    assert erased > 20


@pytest.mark.parametrize("name", LEAVING)
def test_the_share_channels_key_is_gone_once_shares_have_arrived(name):
    """A thief of later state cannot decrypt what was dealt for sums that are over."""
    for number in range(1, 5):
        states = history(LEAVING[name])[number]
        channels = [decoded(number, blob).channel for blob in states]
        key = next(channel for channel in channels if channel is not None).reveal()
        setting_up = (ClientState.NEW, ClientState.KEYS_ADVERTISED, ClientState.KEYS_SHARED)
        for blob in states:
            assert (key in blob) == (decoded(number, blob).state in setting_up)


def test_a_session_that_ends_leaves_no_secret_at_all():
    for number in range(1, 5):
        blob = history()[number][-1]
        data = decoded(number, blob)
        assert data.state is ClientState.FINISHED
        assert (data.channel, set(data.sum_secrets), any(data.held), data.outbox) == (None, {None}, False, ())
