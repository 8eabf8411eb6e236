"""A server that lies, forgets or repeats itself gets a clean refusal, and not a byte that an honest one had not."""

import pytest
from cohort import Cohort
from light_session import SERVER, engine_in, make_session
from wire import BOUNDS, INSIDE, LIGHT, ME, Wire, is_right, part_of

from collabsecure_cli.answers import OtherOffset, Refused
from collabsecure_cli.results import sign_result
from collabsecure_protocols import RemoteProtocolError
from collabsecure_protocols.envelope import HEADER_BYTES, MessageType, seal


@pytest.fixture
def wire(tmp_path):
    with engine_in(LIGHT, tmp_path / "server") as engine:
        cohort = Cohort(LIGHT)
        cohort.members[ME].gone = True
        yield Wire(engine, cohort, tmp_path / "me")


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


def test_messages_under_the_next_number_are_refused_and_the_right_ones_taken_afterwards(wire, tmp_path):
    honest = wire.message
    wire.message = lambda number: honest(number // 2)
    with part_of(wire, tmp_path / "me") as part, pytest.raises(RemoteProtocolError, match="came again as number 1"):
        part.run()
    wire.message = honest
    with part_of(wire, tmp_path / "me") as part:
        part.run()
        assert is_right(part.given)


@pytest.mark.parametrize("counted", [1, 3])
def test_after_a_restart_a_client_finds_its_place_whatever_it_has_counted(wire, tmp_path, counted):
    honest = wire.message
    wire.message = lambda number: honest(number)[:-1] + b"x" if number == 2 else honest(number)
    with part_of(wire, tmp_path / "me") as part:
        with pytest.raises(RemoteProtocolError, match="V06"):
            part.run()
        assert part.participant._received == 2
        part.participant._received = counted
        part.participant._save()
    wire.message = honest
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
