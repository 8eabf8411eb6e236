"""The client's line to the aggregator: patient with what may pass, plain about what will not, fooled by nobody."""

import json
import socket

import pytest
from connecting import CLIENT, LIGHT, connections, in_turn
from stubs import CUT, Time, answer, answering

from collabsecure_cli.answers import NoAnswer, OtherOffset, Refused
from collabsecure_cli.authorization import is_authentic

ABOUT_LAYERS = 8 * 5 * 12


@pytest.fixture
def time():
    return Time()


@pytest.fixture
def connect(time):
    with connections(time) as connect:
        yield connect


def problem(status, error, **headers):
    return answer(status, json.dumps({"error": error, "check": "V06"}).encode(), **headers)


def test_every_request_is_signed_for_its_method_target_and_offset(connect):
    with answering(in_turn(answer(), answer(), answer(200, b"message"), answer(204, Upload_Offset="7"))) as stub:
        connection = connect(stub.url)
        connection.post(b"a message")
        connection.upload(1, 12345, b"a chunk")
        assert connection.message(3) == b"message"
        assert connection.offset(1) == 7
    transcript = LIGHT.session.transcript.hex()
    expected = [("POST", "messages", 0), ("PATCH", "sums/1", 12345), ("GET", "messages/3", 0), ("HEAD", "sums/1", 0)]
    for asked, (method, target, offset) in zip(stub.asked, expected, strict=True):
        assert asked.path == f"/v1/{transcript}/clients/{CLIENT}/{target}"
        assert asked.method == method
        assert asked.headers["upload-offset"] == str(offset)
        assert is_authentic(LIGHT.session, CLIENT, asked.headers["authorization"], method, target, offset)
        assert not is_authentic(LIGHT.session, CLIENT, asked.headers["authorization"], method, target, offset + 1)
    assert stub.asked[1].body == b"a chunk"
    assert connection.bytes_sent == len(b"a messagea chunk")


@pytest.mark.parametrize(
    "trouble", [CUT, answer(500), answer(502, b"<html>Bad Gateway"), answer(503), answer(429), b"nonsense\r\n\r\n"]
)
def test_trouble_that_may_pass_is_waited_for_with_growing_pauses(connect, time, trouble):
    with answering(in_turn(*[trouble] * 12, answer())) as stub:
        connection = connect(stub.url)
        connection.post(b"a message")
    assert len(stub.asked) == 13
    assert all(request.body == b"a message" for request in stub.asked)
    assert len(time.pauses) == 12
    for number, pause in enumerate(time.pauses):
        assert min(0.25 * 2**number, 30) / 2 <= pause <= min(0.25 * 2**number, 30)
    (line,) = connection.said
    assert line.startswith("No answer from 127.0.0.1:")
    assert line.endswith("trying again…")


def test_patience_ends_with_a_line_that_says_who_how_long_and_what_was_last(connect, time):
    with answering(in_turn(answer(503))) as stub, pytest.raises(NoAnswer) as given_up:
        connect(stub.url, patience=60).post(b"")
    host = stub.url.removeprefix("http://")
    assert str(given_up.value) == f"no answer from {host} for 60 s; last: it answers with 503"
    assert time.now == pytest.approx(60)


def test_nobody_at_the_address_is_no_answer_either(connect, time):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(NoAnswer, match=r"for 5 s; last: ConnectError"):
        connect(f"http://127.0.0.1:{port}", patience=5).message(0)
    assert time.now == pytest.approx(5)


@pytest.mark.parametrize(
    ("wait", "pause"),
    [("17", 17), ("0", None), ("86400", 300), ("9" * 400, 300), ("-5", None), ("²", None), ("1e3", None),
     ("Wed, 21 Oct 2026 07:28:00 GMT", None), ("", None)],
)  # fmt: skip
def test_retry_after_is_heeded_within_reason(connect, time, wait, pause):
    with answering(in_turn(answer(503, Retry_After=wait), answer())) as stub:
        connect(stub.url).post(b"")
    (paused,) = time.pauses
    assert paused == pause if pause else paused <= 0.25


def test_refusal_is_told_in_the_aggregators_words_and_not_repeated(connect, time):
    with (
        answering(in_turn(problem(410, "the set-up ended without this client"))) as stub,
        pytest.raises(Refused, match="the aggregator refused: the set-up ended without this client") as refused,
    ):
        connect(stub.url).message(0)
    assert refused.value.is_over
    assert refused.value.check == "V06"
    assert len(stub.asked) == 1
    assert time.pauses == []


@pytest.mark.parametrize("status", [400, 401, 413])
def test_what_may_have_been_damaged_on_the_way_is_sent_again_a_few_times(connect, status):
    with answering(in_turn(problem(status, "no"), answer())) as stub:
        connect(stub.url).post(b"x")
    assert len(stub.asked) == 2
    with answering(in_turn(problem(status, "no"))) as stub, pytest.raises(Refused, match="refused: no"):
        connect(stub.url).post(b"x")
    assert len(stub.asked) == 5


@pytest.mark.parametrize(
    "page",
    [answer(404, b"<html><h1>Not Found</h1></html>"), answer(403, b"\xff\xfe"), answer(418), answer(404, b"[1]"),
     answer(302, Location="https://elsewhere.example/"), answer(301, Location="/v2"), answer(200, b"<html>Welcome!"),
     answer(400, b"[" * 100_000), answer(404, b'{"error": ' + b"1" * 5000 + b"}")],
)  # fmt: skip
def test_page_of_somebody_else_is_said_to_be_one_and_redirects_are_not_followed(connect, page):
    with answering(in_turn(page)) as stub, pytest.raises(Refused, match="not in an aggregator's words: is the address"):
        connect(stub.url).post(b"x")
    assert {request.path for request in stub.asked} == {stub.asked[0].path}


def test_words_of_an_aggregator_cannot_write_on_the_terminal(connect):
    text = "\x1b[2J\x1b[1;1HSigned: all is well\r\n\u202e" + "x" * 100_000
    with answering(in_turn(problem(410, text))) as stub, pytest.raises(Refused) as refused:
        connect(stub.url).message(0)
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 400


def test_endless_answer_is_given_up_at_the_longest_that_the_session_has(connect, time):
    sent = []

    def endless():
        yield answer(200, Content_Length="99999999999999")
        while True:
            sent.append(1)
            yield bytes(65536)

    with answering(lambda _: endless()) as stub, pytest.raises(Refused, match="longer than any in this session"):
        connect(stub.url).message(0)
    assert 16 <= len(sent) < 200  # the longest, and what sockets hold
    assert time.pauses == []


def test_chunked_and_compressed_answers_are_read_as_they_are(connect):
    bomb = b"Content-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    with answering(in_turn(b"HTTP/1.1 200 OK\r\n" + bomb)) as stub:
        assert connect(stub.url).message(0) == b"abc"
    assert stub.asked[0].headers["accept-encoding"] == "identity"


@pytest.mark.parametrize("offset", ["", "-1", "1.5", "0x10", "१२", "٣", " 7 7", "9" * 20, "1_000", "nan", "²"])
def test_offset_that_is_no_number_is_refused(connect, offset):
    with (
        answering(in_turn(answer(204, Upload_Offset=offset.encode().decode("latin-1")))) as stub,
        pytest.raises(Refused, match="no Upload-Offset"),
    ):
        connect(stub.url).offset(0)
    with (
        answering(in_turn(answer(409, Upload_Offset=offset.encode().decode("latin-1")))) as stub,
        pytest.raises(Refused, match="no Upload-Offset"),
    ):
        connect(stub.url).upload(0, 0, b"x")


def test_other_offset_is_handed_on_however_large(connect):
    for offset in (0, 17, 10**18):
        with answering(in_turn(answer(409, Upload_Offset=offset))) as stub, pytest.raises(OtherOffset) as other:
            connect(stub.url).upload(0, 4, b"x")
        assert other.value.offset == offset


def test_refusal_of_a_head_request_which_has_no_text_is_still_told(connect):
    with answering(in_turn(answer(410))) as stub, pytest.raises(Refused, match="takes no input of that sum") as refused:
        connect(stub.url).offset(0)
    assert refused.value.is_late


def test_poll_goes_on_while_there_is_nothing_yet_without_haste(connect, time):
    with answering(in_turn(*[answer()] * 40, answer(200, b"at last"))) as stub:
        assert connect(stub.url).message(5) == b"at last"
    assert len(stub.asked) == 41
    assert time.now >= 40 * 0.25  # a server that answers at once does not make us spin


def test_message_of_results_that_are_no_json_object_is_refused(connect):
    for body in (b"<html>", b"[]", b"\xff", b"[" * 10**5, b'"layers"', b"", b"1" * 9999):
        with answering(in_turn(answer(200, body))) as stub, pytest.raises(Refused, match="something else than results"):
            connect(stub.url).result(0)


LAYER = bytes(range(240)) * 2


def ranged(request, body=LAYER):
    first = int(request.headers["range"].removeprefix("bytes=").removesuffix("-"))
    return first, answer(206, body[first:], Content_Range=f"bytes {first}-{len(body) - 1}/{len(body)}")


def test_download_goes_on_where_a_lost_connection_left_it(connect, time):
    firsts = []

    def cut_after_100(request):
        first, whole = ranged(request)
        firsts.append(first)
        head = whole.index(b"\r\n\r\n") + 4
        return [whole[: head + 100], CUT] if first < 400 else whole

    with answering(cut_after_100) as stub:
        assert connect(stub.url).layer(1, len(LAYER)) == LAYER
    assert firsts == [0, 100, 200, 300, 400]
    assert stub.methods() == ["GET"] * 5


def test_server_that_knows_no_ranges_sends_all_again(connect):
    answers = in_turn([answer(200, LAYER)[:-100], CUT], answer(200, LAYER))
    with answering(answers) as stub:
        assert connect(stub.url).layer(1, len(LAYER)) == LAYER


def test_update_that_is_longer_than_it_can_be_is_given_up(connect):
    def endless():
        yield answer(206, Content_Length="99999999999999")
        while True:
            yield bytes(65536)

    with answering(lambda _: endless()) as stub, pytest.raises(Refused, match="more than 480 bytes"):
        connect(stub.url).layer(1, 480)
    with answering(in_turn(answer(200, LAYER + b"x"))) as stub, pytest.raises(Refused, match="more than 480 bytes"):
        connect(stub.url).layer(1, 480)


@pytest.mark.parametrize("short", [answer(206), answer(204), answer(200), answer(200, LAYER[:-1])])
def test_update_that_never_gets_longer_ends_with_patience(connect, time, short):
    with answering(in_turn(short)) as stub, pytest.raises(NoAnswer, match="it sends too little of an update"):
        connect(stub.url, patience=100).layer(1, len(LAYER))
    assert time.now == pytest.approx(100)
    assert len(stub.asked) < 20


def test_layer_that_is_refused_or_troubled_is_told_like_any_request(connect, time):
    with (
        answering(in_turn(answer(503), problem(404, "there is no update of that layer"))) as stub,
        pytest.raises(Refused, match="there is no update of that layer"),
    ):
        connect(stub.url).layer(1, 480)
    assert len(time.pauses) == 1


def test_last_word_waits_for_nobody_and_reads_nothing(connect):
    sent = []

    def endless():
        yield answer(200, Content_Length="99999999999999")
        for _ in range(10_000):
            sent.append(1)
            yield bytes(65536)

    with answering(lambda _: endless()) as stub:
        connect(stub.url).end(9)
    assert len(sent) < 200
    assert stub.asked[0].target == "messages/9"
    for trouble in (CUT, answer(500), answer(410), b"\x00"):
        with answering(in_turn(trouble)) as stub:
            connect(stub.url).end(9)
    connect(stub.url).end(9)  # nobody there any more


def test_the_last_word_may_be_answered_with_why_it_is_over(connect):
    with answering(in_turn(answer(410, b'{"error": "nobody \\u001b came"}'), answer(410, bytes(1 << 21)))) as stub:
        assert connect(stub.url).end(9) == "nobody \ufffd came"
        assert connect(stub.url).end(9) == ""


def test_identity_and_signatures_are_in_no_line_that_is_told(connect):
    with answering(in_turn(answer(500))) as stub, pytest.raises(NoAnswer) as given_up:
        connect(stub.url, patience=50).post(b"secret words")
    told = str(given_up.value) + "".join(connect(stub.url).said)
    assert "secret" not in told
    assert "signature" not in told
    assert LIGHT.identities[CLIENT].reveal().hex() not in told


def test_a_poll_may_take_as_long_as_the_aggregators_and_one_that_hangs_leaves_time_for_another(connect):
    from collabsecure_cli.api import POLL_SECONDS

    for patience, seconds in ((10, 30), (60, 30), (200, 50), (86_400, 60)):
        timeout = connect("http://127.0.0.1:1", patience=patience)._http.timeout
        assert timeout.read == timeout.write == seconds > POLL_SECONDS
