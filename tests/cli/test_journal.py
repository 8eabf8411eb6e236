"""The journal gives back what went in, or says which file is bad."""

import pytest
from light_session import SERVER, make_session

from collabsecure.errors import BadFile
from collabsecure_cli.folder import StateFolder
from collabsecure_cli.journal import Journal, Kind, Memory, Step
from collabsecure_protocols import Identity, ProtocolError, Server
from collabsecure_protocols.wire import Malformed

LIGHT = make_session(num_clients=3)
STEPS = [
    Step(kind=Kind.MESSAGE, client=3, body=b"a message"),
    Step(kind=Kind.UPLOADED, client=65_535),
    Step(kind=Kind.CLOSED),
    Step(kind=Kind.STARTED, body=bytes(32)),
    Step(kind=Kind.FAILED, body="genug — 足够".encode()),
]
MEMORY = {"mailboxes": {1: [b"one", b""], 2: [], 3: [bytes(1000)]}, "failure": "why ∎"}


def memory(**changes):
    return Memory(server=Server(LIGHT.session, SERVER), **(MEMORY | changes))


def journal(path, identity=SERVER, session=LIGHT.session):
    return Journal(StateFolder(path), session, identity)


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.kind.name)
def test_step_comes_back_and_its_body_is_in_no_repr(step):
    assert Step.decode(step.encode()) == step
    assert "message" not in repr(step)


@pytest.mark.parametrize(
    "record", [b"", b"\x00\x00\x01\x00\x00\x00\x00", b"\x07" + bytes(6), b"\x01\x00\x01", bytes(8)]
)
def test_record_that_is_no_step_is_malformed(record):
    with pytest.raises(Malformed):
        Step.decode(record)


def test_snapshot_and_steps_since_come_back_and_what_was_before_is_gone(tmp_path):
    log = journal(tmp_path)
    assert log.is_new
    assert log.load().mailboxes == {}
    for step in STEPS:
        log.append(step)
    for number in range(1, 4):
        log.snapshot(memory(failure=None if number == 3 else "x"))
        assert sorted(file.name for file in tmp_path.iterdir()) == [f"snapshot-{number}", f"steps-{number}"]
    log.append(STEPS[0])
    log.append(STEPS[1])
    log.close()
    again = journal(tmp_path)
    assert not again.is_new
    assert list(again.steps()) == STEPS[:2]
    loaded = again.load()
    assert (loaded.mailboxes, loaded.failure) == (MEMORY["mailboxes"], None)
    assert loaded.server.save() == Server(LIGHT.session, SERVER).save()
    assert "mailboxes" not in repr(loaded)
    again.close()


def test_snapshot_that_was_damaged_anywhere_is_refused(tmp_path):
    log = journal(tmp_path)
    log.snapshot(memory())
    log.close()
    path = tmp_path / "snapshot-1"
    whole = path.read_bytes()
    head = 8 + int.from_bytes(whole[:8], "big")
    for at in {*range(30), *range(head - 3, head + 80, 3), len(whole) - 1}:
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x41]) + whole[at + 1 :])
        again = journal(tmp_path)
        try:
            found = again.load()
            assert at < head  # the messages have signatures of their own
            assert found.server.save() == Server(LIGHT.session, SERVER).save()
        except (BadFile, ProtocolError) as error:
            assert str(error)
        again.close()
    for length in (0, 7, 8, head - 1, head, len(whole) - 1):
        path.write_bytes(whole[:length])
        again = journal(tmp_path)
        with pytest.raises((BadFile, ProtocolError)):
            again.load()
        again.close()


def test_snapshot_of_another_server_or_session_is_refused(tmp_path):
    log = journal(tmp_path)
    log.snapshot(memory())
    log.close()
    for how in ({"session": make_session(num_clients=3, seed=8).session}, {"identity": Identity(bytes([9]) * 32)}):
        again = journal(tmp_path, **how)
        with pytest.raises(ProtocolError):
            again.load()
        again.close()


def test_record_of_another_program_is_named(tmp_path):
    log = journal(tmp_path)
    log._steps.append(b"\x09nonsense")
    log.close()
    again = journal(tmp_path)
    with pytest.raises(BadFile, match=r"steps-0: found .*; expected steps of an aggregator"):
        list(again.steps())
    again.close()


def test_files_of_others_and_of_older_snapshots_do_no_harm(tmp_path):
    log = journal(tmp_path)
    log.snapshot(memory())
    log.append(STEPS[2])
    log.close()
    (tmp_path / "snapshot-0").write_bytes(b"a kill left this")
    (tmp_path / "steps-0").write_bytes(b"and this")
    for name in ("snapshot-1.bak", "snapshot-", "snapshot-²", "steps-x", "notes.txt"):
        (tmp_path / name).write_bytes(b"an operator's")
    again = journal(tmp_path)
    assert list(again.steps()) == [STEPS[2]]
    assert not (tmp_path / "snapshot-0").exists()
    assert not (tmp_path / "steps-0").exists()
    assert (tmp_path / "snapshot-1.bak").exists()
    again.close()
