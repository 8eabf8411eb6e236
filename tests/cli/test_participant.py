"""One client's part: to the same end from every crash, and against a server that lies only ever to a clean refusal."""

import shutil
from itertools import pairwise

import pytest
from cohort import Cohort
from file_operations import OPERATIONS
from light_session import GivenArrays, engine_in, make_session
from wire import BOUNDS, INSIDE, LIGHT, ME, SERVED, Wire, is_right, part_of, statistics_in

from collabsecure.errors import BadFile, CollabsecureError
from collabsecure_cli.folder import StateFolder
from collabsecure_cli.ledger import EditLedger, SummedBefore
from collabsecure_cli.participant import NoResultForUs
from collabsecure_cli.uploads import boundaries
from collabsecure_protocols import Ledger, ValueRefused
from collabsecure_protocols.envelope import CHUNK_HEADER_BYTES, HEADER_BYTES, MessageType


@pytest.fixture
def wire(tmp_path):
    with engine_in(LIGHT, tmp_path / "server") as engine:
        cohort = Cohort(LIGHT)
        cohort.members[ME].gone = True
        yield Wire(engine, cohort, tmp_path / "me")


def test_client_takes_part_to_the_end_and_leaves_no_statistics(wire, tmp_path):
    with part_of(wire, tmp_path / "me") as part:
        part.run()
        assert is_right(part.given)
        assert part.given.computed == [0, 1]
        assert part.participant.is_in == {1: True, 2: True}
        assert wire.ends == [len(wire.engine.mailboxes[ME])]
    assert statistics_in(tmp_path / "me") == []


def test_killed_between_any_two_file_operations_a_client_goes_on_with_the_same_bytes(wire, tmp_path, monkeypatch):
    copies, me, server = [], tmp_path / "me", tmp_path / "server"
    state = me / INSIDE / "client"

    def kill():
        number = len(copies)
        if me.exists():
            shutil.copytree(me, tmp_path / f"me-{number}")
        shutil.copytree(server, tmp_path / f"server-{number}")
        copies.append((wire.cohort.copy(), state.exists(), dict(wire.sent)))

    with part_of(wire, me) as part:

        def on_write(path):
            if path is None or str(path).startswith(str(me)):
                kill()

        with OPERATIONS.watched(on_write, monkeypatch):
            part.run()
        deltas = {layer: delta.tobytes() for layer, delta in part.given.deltas.items()}
    assert len(copies) > 60
    for number, (cohort, begun, sent) in enumerate(copies):
        if number % 3:  # a third of them, to be quick: neighbours differ by one operation alone
            continue
        with engine_in(LIGHT, tmp_path / f"server-{number}") as engine:
            again = Wire(engine, cohort, tmp_path / f"me-{number}")
            again.sent = sent if begun else {}
            with part_of(again, tmp_path / f"me-{number}") as part:
                assert part.participant.resumed == begun
                part.run()
                assert {layer: delta.tobytes() for layer, delta in part.given.deltas.items()} == deltas
                assert part.participant.is_in == {1: True, 2: True}
            assert statistics_in(tmp_path / f"me-{number}") == []


@pytest.mark.parametrize("phase", [MessageType.KEY_DIRECTORY, MessageType.START_SUM, MessageType.CONFIRMATIONS])
def test_abort_ends_it_says_what_was_opened_and_says_so_again_without_a_server(wire, tmp_path, phase):
    honest = wire.message

    def message(number):
        payload = honest(number)
        if payload[1] == phase and wire.engine.sum_index == (-1 if phase is MessageType.KEY_DIRECTORY else 1):
            wire.engine.fail("no more")
            return wire.engine.mailboxes[ME][-1]
        return payload

    wire.message = message
    early = phase is MessageType.KEY_DIRECTORY
    opened = "Nothing of these edits was opened" if early else "Layers 1 were opened with these edits"
    with part_of(wire, tmp_path / "me") as part:
        with pytest.raises(NoResultForUs, match=f"the session was aborted: .*{opened}") as told:
            part.run()
        whole = "That layer 2, to which all was uploaded, was not, is the aggregator's word"
        assert (whole in str(told.value)) is (phase is MessageType.CONFIRMATIONS)
        assert len(wire.ends) == 1
    assert statistics_in(tmp_path / "me") == []
    with part_of(None, tmp_path / "me") as part:
        part.participant._connection = type("Gone", (), {"end": lambda *_: None})()
        with pytest.raises(NoResultForUs, match=f"the session was aborted. {opened}"):
            part.run()
        assert part.ledger.protocol.begun == {LIGHT.session.transcript}


def test_session_that_went_on_without_this_client_from_the_start_has_no_result_for_it(wire, tmp_path):
    honest = wire.message

    def message(number):
        return honest(5) if number else honest(0)  # reads the directory and then nothing till all is over

    post = wire.post
    wire.post = lambda payload: post(payload) if payload[1] == MessageType.ADVERTISE_KEYS else None
    wire.message = message
    with part_of(wire, tmp_path / "me") as part, pytest.raises(NoResultForUs, match="the set-up ended without this"):
        part.run()


def test_client_that_is_late_for_one_sum_is_told_where_it_can_join_again(wire, tmp_path):
    honest = wire.offset

    def offset(index):
        if index == 0:
            while wire.engine.sum_index == 0 and wire.engine.state == "MASKED_INPUT":
                wire.let_others_act()
        return honest(index)

    wire.offset = offset
    with part_of(wire, tmp_path / "me") as part:
        part.run()
        assert part.participant.is_in == {1: False, 2: True}
        told = "\n".join(part.said)
        assert "This client's edits are not in layer 1: its masked input did not reach the server in time." in told
        assert "It can join again in layer 2" in told
        assert part.participant.results.survivors == {1: SERVED, 2: (1, 2, 3, 4)}


def test_last_chunk_whose_answer_was_lost_is_no_exclusion(wire, tmp_path):
    honest = wire.upload

    def upload(index, offset, chunk):
        honest(index, offset, chunk)
        if offset + len(chunk) == boundaries(LIGHT.session, index)[-1]:
            while wire.engine.state == "MASKED_INPUT":
                wire.let_others_act()
            honest(index, offset, chunk)  # the connection tries again

    wire.upload = upload
    with part_of(wire, tmp_path / "me") as part:
        part.run()
        assert part.participant.is_in == {1: True, 2: True}
        assert not any("without this client" in line or "not in" in line for line in part.said)


def test_contribution_that_another_session_opened_sits_that_sum_out(wire, tmp_path):
    import hashlib

    whole = hashlib.sha256(b"".join(sorted(GivenArrays(LIGHT, ME).edits))).digest()
    with StateFolder.opened(tmp_path / "me") as folder:
        EditLedger(folder).remember(Ledger().adding(whole, "layer 1"), b"other" * 6, (), ())
    with part_of(wire, tmp_path / "me") as part:
        part.run()
        assert part.participant.is_in == {1: False, 2: True}
        assert any(line.startswith("Sitting this out: V34") for line in part.said)
        assert part.given.computed == [1]
        assert part.participant.results.survivors == {1: SERVED, 2: (1, 2, 3, 4)}


def test_edits_that_another_session_has_summed_are_refused_before_anything_is_sent(tmp_path):
    edits = GivenArrays(LIGHT, ME).edits
    with StateFolder.opened(tmp_path / "me") as folder:
        EditLedger(folder).remember(Ledger(), b"other" * 6, (2,), edits[:1])
    with pytest.raises(SummedBefore, match=r"found 1 of 3 edits \(records 1\)"), part_of(None, tmp_path / "me"):
        pass


def test_statistics_that_change_after_a_crash_are_not_masked_again(wire, tmp_path):
    def lost(*_):
        raise KeyboardInterrupt

    wire.upload = lost
    with part_of(wire, tmp_path / "me") as part, pytest.raises(KeyboardInterrupt):
        part.run()
    del wire.upload
    other = GivenArrays(make_session(num_clients=4, seed=8), ME)
    with part_of(wire, tmp_path / "me", given=other) as part:
        other._light = LIGHT  # the second sum's are right again
        part.run()
        assert other.computed == [1]  # the first sum's were on the disk
        assert is_right(other)


def test_statistics_that_a_killed_process_left_of_a_finished_sum_are_deleted(wire, tmp_path):
    with part_of(wire, tmp_path / "me") as part:
        part.run()
        part.participant._tensors.keep(0, part.given.statistics(0))
    assert statistics_in(tmp_path / "me") == ["statistics-0"]
    with part_of(wire, tmp_path / "me") as part:
        part.run()
        assert is_right(part.given)
    assert statistics_in(tmp_path / "me") == []


@pytest.mark.parametrize("file", ["0.npy", "1.npy", "complete"])
def test_statistics_that_are_damaged_on_the_disk_are_named(wire, tmp_path, file):
    def lost(*_):
        raise KeyboardInterrupt

    wire.upload = lost
    with part_of(wire, tmp_path / "me") as part, pytest.raises(KeyboardInterrupt):
        part.run()
    damaged = tmp_path / "me" / INSIDE / "statistics-0" / file
    damaged.write_bytes(damaged.read_bytes()[:7])
    del wire.upload
    with part_of(wire, tmp_path / "me") as part, pytest.raises((BadFile, ValueRefused)):
        part.run()


def test_update_that_the_model_does_not_take_is_not_kept_and_the_server_not_told_that_all_is_well(wire, tmp_path):
    class TooLarge(CollabsecureError):
        pass

    given = GivenArrays(LIGHT, ME)

    def apply(deltas):
        raise TooLarge(str(sorted(deltas)))

    given.apply = apply
    with part_of(wire, tmp_path / "me", given=given) as part, pytest.raises(TooLarge):
        part.run()
    assert wire.ends == []
    assert not list((tmp_path / "me" / INSIDE / "results").iterdir())
    with part_of(wire, tmp_path / "me") as part:
        part.run()
        assert is_right(part.given)


def test_other_edits_under_a_session_that_was_begun_are_refused(wire, tmp_path):
    def lost(*_):
        raise KeyboardInterrupt

    wire.message = lost
    with part_of(wire, tmp_path / "me") as part, pytest.raises(KeyboardInterrupt):
        part.run()
    others = GivenArrays(LIGHT, 2)
    with pytest.raises(BadFile, match="begun with other edits"), part_of(wire, tmp_path / "me", given=others):
        pass


@pytest.mark.parametrize("at", [0, 5, 20, 200, -1])
@pytest.mark.parametrize("how", ["cut", "flipped"])
def test_saved_state_that_is_damaged_is_refused(wire, tmp_path, at, how):
    with part_of(wire, tmp_path / "me") as part:
        part.run()
    state = tmp_path / "me" / INSIDE / "client"
    data = bytearray(state.read_bytes())
    if how == "cut":
        data = data[:at]
    else:
        data[at] ^= 0x80
    state.write_bytes(data)
    try:
        with part_of(wire, tmp_path / "me") as part:
            assert at == 0 or how == "flipped"
    except Exception as error:  # noqa: BLE001 - which of the two depends on the byte
        assert type(error).__name__ in ("BadFile", "StateRefused")


def test_nothing_that_is_said_or_sent_holds_a_statistic_in_the_clear(wire, tmp_path):
    with part_of(wire, tmp_path / "me") as part:
        part.run()
    gram, cross = LIGHT.part(ME, 1)
    plain = [values.tobytes()[at : at + 16] for values in (gram, cross) for at in range(0, 400, 40)]
    everything = b"".join(wire.sent.values()) + "".join(part.said).encode()
    everything += b"".join(file.read_bytes() for file in (tmp_path / "server").rglob("*") if file.is_file())
    assert not any(piece in everything for piece in plain)
    assert len(wire.sent) == 2 + 2 * 4
    for (start, end), number in zip(pairwise(BOUNDS), (0, 1), strict=True):
        assert len(wire.sent[0, number]) == end - start
        assert wire.sent[0, number][HEADER_BYTES:][:2] == b"\x00\x00"
        assert end - start > CHUNK_HEADER_BYTES
