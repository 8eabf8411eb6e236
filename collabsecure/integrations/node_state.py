"""What a node of a session of sums writes down, as bytes: its state in one session, and its memory of all."""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from collabsecure_protocols import Ledger, StateRefused
from collabsecure_protocols.client_state import NO_LINK
from collabsecure_protocols.keys import KEY_BYTES
from collabsecure_protocols.wire import Malformed, Reader, Writer


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """What a node was given for a sum."""

    link: bytes = NO_LINK
    tensors: Mapping[int, bytes] = field(default_factory=dict, repr=False)  # number → SHA-256 of its values


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeLedger:
    """What a node remembers across sessions."""

    protocol: Ledger
    values: Mapping[bytes, bytes] = field(repr=False)  # SHA-256 of values → the session that opened them

    def encode(self) -> bytes:
        """Bytes for the store."""
        out = Writer().blob(self.protocol.encode()).u32(len(self.values))
        for digest, transcript in sorted(self.values.items()):
            out.raw(digest).raw(transcript)
        return _sealed(out.finish())

    @classmethod
    def decode(cls, data: bytes | memoryview | None) -> "NodeLedger":
        """Read what `encode` wrote, or begin.

        Raises:
            StateRefused: it is damaged; without it, nothing may be contributed.
        """
        if data is None:
            return cls(protocol=Ledger(), values={})
        with _intact("ledger"):
            source = Reader(_unsealed(data))
            protocol = Ledger.decode(source.blob())
            values = {source.raw(KEY_BYTES): source.raw(KEY_BYTES) for _ in range(source.u32())}
            source.finish()
            return cls(protocol=protocol, values=values)


def encode_state(received: int, given: Mapping[int, Given], client: bytes) -> bytes:
    """A node's state: messages taken, what was given by sum, the protocol's client. Secrets included."""
    out = Writer().u32(received).u16(len(given))
    for index, what in sorted(given.items()):
        out.u16(index).raw(what.link).u16(len(what.tensors))
        for number, digest in sorted(what.tensors.items()):
            out.u16(number).raw(digest)
    return _sealed(out.blob(client).finish())


def decode_state(data: bytes | memoryview) -> tuple[int, dict[int, Given], bytes]:
    """Read what `encode_state` wrote.

    Raises:
        StateRefused: it is damaged.
    """
    with _intact("state"):
        source = Reader(_unsealed(data))
        received = source.u32()
        given = {
            source.u16(): Given(
                link=source.raw(KEY_BYTES),
                tensors={source.u16(): source.raw(KEY_BYTES) for _ in range(source.u16())},
            )
            for _ in range(source.u16())
        }
        client = source.blob()
        source.finish()
        return received, given, client


def _sealed(body: bytes) -> bytes:
    return hashlib.sha256(body).digest() + body


def _unsealed(data: bytes | memoryview) -> bytes:
    digest, body = bytes(data[:KEY_BYTES]), bytes(data[KEY_BYTES:])
    if hashlib.sha256(body).digest() != digest:
        raise Malformed("its checksum does not match")
    return body


@contextmanager
def _intact(what: str) -> Iterator[None]:
    try:
        yield
    except Malformed as error:
        raise StateRefused(
            f"V35: the {what} of this node's sums is damaged ({error}); without it nobody knows what was contributed "
            "before: restore the folder from a backup"
        ) from error
