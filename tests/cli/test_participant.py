"""One client's part: to the same end from every crash, and against a server that lies only ever to a clean refusal."""

import shutil
from contextlib import ExitStack, contextmanager
from itertools import pairwise

import numpy as np
import pytest
from cohort import Cohort, seeded
from file_operations import OPERATIONS
from light_session import SERVER, GivenArrays, engine_in, make_session

from collabsecure.errors import BadFile, CollabsecureError
from collabsecure_cli.aggregator import TooLate, WrongOffset
from collabsecure_cli.answers import OtherOffset, Refused
from collabsecure_cli.folder import StateFolder
from collabsecure_cli.ledger import EditLedger, SummedBefore
from collabsecure_cli.participant import NoResultForUs, Participant, Progress
from collabsecure_cli.results import Results, sign_result
from collabsecure_cli.saved import Saved
from collabsecure_cli.uploads import boundaries
from collabsecure_protocols import Client, Ledger, Policy, RemoteProtocolError, ValueRefused
from collabsecure_protocols.envelope import CHUNK_HEADER_BYTES, HEADER_BYTES, MessageType, seal

LIGHT = make_session(num_clients=4)
ME = 1
INSIDE = LIGHT.session.transcript.hex()[:32]
SERVED = (2, 3, 4)


class Wire:
    """A `Connection` that is the engine itself; everybody else acts when this client waits."""

    def __init__(self, engine, cohort, path):
        self.engine, self.cohort, self.path = engine, cohort, path
        self.sent: dict[object, bytes] = {}  # what it is → its bytes, which never change
        self.ends: list[int] = []
        self.bytes_sent = 0

    def _once(self, key, payload):
        assert self.sent.setdefault(key, bytes(payload)) == bytes(payload), f"{key} was sent with other bytes"

    def _asked(self, call, *arguments):
        try:
            return call(*arguments)
        except WrongOffset as error:
            raise OtherOffset(error.offset) from error
        except TooLate as error:
            raise Refused(410, str(error), "") from error
        except RemoteProtocolError as error:
            raise Refused(409 if error.check in ("V04", "V08") else 400, str(error), error.check) from error

    def post(self, payload):
        kind = MessageType(payload[1])
        self._once((kind, self.engine.sum_index), payload)
        ledger = EditLedger(StateFolder(self.path))
        assert LIGHT.session.transcript in ledger.protocol.begun
        if kind is MessageType.UNMASK:  # what it opens is written down where every later session looks
            name = LIGHT.session.sums[self.engine.sum_index].name
            assert name in {opened for _, opened in ledger.protocol.opened}
            layers = ledger._content.sessions[LIGHT.session.transcript].layers
            assert LIGHT.agreement.layers[self.engine.sum_index] in layers
        self._asked(self.engine.receive, ME, payload)

    def message(self, number):
        box = self.engine.mailboxes[ME]
        while number >= len(box):
            if self.engine.is_over:
                raise Refused(410, self.engine.failure or "the session has finished", "")
            if ME in self.engine.out:
                raise Refused(410, "the set-up ended without this client", "")
            self.let_others_act()
        return box[number]

    def let_others_act(self):
        """One of them, once; when all wait for this client, the phase's time is up."""
        action = (self.cohort.actions(self.engine) or [("close", 0)])[0]
        before = self.engine.state, self.engine.sum_index, self.engine.missing
        self.cohort.do(self.engine, action)
        self.cohort.done(self.engine, action)
        stuck = action[0] == "close" and before == (self.engine.state, self.engine.sum_index, self.engine.missing)
        assert not stuck, "the test has come to a standstill"

    def end(self, number):
        self.ends.append(number)

    def offset(self, index):
        return self._asked(self.engine.offset, ME, index)

    def upload(self, index, offset, chunk):
        number = boundaries(LIGHT.session, index).index(offset)
        self._once((index, number), chunk)
        saved = Saved.decode((self.path / INSIDE / "client").read_bytes(), self.path, 4)
        identity = LIGHT.identities[ME]
        on_disk = Client.restore(saved.client, LIGHT.session, identity, policy=Policy())
        assert on_disk.chunks_sent > number
        self._asked(self.engine.upload, ME, index, offset, bytes(chunk))

    def result(self, index):
        results = self.engine.results
        while not results.has(index):
            if self.engine.is_over:
                raise Refused(410, self.engine.failure, "")
            self.let_others_act()
        return {
            "layers": {
                str(layer): {
                    "digest": results.digests[layer].hex(),
                    "signature": sign_result(LIGHT.session, SERVER, layer, results.digests[layer]).hex(),
                }
                for layer in results.layers_of(index)
            },
            "survivors": list(results.survivors[results.layers_of(index)[0]]),
        }

    def layer(self, layer, num_bytes):
        data = bytearray(self.engine.results.path(layer).read_bytes())
        assert len(data) == num_bytes
        return data


class Part:
    """A participant on a state folder, with what it said and contributed."""

    def __init__(self, wire, path, stack, *, given=None, policy=None):
        self.said = []
        self.given = given or GivenArrays(LIGHT, ME)
        folder = stack.enter_context(StateFolder.opened(path))
        inside = folder.folder(INSIDE)
        self.ledger = EditLedger(folder)
        self.participant = Participant(
            Results(LIGHT.session, LIGHT.agreement, inside.folder("results")),
            LIGHT.identities[ME],
            self.given,
            wire,
            ledger=self.ledger,
            folder=inside,
            policy=policy or Policy(),
            rng=seeded("me"),
            progress=Progress(say=self.said.append, uploaded=lambda _done, _of: None),
        )

    def run(self):
        self.participant.run()


@contextmanager
def part_of(wire, path, **how):
    with ExitStack() as stack:
        yield Part(wire, path, stack, **how)


@pytest.fixture
def wire(tmp_path):
    with engine_in(LIGHT, tmp_path / "server") as engine:
        cohort = Cohort(LIGHT)
        cohort.members[ME].gone = True
        yield Wire(engine, cohort, tmp_path / "me")


def statistics_in(path):
    return sorted(found.name for found in (path / INSIDE).glob("statistics-*"))


def is_right(given, survivors=(1, 2, 3, 4)):
    expected = {layer: LIGHT.expected(layer, survivors) for layer in LIGHT.agreement.layers}
    return given.deltas.keys() == expected.keys() and all(
        np.linalg.norm(given.deltas[layer] - delta) <= 1e-8 * np.linalg.norm(delta) for layer, delta in expected.items()
    )


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
        with pytest.raises(NoResultForUs, match=f"the session was aborted: .*{opened}"):
            part.run()
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


def test_message_whose_bytes_arrive_damaged_is_fetched_again(wire, tmp_path):
    honest, seen = wire.message, set()

    def message(number):
        payload = bytearray(honest(number))
        if number not in seen:
            payload[len(payload) // 2] ^= 4
        seen.add(number)
        return bytes(payload)

    wire.message = message
    with part_of(wire, tmp_path / "me") as part:
        part.run()
        assert is_right(part.given)


def test_message_that_stays_damaged_is_refused_and_nothing_is_lost_by_it(wire, tmp_path):
    honest, asked = wire.message, []

    def message(number):
        asked.append(number)
        return honest(number)[:-1] + b"x" if number == 2 else honest(number)

    wire.message = message
    with part_of(wire, tmp_path / "me") as part, pytest.raises(RemoteProtocolError, match="V06"):
        part.run()
    assert asked == [0, 1, 2, 2, 2, 2, 2]
    wire.message = honest
    with part_of(wire, tmp_path / "me") as part:
        part.run()
        assert is_right(part.given)


def test_repeated_messages_change_nothing_and_swapped_ones_are_refused(wire, tmp_path):
    honest = wire.message
    wire.message = lambda number: honest(number // 2)
    with part_of(wire, tmp_path / "me") as part:
        part.run()
        assert is_right(part.given)


def test_swapped_messages_are_refused_and_the_right_ones_taken_afterwards(wire, tmp_path):
    honest = wire.message
    wire.message = lambda number: honest({1: 2, 2: 1}.get(number, number))
    with engine_in(LIGHT, tmp_path / "ahead"):
        pass

    def message(number):
        if number == 1 and len(wire.engine.mailboxes[ME]) == 1:
            honest(1)
        return honest(0) if number == 2 else honest(number)

    wire.message = message
    with part_of(wire, tmp_path / "me") as part, pytest.raises(RemoteProtocolError, match="V04: KEY_DIRECTORY"):
        part.run()
    wire.message = honest
    with part_of(wire, tmp_path / "me") as part:
        part.run()
        assert is_right(part.given)


def forged(answer, what):
    entry = answer["layers"].get("1")
    if entry is None:
        return answer
    digest = bytes.fromhex(entry["digest"])
    other = make_session(seed=9).session
    entry["signature"] = {
        "no signature": "",
        "zeros": bytes(64).hex(),
        "a client's": LIGHT.identities[2].sign(digest).hex(),
        "of another layer": sign_result(LIGHT.session, SERVER, 2, digest).hex(),
        "of another session": sign_result(other, SERVER, 1, digest).hex(),
        "of another digest": sign_result(LIGHT.session, SERVER, 1, bytes(32)).hex(),
        "too long": sign_result(LIGHT.session, SERVER, 1, digest).hex() + "00",
    }[what]
    return answer


@pytest.mark.parametrize(
    "what",
    ["no signature", "zeros", "a client's", "of another layer", "of another session", "of another digest", "too long"],
)
def test_result_that_the_server_has_not_signed_is_not_taken_over(wire, tmp_path, what):
    honest = wire.result
    wire.result = lambda index: forged(honest(index), what)
    with part_of(wire, tmp_path / "me") as part:
        with pytest.raises(RemoteProtocolError, match="the update of layer 1 is not signed by the server"):
            part.run()
        assert part.given.deltas == {}
        assert wire.ends == []  # the aggregator must not believe that this client has all
    assert not list((tmp_path / "me" / INSIDE / "results").iterdir())


@pytest.mark.parametrize(
    "answer",
    [{}, {"layers": None}, {"layers": []}, {"layers": "1"}, {"layers": {"1": 7}}, {"layers": {"1": {"digest": "zz"}}},
     {"layers": {"1": {"digest": 5, "signature": 5}}}, {"layers": {"1": ["digest"]}}, {"layers": {1: {}}}],
)  # fmt: skip
def test_results_of_nonsense_types_are_refused(wire, tmp_path, answer):
    wire.result = lambda _: answer
    with part_of(wire, tmp_path / "me") as part, pytest.raises(Refused, match="no signed digest of layer 1"):
        part.run()


def test_update_other_than_the_signed_one_is_refused_unless_it_heals(wire, tmp_path):
    honest, fetched = wire.layer, []

    def layer(number, size):
        fetched.append(number)
        data = honest(number, size)
        data[17] ^= 1 if wire.heals > fetched.count(number) else 0
        return data

    wire.layer, wire.heals = layer, 100
    with part_of(wire, tmp_path / "me") as part:
        with pytest.raises(RemoteProtocolError, match="is not the one that was signed"):
            part.run()
        assert part.given.deltas == {}
    assert fetched == [1] * 5
    fetched.clear()
    wire.heals = 3
    with part_of(wire, tmp_path / "me") as part:
        part.run()
        assert is_right(part.given)
    assert fetched == [1, 1, 1, 2, 2, 2]


def without_finish(wire):
    """A server that does not say who was in the first sum."""
    honest = wire.message

    def message(number):
        kinds = [payload[1] for payload in wire.engine.mailboxes[ME]]
        at = kinds.index(MessageType.FINISH_SUM) if MessageType.FINISH_SUM in kinds else None
        if at is None and honest(number)[1] == MessageType.FINISH_SUM:
            at = number
        return honest(number + (at is not None and number >= at))

    wire.message = message


@pytest.mark.parametrize(
    "survivors",
    [None, "1234", {"1": 1}, [], [1, 2], [1, 2, 3, 3], [3, 2, 1], [0, 1, 2], [1, 2, 5], [True, 2, 3], [1.0, 2, 3],
     ["1", "2", "3"], [1, 2, [3]], [1, 2, None], [1, 2, 10**30], list(range(10**5))],
)  # fmt: skip
def test_survivors_of_nonsense_are_refused_where_the_server_alone_knows_them(wire, tmp_path, survivors):
    without_finish(wire)
    honest = wire.result
    wire.result = lambda index: honest(index) | {"survivors": survivors}
    with part_of(wire, tmp_path / "me") as part, pytest.raises(Refused, match="no survivors among the results"):
        part.run()


def test_survivors_that_can_be_are_taken_from_the_results_of_a_sum_without_its_last_word(wire, tmp_path):
    without_finish(wire)
    with part_of(wire, tmp_path / "me") as part:
        part.run()
        assert part.participant.results.survivors == {1: (1, 2, 3, 4), 2: (1, 2, 3, 4)}


def test_what_the_protocol_says_of_survivors_goes_before_what_the_results_say(wire, tmp_path):
    honest = wire.result
    wire.result = lambda index: honest(index) | {"survivors": [2, 3, 4]}
    with part_of(wire, tmp_path / "me") as part:
        part.run()
        assert part.participant.is_in == {1: True, 2: True}


BOUNDS = boundaries(LIGHT.session, 0)


@pytest.mark.parametrize("offset", [1, BOUNDS[1] - 1, BOUNDS[1], BOUNDS[2], BOUNDS[2] + 1, 10**18])
def test_offset_beyond_what_was_sent_or_inside_a_chunk_is_refused(wire, tmp_path, offset):
    wire.offset = lambda _: offset
    with part_of(wire, tmp_path / "me") as part, pytest.raises(Refused, match=f"cannot go on at byte {offset}"):
        part.run()
    assert part.given.computed == []


@pytest.mark.parametrize("offset", [1, BOUNDS[1] + 1, BOUNDS[2] + 1, 10**18])
def test_other_offset_that_cannot_be_is_refused(wire, tmp_path, offset):
    def upload(*_):
        raise OtherOffset(offset)

    wire.upload = upload
    with part_of(wire, tmp_path / "me") as part, pytest.raises(Refused, match=f"cannot go on at byte {offset}"):
        part.run()


@pytest.mark.parametrize("taken", [0, 1])
def test_server_that_sends_an_upload_back_for_ever_is_given_up(wire, tmp_path, taken):
    """Whether it never takes a chunk, or takes one and forgets it."""
    calls = []

    def upload(_index, offset, _chunk):
        calls.append(offset)
        if offset == BOUNDS[taken]:
            raise OtherOffset(0)

    wire.upload = upload
    with part_of(wire, tmp_path / "me") as part, pytest.raises(OtherOffset):
        part.run()
    assert len(calls) <= 2 * 22


def test_upload_that_the_server_has_lost_is_sent_again_with_the_same_bytes(wire, tmp_path):
    honest, left = wire.upload, [1, 1, 0]

    def upload(index, offset, chunk):
        if index == 0 and offset == BOUNDS[1] and left.pop(0):
            wire._once((index, 1), chunk)
            raise OtherOffset(0)
        if index == 0 and offset == 0 and wire.engine.offset(ME, 0):
            wire._once((index, 0), chunk)
            return
        honest(index, offset, chunk)

    wire.upload = upload
    with part_of(wire, tmp_path / "me") as part:
        part.run()
        assert is_right(part.given)
        assert part.given.computed == [0, 1]


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


def test_server_with_another_view_of_the_updates_gets_no_input(wire, tmp_path):
    """A sum that is bound to other results than this client knows is refused: V21."""
    honest = wire.message

    def message(number):
        payload = honest(number)
        if payload[1] == MessageType.START_SUM and wire.engine.sum_index == 1:
            body = bytearray(payload[HEADER_BYTES:-64])
            body[-1] ^= 1
            return seal(LIGHT.session, SERVER, MessageType.START_SUM, 0, bytes(body))
        return payload

    wire.message = message
    with part_of(wire, tmp_path / "me") as part, pytest.raises(RemoteProtocolError, match="V21"):
        part.run()
    assert not [key for key in wire.sent if key == (1, 0)]


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
