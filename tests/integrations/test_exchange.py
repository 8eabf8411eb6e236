"""Requests and replies are canonical bytes, and anything else is a typed error."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collabsecure.integrations.exchange import (
    HEAD_BYTES,
    MOST_PARTS,
    Answer,
    BadExchange,
    Call,
    Carry,
    Hello,
    Messages,
    Ready,
    Refused,
    Reply,
    Request,
    Shard,
    Wait,
    decode_reply,
    decode_request,
    encode,
    head,
)

TRANSCRIPT = bytes(range(32))
ANSWER = Answer(number=7, status=409, headers=(("Upload-Offset", "12"),), body=b"late")
REQUESTS: tuple[Request, ...] = (
    Hello(transcript=TRANSCRIPT),
    Messages(transcript=TRANSCRIPT, first=3, payloads=(b"one", b"")),
    Shard(transcript=TRANSCRIPT, sum_index=1, first=64, count=64),
    Carry(transcript=TRANSCRIPT, number=5, answers=(ANSWER,)),
)
REPLIES: tuple[Reply, ...] = (Ready(payloads=(b"two", b"")), Wait(), Refused(check="V04", reason="too early"))


@pytest.mark.parametrize("request_", REQUESTS)
def test_requests_come_back(request_: Request) -> None:
    assert decode_request(encode(request_)) == request_


@pytest.mark.parametrize("reply", REPLIES)
def test_replies_come_back(reply: Reply) -> None:
    assert decode_reply(encode(reply)) == reply


def test_calls_come_back() -> None:
    call = Call(number=1, method="PATCH", target="/v1/aa/clients/1/sums/0", headers=(("A", "b"),), body=b"chunk")
    assert Call.decode(call.encode()) == call


@pytest.mark.parametrize("item", [*REQUESTS, *REPLIES])
def test_cut_or_longer_bytes_are_refused(item: Request | Reply) -> None:
    data = encode(item)
    decode = decode_request if isinstance(item, Request) else decode_reply
    for wrong in (*(data[:end] for end in range(len(data))), data + b"\0"):
        with pytest.raises(BadExchange):
            decode(wrong)


@given(st.binary(max_size=200))
def test_any_bytes_give_a_value_or_a_typed_error(data: bytes) -> None:
    for decode in (decode_request, decode_reply, Call.decode):
        try:
            decode(data)
        except BadExchange:
            continue


def test_a_reply_is_no_request_and_the_other_way_round() -> None:
    with pytest.raises(BadExchange, match="WAIT is no request"):
        decode_request(encode(Wait()) + bytes(32))
    with pytest.raises(BadExchange, match="HELLO is no reply"):
        decode_reply(encode(Hello(transcript=TRANSCRIPT)))


@pytest.mark.parametrize("request_", REQUESTS)
def test_whose_session_a_request_is_of_is_known_from_its_first_bytes(request_: Request) -> None:
    assert head(encode(request_)[:HEAD_BYTES]) == TRANSCRIPT
    with pytest.raises(BadExchange):
        head(encode(request_)[: HEAD_BYTES - 1])


def test_what_has_more_parts_than_any_needs_is_refused() -> None:
    most = (b"",) * MOST_PARTS
    assert decode_reply(encode(Ready(payloads=most))) == Ready(payloads=most)
    few = Answer(number=1, status=200)
    for request in (
        Messages(transcript=TRANSCRIPT, first=0, payloads=(*most, b"")),
        Carry(transcript=TRANSCRIPT, number=0, answers=(few,) * (MOST_PARTS + 1)),
        Carry(transcript=TRANSCRIPT, number=0, answers=(Answer(number=1, status=200, headers=(("a", "b"),) * 65),)),
    ):
        with pytest.raises(BadExchange, match="expected at most"):
            decode_request(encode(request))
    with pytest.raises(BadExchange, match="expected at most"):
        decode_reply(encode(Ready(payloads=(*most, b""))))
