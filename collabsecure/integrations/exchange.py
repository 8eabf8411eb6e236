"""What travels between the coordinating end and a node: one request, one reply, as canonical bytes.

Who brings them is not trusted: what matters inside is signed or sealed by its own protocol (secagg.md, or the
aggregator's API), so bytes that were changed on the way are refused there.

>>> request = Shard(transcript=bytes(32), sum_index=0, first=64, count=64)
>>> decode_request(encode(request)) == request
True
>>> decode_reply(encode(Refused(check="V04", reason="too early"))).reason
'too early'
"""

from dataclasses import dataclass, field
from enum import IntEnum

from collabsecure.errors import CollabsecureError
from collabsecure_protocols.keys import KEY_BYTES
from collabsecure_protocols.wire import Malformed, Reader, Writer

_VERSION = 1
SHARD_BYTES = 128 << 20  # of masked input, or of carried requests, in one reply; about
MOST_PARTS = 4096  # payloads, or answers, in one request or reply: what is empty costs its receiver, too
HEAD_BYTES = 2 + KEY_BYTES  # a request's first, for `head`
_MOST_HEADERS = 64


class BadExchange(CollabsecureError):
    """Bytes that are no request, or no reply, of this kind."""


class _Kind(IntEnum):
    HELLO = 1
    MESSAGES = 2
    SHARD = 3
    CARRY = 4
    READY = 16
    WAIT = 17
    REFUSED = 18


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """Which client of this session are you? The reply has its number on the roster, two bytes; nobody believes it."""

    transcript: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Messages:
    """The server's messages to the node from number `first` on; the reply has the client's answer to the last."""

    transcript: bytes
    first: int
    payloads: tuple[bytes, ...] = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """`count` chunks of masked input from chunk `first` on; the reply has those that there are."""

    transcript: bytes
    sum_index: int
    first: int
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Carry:
    """Answers of an aggregator to a client's HTTP requests; the reply has its next requests (`Call`s).

    `number` counts up from 0; the same number again is a repetition. A request that got no answer stands in the next
    reply again.
    """

    transcript: bytes
    number: int
    answers: tuple["Answer", ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A client's HTTP request to the aggregator's API; `number` is its own, and its answer has it again."""

    number: int
    method: str
    target: str  # path, from /v1 on
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = field(default=b"", repr=False)

    def encode(self) -> bytes:
        """As bytes."""
        out = Writer().u32(self.number).text(self.method).text(self.target)
        return _write_headers(out, self.headers).blob(self.body).finish()

    @classmethod
    def decode(cls, data: bytes) -> "Call":
        """Read what `encode` wrote.

        Raises:
            BadExchange: it is something else.
        """
        with _reading("a carried request"):
            source = Reader(data)
            call = cls(
                number=source.u32(),
                method=source.text(),
                target=source.text(),
                headers=_read_headers(source),
                body=source.blob(),
            )
            source.finish()
            return call


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the aggregator answered to the `Call` of that number."""

    number: int
    status: int
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """Here is what was asked for."""

    payloads: tuple[bytes, ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class Wait:
    """Not yet: ask again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """Never: `check` is the number of the protocol's check that failed, or empty."""

    check: str
    reason: str


Request = Hello | Messages | Shard | Carry
Reply = Ready | Wait | Refused


def encode(item: Request | Reply) -> bytes:
    """A request or a reply as bytes."""
    out = Writer().u8(_VERSION)
    match item:
        case Hello():
            out.u8(_Kind.HELLO).raw(item.transcript)
        case Messages():
            out.u8(_Kind.MESSAGES).raw(item.transcript).u32(item.first)
            _write_blobs(out, item.payloads)
        case Shard():
            out.u8(_Kind.SHARD).raw(item.transcript).u16(item.sum_index).u32(item.first).u32(item.count)
        case Carry():
            out.u8(_Kind.CARRY).raw(item.transcript).u32(item.number).u32(len(item.answers))
            for answer in item.answers:
                _write_headers(out.u32(answer.number).u16(answer.status), answer.headers).blob(answer.body)
        case Ready():
            _write_blobs(out.u8(_Kind.READY), item.payloads)
        case Wait():
            out.u8(_Kind.WAIT)
        case Refused():
            out.u8(_Kind.REFUSED).text(item.check).text(item.reason)
    return out.finish()


def head(data: bytes | memoryview) -> bytes:
    """The session of which a request is, its transcript; the first `HEAD_BYTES` bytes tell.

    Raises:
        BadExchange: it is no request.
    """
    with _reading("a request"):
        source = Reader(data)
        return _request_head(source)[1]


def decode_request(data: bytes | memoryview) -> Request:
    """Read a request.

    Raises:
        BadExchange: it is none.
    """
    with _reading("a request"):
        source = Reader(data)
        kind, transcript = _request_head(source)
        request: Request
        if kind is _Kind.HELLO:
            request = Hello(transcript=transcript)
        elif kind is _Kind.MESSAGES:
            request = Messages(transcript=transcript, first=source.u32(), payloads=_read_blobs(source))
        elif kind is _Kind.SHARD:
            request = Shard(transcript=transcript, sum_index=source.u16(), first=source.u32(), count=source.u32())
        elif kind is _Kind.CARRY:
            number = source.u32()
            answers = tuple(_read_answer(source) for _ in range(_count(source)))
            request = Carry(transcript=transcript, number=number, answers=answers)
        else:
            raise AssertionError(kind)
        source.finish()
        return request


def decode_reply(data: bytes | memoryview) -> Reply:
    """Read a reply.

    Raises:
        BadExchange: it is none.
    """
    with _reading("a reply"):
        source = Reader(data)
        kind = _kind(source)
        reply: Reply
        if kind is _Kind.READY:
            reply = Ready(payloads=_read_blobs(source))
        elif kind is _Kind.WAIT:
            reply = Wait()
        elif kind is _Kind.REFUSED:
            reply = Refused(check=source.text(), reason=source.text())
        else:
            raise Malformed(f"{kind.name} is no reply")
        source.finish()
        return reply


def _request_head(source: Reader) -> tuple[_Kind, bytes]:
    kind = _kind(source)
    if kind >= _Kind.READY:
        raise Malformed(f"{kind.name} is no request")
    return kind, source.raw(KEY_BYTES)


def _kind(source: Reader) -> _Kind:
    version, kind = source.u8(), source.u8()
    if version != _VERSION or kind not in set(_Kind):
        raise Malformed(f"version {version}, kind {kind}; expected version {_VERSION} and a known kind")
    return _Kind(kind)


def _write_blobs(out: Writer, payloads: tuple[bytes, ...]) -> Writer:
    out.u32(len(payloads))
    for payload in payloads:
        out.blob(payload)
    return out


def _read_blobs(source: Reader) -> tuple[bytes, ...]:
    return tuple(source.blob() for _ in range(_count(source)))


def _count(source: Reader) -> int:
    count = source.u32()
    if count > MOST_PARTS:
        raise Malformed(f"{count} parts; expected at most {MOST_PARTS}")
    return count


def _write_headers(out: Writer, headers: tuple[tuple[str, str], ...]) -> Writer:
    out.u16(len(headers))
    for name, value in headers:
        out.text(name).text(value)
    return out


def _read_headers(source: Reader) -> tuple[tuple[str, str], ...]:
    count = source.u16()
    if count > _MOST_HEADERS:
        raise Malformed(f"{count} headers; expected at most {_MOST_HEADERS}")
    return tuple((source.text(), source.text()) for _ in range(count))


def _read_answer(source: Reader) -> Answer:
    return Answer(number=source.u32(), status=source.u16(), headers=_read_headers(source), body=source.blob())


class _reading:  # noqa: N801 (a context manager, read like a word)
    """Turns what the reader finds wrong into this module's error."""

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None:
        return None

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if isinstance(error, Malformed):
            raise BadExchange(f"found bytes that are not {self._what} ({error})") from error
