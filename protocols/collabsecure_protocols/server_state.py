"""All that a server remembers, and its bytes."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from .client_state import check_saved
from .envelope import LINK_BYTES, advert_bytes
from .errors import ClientId, StateRefused
from .keys import SIGNATURE_BYTES, Label, context
from .masks import Mask
from .messages import SignedAdvert
from .session import Session
from .shamir import SHARE_BYTES
from .states import ServerState
from .wire import Malformed, Reader, Writer, read_bitmap, write_bitmap

_Value = TypeVar("_Value")


@dataclass(slots=True, kw_only=True)
class RunningSum:
    """The sum in progress, or the last one: who is in it, and one array of ring elements a tensor."""

    index: int
    link: bytes
    totals: list[NDArray[np.uint64]] = field(repr=False)
    next_chunk: dict[int, int]  # participant → the chunk that it sends next
    survivors: tuple[int, ...] = ()  # U3
    view: bytes = b""  # what a survivor's confirmation signs
    confirmations: dict[int, bytes] = field(default_factory=dict)  # survivor → its signature (U4)
    unmasked_by: set[int] = field(default_factory=set)  # U5
    revealed: dict[int, dict[int, bytes]] = field(default_factory=dict, repr=False)  # dealer → holder → share
    masks: Sequence[Sequence[Mask]] = field(default=(), repr=False)  # by tensor, those to take off, once they are known
    cleared: set[int] = field(default_factory=set)  # tensors whose masks are off


@dataclass(slots=True, kw_only=True)
class ServerData:
    """Changed only after every check of a message has passed."""

    state: ServerState = ServerState.ADVERTISE_KEYS
    adverts: dict[int, SignedAdvert] = field(default_factory=dict)  # U1
    share_bodies: dict[int, bytes] = field(default_factory=dict, repr=False)  # U2: dealer → ShareKeys body
    running: RunningSum | None = None
    outbox: dict[int, bytes] = field(default_factory=dict, repr=False)  # client → the last message to it
    last_received: dict[int, bytes] = field(default_factory=dict)  # client → fingerprint of its last accepted message

    def encode(self, session: Session, public: bytes) -> Iterator[bytes | memoryview]:
        """Bytes for a file, in pieces, the running sum not copied; an SHA-256 at the end finds damage."""
        checksum = sha256()
        for part in self._parts(session, public):
            checksum.update(part)
            yield part
        yield checksum.digest()

    def _parts(self, session: Session, public: bytes) -> Iterator[bytes | memoryview]:
        out = Writer().raw(_header(session, public)).u8(list(ServerState).index(self.state))
        _write_map(out, self.adverts, lambda advert: advert.body + advert.signature)
        for mapping in (self.share_bodies, self.outbox, self.last_received):
            _write_map(out, mapping, lambda value: Writer().blob(value).finish())
        running = self.running
        out.u8(running is not None)
        if running is not None:
            out.u16(running.index).raw(running.link).raw(write_bitmap(running.survivors, session.num_clients))
            out.blob(running.view)
            _write_map(out, running.next_chunk, lambda number: Writer().u32(number).finish())
            _write_map(out, running.confirmations, bytes)
            out.raw(write_bitmap(running.unmasked_by, session.num_clients)).u16(len(running.revealed))
            for dealer, shares in sorted(running.revealed.items()):
                _write_map(out.u16(dealer), shares, bytes)
            for number, total in enumerate(running.totals):
                out.u8(number in running.cleared)
                yield out.finish()
                yield total.data.cast("B")
                out = Writer()
        yield out.finish()

    @classmethod
    def decode(cls, blob: bytes | memoryview, session: Session, public: bytes) -> "ServerData":
        """Read what `encode` wrote.

        Raises:
            StateRefused: damaged, or of another session or identity (V35).

        """
        body = check_saved(blob, _header(session, public))
        try:
            return cls._decode(Reader(body), session)
        except (Malformed, IndexError) as error:
            raise StateRefused(f"V35: saved state is damaged: {error}") from error

    @classmethod
    def _decode(cls, data: Reader, session: Session) -> "ServerData":
        state = list(ServerState)[data.u8()]
        length, bitmap = advert_bytes(len(session.sums)), (session.num_clients + 7) // 8
        adverts = _read_map(data, lambda: (data.raw(length), data.raw(SIGNATURE_BYTES)))
        share_bodies, outbox, last_received = (_read_map(data, data.blob) for _ in range(3))
        running = None
        if data.flag():
            index, link = data.u16(), data.raw(LINK_BYTES)
            survivors = read_bitmap(data.raw(bitmap), session.num_clients)
            view = data.blob()
            next_chunk = _read_map(data, data.u32)
            confirmations = _read_map(data, lambda: data.raw(SIGNATURE_BYTES))
            unmasked_by = set(read_bitmap(data.raw(bitmap), session.num_clients))
            revealed = {data.u16(): _read_map(data, lambda: data.raw(SHARE_BYTES)) for _ in range(data.u16())}
            cleared, totals = set(), []
            for number, tensor in enumerate(session.sums[index].tensors):
                if data.flag():
                    cleared.add(number)
                totals.append(
                    np.frombuffer(data.view(8 * session.form(tensor).total_words(tensor.num_values)), np.uint64).copy()
                )
            running = RunningSum(
                index=index,
                link=link,
                totals=totals,
                next_chunk=next_chunk,
                survivors=survivors,
                view=view,
                confirmations=confirmations,
                unmasked_by=unmasked_by,
                revealed=revealed,
                cleared=cleared,
            )
        data.finish()
        return cls(
            state=state,
            adverts={
                client: SignedAdvert(client_id=ClientId(client), body=advert, signature=signature)
                for client, (advert, signature) in adverts.items()
            },
            share_bodies=share_bodies,
            running=running,
            outbox=outbox,
            last_received=last_received,
        )


def _header(session: Session, public: bytes) -> bytes:
    return context(Label.STATE, b"server", session.transcript, public)


def _write_map(out: Writer, mapping: Mapping[int, _Value], encode: Callable[[_Value], bytes]) -> None:
    out.u16(len(mapping))
    for client, value in sorted(mapping.items()):
        out.u16(client).raw(encode(value))


def _read_map(data: Reader, read: Callable[[], _Value]) -> dict[int, _Value]:
    return {data.u16(): read() for _ in range(data.u16())}
