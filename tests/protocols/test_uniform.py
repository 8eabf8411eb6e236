"""Masked uploads look like uniform noise and say nothing about the input; and where they should not, it shows.

All of it is statistics on fixed seeds. The sample is client 2's upload of 60 000 values in 48 bits and as many in 64,
masked with four neighbours and by itself. Thresholds are quantiles at P_VALUE, split over the comparisons that a test
makes (Bonferroni): of uniform bytes, a test would fail for one seed in a hundred thousand.
"""

import functools

import numpy as np
import pytest
from harness import Network, identity, make_session, seeded, tensor
from scipy.stats import chi2, norm

from collabsecure_protocols import Client, Policy
from collabsecure_protocols.envelope import CHUNK_HEADER_BYTES, HEADER_BYTES, MessageType
from collabsecure_protocols.fixedpoint import encoders, pack_into
from collabsecure_protocols.keys import SIGNATURE_BYTES

P_VALUE = 1e-5
VALUES = 60_000
CLIENT = 2
WIDTHS = {"narrow": 6, "wide": 8}  # bytes a value
SESSION = make_session(5, 2, tensors=[tensor(name, (VALUES,), n=5, bits=8 * width) for name, width in WIDTHS.items()])


def inputs(session, client, sum_index, seed=0):
    """Nothing like noise: everybody holds the same slow ramp, small beside the bound."""
    ramp = np.linspace(-0.3, 1.0, VALUES) * (1 + client / 10)
    return dict.fromkeys(WIDTHS, ramp)


@functools.cache
def uploads(seed, sum_index=0):
    """Client 2's packed values by tensor, as bytes (VALUES, width)."""
    network = Network(session=SESSION, values=inputs)
    network.clients = {
        number: Client(SESSION, identity(number), policy=Policy(), rng=seeded(f"{seed} {number}"))
        for number in SESSION.client_ids
    }
    network.run()
    assert network.totals[0] == network.expected(0, SESSION.client_ids)
    found = [
        payload[HEADER_BYTES + CHUNK_HEADER_BYTES : -SIGNATURE_BYTES]
        for way, number, payload in network.transcript
        if way == "up" and number == CLIENT and payload[1] == MessageType.MASKED_INPUT
    ][2 * sum_index : 2 * sum_index + 2]
    return {
        name: np.frombuffer(packed, np.uint8).reshape(VALUES, width)
        for (name, width), packed in zip(WIDTHS.items(), found, strict=True)
    }


def plain(name):
    """The same input, encoded and packed without a mask: the control."""
    source = encoders(SESSION.sums[0], inputs(SESSION, CLIENT, 0))[list(WIDTHS).index(name)]
    ring, packed = np.empty(VALUES, np.uint64), bytearray(VALUES * WIDTHS[name] + 8)
    source.encode_into(0, ring)
    pack_into(ring, 8 * WIDTHS[name], packed)
    return np.frombuffer(packed, np.uint8)[: VALUES * WIDTHS[name]].reshape(VALUES, WIDTHS[name])


def integers(packed):
    """Little-endian integers mod 2^bits."""
    whole = np.zeros((len(packed), 8), np.uint8)
    whole[:, : packed.shape[1]] = packed
    return whole.view("<u8")[:, 0]


def byte_excess(packed):
    """The largest χ² over byte positions (255 degrees of freedom each), over its threshold; above 1 is no noise."""
    expected = len(packed) / 256
    found = max(
        ((np.bincount(packed[:, at], minlength=256) - expected) ** 2 / expected).sum() for at in range(packed.shape[1])
    )
    return found / chi2.isf(P_VALUE / packed.shape[1], 255)


def neighbour_excess(packed):
    """The same for the exclusive or of each value's bytes with the next value's: repetition shows here."""
    return byte_excess(packed[1:] ^ packed[:-1])


def bit_excess(packed):
    """The largest deviation of a bit's frequency from one half, over its threshold."""
    ones = np.unpackbits(packed, axis=1).mean(axis=0)
    deviations = abs(ones - 0.5) * 2 * np.sqrt(len(packed))
    return deviations.max() / norm.isf(P_VALUE / 2 / len(ones))


def correlation_excess(packed, values):
    """The largest correlation of the input with any bit, over its threshold (a correlation's error is 1/√N)."""
    bits = np.unpackbits(packed, axis=1).astype(np.float64)
    bits, values = bits - bits.mean(axis=0), values - values.mean()
    norms = np.linalg.norm(bits, axis=0) * np.linalg.norm(values)
    correlations = abs(values @ bits) / np.where(norms == 0, np.inf, norms)
    return correlations.max() * np.sqrt(len(values)) / norm.isf(P_VALUE / 2 / bits.shape[1])


NOISE = {"bytes": byte_excess, "neighbours": neighbour_excess, "bits": bit_excess}


@pytest.mark.parametrize("name", WIDTHS)
@pytest.mark.parametrize("measure", NOISE)
def test_an_upload_is_noise_by_every_measure(measure, name):
    assert NOISE[measure](uploads("run")[name]) < 1


@pytest.mark.parametrize("name", WIDTHS)
def test_an_upload_does_not_follow_the_input(name):
    values = inputs(SESSION, CLIENT, 0)[name]
    assert correlation_excess(uploads("run")[name], values) < 1
    assert correlation_excess(uploads("run")[name], abs(values)) < 1


@pytest.mark.parametrize("name", WIDTHS)
@pytest.mark.parametrize("measure", NOISE)
def test_without_masks_every_measure_fires(measure, name):
    """A control."""
    assert NOISE[measure](plain(name)) > 10
    assert correlation_excess(plain(name), inputs(SESSION, CLIENT, 0)[name]) > 10


def as_bytes(whole, width):
    """Integers as they would be packed."""
    return whole.astype("<u8").view(np.uint8).reshape(-1, 8)[:, :width]


def difference(one, other):
    return as_bytes(integers(one) - integers(other), min(one.shape[1], other.shape[1]))


def test_no_mask_comes_twice():
    """Uploads of the same input, subtracted: under one mask the difference would be small, and it is noise."""
    first, again, following = uploads("run"), uploads("another run"), uploads("run", 1)
    for name in WIDTHS:
        assert byte_excess(difference(first[name], again[name])) < 1
        assert byte_excess(difference(first[name], following[name])) < 1
    assert byte_excess(difference(first["narrow"], first["wide"])) < 1


@pytest.mark.parametrize("name", WIDTHS)
def test_a_mask_that_came_twice_would_show_the_difference_of_the_inputs(name):
    """A control: upload A under the mask of upload B, made by adding the inputs' known difference."""
    masked, shift = integers(uploads("run")[name]), integers(plain(name))
    again = masked - shift + shift[::-1]  # the same mask over the reversed ramp
    assert byte_excess(as_bytes(again, WIDTHS[name])) < 1  # alone it is noise
    assert byte_excess(as_bytes(masked - again, WIDTHS[name])) > 10


def blocks(run):
    """All 16-byte windows at multiples of 2 bytes of everything that client 2 uploaded in a run."""
    found = set()
    for packed in run.values():
        data = packed.tobytes()
        found.update(data[at : at + 16] for at in range(0, len(data) - 15, 2))
    return found


def test_two_runs_share_no_block():
    """Same session, same input, other randomness: no 16 bytes in common (by chance with probability below 2^-88)."""
    one, other = blocks(uploads("run")), blocks(uploads("another run"))
    assert len(one) > 400_000
    assert not one & other
    assert not one & blocks(uploads("run", 1))


def test_the_same_randomness_gives_the_same_upload():
    """A control for the one above: it compares what it says."""
    again = uploads.__wrapped__("run")
    assert blocks(again) == blocks(uploads("run"))
