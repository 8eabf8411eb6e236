"""Malicious clients among honest ones: refused by name, and the others' sum is exact or the session ends (P2, P12)."""

import pytest
from harness import make_session
from peers import Peers, redeal, signed

from collabsecure_protocols import AbortReason, ServerState
from collabsecure_protocols.envelope import MessageType as M
from collabsecure_protocols.shamir import PRIME, SHARE_BYTES

LOW_ORDER = bytes(32)
OTHER = make_session(session_id=b"another session!")


def flip(body, at, bit=1):
    return body[:at] + bytes([body[at] ^ bit]) + body[at + 1 :]


def put(body, at, piece):
    return body[:at] + piece + body[at + len(piece) :]


def share(number):
    """Where the n-th dealer's kind stands in an Unmask body; its share follows."""
    return 2 + number * (1 + SHARE_BYTES)


# name: (message, what the peer makes of its body, the check that refuses it). n = 5, t = 4; the peer is client 3.
BODIES = {
    "channel key of low order": (M.ADVERTISE_KEYS, lambda b: put(b, 0, LOW_ORDER), "V10"),
    "mask key of low order in the last sum": (M.ADVERTISE_KEYS, lambda b: put(b, 96, LOW_ORDER), "V10"),
    "keys for one sum fewer": (M.ADVERTISE_KEYS, lambda b: b[:-64], "V07"),
    "keys for one sum more": (M.ADVERTISE_KEYS, lambda b: b + bytes(64), "V02"),
    "no keys": (M.ADVERTISE_KEYS, lambda _: b"", "V07"),
    "shares for one holder fewer": (M.SHARE_KEYS, lambda b: b[:-146], "V07"),
    "shares cut off": (M.SHARE_KEYS, lambda b: b[:-1], "V07"),
    "shares for one sum more": (M.SHARE_KEYS, lambda b: b + b, "V02"),
    "a chunk of another sum": (M.MASKED_INPUT, lambda b: flip(b, 1), "V20"),
    "chunks out of order": (M.MASKED_INPUT, lambda b: flip(b, 5), "V22"),
    "a chunk beyond the last": (M.MASKED_INPUT, lambda b: flip(b, 2, 128), "V22"),
    "another link": (M.MASKED_INPUT, lambda b: flip(b, 6), "V21"),
    "a chunk one value short": (M.MASKED_INPUT, lambda b: b[:-6], "V22"),
    "a chunk one byte short": (M.MASKED_INPUT, lambda b: b[:-1], "V22"),
    "a chunk without values": (M.MASKED_INPUT, lambda b: b[:38], "V22"),
    "a chunk without its header": (M.MASKED_INPUT, lambda b: b[:37], "V07"),
    "a chunk as long as any": (M.MASKED_INPUT, lambda b: b + bytes(1 << 21), "V02"),
    "a view of others": (M.CONSISTENCY_CHECK, lambda b: flip(b, 2), "V24"),
    "a view of another sum": (M.CONSISTENCY_CHECK, lambda b: flip(b, 1), "V20"),
    "a view cut off": (M.CONSISTENCY_CHECK, lambda b: b[:-1], "V07"),
    "a share with a bit flipped": (M.UNMASK, lambda b: flip(b, share(1) + 5), "V27"),
    "its own share with a bit flipped": (M.UNMASK, lambda b: flip(b, share(2) + 33), "V27"),
    "two dealers' shares swapped": (
        M.UNMASK,
        lambda b: b[: share(0)] + b[share(1) : share(2)] + b[share(0) : share(1)] + b[share(2) :],
        "V27",
    ),
    "a share that is no field element": (M.UNMASK, lambda b: put(b, share(1) + 1, PRIME.to_bytes(33, "big")), "V27"),
    "the other kind of share": (M.UNMASK, lambda b: put(b, share(1), b"\2"), "V26"),
    "an unknown kind of share": (M.UNMASK, lambda b: put(b, share(1), b"\3"), "V07"),
    "an absent share with bytes": (M.UNMASK, lambda b: put(b, share(1), b"\0"), "V07"),
    "shares of another sum": (M.UNMASK, lambda b: flip(b, 1), "V20"),
    "shares of one dealer fewer": (M.UNMASK, lambda b: b[:-34], "V07"),
    "shares of one dealer more": (M.UNMASK, lambda b: b + bytes(34), "V02"),
}


def forging(kind, change, *, then_honest=False):
    """Every message of this kind is changed; then the peer may send the right one after all."""

    def forge(client, found, body):
        good = signed(client, found, body)
        return [signed(client, found, change(body)), *([good] if then_honest else [])] if found is kind else [good]

    return forge


@pytest.mark.parametrize("name", BODIES)
def test_forged_body_is_refused_by_name_and_the_others_sum_is_exact(name):
    kind, change, check = BODIES[name]
    network = Peers(session=make_session(), forge=forging(kind, change)).run()
    assert {error.check for error in network.refused} == {check}
    assert all(error.culprits == (3,) for error in network.refused)
    in_sum = kind in (M.CONSISTENCY_CHECK, M.UNMASK)  # its input had arrived before
    assert [3 in survivors for survivors in network.survivors] == [in_sum] * 2
    network.assert_exact()


@pytest.mark.parametrize("name", BODIES)
def test_right_message_after_a_refused_one_is_taken(name):  # P8
    kind, change, check = BODIES[name]
    network = Peers(session=make_session(), forge=forging(kind, change, then_honest=True)).run()
    assert {error.check for error in network.refused} == {check}
    assert network.survivors == [(1, 2, 3, 4, 5)] * 2
    network.assert_exact()


# name: (what the peer makes of its whole message, the check that refuses it)
ENVELOPES = {
    "an unknown version": (lambda p: put(p, 0, b"\2"), "V01"),
    "a message cut to its header": (lambda p: p[:36], "V02"),
    "nothing at all": (lambda _: b"", "V02"),
    "another session's transcript": (lambda p: flip(p, 4), "V03"),
    "an unknown type": (lambda p: put(p, 1, b"\x0d"), "V04"),
    "type nought": (lambda p: put(p, 1, b"\0"), "V04"),
    "another client's name": (lambda p: put(p, 2, b"\0\4"), "V05"),
    "the server's name": (lambda p: put(p, 2, b"\0\0"), "V05"),
    "a signature with a bit flipped": (lambda p: flip(p, len(p) - 1), "V06"),
    "a body with a bit flipped after signing": (lambda p: flip(p, len(p) - 65), "V06"),
}


@pytest.mark.parametrize("name", ENVELOPES)
def test_forged_envelope_is_refused_in_every_phase(name):
    change, check = ENVELOPES[name]

    def forge(client, kind, body):
        good = signed(client, kind, body)
        return [change(good), good]

    network = Peers(session=make_session(), forge=forge).run()
    assert {error.check for error in network.refused} == {check}
    assert (
        len(network.refused) == 2 + 2 * 4
    )  # keys and shares; two chunks, a confirmation and shares in each of two sums
    network.assert_exact()


def test_message_signed_for_another_session_is_refused_in_every_phase():  # secagg.md V03
    def forge(client, kind, body):
        return [signed(client, kind, body, session=OTHER), signed(client, kind, body)]

    network = Peers(session=make_session(), forge=forge).run()
    assert {error.check for error in network.refused} == {"V03"}
    network.assert_exact()


def test_message_in_another_clients_name_is_refused_in_every_phase():  # secagg.md V05: duplicate ids
    def forge(client, kind, body):
        return [signed(client, kind, body, name=4), signed(client, kind, body)]

    network = Peers(session=make_session(), forge=forge).run()
    assert {error.check for error in network.refused} == {"V05"}
    network.assert_exact()


def test_repeated_message_has_no_effect_and_an_older_one_is_refused():  # secagg.md V04, V08, V20, V22
    sent = []

    def forge(client, kind, body):
        sent.append(signed(client, kind, body))
        return [sent[-1], sent[-1], *sent[:-1]]

    network = Peers(session=make_session(), forge=forge).run()
    assert {error.check for error in network.refused} <= {"V04", "V08", "V20", "V22"}
    assert len(network.refused) == sum(range(len(sent)))
    network.assert_exact()


def test_second_and_different_answer_is_refused():  # secagg.md V08
    def forge(client, kind, body):
        last = kind is not M.MASKED_INPUT
        return [signed(client, kind, body), *([signed(client, kind, flip(body, len(body) - 1))] if last else [])]

    network = Peers(session=make_session(), forge=forge).run()
    assert {error.check for error in network.refused} == {"V08"}
    network.assert_exact()


def test_client_that_leaves_in_the_middle_of_its_upload_is_named():
    def forge(client, kind, body):
        first = kind is not M.MASKED_INPUT or body[5] == 0
        return [signed(client, kind, body)] if first else []

    network = Peers(session=make_session(), forge=forge).run()
    assert (network.end.reason, network.end.culprits) == (AbortReason.PARTIAL_UPLOAD, (3,))
    assert network.end.phase is ServerState.MASKED_INPUT
    assert not network.totals


# Dealers.


def dealing(change):
    """The peer deals other shares; everything else it does well."""

    def forge(client, kind, body):
        return [signed(client, kind, redeal(client, change) if kind is M.SHARE_KEYS else body)]

    return forge


def plus_one(share):
    return ((int.from_bytes(share, "big") + 1) % PRIME).to_bytes(SHARE_BYTES, "big")


@pytest.mark.parametrize("index", [0, 1])
def test_dealer_of_seed_shares_off_its_polynomial_is_named(index):  # secagg.md V28
    def change(at, kind, holder, share):
        return plus_one(share) if (at, kind, holder) == (index, 1, 1) else share

    network = Peers(session=make_session(), forge=dealing(change)).run()
    assert (network.end.reason, network.end.culprits) == (AbortReason.BAD_DEALER, (3,))
    assert (network.end.sum_index, len(network.totals)) == (index, index)


def test_dealer_of_key_shares_off_its_polynomial_is_named_once_it_drops():  # secagg.md V28
    def change(at, kind, holder, share):
        return plus_one(share) if kind == 2 and holder == 2 else share

    assert Peers(session=make_session(), forge=dealing(change)).run().aborted is None
    drops = {(ServerState.MASKED_INPUT, 1): [3]}
    network = Peers(session=make_session(), forge=dealing(change), drops=drops).run()
    assert (network.end.reason, network.end.culprits, network.end.sum_index) == (AbortReason.BAD_DEALER, (3,), 1)


def test_dealer_of_shares_of_another_secret_is_named():  # secagg.md V28: a sharing, but of no committed secret
    network = Peers(session=make_session(), forge=dealing(lambda at, kind, holder, share: plus_one(share))).run()
    assert (network.end.reason, network.end.culprits) == (AbortReason.BAD_DEALER, (3,))


def test_share_that_is_no_field_element_is_noted_by_its_holder():  # secagg.md V14
    def change(at, kind, holder, share):
        return (PRIME + 1).to_bytes(SHARE_BYTES, "big") if holder == 5 else share

    network = Peers(session=make_session(), forge=dealing(change)).run()
    assert [(event.check, event.culprits) for event in network.misbehaved] == [("V14", (3,))]
    network.assert_exact()


def garble(*holders):
    """The peer's ciphertexts for these holders get a bit flipped; its ShareKeys has five entries a sum."""

    def forge(client, kind, body):
        for index in range(2) if kind is M.SHARE_KEYS else ():
            for holder in holders:
                own = 82 * (holder > 3)  # its own entry has no ciphertext
                body = flip(body, index * (5 * 146 - 82) + (holder - 1) * 146 - own + 100)
        return [signed(client, kind, body)]

    return forge


def test_ciphertext_with_a_bit_flipped_is_noted_by_its_holder_and_the_sum_is_exact():  # secagg.md V14
    network = Peers(session=make_session(), forge=garble(5)).run()
    assert [(event.check, event.culprits) for event in network.misbehaved] == [("V14", (3,))]
    network.assert_exact()


def test_dealer_of_garbage_to_more_holders_than_may_collude_is_named():  # P12
    network = Peers(session=make_session(), forge=garble(4, 5)).run()
    assert len(network.misbehaved) == 2
    assert (network.end.reason, network.end.culprits) == (AbortReason.TOO_FEW, (3,))
    assert (network.end.found, network.end.needed, network.end.phase) == (3, 4, ServerState.UNMASK)


def test_honest_dealer_is_not_named_when_colluders_deny_its_shares():  # P12
    """n = 7, t = 5: two deny client 1's shares and one honest client drops, so that four are left."""

    def deny(client, kind, body):
        return [signed(client, kind, put(body, share(0), bytes(34)) if kind is M.UNMASK else body)]

    session, drops = make_session(7, 1), {(ServerState.UNMASK, 0): [5]}
    network = Peers(session=session, forge=deny, evil=(6, 7), drops=drops).run()
    assert (network.end.reason, network.end.culprits, network.end.found) == (AbortReason.TOO_FEW, (), 4)
    Peers(session=session, forge=deny, evil=(6, 7)).run().assert_exact()
