"""Whatever moment the aggregator's engine is killed at, and whatever the disk does, it goes on as if nothing was."""

import os
import shutil

import numpy as np
import pytest
from cohort import Cohort, view
from file_operations import OPERATIONS
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from light_session import engine_in, make_session
from phases import LIGHT, C, M, U, reopened, session_at, steps_bytes, uploads_in

from collabsecure.errors import BadFile
from collabsecure_cli import aggregator as module
from collabsecure_cli.folder import StateFolder
from collabsecure_cli.uploads import boundaries
from collabsecure_protocols import ServerState
from collabsecure_protocols.envelope import HEADER_BYTES

FIXED = settings(
    derandomize=True,
    deadline=None,
    database=None,
    max_examples=5,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@given(data=st.data())
@FIXED
def test_in_any_order_of_events_a_reopened_engine_is_the_same_at_every_step(data, tmp_path_factory):
    path = tmp_path_factory.mktemp("order")
    drop = data.draw(st.none() | st.tuples(st.integers(1, 4), st.integers(9, 40)), "client and step at which it leaves")
    with engine_in(LIGHT, path / "state") as engine:
        cohort, count = Cohort(LIGHT), 0
        while True:
            if drop is not None and count >= drop[1]:
                cohort.members[drop[0]].gone = True
            actions = cohort.actions(engine)
            if not actions and engine.missing:
                actions = [("close", 0)]
            if not actions:
                break
            action = data.draw(st.sampled_from(actions))
            cohort.do(engine, action)
            cohort.done(engine, action)
            count += 1
            if data.draw(st.booleans(), "repeat") and action[0] == "post":
                size = steps_bytes(path / "state")
                before = view(engine)
                cohort.do_again(engine, ("again", action[1]))
                assert view(engine) == before
                assert steps_bytes(path / "state") == size
            with reopened(path / "state", path / "copy") as twin:
                assert view(twin) == view(engine)
                assert twin.wants_merge == engine.wants_merge
                if engine.wants_merge:
                    twin.merge(LIGHT.second_moment)
                    sums = twin.results.digests
                    with reopened(path / "state", path / "other") as other:
                        other.merge(LIGHT.second_moment)
                        assert other.results.digests == sums
        assert engine.is_over
        assert engine.failure is None
        assert uploads_in(path / "state") == []
        for layer in LIGHT.agreement.layers:
            survivors = engine.results.survivors[layer]
            assert set(survivors) >= {1, 2, 3, 4} - ({drop[0]} if drop else set())
            expected = LIGHT.expected(layer, survivors)
            assert np.linalg.norm(engine.results.load(layer) - expected) <= 1e-8 * np.linalg.norm(expected)


@pytest.mark.parametrize("folded", [1 << 30, 1], ids=["a snapshot a sum", "a snapshot an upload"])
def test_killed_between_any_two_file_operations_the_engine_goes_on_with_the_same_bytes(tmp_path, monkeypatch, folded):
    monkeypatch.setattr(module, "_FOLDED_BYTES", folded)
    state, kills = tmp_path / "state", 0
    with engine_in(LIGHT, state) as engine:
        cohort = Cohort(LIGHT)
        while True:
            leaver = cohort.members[4]
            leaver.gone = leaver.gone or (engine.sum_index == 1 and leaver.sent == 1)  # in the middle of an upload
            actions = cohort.actions(engine) or ([("close", 0)] if engine.missing else [])
            if not actions:
                break
            action, copies = actions[0], []

            def kill(_path, copies=copies):
                copies.append(tmp_path / f"killed-{len(copies)}")
                shutil.copytree(state, copies[-1])

            before = view(engine)
            with OPERATIONS.watched(kill, monkeypatch):
                cohort.do(engine, action)
            after = view(engine)
            for copy in copies:
                with engine_in(LIGHT, copy) as survivor:
                    assert view(survivor) in (before, after), action
                    cohort.do_again(survivor, action)
                    assert view(survivor) == after, action
                    assert len(list(copy.glob("snapshot-*"))) <= 1
                    assert len(list(copy.glob("steps-*"))) == 1
                    assert not list(copy.rglob(".*.part"))
                shutil.rmtree(copy)
            kills += len(copies)
            cohort.done(engine, action)
        assert engine.failure is None
        assert engine.results.survivors == {1: (1, 2, 3, 4), 2: (1, 2, 3)}
    assert kills > 100


def test_upload_cut_at_any_byte_goes_on_at_the_last_whole_chunk(tmp_path):
    with session_at(tmp_path / "state", M, answered=0, chunks=1) as (engine, cohort):
        bounds = boundaries(LIGHT.session, 0)
        whole = b"".join(cohort.members[1].chunks)
        (upload,) = (tmp_path / "state").glob("upload-*")
        written = upload.read_bytes()
        assert written == whole[: bounds[1]]
        for length in {*range(0, len(whole), 7), *bounds, bounds[1] - 1, bounds[1] + 1, len(whole) - 1}:
            upload.write_bytes(whole[:length])
            with reopened(tmp_path / "state", tmp_path / "copy") as survivor:
                expected = max(bound for bound in bounds if bound <= length)
                assert survivor.offset(1, 0) == expected
                number = bounds.index(expected)
                for at in range(number, len(bounds) - 1):
                    survivor.upload(1, 0, bounds[at], cohort.members[1].chunks[at])
                assert survivor.missing == (2, 3, 4)
        upload.write_bytes(written)
        assert engine.offset(1, 0) == bounds[1]


@pytest.mark.parametrize("at", [0, HEADER_BYTES, -1, -100])
@pytest.mark.parametrize("chunk", [0, 1])
def test_upload_that_a_power_cut_damaged_goes_on_before_the_damage(tmp_path, chunk, at):
    """The file has its length, but not all that was in it: it had not been flushed yet."""
    with session_at(tmp_path / "state", M, answered=0, chunks=1) as (_, cohort):
        bounds = boundaries(LIGHT.session, 0)
        data = bytearray(b"".join(cohort.members[1].chunks))
        data[bounds[chunk] + at % (bounds[chunk + 1] - bounds[chunk])] ^= 0x40
        next((tmp_path / "state").glob("upload-*")).write_bytes(data)
        with reopened(tmp_path / "state", tmp_path / "copy") as survivor:
            assert survivor.offset(1, 0) == bounds[chunk]
            for number in range(chunk, 2):
                survivor.upload(1, 0, bounds[number], cohort.members[1].chunks[number])
            cohort.members[1].sent = 2
            cohort.play(survivor, until=lambda engine: engine.wants_merge)
            survivor.merge(LIGHT.second_moment)
            expected = LIGHT.expected(1, (1, 2, 3, 4))
            assert np.linalg.norm(survivor.results.load(1) - expected) <= 1e-8 * np.linalg.norm(expected)


def test_upload_that_is_damaged_after_it_was_counted_ends_the_process_by_name(tmp_path):
    with session_at(tmp_path / "state", M, answered=1) as _:
        (upload,) = (tmp_path / "state").glob("upload-*")
    data = bytearray(upload.read_bytes())
    data[200] ^= 1
    upload.write_bytes(data)
    found = r"upload-0-1: found a damaged upload .*; expected what was written"
    with pytest.raises(BadFile, match=found), engine_in(LIGHT, tmp_path / "state"):
        pass


@pytest.mark.parametrize("call", ["receive", "upload", "close", "start"])
def test_disk_that_fails_lets_nobody_see_what_it_has_not_got(tmp_path, monkeypatch, call):
    state = {"receive": U, "upload": M, "close": M, "start": ServerState.READY}[call]
    answered = 4 if call == "start" else 3
    with session_at(tmp_path / "state", state, answered=answered, chunks=int(call == "upload")) as (engine, cohort):
        if call == "start":
            cohort.play(engine, until=lambda engine: engine.wants_start)
        before = view(engine)
        assert cohort.actions(engine)
        action = {"receive": ("post", 4), "upload": ("upload", 4), "close": ("close", 0), "start": ("start", 0)}[call]
        cohort.members[4].gone = call == "close"

        def full(_):
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch, pytest.raises(BadFile, match="no space left on device"):
            patch.setattr(os, "fsync", full)
            cohort.do(engine, action)
        assert engine.mailboxes == before["mailboxes"]
        with reopened(tmp_path / "state", tmp_path / "copy") as survivor:
            cohort.do_again(survivor, action)
            cohort.done(survivor, action)
            if call == "close":
                cohort.members[4].gone, cohort.members[4].chunks = False, []
                cohort.listen(survivor)
            cohort.play(survivor)
            assert survivor.failure is None
            assert survivor.results.has(1)


def test_state_of_another_session_or_server_is_refused(tmp_path):
    with session_at(tmp_path / "state", C) as (engine, _):
        assert engine.state is C
    other = make_session(seed=8)
    with pytest.raises(Exception, match="V35") as refused, engine_in(other, tmp_path / "state"):
        pass
    assert type(refused.value).__name__ == "StateRefused"


def test_steps_without_their_snapshot_are_no_new_session(tmp_path):
    with session_at(tmp_path / "state", C):
        pass
    (tmp_path / "state" / "snapshot-1").unlink()
    with pytest.raises(BadFile, match="found steps without the snapshot"), engine_in(LIGHT, tmp_path / "state"):
        pass


def test_second_aggregator_on_one_state_folder_is_refused(tmp_path):
    with engine_in(LIGHT, tmp_path / "state"):
        second = StateFolder.opened(tmp_path / "state")
        with pytest.raises(BadFile, match="another process at work"), second:
            pass
    with engine_in(LIGHT, tmp_path / "state") as engine:
        assert not engine.resumed
