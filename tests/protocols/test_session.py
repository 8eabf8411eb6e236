"""The session descriptor: one encoding, every field bound, nothing invalid made. secagg.md, "Session descriptor"."""

import base64
import json
from dataclasses import fields, replace

import pytest
from harness import identity, make_session, tensor
from hypothesis import given
from hypothesis import strategies as st

from collabsecure_protocols import InvalidSession, Session, Sum, Tensor
from collabsecure_protocols.session import MAX_CLIENTS, MAX_SUMS
from collabsecure_protocols.tensors import CHUNK_VALUES, MAX_EXPONENT, MAX_TENSORS

MATRIX = Tensor(
    name="gram",
    shape=(3, 3),
    bound=0.75,
    fraction_bits=20,
    symmetric=True,
    row_exponents=(1, -2, 3),
)
CROSS = Tensor(
    name="cross", shape=(2, 3), bound=4.0, fraction_bits=30, bits=64, row_exponents=(0, 1), column_exponents=(5, 0, -5)
)
SESSION = make_session(5, 2, tensors=[MATRIX, CROSS], parameters=(("model", "gpt2"), ("λ", "20000")))
REGULAR = make_session(9, 1, degree=4, threshold=3, min_survivors=5)


def test_a_session_survives_its_canonical_encoding():
    for session in (SESSION, REGULAR, make_session(2, threshold=2, min_survivors=2)):
        assert Session.decode(session.encode()) == session
        assert Session.decode(session.encode()).transcript == session.transcript


def test_a_session_survives_its_json():
    assert Session.from_json(SESSION.to_json()) == SESSION


TENSOR_CHANGES = {
    "name": "gramm",
    "shape": (4, 4),
    "bound": 0.5,
    "fraction_bits": 21,
    "bits": 40,
    "symmetric": False,
    "row_exponents": (1, -2, 4),
    "column_exponents": (0, 0, 1),
}
CHANGES = {
    "session_id": b"0123456789abcdeF",
    "task": "test",
    "roster": (*SESSION.roster[:4], identity(6).public),
    "server_key": identity("another server").public,
    "threshold": 3,
    "min_survivors": 5,
    "degree": 2,
    "sums": SESSION.sums[:1],
    "parameters": (("model", "gpt2-xl"), ("λ", "20000")),
}


def variants():
    """Sessions that differ from SESSION in one field of it, or of one of its tensors or sums."""
    for name, value in CHANGES.items():
        more = {"threshold": 3} if name == "degree" else {}
        yield name, replace(SESSION, **{name: value, **more})
    yield "roster order", replace(SESSION, roster=SESSION.roster[::-1])
    yield "sum name", replace(SESSION, sums=(replace(SESSION.sums[0], name="Layer 0"), SESSION.sums[1]))
    yield "sum order", replace(SESSION, sums=SESSION.sums[::-1])
    for name, value in TENSOR_CHANGES.items():
        clear = {
            "shape": {"row_exponents": ()},
            "column_exponents": {"symmetric": False},
        }.get(name, {})
        base = replace(MATRIX, **clear)
        changed = replace(base, **{name: value})
        yield f"tensor {name}", replace(SESSION, sums=(Sum(name="layer 0", tensors=(changed, CROSS)), SESSION.sums[1]))
    yield "tensor order", replace(SESSION, sums=(Sum(name="layer 0", tensors=(CROSS, MATRIX)), SESSION.sums[1]))
    # Text that moves over a border must not move into the same bytes.
    yield "border", replace(SESSION, parameters=(("modelg", "pt2"), ("λ", "20000")))


def test_the_variants_cover_every_field():
    assert set(CHANGES) | {"encryption", "key_holder", "encryption_key"} == {field.name for field in fields(Session)}
    assert set(TENSOR_CHANGES) == {field.name for field in fields(Tensor)}


def test_sessions_that_differ_in_any_one_field_have_other_transcripts():
    """secagg.md P4: transcript = H(encoding)."""
    transcripts = {"itself": SESSION.transcript, **{name: session.transcript for name, session in variants()}}
    assert len(set(transcripts.values())) == len(transcripts) == 23


@pytest.mark.parametrize("name", [name for name, _ in variants()])
def test_each_variant_survives_its_encoding(name):
    variant = dict(variants())[name]
    assert variant != SESSION
    assert Session.decode(variant.encode()) == variant
    assert Session.from_json(variant.to_json()) == variant


INVALID = {
    "short session id": {"session_id": bytes(15)},
    "long session id": {"session_id": bytes(65)},
    "long task": {"task": "x" * 1001},
    "text without UTF-8": {"task": "\ud800"},
    "one client": {"roster": SESSION.roster[:1], "degree": 0, "threshold": 2, "min_survivors": 2},
    "too many clients": {"roster": SESSION.roster * (MAX_CLIENTS // 5 + 1)},
    "short key": {"roster": (*SESSION.roster[:4], bytes(31))},
    "short server key": {"server_key": bytes(31)},
    "client twice": {"roster": (*SESSION.roster[:4], SESSION.roster[0])},
    "server on the roster": {"server_key": SESSION.roster[0]},
    "odd degree": {"degree": 3, "threshold": 3},
    "degree 0": {"degree": 0, "threshold": 2},
    "degree n": {"degree": 5},
    "threshold 1": {"threshold": 1},
    "threshold above the neighbourhood": {"threshold": 6},
    "regular threshold above the neighbourhood": {"degree": 2, "threshold": 4, "min_survivors": 4},
    "survivors below the threshold": {"min_survivors": 3},
    "survivors above n": {"min_survivors": 6},
    "no sums": {"sums": ()},
    "too many sums": {"sums": tuple(Sum(name=str(number), tensors=(MATRIX,)) for number in range(MAX_SUMS + 1))},
    "sum named twice": {"sums": (SESSION.sums[0],) * 2},
    "parameters out of order": {"parameters": (("b", ""), ("a", ""))},
    "parameter twice": {"parameters": (("a", ""), ("a", ""))},
    "parameter name without UTF-8": {"parameters": (("\udfff", ""),)},
    "parameter without UTF-8": {"parameters": (("a", "\udfff"),)},
    "too many parameters": {"parameters": tuple((f"{number:04}", "") for number in range(1025))},
    "encryption": {"encryption": "rot13"},
    "no headroom": {"sums": (Sum(name="s", tensors=(replace(MATRIX, bound=2.0**26),)),)},
}


@pytest.mark.parametrize("name", INVALID)
def test_an_invalid_session_cannot_be_made(name):
    """secagg.md V30."""
    with pytest.raises(InvalidSession, match="V30"):
        replace(SESSION, **INVALID[name])


INVALID_TENSORS = {
    "no name": {"name": ""},
    "long name": {"name": "x" * 201},
    "name without UTF-8": {"name": "\ud800"},
    "no axes": {"shape": (), "row_exponents": (), "symmetric": False},
    "nine axes": {"shape": (1,) * 9, "row_exponents": (), "symmetric": False},
    "empty axis": {"shape": (0, 3), "row_exponents": (), "symmetric": False},
    "huge axis": {"shape": (2**32,), "row_exponents": (), "symmetric": False},
    "too many values": {"shape": (2**20 + 1, 2**20), "row_exponents": (), "symmetric": False},
    "bits": {"bits": 56},
    "bound 0": {"bound": 0.0},
    "bound below 0": {"bound": -1.0},
    "bound NaN": {"bound": float("nan")},
    "bound infinite": {"bound": float("inf")},
    "fine step": {"fraction_bits": MAX_EXPONENT + 1},
    "coarse step": {"fraction_bits": -MAX_EXPONENT - 1},
    "fine step by a row": {"fraction_bits": MAX_EXPONENT - 2},
    "oblong": {"shape": (3, 2)},
    "cube": {"shape": (3, 3, 3)},
    "column exponents of a symmetric tensor": {"column_exponents": (0, 0, 0)},
    "row exponents missing": {"row_exponents": (1, 2)},
    "row exponent": {"row_exponents": (1, -513, 3)},
    "column exponent": {"symmetric": False, "column_exponents": (0, 512, 0)},
    "column exponents missing": {"symmetric": False, "column_exponents": (0, 0)},
}


@pytest.mark.parametrize("name", INVALID_TENSORS)
def test_an_invalid_tensor_cannot_be_made(name):
    """secagg.md V30."""
    with pytest.raises(InvalidSession, match="V30"):
        replace(MATRIX, **INVALID_TENSORS[name])


@pytest.mark.parametrize(
    "changes",
    [
        {"name": ""},
        {"name": "x" * 201},
        {"name": "\ud800"},
        {"tensors": ()},
        {"tensors": (MATRIX, MATRIX)},
        {"tensors": tuple(tensor(str(number), n=5) for number in range(MAX_TENSORS + 1))},
    ],
    ids=["no name", "long name", "name without UTF-8", "no tensors", "tensor twice", "too many tensors"],
)
def test_an_invalid_sum_cannot_be_made(changes):
    """secagg.md V30."""
    with pytest.raises(InvalidSession, match="V30"):
        replace(SESSION.sums[0], **changes)


@given(st.lists(st.integers(1, 3 * CHUNK_VALUES), min_size=1, max_size=5))
def test_chunks_are_of_one_tensor_each_and_together_all_of_it(lengths):
    """secagg.md, "Fixed point": counted here from the lengths, one after the other."""
    vector = Tensor(name="v", shape=(1,), bound=1.0, fraction_bits=8)
    vectors = (replace(vector, name=str(number), shape=(length,)) for number, length in enumerate(lengths))
    spec = Sum(name="a", tensors=tuple(vectors))
    left = [(number, start) for number, n in enumerate(lengths) for start in range(0, n, CHUNK_VALUES)]
    found = list(spec.chunks())
    assert [(chunk.tensor, chunk.start) for chunk in found] == left
    assert [chunk.index for chunk in found] == list(range(spec.num_chunks))
    assert all(chunk.length == min(CHUNK_VALUES, lengths[chunk.tensor] - chunk.start) for chunk in found)
    for index in (-1, spec.num_chunks):
        with pytest.raises(InvalidSession, match="no chunk"):
            spec.chunk(index)


def mutated(data, encoding):
    """A few bytes of an encoding overwritten, inserted or taken away, or some of it moved."""
    result = bytearray(encoding)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, max(len(result) - 1, 0)))
        match data.draw(st.sampled_from(["set", "flip", "cut", "insert", "drop"])):
            case "set" if result:
                result[at] = data.draw(st.integers(0, 255))
            case "flip" if result:
                result[at] ^= 1 << data.draw(st.integers(0, 7))
            case "cut":
                del result[at:]
            case "insert":
                result[at:at] = data.draw(st.binary(min_size=1, max_size=4))
            case "drop":
                del result[at : at + data.draw(st.integers(1, 8))]
    return bytes(result)


@given(st.data(), st.sampled_from([SESSION, REGULAR]))
def test_decoding_mutated_bytes_gives_another_session_or_invalid_session(data, session):
    """secagg.md V30, and one encoding per session: what decodes encodes to the same bytes."""
    encoding = mutated(data, session.encode())
    try:
        found = Session.decode(encoding)
    except InvalidSession:
        return
    assert found.encode() == encoding
    assert (found == session) == (encoding == session.encode())


@given(st.binary(max_size=300))
def test_random_bytes_are_no_session(data):
    with pytest.raises(InvalidSession):
        Session.decode(data)


JSON_FIELDS = [name for name in json.loads(SESSION.to_json()) if name != "descriptor"]


@pytest.mark.parametrize("name", JSON_FIELDS)
def test_a_readable_field_that_differs_from_the_descriptor_is_refused(name):
    found = json.loads(SESSION.to_json())
    for lie in ({**found, name: "another"}, {key: value for key, value in found.items() if key != name}):
        with pytest.raises(InvalidSession, match="V30"):
            Session.from_json(json.dumps(lie))


def test_a_field_that_says_two_things_is_refused():
    """A reader sees the first, a parser takes the last."""
    text = SESSION.to_json().replace(' "threshold": 4', ' "threshold": 5,\n "threshold": 4')
    assert json.loads(text) == json.loads(SESSION.to_json())
    with pytest.raises(InvalidSession, match="V30"):
        Session.from_json(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "7",
        '"descriptor"',
        "null",
        "{}",
        '{"descriptor": 7}',
        '{"descriptor": "@"}',
        '{"descriptor": "é"}',
        '{"descriptor": ""}',
        "[" * 100_000,
        json.dumps({"descriptor": base64.b64encode(SESSION.encode()).decode()}),
        SESSION.to_json().replace('"task"', '"more": 1, "task"'),
    ],
    ids=range(14),
)
def test_what_is_no_session_file_is_refused(text):
    with pytest.raises(InvalidSession, match="V30"):
        Session.from_json(text)


@given(st.data())
def test_a_session_file_with_any_character_changed_is_the_same_session_or_refused(data):
    text = SESSION.to_json()
    at = data.draw(st.integers(0, len(text) - 1))
    changed = text[:at] + data.draw(st.characters(codec="utf-8")) + text[at + 1 :]
    try:
        assert Session.from_json(changed) == SESSION
    except InvalidSession:
        return
