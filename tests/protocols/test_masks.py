"""Masks: AES-256-CTR as anybody computes it, seekable, cancelling in pairs. secagg.md, "Key schedule"."""

import itertools

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from harness import seeded
from hypothesis import given
from hypothesis import strategies as st

from collabsecure_protocols import LocalProtocolError
from collabsecure_protocols.keys import Secret, public_of
from collabsecure_protocols.masks import TILE_VALUES, Mask, MaskContext, MaskScratch, apply_masks

CONTEXT = MaskContext(transcript=b"t" * 32, participants=b"\x1f", sum_index=3, link=b"l" * 32)
RNG = seeded("mask keys")
PRIVATE = {client: Secret(RNG(32)) for client in range(1, 6)}
PUBLIC = {client: public_of(secret.reveal()) for client, secret in PRIVATE.items()}
SCRATCH = MaskScratch()


def keystream(key, length):
    """AES-256 in counter mode built from single blocks in ECB: value v is bytes 8v … 8v + 7, little-endian."""
    encryptor = Cipher(algorithms.AES(key), modes.ECB()).encryptor()  # noqa: S305
    blocks = [encryptor.update(counter.to_bytes(16, "big")) for counter in range((length + 1) // 2)]
    stream = b"".join(blocks)
    return [int.from_bytes(stream[8 * at : 8 * at + 8], "little") for at in range(length)]


def masked(length, masks, start=0):
    values = np.zeros(length, np.uint64)
    apply_masks(values, start, masks, SCRATCH)
    return values


def info(label, *parts):
    """secagg.md's ctx, written anew."""
    fields = [
        b"collabsecure/1 " + label,
        *(part.to_bytes(8, "big") if isinstance(part, int) else part for part in parts),
    ]
    return b"".join(len(field).to_bytes(4, "big") + field for field in fields)


def kdf(secret, data):
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=data).derive(secret)


@pytest.mark.parametrize("negative", [False, True])
def test_a_mask_is_the_aes_ctr_keystream_added_or_subtracted(negative):
    key = RNG(32)
    expected = [(-word if negative else word) % 2**64 for word in keystream(key, 1001)]
    assert masked(1001, [Mask(key=Secret(key), negative=negative)]).tolist() == expected


def test_masks_add_up():
    keys = [RNG(32) for _ in range(3)]
    masks = [Mask(key=Secret(key), negative=at == 1) for at, key in enumerate(keys)]
    columns = [keystream(key, 33) for key in keys]
    expected = [(7 + a - b + c) % 2**64 for a, b, c in zip(*columns, strict=True)]
    values = np.full(33, 7, np.uint64)
    apply_masks(values, 0, masks, SCRATCH)
    assert values.tolist() == expected


@given(st.integers(0, TILE_VALUES + 50), st.integers(1, TILE_VALUES + 50))
def test_any_stretch_is_that_of_the_whole(half, length):
    whole = masked(3 * TILE_VALUES + 200, WHOLE)
    start = 2 * half
    assert np.array_equal(masked(length, WHOLE, start), whole[start : start + length])


WHOLE = [Mask(key=Secret(RNG(32)), negative=negative) for negative in (False, True)]


def test_far_stretches_carry_the_counter_beyond_32_bits():
    key = RNG(32)
    start = 2 * (2**32 - 1)
    encryptor = Cipher(algorithms.AES(key), modes.ECB()).encryptor()  # noqa: S305
    stream = b"".join(encryptor.update(counter.to_bytes(16, "big")) for counter in (2**32 - 1, 2**32, 2**32 + 1))
    found = masked(6, [Mask(key=Secret(key), negative=False)], start)
    assert found.astype("<u8").tobytes() == stream


def test_a_stretch_from_the_middle_of_a_block_is_refused():
    with pytest.raises(LocalProtocolError, match="even value number"):
        masked(4, WHOLE, 1)


def test_the_keys_are_those_of_the_text():
    """secagg.md, "Key schedule", word by word."""
    shared = X25519PrivateKey.from_private_bytes(PRIVATE[2].reveal()).exchange(
        X25519PublicKey.from_public_bytes(PUBLIC[5])
    )
    for tensor, mask in enumerate(CONTEXT.pairwise_masks(PRIVATE[2], 2, PUBLIC[5], 5, 3)):
        data = info(b"pairwise mask", b"t" * 32, b"\x1f", 3, b"l" * 32, tensor, 2, 5)
        assert mask.key.reveal() == kdf(shared, data)
    seed = Secret(RNG(32))
    for tensor, mask in enumerate(CONTEXT.self_masks(seed, 4, 3)):
        assert mask.key.reveal() == kdf(seed.reveal(), info(b"self mask", b"t" * 32, b"\x1f", 3, b"l" * 32, tensor, 4))


def test_pairwise_masks_cancel_over_every_set_of_clients():
    """Each adds its masks with the others of the set; the total is zero, and no proper subset's is."""
    for size in range(2, 6):
        for members in itertools.combinations(PRIVATE, size):
            shares = {
                client: masked(
                    9,
                    [
                        CONTEXT.pairwise_masks(PRIVATE[client], client, PUBLIC[peer], peer, 1)[0]
                        for peer in members
                        if peer != client
                    ],
                )
                for client in members
            }
            assert not sum(shares.values(), np.zeros(9, np.uint64)).any()
            for left_out in members:
                assert (sum(shares.values(), np.zeros(9, np.uint64)) - shares[left_out]).all()


def test_removing_undoes_adding():
    seed = Secret(RNG(32))
    values = np.arange(100, dtype=np.uint64)
    for remove in (False, True):
        apply_masks(values, 0, CONTEXT.self_masks(seed, 1, 1, remove=remove), SCRATCH)
        apply_masks(values, 0, CONTEXT.pairwise_masks(PRIVATE[3], 3, PUBLIC[1], 1, 1, remove=remove), SCRATCH)
        assert np.array_equal(values, np.arange(100)) is remove


CHANGED = {
    "transcript": b"T" * 32,
    "participants": b"\x0f",
    "sum_index": 2,
    "link": b"L" * 32,
}


@pytest.mark.parametrize("name", CHANGED)
def test_masks_under_another_view_share_no_key(name):
    """secagg.md P4: parties with different views never produce masks that cancel."""
    other = MaskContext(
        **{**{field: getattr(CONTEXT, field) for field in CHANGED}, name: CHANGED[name]}  # slots: no __dict__
    )
    seed = Secret(RNG(32))
    keys = [
        mask.key.reveal()
        for each in (CONTEXT, other)
        for mask in (
            *each.self_masks(seed, 1, 2),
            *each.self_masks(seed, 2, 2),
            *each.pairwise_masks(PRIVATE[1], 1, PUBLIC[2], 2, 2),
            *each.pairwise_masks(PRIVATE[1], 1, PUBLIC[3], 3, 2),
        )
    ]
    assert len(set(keys)) == len(keys) == 16


def test_a_peer_of_low_order_makes_no_mask():
    with pytest.raises(LocalProtocolError, match="client 2's mask key is of low order"):
        CONTEXT.pairwise_masks(PRIVATE[1], 1, bytes(32), 2, 1)
