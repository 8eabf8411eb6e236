"""A session whose clients speak to nobody: what others carry gives the update that the network gives."""

import itertools
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from carrying import Carrier, Gone, carried, carrying, mailbox_of, take_part_carried
from light_session import aggregating, make_session, take_part
from stubs import Time

from collabsecure.errors import CollabsecureError
from collabsecure.integrations.exchange import (
    Answer,
    BadExchange,
    Call,
    Carry,
    Hello,
    Messages,
    Ready,
    Refused,
    Shard,
    Wait,
    decode_reply,
    encode,
)
from collabsecure_cli import answers
from collabsecure_cli.answers import NoAnswer, OtherOffset
from collabsecure_cli.carried import OVER, CarriedConnection, Mailbox
from collabsecure_protocols import RemoteProtocolError

LIGHT = make_session(num_clients=3)
TRANSCRIPT = LIGHT.session.transcript
ME, OTHERS = 1, (2, 3)


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """What the session gives over the network."""
    folder = tmp_path_factory.mktemp("network")
    with aggregating(LIGHT, folder / "server") as server:
        return take_part(LIGHT, server.url, folder)


def same(outcome, other):
    assert outcome.survivors == other.survivors
    assert outcome.deltas.keys() == other.deltas.keys()
    for layer, delta in outcome.deltas.items():
        assert np.array_equal(delta, other.deltas[layer])


# Whole sessions


def test_what_is_carried_gives_the_networks_update_bit_for_bit(network, tmp_path):
    with aggregating(LIGHT, tmp_path / "server", poll_seconds=3.0) as server:
        outcomes, carriers = take_part_carried(LIGHT, server.url, tmp_path)
    for client, outcome in outcomes.items():
        same(outcome, network[client])
        assert outcome.bytes_sent == network[client].bytes_sent
    uploads = Counter(tuple(call.method for call in calls) for calls in carriers[ME].rounds)
    assert uploads["PATCH", "PATCH"] == 2  # a sum's chunks go together


def twice(end, request, _number):
    first, second = end(request), end(request)
    if isinstance(decode_reply(first), Ready):
        assert first == second
    return second


class Late:
    """Each request arrives once more after the one that follows it."""

    def __init__(self):
        self.before = {}

    def __call__(self, end, request, number):
        reply = end(request)
        if isinstance(decode_reply(reply), Ready):
            end(self.before.get(end, request))
            self.before[end] = request
        return reply


@pytest.mark.parametrize(
    "how",
    [
        {"deliver": twice},
        {"deliver": Late()},
        {"restarts": lambda number: number % 3 == 2},
        {"restarts": lambda number: number % 5 == 0, "deliver": twice},
    ],
    ids=["twice", "late", "restarts", "both"],
)
def test_exchanges_that_are_repeated_lost_or_late_change_nothing(network, tmp_path, how):
    """An upload's bytes at one place never change: `Carrier` looks at each."""
    with aggregating(LIGHT, tmp_path / "server", poll_seconds=3.0) as server:
        outcomes, _ = take_part_carried(LIGHT, server.url, tmp_path, **how)
    for client, outcome in outcomes.items():
        same(outcome, network[client])


class Killed(BaseException):
    """This process is gone."""


class Mortal(Mailbox):
    """A process's mailbox, with which it dies."""

    is_dead = False

    def ask(self, calls, seconds):
        answers = super().ask(calls, seconds)
        if self.is_dead:
            raise Killed
        return answers

    def die(self):
        with self._changed:
            self.is_dead = True
            for number in tuple(self._open):
                self._answers[number] = Answer(number=number, status=0)
            self._open.clear()
            self._changed.notify_all()


class Processes:
    """One client's processes, each of which dies at one of its first exchanges."""

    def __init__(self, path, lives, *, reply_leaves):
        self.path, self.lives, self.reply_leaves = path, itertools.cycle(lives), reply_leaves
        self.count, self.left, self.mailbox = 0, 0, None

    def end(self, request):
        mailbox = self.mailbox
        if mailbox is None:
            raise Gone
        self.left -= 1
        reply = mailbox.answer(request) if self.left or self.reply_leaves else None
        if self.left == 0 and not mailbox._end:
            self.mailbox = None
            mailbox.die()
        if reply is None:
            raise Gone
        return reply

    def run(self):
        while True:
            self.count, self.left = self.count + 1, next(self.lives)
            mailbox = self.mailbox = Mortal(LIGHT.session, LIGHT.identity(ME), wait_seconds=0.2)
            try:
                return carried(LIGHT, ME, self.path, mailbox)
            except Killed:
                continue


@pytest.mark.parametrize("reply_leaves", [True, False], ids=["after", "before"])
@pytest.mark.parametrize("lives", [(5, 3, 6, 4), (6, 7, 5)])
def test_killed_at_its_exchanges_a_client_goes_on_with_the_same_bytes(network, tmp_path, lives, reply_leaves):
    processes = Processes(tmp_path / "me", lives, reply_leaves=reply_leaves)
    with aggregating(LIGHT, tmp_path / "server", poll_seconds=3.0) as server:
        carrier = Carrier(url=server.url, transcript=TRANSCRIPT, end=processes.end)
        with carrying(carrier), ThreadPoolExecutor(2) as pool:
            others = pool.submit(take_part, LIGHT, server.url, tmp_path, clients=OTHERS)
            same(processes.run(), network[ME])
            for client, outcome in others.result().items():
                same(outcome, network[client])
    assert processes.count > 2


# Who carries and lies


def forged(status, body=b"", *headers):
    return lambda answer: Answer(number=answer.number, status=status, headers=headers, body=body)


def flipped(answer):
    body = bytearray(answer.body)
    body[len(body) // 2] ^= 4
    return Answer(number=answer.number, status=answer.status, headers=answer.headers, body=bytes(body))


def shifted():
    """Each answer is the one that the request before should have had."""
    before = Answer(number=0, status=204)

    def shift(answer):
        nonlocal before
        before, given = answer, before
        return Answer(number=answer.number, status=given.status, headers=given.headers, body=given.body)

    return shift


LIES = {  # part of a target, and what becomes of the answer
    "random message": ("messages/0", forged(200, bytes(range(256)))),
    "changed message": ("messages/2", flipped),
    "another page": ("messages/1", forged(200, b"<html>")),
    "no status": ("messages/1", forged(0)),
    "it is over": ("messages/3", forged(410, b'{"error": "over"}')),
    "headers of nonsense": ("sums/0", forged(204, b"", ("Upload-Offset", "\u0661"), ("x\r\ny", "z"))),
    "an offset inside a chunk": ("sums/0", forged(204, b"", ("Upload-Offset", "7"))),
    "an unsigned result": ("results/0", forged(200, b'{"layers": {"1": {"digest": "00", "signature": "00"}}}')),
    "a changed update": ("layers/1", flipped),
    "an update too long": ("layers/1", forged(200, bytes(1 << 20))),
    "answers to other requests": ("", shifted()),
}


@pytest.mark.parametrize("lie", LIES)
def test_lies_are_refused_and_an_honest_carrier_goes_on(network, tmp_path, lie, monkeypatch):
    monkeypatch.setattr("collabsecure_cli.connection._FIRST_PAUSE", 0.001)
    part, change = LIES[lie]
    with aggregating(LIGHT, tmp_path / "server", poll_seconds=3.0) as server, ThreadPoolExecutor(2) as pool:
        others = pool.submit(take_part, LIGHT, server.url, tmp_path, clients=OTHERS)

        def carry(mailbox, **how):
            return carrying(Carrier(url=server.url, transcript=TRANSCRIPT, end=mailbox.answer, **how))

        mailbox = mailbox_of(LIGHT, ME)
        with (
            carry(mailbox, tamper=lambda call, answer: change(answer) if call.target.endswith(part) else answer),
            pytest.raises((CollabsecureError, RemoteProtocolError)),
        ):
            carried(LIGHT, ME, tmp_path / "me", mailbox, patience=5.0)
        mailbox = mailbox_of(LIGHT, ME)
        with carry(mailbox):
            same(carried(LIGHT, ME, tmp_path / "me", mailbox), network[ME])
        others.result()


@pytest.mark.parametrize("number", [1, 4])
@pytest.mark.parametrize("times", [1, 100])
def test_a_message_that_comes_again_as_the_next_is_not_counted(network, tmp_path, monkeypatch, number, times):
    """Else the client would pass over a real one, and never be in step again."""
    monkeypatch.setattr("collabsecure_cli.connection._FIRST_PAUSE", 0.001)
    before, lies = {}, []

    def tamper(call, answer):
        if call.target.endswith(f"messages/{number - 1}") and answer.status == 200:
            before["body"] = answer.body
        elif call.target.endswith(f"messages/{number}") and len(lies) < times:
            lies.append(call)
            return Answer(number=call.number, status=200, body=before["body"])
        return answer

    with aggregating(LIGHT, tmp_path / "server", poll_seconds=3.0) as server, ThreadPoolExecutor(2) as pool:
        others = pool.submit(take_part, LIGHT, server.url, tmp_path, clients=OTHERS)
        for tampering in (tamper, None) if times > 1 else (tamper,):
            mailbox = mailbox_of(LIGHT, ME)
            how = {"tamper": tampering} if tampering else {}
            with carrying(Carrier(url=server.url, transcript=TRANSCRIPT, end=mailbox.answer, **how)):
                if tampering and times > 1:
                    with pytest.raises(RemoteProtocolError, match=f"came again as number {number}"):
                        carried(LIGHT, ME, tmp_path / "me", mailbox, patience=5.0)
                else:
                    same(carried(LIGHT, ME, tmp_path / "me", mailbox), network[ME])
        others.result()
    assert lies


# One exchange


def carry(mailbox, number, *answers):
    return decode_reply(mailbox.answer(encode(Carry(transcript=TRANSCRIPT, number=number, answers=answers))))


def asking(mailbox, *bodies, seconds=5.0):
    """Ask in a thread; what becomes of it."""
    calls = [Call(number=0, method="POST", target="/v1/x", body=body) for body in bodies]
    found = []
    thread = threading.Thread(target=lambda: found.append(mailbox.ask(calls, seconds)))
    thread.start()
    return thread, found


def bodies(reply):
    return [Call.decode(payload).body for payload in reply.payloads]


def answers_to(reply, status=204):
    return [Answer(number=Call.decode(payload).number, status=status) for payload in reply.payloads]


def test_a_call_is_given_until_it_is_answered_and_the_reply_to_a_number_never_changes():
    mailbox = mailbox_of(LIGHT, ME)
    assert carry(mailbox, 0) == Wait()
    thread, found = asking(mailbox, b"first", b"second")
    reply = carry(mailbox, 0)
    assert bodies(reply) == [b"first", b"second"]
    one, two = answers_to(reply)
    assert carry(mailbox, 0, one) == reply  # a repetition: its answers are not looked at
    assert bodies(carry(mailbox, 1, one)) == [b"second"]
    assert bodies(carry(mailbox, 7, one)) == [b"second"]
    assert not found
    assert carry(mailbox, 8, two, one) == Wait()
    thread.join()
    assert found == [[one, two]]


def test_answers_that_nobody_waits_for_are_ignored():
    mailbox = mailbox_of(LIGHT, ME)
    thread, found = asking(mailbox, b"a")
    reply = carry(mailbox, 0)
    [right] = answers_to(reply)
    strange = [Answer(number=(right.number + shift) % (1 << 32), status=500) for shift in (-1, 1, 77)]
    assert carry(mailbox, 1, *strange) == reply
    assert carry(mailbox, 2, right, Answer(number=right.number, status=500)) == Wait()
    thread.join()
    assert found == [[right]]
    assert mailbox._open == mailbox._answers == {}


def test_of_many_calls_a_reply_has_as_many_as_it_may(monkeypatch):
    monkeypatch.setattr("collabsecure_cli.carried.MOST_PARTS", 2)
    mailbox = mailbox_of(LIGHT, ME)
    thread, found = asking(mailbox, b"a", b"b", b"c")
    reply = carry(mailbox, 0)
    assert bodies(reply) == [b"a", b"b"]
    rest = carry(mailbox, 1, *answers_to(reply))
    assert bodies(rest) == [b"c"]
    assert carry(mailbox, 2, *answers_to(rest)) == Wait()
    thread.join()
    assert len(found[0]) == 3


def test_two_processes_number_their_calls_from_elsewhere():
    assert len({mailbox_of(LIGHT, ME)._next for _ in range(20)}) > 15


def test_what_was_given_up_is_not_asked_again():
    mailbox = mailbox_of(LIGHT, ME)
    with pytest.raises(TimeoutError):
        mailbox.ask([Call(number=0, method="GET", target="/v1/x")], 0.01)
    assert carry(mailbox, 0) == Wait()


def test_the_end_is_told_and_so_is_a_stop():
    mailbox = mailbox_of(LIGHT, ME)
    assert not mailbox.end("all is done", 0.01)
    assert carry(mailbox, 0) == Refused(check=OVER, reason="all is done")
    assert mailbox.end("all is done", 0.0)
    other = mailbox_of(LIGHT, ME)
    other.stop()
    assert carry(other, 0) == Wait()


@pytest.mark.parametrize(
    "request_",
    [
        Messages(transcript=TRANSCRIPT, first=0, payloads=()),
        Shard(transcript=TRANSCRIPT, sum_index=0, first=0, count=1),
    ],
    ids=["messages", "shard"],
)
def test_what_is_of_sums_is_refused(request_):
    reply = decode_reply(mailbox_of(LIGHT, ME).answer(encode(request_)))
    assert reply.check == ""
    assert "editing session" in reply.reason


@pytest.mark.parametrize("kind", [Hello, Carry, Messages, Shard])
def test_another_session_is_refused(kind):
    numbers = {Hello: {}, Carry: {"number": 0}, Messages: {"first": 0, "payloads": ()}}
    rest = numbers.get(kind, {"sum_index": 0, "first": 0, "count": 1})
    reply = decode_reply(mailbox_of(LIGHT, ME).answer(encode(kind(transcript=bytes(32), **rest))))
    assert isinstance(reply, Refused)
    assert TRANSCRIPT.hex()[:16] in reply.reason


def test_hello_is_answered_with_the_number_on_the_roster():
    assert decode_reply(mailbox_of(LIGHT, 3).answer(encode(Hello(transcript=TRANSCRIPT)))).payloads == (b"\0\3",)


@pytest.mark.parametrize("data", [b"", b"\1", b"nonsense", encode(Wait()), encode(Hello(transcript=TRANSCRIPT)) + b"x"])
def test_bytes_that_are_no_request_are_named_as_such(data):
    with pytest.raises(BadExchange):
        mailbox_of(LIGHT, ME).answer(data)


# Uploads that go together


class Scripted:
    """A mailbox that answers by a rule, at once."""

    def __init__(self, rule):
        self.rule, self.asked = rule, []

    def ask(self, calls, seconds):
        self.asked.append([call.body for call in calls])
        return [self.rule(call, len(self.asked)) for call in calls]


def connection_to(rule, *, patience=100.0, shard_bytes=10):
    mailbox, time = Scripted(rule), Time()
    connection = CarriedConnection(
        mailbox,
        LIGHT.session,
        LIGHT.identity(ME),
        patience=patience,
        tell=lambda _: None,
        shard_bytes=shard_bytes,
        clock=time,
        sleep=time.sleep,
    )
    return connection, mailbox.asked, time


def status(number, *headers):
    return Answer(number=0, status=number, headers=headers)


def test_chunks_wait_for_each_other_until_a_shard_is_full_or_all_are_there():
    connection, asked, _ = connection_to(lambda *_: status(204))
    for number in range(5):
        connection.upload(0, 4 * number, b"%d   " % number)
    assert asked == [[b"0   ", b"1   ", b"2   "]]
    connection.settle()
    connection.settle()
    assert asked[1:] == [[b"3   ", b"4   "]]
    assert connection.bytes_sent == 20


def test_what_came_after_a_failure_that_may_pass_is_sent_again():
    connection, asked, time = connection_to(
        lambda call, round_: status(503) if round_ == 1 and call.body == b"b" else status(204), shard_bytes=100
    )
    for number, chunk in enumerate((b"a", b"b", b"c")):
        connection.upload(0, number, chunk)
    connection.settle()
    assert asked == [[b"a", b"b", b"c"], [b"b", b"c"]]
    assert len(time.pauses) == 1


def test_another_offset_and_a_refusal_drop_what_is_held():
    elsewhere = status(409, ("Upload-Offset", "77"))
    for answer, error in ((elsewhere, OtherOffset), (status(410), answers.Refused)):
        connection, asked, _ = connection_to(lambda *_, answer=answer: answer, shard_bytes=100)
        connection.upload(0, 0, b"a")
        with pytest.raises(error):
            connection.settle()
        connection.settle()
        assert len(asked) == 1


def test_chunks_that_arrive_damaged_are_sent_a_few_times():
    connection, asked, _ = connection_to(lambda *_: status(400))
    with pytest.raises(answers.Refused):
        connection.upload(0, 0, b"0123456789")
    assert len(asked) == 5


def test_nobody_who_comes_for_a_time_is_no_answer():
    mailbox = mailbox_of(LIGHT, ME)
    connection = CarriedConnection(mailbox, LIGHT.session, LIGHT.identity(ME), patience=0.05, tell=lambda _: None)
    with pytest.raises(NoAnswer, match="no answer from the coordinating end for 0 s"):
        connection.post(b"a message")
    connection.upload(0, 0, b"a chunk")
    with pytest.raises(NoAnswer):
        connection.settle()
    assert connection.end(0) == ""


def test_a_request_goes_out_signed_with_the_headers_that_it_needs_alone():
    connection, _, _ = connection_to(lambda call, _: calls.append(call) or status(204))
    calls = []
    connection.post(b"a message")
    connection.upload(1, 5, b"0123456789")
    for call, method, target in zip(calls, ("POST", "PATCH"), ("messages", "sums/1"), strict=True):
        assert (call.method, call.target) == (method, f"/v1/{TRANSCRIPT.hex()}/clients/{ME}/{target}")
        assert [name for name, _ in call.headers] == ["Authorization", "Upload-Offset", "Accept-Encoding"]
