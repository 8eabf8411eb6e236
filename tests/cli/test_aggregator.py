"""The aggregator's engine: whatever moment it is killed at, it goes on as if it had not been."""

import numpy as np
import pytest
from cohort import view
from phases import LIGHT, C, M, U, reopened, session_at, steps_bytes, uploads_in

from collabsecure_cli import aggregator as module
from collabsecure_cli.aggregator import TooLate, WrongOffset
from collabsecure_cli.uploads import boundaries
from collabsecure_protocols import RemoteProtocolError, ServerState
from collabsecure_protocols.envelope import HEADER_BYTES, MessageType, seal


def test_partial_upload_of_a_client_that_leaves_is_no_part_of_the_sum_and_of_the_disk(tmp_path):
    with session_at(tmp_path / "state", M, answered=3, chunks=1) as (engine, cohort):
        assert uploads_in(tmp_path / "state") == [f"upload-0-{client}" for client in (1, 2, 3, 4)]
        cohort.members[4].gone = True
        engine.close_phase(M, 0)
        assert uploads_in(tmp_path / "state") == []
        cohort.listen(engine)
        while not engine.wants_merge:
            cohort.play(engine, until=lambda engine: engine.wants_merge)
        engine.merge(LIGHT.second_moment)
        assert engine.results.survivors[1] == (1, 2, 3)
        expected = LIGHT.expected(1, (1, 2, 3))
        assert np.linalg.norm(engine.results.load(1) - expected) <= 1e-8 * np.linalg.norm(expected)


def test_client_that_left_in_one_sum_joins_in_the_next(tmp_path):
    with session_at(tmp_path / "state", M, answered=3, chunks=1) as (engine, cohort):
        engine.close_phase(M, 0)
        cohort.members[4].chunks = []
        cohort.listen(engine)
        cohort.play(engine)
        assert engine.results.survivors == {1: (1, 2, 3), 2: (1, 2, 3, 4)}


def test_upload_out_of_order_past_the_end_or_twice_is_told_the_true_offset(tmp_path):
    with session_at(tmp_path / "state", M, answered=0, chunks=1) as (engine, cohort):
        bounds, chunks = boundaries(LIGHT.session, 0), cohort.members[1].chunks
        for offset, chunk in ((0, chunks[0]), (bounds[2], chunks[1]), (bounds[1] + 1, chunks[1]), (10**14, chunks[1])):
            with pytest.raises(WrongOffset) as refused:
                engine.upload(1, 0, offset, chunk)
            assert refused.value.offset == bounds[1]
        assert engine.upload(1, 0, bounds[1], chunks[1]) == bounds[2]
        size = steps_bytes(tmp_path / "state")
        for offset in (0, bounds[1], bounds[2]):
            with pytest.raises(WrongOffset) as refused:
                engine.upload(1, 0, offset, chunks[1])
            assert refused.value.offset == bounds[2]
        assert steps_bytes(tmp_path / "state") == size


def test_chunk_that_fails_a_check_leaves_no_byte(tmp_path):
    with session_at(tmp_path / "state", M, answered=0, chunks=1) as (engine, cohort):
        bounds, members = boundaries(LIGHT.session, 0), cohort.members
        right = members[1].chunks[1]
        flipped = bytearray(right)
        flipped[HEADER_BYTES + 60] ^= 1
        other = bytes(members[1].client.session.transcript)
        wrong = {
            "V06": flipped,
            "V22": members[1].chunks[0],
            "V05": members[2].chunks[1],
            "V02": right + bytes(10**6),
            "V03": right[:4] + other[::-1] + right[HEADER_BYTES:],
            "V04": seal(LIGHT.session, LIGHT.identities[1], MessageType.UNMASK, 1, bytes(40)),
        }
        upload = tmp_path / "state" / "upload-0-1"
        before = view(engine), upload.read_bytes(), steps_bytes(tmp_path / "state")
        for check, chunk in wrong.items():
            with pytest.raises(RemoteProtocolError) as refused:
                engine.upload(1, 0, bounds[1], bytes(chunk))
            assert refused.value.check == check
        assert (view(engine), upload.read_bytes(), steps_bytes(tmp_path / "state")) == before


def test_uploads_to_other_sums_and_from_others_than_participants_are_too_late(tmp_path):
    with session_at(tmp_path / "state", ServerState.SHARE_KEYS, answered=3) as (engine, cohort):
        cohort.members[4].gone = True
        engine.close_phase(ServerState.SHARE_KEYS, -1)
        assert engine.out == {4}
        cohort.listen(engine)
        cohort.play(engine, until=lambda engine: engine.state is M)
        with pytest.raises(TooLate, match="no more input from this client"):
            engine.offset(4, 0)
        with pytest.raises(TooLate, match="no more input from this client"):
            engine.upload(4, 0, 0, cohort.members[1].chunks[0])
        for index in (1, 2, 1023, 10**14):
            with pytest.raises(TooLate, match="the one to join is 'layer 1'"):
                engine.upload(1, index, 0, cohort.members[1].chunks[0])
        cohort.play(engine, until=lambda engine: engine.sum_index == 1 and engine.state is C)
        with pytest.raises(TooLate, match="takes no more input, and it was the last one"):
            engine.offset(1, 1)
        assert uploads_in(tmp_path / "state") == []


def test_masked_input_through_the_messages_door_is_refused(tmp_path):
    with session_at(tmp_path / "state", M) as (engine, cohort):
        before = view(engine)
        with pytest.raises(RemoteProtocolError, match="masked input among the messages") as refused:
            engine.receive(1, cohort.members[1].chunks[0])
        assert refused.value.check == "V04"
        assert view(engine) == before


def test_uploads_beyond_the_limit_are_folded_into_a_snapshot_and_forgotten(tmp_path, monkeypatch):
    size = boundaries(LIGHT.session, 0)[-1]
    monkeypatch.setattr(module, "_FOLDED_BYTES", 2 * size)
    with session_at(tmp_path / "state", M, answered=1, chunks=1) as (engine, cohort):
        assert uploads_in(tmp_path / "state") == ["upload-0-1", "upload-0-2"]
        before = {file.name for file in (tmp_path / "state").glob("snapshot-*")}
        cohort.play(engine, until=lambda engine: engine.missing == (3, 4))
        assert uploads_in(tmp_path / "state") == []
        assert {file.name for file in (tmp_path / "state").glob("snapshot-*")} != before
        with reopened(tmp_path / "state", tmp_path / "copy") as survivor:
            assert view(survivor) == view(engine)
            assert survivor.offset(1, 0) == size
            cohort.play(survivor)
            assert survivor.results.survivors == {1: (1, 2, 3, 4), 2: (1, 2, 3, 4)}


def test_time_that_is_up_for_a_phase_that_has_ended_meanwhile_does_not_end_the_next(tmp_path):
    """The last answer may be in the engine's queue when the clock strikes."""
    with session_at(tmp_path / "state", M, answered=3, chunks=1) as (engine, cohort):
        cohort.play(engine, until=lambda engine: engine.state is C)
        before = view(engine), steps_bytes(tmp_path / "state")
        engine.close_phase(M, 0)
        engine.close_phase(C, -1)
        engine.close_phase(ServerState.READY, 0)
        assert (view(engine), steps_bytes(tmp_path / "state")) == before


def test_why_a_session_failed_outlives_the_process_and_everybody_is_told(tmp_path):
    with session_at(tmp_path / "state", U, answered=1) as (engine, _):
        engine.fail("the operator wants no more — genug")
        with reopened(tmp_path / "state", tmp_path / "copy") as survivor:
            assert survivor.failure == engine.failure == "the operator wants no more — genug"
            assert survivor.is_over
            assert survivor.state is ServerState.ABORTED
            assert all(box[-1][1] == MessageType.ABORT for box in survivor.mailboxes.values())
            assert view(survivor) == view(engine)


def test_too_few_clients_end_the_session_and_say_so_after_a_restart(tmp_path):
    with session_at(tmp_path / "state", M, answered=2, chunks=1) as (engine, _):
        engine.close_phase(M, 0)
        assert "2" in engine.failure
        assert uploads_in(tmp_path / "state") == []
        with reopened(tmp_path / "state", tmp_path / "copy") as survivor:
            assert view(survivor) == view(engine)
            assert survivor.failure == engine.failure


def test_sum_that_cannot_be_merged_fails_the_session_for_good(tmp_path):
    with session_at(tmp_path / "state", U, answered=3) as (engine, cohort):
        cohort.play(engine, until=lambda engine: engine.wants_merge)
        engine.merge(lambda layer: -1e9 * LIGHT.moments[layer])
        assert engine.failure.startswith("layer 1 cannot be merged: C + the sum of Gram matrices is not positive")
        assert engine.is_over
        assert not engine.wants_merge
        assert not engine.wants_start
        with reopened(tmp_path / "state", tmp_path / "copy") as survivor:
            assert view(survivor) == view(engine)


def test_journal_grows_by_what_was_accepted_alone(tmp_path):
    """Authentic clients can fill no disk: refused and repeated messages are not written down."""
    with session_at(tmp_path / "state", ServerState.SHARE_KEYS, answered=1) as (engine, cohort):
        size = steps_bytes(tmp_path / "state")
        advert = engine.mailboxes[1][0]
        for payload in (cohort.members[1].said, advert, b"", bytes(200), cohort.members[1].said[:-1] + b"x"):
            for _ in range(20):
                cohort.members[1].said = payload
                try:
                    engine.receive(1, payload)
                except RemoteProtocolError:
                    continue
        assert steps_bytes(tmp_path / "state") == size
