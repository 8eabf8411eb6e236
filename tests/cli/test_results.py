"""Results come back as they were kept, are complete or absent, and nobody but the server can sign them."""

import json
import os
import weakref

import numpy as np
import pytest
from file_operations import OPERATIONS
from light_session import SERVER, make_session

from collabsecure.errors import BadFile
from collabsecure.links import FIRST_LINK, delta_digest, next_link
from collabsecure_cli.folder import StateFolder
from collabsecure_cli.results import MergedSum, Results, is_signed, sign_result

LIGHT = make_session(num_clients=3)
RNG = np.random.default_rng(5)
DELTAS = {layer: RNG.standard_normal((5, 12)) for layer in (1, 2)}


def results(path, light=LIGHT):
    return Results(light.session, light.agreement, StateFolder(path))


def kept(path):
    found = results(path)
    found.keep(0, {1: DELTAS[1]}, (1, 2, 3))
    found.keep(1, {2: DELTAS[2]}, (1, 3))
    return found


def test_results_come_back_bit_for_bit_with_survivors_and_link(tmp_path):
    kept(tmp_path)
    found = results(tmp_path)
    assert found.are_complete
    for layer, delta in DELTAS.items():
        assert found.load(layer).tobytes() == delta.tobytes()
        assert found.digests[layer] == delta_digest(layer, delta)
    assert found.survivors == {1: (1, 2, 3), 2: (1, 3)}
    first = next_link(FIRST_LINK, [found.digests[1]])
    assert found.link == next_link(first, [found.digests[2]])


def test_one_shot_session_has_all_layers_in_one_sum(tmp_path):
    light = make_session(num_clients=3, flow="one-shot")
    found = results(tmp_path, light)
    assert found.layers_of(0) == (1, 2)
    found.keep(0, DELTAS, (1, 2, 3))
    again = results(tmp_path, light)
    assert again.are_complete
    assert again.survivors == {1: (1, 2, 3), 2: (1, 2, 3)}
    assert again.link == next_link(FIRST_LINK, (delta_digest(layer, delta) for layer, delta in DELTAS.items()))


def test_updates_of_a_one_shot_sum_are_never_held_together(tmp_path):
    found, made, moments = results(tmp_path, make_session(num_clients=3, flow="one-shot")), [], []

    def decode(name):
        array = np.eye(12) if name.startswith("gram") else DELTAS[int(name.split()[1])].copy()
        made.append(weakref.ref(array))
        return array

    def second_moment(layer):
        assert not any(array() is not None for array in made)
        moments.append(layer)
        return np.eye(12)

    found.keep(0, MergedSum(found, 0, decode, second_moment), (1, 2, 3))
    assert set(moments) == {1, 2}
    assert found.load(2) == pytest.approx(DELTAS[2] / 2, rel=1e-12)


def test_any_memory_order_is_kept_row_by_row(tmp_path):
    found = results(tmp_path)
    found.keep(0, {1: np.asfortranarray(DELTAS[1])}, (1, 2, 3))
    assert results(tmp_path).load(1).tobytes() == DELTAS[1].tobytes()


def test_killed_at_any_file_operation_a_sums_results_are_complete_or_absent(tmp_path, monkeypatch):
    found, seen = results(tmp_path), []

    def look(_):
        again = results(tmp_path)
        seen.append(again.has(0))
        if again.has(0):
            assert again.load(1).tobytes() == DELTAS[1].tobytes()

    with OPERATIONS.watched(look, monkeypatch):
        found.keep(0, {1: DELTAS[1]}, (1, 2, 3))
    assert len(seen) >= 6
    assert seen == sorted(seen)
    assert results(tmp_path).has(0)


def test_full_disk_keeps_nothing_of_a_sum(tmp_path, monkeypatch):
    found = results(tmp_path)

    def full(_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(BadFile, match="no space left"):
        patch.setattr(os, "fsync", full)
        found.keep(0, {1: DELTAS[1]}, (1, 2, 3))
    assert not found.has(0)
    assert found.link == FIRST_LINK
    assert not results(tmp_path).has(0)


@pytest.mark.parametrize("how", ["short", "long", "flipped", "absent"])
def test_update_that_was_damaged_on_the_disk_is_named(tmp_path, how):
    found = kept(tmp_path)
    path = found.path(1)
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    whole = path.read_bytes()
    path.write_bytes({"short": whole[:-1], "long": whole + b"x", "flipped": data, "absent": b""}[how])
    if how == "absent":
        path.unlink()
    with pytest.raises(BadFile, match=r"layer-1.f64: found"):
        results(tmp_path).load(1)
    assert results(tmp_path).load(2).tobytes() == DELTAS[2].tobytes()


@pytest.mark.parametrize(
    "written",
    [b"", b"[", b"[]", b"{}", b"null", b"\xff", b"[" * 100_000, b'{"digests": {}, "survivors": []}',
     b'{"digests": [], "survivors": []}', b'{"digests": {"1": "zz"}, "survivors": []}',
     b'{"digests": {"1": 5}, "survivors": []}', b'{"digests": {"1": "ab"}, "survivors": 3}'],
)  # fmt: skip
def test_list_of_digests_that_is_damaged_is_named(tmp_path, written):
    kept(tmp_path)
    (tmp_path / "sum-0.json").write_bytes(written)
    with pytest.raises(BadFile, match=r"sum-0.json: found something else than digests and survivors"):
        results(tmp_path)


def test_digest_that_was_changed_on_the_disk_does_not_fit_the_update(tmp_path):
    kept(tmp_path)
    path = tmp_path / "sum-0.json"
    written = json.loads(path.read_bytes())
    written["digests"]["1"] = "00" * 32
    path.write_text(json.dumps(written))
    with pytest.raises(BadFile, match="found another Δ than was written"):
        results(tmp_path).load(1)


def test_later_sum_without_the_one_before_counts_for_nothing(tmp_path):
    kept(tmp_path)
    (tmp_path / "sum-0.json").unlink()
    assert not results(tmp_path).has(0)
    assert results(tmp_path).link == FIRST_LINK


def test_signature_is_of_one_server_session_layer_and_digest():
    digest, other = bytes(range(32)), make_session(num_clients=3, seed=8).session
    signature = sign_result(LIGHT.session, SERVER, 1, digest)
    assert is_signed(LIGHT.session, 1, digest, signature)
    assert not is_signed(LIGHT.session, 2, digest, signature)
    assert not is_signed(LIGHT.session, 1, digest[::-1], signature)
    assert not is_signed(other, 1, digest, signature)
    assert not is_signed(LIGHT.session, 1, digest, sign_result(LIGHT.session, LIGHT.identities[1], 1, digest))
    for broken in (b"", signature[:-1], signature + b"\0", bytes(64), bytes([signature[0] ^ 1]) + signature[1:]):
        assert not is_signed(LIGHT.session, 1, digest, broken)
