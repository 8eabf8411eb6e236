"""A client's masked input as messages: chunks, threads, refusals before the first byte leaves."""

import functools

import numpy as np
import pytest
from harness import Network, identity, make_session, make_values, seeded, tensor

from collabsecure_protocols import Client, LocalProtocolError, Policy, ValueRefused
from collabsecure_protocols.envelope import CHUNK_HEADER_BYTES, HEADER_BYTES
from collabsecure_protocols.keys import SIGNATURE_BYTES
from collabsecure_protocols.tensors import CHUNK_VALUES

AROUND_A_CHUNK = [CHUNK_VALUES - 1, CHUNK_VALUES, CHUNK_VALUES + 1]
TRIANGLE = 512  # 131 328 values in the upper triangle: a chunk and 256 values


@functools.cache
def contributing_state(session):
    """Client 1's saved state when its input is wanted."""
    network, found = Network(session=session), []

    def values(_session, client, sum_index):
        if client == 1:
            found.append(network.clients[1].save())
        return make_values(session, client, sum_index)

    network.values = values
    network.run()
    return found[0]


def contributing(session):
    return Client.restore(contributing_state(session), session, identity(1), policy=Policy())


def packed(payloads):
    return b"".join(bytes(payload)[HEADER_BYTES + CHUNK_HEADER_BYTES : -SIGNATURE_BYTES] for payload in payloads)


@pytest.fixture(scope="module")
def wide():
    """Three clients, one sum of tensors of every width whose sizes surround one chunk."""
    tensors = [
        tensor(f"{bits} {size}", (size,), n=3, bits=bits)
        for bits, size in zip((32, 40, 48), AROUND_A_CHUNK, strict=True)
    ]
    tensors.append(tensor("triangle", (TRIANGLE, TRIANGLE), n=3, bits=64, symmetric=True))
    return make_session(3, 1, tensors=tensors)


@pytest.fixture(scope="module")
def wide_run(wide):
    return Network(session=wide).run()


def test_sums_are_exact_around_a_chunks_border(wide, wide_run):
    """secagg.md P2; the oracle is in Python integers."""
    assert wide.sums[0].num_chunks == 1 + 1 + 2 + 2
    assert wide_run.survivors == [(1, 2, 3)]
    assert wide_run.totals == [wide_run.expected(0, (1, 2, 3))]


def test_chunks_cover_every_value_once():
    spec = make_session(
        3, 1, tensors=[tensor(str(size), (size,), n=3) for size in (1, *AROUND_A_CHUNK, 2 * CHUNK_VALUES)]
    ).sums[0]
    covered = [[] for _ in spec.tensors]
    for number, chunk in enumerate(spec.chunks()):
        assert chunk.index == number
        assert 1 <= chunk.length <= CHUNK_VALUES
        assert chunk.start % CHUNK_VALUES == 0
        covered[chunk.tensor] += range(chunk.start, chunk.start + chunk.length)
    assert covered == [list(range(each.num_values)) for each in spec.tensors]
    with pytest.raises(LocalProtocolError, match="no chunk 7"):
        spec.chunk(7)


@pytest.mark.parametrize("threads", [2, 3, 8])
def test_threads_give_identical_bytes(wide, threads):
    client, values = contributing(wide), make_values(wide, 1, 0)
    alone = list(client.masked_input(values))
    assert list(client.masked_input(values, threads=threads)) == alone
    assert list(client.masked_input(values, first=3, threads=threads)) == alone[3:]


@pytest.mark.parametrize("threads", [0, -1])
def test_a_number_of_threads_that_does_no_work_is_refused(threads):
    session = make_session(3, 1)
    with pytest.raises(LocalProtocolError, match="threads"):
        contributing(session).masked_input(make_values(session, 1, 0), threads=threads)


def test_an_upload_left_off_leaves_no_thread_behind(wide):
    upload = contributing(wide).masked_input(make_values(wide, 1, 0), threads=2)
    next(upload)
    upload.close()
    assert list(upload) == []


def test_an_upload_has_a_bit_for_every_bit_of_its_ring(wide):
    """The wire's overhead is headers and signatures alone: below 1 % of these values."""
    payloads = list(contributing(wide).masked_input(make_values(wide, 1, 0)))
    useful = sum(spec.num_values * spec.bits // 8 for spec in wide.sums[0].tensors)
    assert len(packed(payloads)) == useful
    assert sum(map(len, payloads)) <= 1.01 * useful


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 8.001, -1e300])
@pytest.mark.parametrize(("name", "place"), [("32 131071", 0), ("48 131073", -1), ("triangle", -1)])
def test_a_bad_value_in_the_last_chunk_is_refused_before_the_first_leaves(wide, name, place, value, threads):
    """secagg.md V32, P9."""
    client, values = contributing(wide), dict(make_values(wide, 1, 0))
    before = client.save()
    values[name] = values[name].copy()
    values[name].flat[place] = value
    with pytest.raises(ValueRefused, match=f"'{name}'") as refused:
        client.masked_input(values, threads=threads)
    assert refused.value.tensor == name
    index = np.unravel_index(place % values[name].size, values[name].shape)
    where = f"({', '.join(map(str, index))})"
    assert f"V32: entry {where} is" in str(refused.value)
    assert client.save() == before


BAD_INPUTS = {
    "missing": (lambda values: {"x": values["x"]}, "'y': expected by the session, not given"),
    "unknown": (lambda values: {**values, "z": values["x"]}, "'z': not in the session"),
    "shape": (lambda values: {**values, "x": values["x"].T.copy()}, r"'x': expected shape \(2, 3\)"),
    "integers": (lambda values: {**values, "y": np.zeros(4, np.int64)}, "'y': .* found int64"),
}


@pytest.mark.parametrize("name", BAD_INPUTS)
def test_inputs_other_than_the_sessions_are_refused(name):
    session = make_session(3, 1)
    client = contributing(session)
    change, reason = BAD_INPUTS[name]
    before = client.save()
    with pytest.raises(ValueRefused, match=reason):
        client.masked_input(change(make_values(session, 1, 0)))
    assert client.save() == before


def test_input_is_taken_only_when_it_is_wanted():
    session = make_session(3, 1)
    client = Client(session, identity(1), policy=Policy(), rng=seeded("early"))
    with pytest.raises(LocalProtocolError, match="in state NEW; expected CONTRIBUTING"):
        client.masked_input(make_values(session, 1, 0))
