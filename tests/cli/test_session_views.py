"""What an aggregator's disk gives away, phase by phase, to one who has the session file and not its key.

Four clients, two layers of d_in = 12; engines without sockets (tests/cli/phases.py).
"""

import hashlib

import numpy as np
import pytest
from light_session import make_session
from phases import LIGHT, C, M, U, session_at

from collabsecure.attacks.knowledge import Setting
from collabsecure.attacks.uniformity import examine
from collabsecure.attacks.views import MaskedUpload
from collabsecure.errors import BadFile
from collabsecure.statistics import Statistics
from collabsecure_cli.session_views import read_state
from collabsecure_protocols import ServerState

SETTING = Setting(keys="made up", layers=(1,), d_in=12, d_out=5, num_clients=4, edits_per_client=3)


def content(path):
    """Every file's name, time and digest."""
    files = sorted(file for file in path.rglob("*") if file.is_file())
    return [(file, file.stat().st_mtime_ns, hashlib.sha256(file.read_bytes()).digest()) for file in files]


def test_uploads_on_their_way_are_masked_and_nothing_else_is_there(tmp_path):
    with session_at(tmp_path / "state", M, answered=2, chunks=1) as (engine, _):
        before = content(tmp_path / "state")
        state = read_state(LIGHT.session, tmp_path / "state")  # though the engine holds its lock
        assert content(tmp_path / "state") == before
        assert engine.missing == (3, 4)
    assert (state.summed, state.published) == (None, None)
    assert state.uploads.keys() == {1, 2, 3}
    assert state.uploads[1].words.keys() == {"gram 1", "cross 1"}
    assert state.uploads[3].words.keys() == {"gram 1"}  # one of two chunks
    assert state.uploads[3].layers == {}
    for client in (1, 2):
        gram, cross = LIGHT.part(client, 1)
        own = {1: Statistics(gram=gram, cross=cross)}
        found = examine(state.uploads[client], own, view="masked", setting=SETTING)
        assert found.score.figures[0].is_chance
        assert not np.allclose(state.uploads[client].layers[1].gram, gram)


@pytest.mark.parametrize(("phase", "answered"), [(C, 2), (U, 1)])
def test_a_sum_that_is_still_masked_is_not_read(tmp_path, phase, answered):
    with session_at(tmp_path / "state", phase, answered=answered):
        state = read_state(LIGHT.session, tmp_path / "state")
    assert (state.uploads, state.summed, state.published) == ({}, None, None)


def finished(path, light=LIGHT):
    with session_at(path, ServerState.SHARE_KEYS, light=light) as (engine, cohort):
        cohort.play(engine)


def test_the_last_sum_and_all_updates_stay_on_the_disk(tmp_path):
    finished(tmp_path / "state")
    before = content(tmp_path / "state")
    state = read_state(LIGHT.session, tmp_path / "state")
    assert content(tmp_path / "state") == before
    assert state.uploads == {}
    assert state.summed.survivors == (1, 2, 3, 4)
    assert state.summed.layers.keys() == {2}
    parts = [LIGHT.part(client, 2) for client in (1, 2, 3, 4)]
    assert np.allclose(state.summed.layers[2].gram, sum(gram for gram, _ in parts), rtol=1e-7)
    assert np.allclose(state.summed.layers[2].cross, sum(cross for _, cross in parts), rtol=1e-5, atol=1e-7)
    for layer in (1, 2):
        assert np.allclose(state.published.layers[layer], LIGHT.expected(layer, (1, 2, 3, 4)), rtol=1e-4, atol=1e-8)
    assert [name for name, _ in state.parts()] == ["sum", "delta"]


def test_of_a_one_shot_session_the_sum_of_all_layers_stays(tmp_path):
    light = make_session(flow="one-shot")
    finished(tmp_path / "state", light)
    assert read_state(light.session, tmp_path / "state").summed.layers.keys() == {1, 2}


def test_what_is_no_state_or_another_sessions_is_refused(tmp_path):
    with pytest.raises(BadFile, match="expected an aggregator's state folder"):
        read_state(LIGHT.session, tmp_path / "nothing")
    with session_at(tmp_path / "begun", ServerState.SHARE_KEYS), pytest.raises(BadFile, match="V03"):
        read_state(make_session(seed=8).session, tmp_path / "begun")
    finished(tmp_path / "state")
    with pytest.raises(BadFile):
        read_state(make_session(seed=8).session, tmp_path / "state")
    (snapshot,) = (tmp_path / "state").glob("snapshot-*")
    snapshot.write_bytes(snapshot.read_bytes()[:-40])
    with pytest.raises(BadFile):
        read_state(LIGHT.session, tmp_path / "state")


def test_an_upload_is_of_one_client_alone(tmp_path):
    with session_at(tmp_path / "state", M, answered=1, chunks=1):
        (tmp_path / "state" / "upload-9-1").write_bytes(b"of no sum")
        (tmp_path / "state" / "upload-0-99").write_bytes(b"of no client")
        state = read_state(LIGHT.session, tmp_path / "state")
    assert state.uploads.keys() == {1, 2}
    assert all(isinstance(upload, MaskedUpload) for upload in state.uploads.values())


@pytest.mark.parametrize("at", [1, 36, 40, 300, -1])  # version, sum, chunk, masked integers, signature
def test_a_damaged_upload_is_refused_with_its_name(tmp_path, at):
    with session_at(tmp_path / "state", M, answered=1, chunks=1):
        path = tmp_path / "state" / "upload-0-1"
        damaged = bytearray(path.read_bytes())
        damaged[at] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(BadFile, match="state/upload-0-1: found"):
            read_state(LIGHT.session, tmp_path / "state")


def test_what_only_looks_like_an_upload_is_left_alone(tmp_path):
    with session_at(tmp_path / "state", M, answered=1, chunks=1):
        for name in ("upload-0-1-old", "upload--0-1", "upload-0-", "upload-٠-٢"):
            (tmp_path / "state" / name).write_bytes(b"of nobody")
        assert read_state(LIGHT.session, tmp_path / "state").uploads.keys() == {1, 2}
