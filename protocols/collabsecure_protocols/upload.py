"""One client's masked input, chunk by chunk: encode, mask, pack, sign. Memory: a few chunks, whatever the vector."""

import hashlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from .envelope import CHUNK_HEADER_BYTES, HEADER_BYTES, MessageType, header_bytes, signed_message
from .fixedpoint import Encoder, chunk_bytes, pack_into
from .keys import SIGNATURE_BYTES, Identity
from .masks import Mask, MaskScratch, apply_masks
from .session import Session
from .tensors import CHUNK_VALUES, Chunk
from .wire import Writer

_Result = TypeVar("_Result")


class _Workspace:
    """One thread's buffers."""

    def __init__(self, num_values: int) -> None:
        self.ring = np.empty(num_values, np.uint64)
        self.scratch = MaskScratch()


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """Everything that a sum's chunks are made from."""

    session: Session
    identity: Identity
    client_id: int
    sum_index: int
    link: bytes
    sources: Sequence[Encoder]  # one a tensor
    masks: Sequence[Sequence[Mask]] = field(repr=False)  # one list a tensor

    def check(self, threads: int) -> None:
        """V32: raise `ValueRefused` before anything is sent if any value is out of range."""
        deque(_in_order(self._encode, self._chunks(0), threads, self._workspace), maxlen=0)

    def payloads(self, first: int, threads: int) -> Iterator[tuple[int, bytearray, bytes]]:
        """Chunk numbers from `first` on, their signed messages, and SHA-256 of their bodies."""
        return _in_order(self._payload, self._chunks(first), threads, self._workspace)

    def _chunks(self, first: int) -> Iterator[Chunk]:
        spec = self.session.sums[self.sum_index]
        return (spec.chunk(index) for index in range(first, spec.num_chunks))

    def _workspace(self) -> _Workspace:
        return _Workspace(min(CHUNK_VALUES, self.session.sums[self.sum_index].num_values))

    def _encode(self, chunk: Chunk, workspace: _Workspace) -> None:
        self.sources[chunk.tensor].encode_into(chunk.start, workspace.ring[: chunk.length])

    def _payload(self, chunk: Chunk, workspace: _Workspace) -> tuple[int, bytearray, bytes]:
        spec = self.session.sums[self.sum_index]
        ring = workspace.ring[: chunk.length]
        self._encode(chunk, workspace)
        apply_masks(ring, chunk.start, self.masks[chunk.tensor], workspace.scratch)
        header = header_bytes(self.session, MessageType.MASKED_INPUT, self.client_id)
        place = Writer().u16(self.sum_index).u32(chunk.index).raw(self.link).finish()
        packed_at, packed_bytes = HEADER_BYTES + CHUNK_HEADER_BYTES, chunk_bytes(spec, chunk)
        payload = bytearray(packed_at + packed_bytes + SIGNATURE_BYTES)
        payload[:packed_at] = header + place
        pack_into(ring, spec.tensors[chunk.tensor].bits, payload, packed_at)
        with memoryview(payload) as view:
            body = view[HEADER_BYTES:-SIGNATURE_BYTES]
            fingerprint = hashlib.sha256(body).digest()
            signature = self.identity.sign(signed_message(header, fingerprint))
            body.release()
        payload[-SIGNATURE_BYTES:] = signature
        return chunk.index, payload, fingerprint


def _in_order(
    work: Callable[[Chunk, _Workspace], _Result],
    chunks: Iterator[Chunk],
    threads: int,
    workspace: Callable[[], _Workspace],
) -> Iterator[_Result]:
    """`work` on every chunk; with threads, at most one chunk a thread ahead of the reader."""
    if threads == 1:
        own = workspace()
        for chunk in chunks:
            yield work(chunk, own)
        return
    free = [workspace() for _ in range(threads)]  # list.pop and append are atomic

    def one(chunk: Chunk) -> _Result:
        mine = free.pop()
        try:
            return work(chunk, mine)
        finally:
            free.append(mine)

    ahead: deque[Future[_Result]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for chunk in chunks:
                ahead.append(pool.submit(one, chunk))
                if len(ahead) > threads:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            for left in ahead:
                left.cancel()
