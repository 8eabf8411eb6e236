"""One client's masked input, chunk by chunk: encode, mask, pack, sign. Memory: a few chunks, whatever the vector."""

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from .envelope import CHUNK_HEADER_BYTES, HEADER_BYTES, MessageType, header_bytes, signed_message
from .fixedpoint import Encoder, chunk_bytes, pack_into
from .keys import SIGNATURE_BYTES, Identity
from .masks import Mask, MaskScratch, apply_masks
from .session import Session
from .tensors import CHUNK_VALUES, Chunk
from .wire import Writer

Payload = tuple[int, bytearray, bytes]  # chunk number, signed message, SHA-256 of its body


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

    def check(self) -> None:
        """V32: raise `ValueRefused` before anything is sent if any value is out of range."""
        workspace = self._workspace()
        for chunk in self._chunks(0):
            self._encode(chunk, workspace)

    def payloads(self, first: int, threads: int) -> Iterator[Payload]:
        """Chunk numbers from `first` on, their signed messages, and SHA-256 of their bodies.

        With threads, each has one chunk in work and one that waits for the reader. The caller encodes while they rest:
        encoding's steps are so short that threads beside it spend their time on stopping and waking each other.
        """
        chunks, workspaces = self._chunks(first), [self._workspace() for _ in range(threads)]
        if threads == 1:
            for chunk in chunks:
                self._encode(chunk, workspaces[0])
                yield self._payload(chunk, workspaces[0])
            return
        ready: list[Payload] = []
        with ThreadPoolExecutor(threads) as pool:
            while batch := list(zip(workspaces, chunks, strict=False)):
                for workspace, chunk in batch:
                    self._encode(chunk, workspace)
                running = [pool.submit(self._payload, chunk, workspace) for workspace, chunk in batch]
                yield from ready
                ready = [future.result() for future in running]
        yield from ready

    def _chunks(self, first: int) -> Iterator[Chunk]:
        spec = self.session.sums[self.sum_index]
        return (spec.chunk(index) for index in range(first, spec.num_chunks))

    def _workspace(self) -> _Workspace:
        return _Workspace(min(CHUNK_VALUES, self.session.sums[self.sum_index].num_values))

    def _encode(self, chunk: Chunk, workspace: _Workspace) -> None:
        self.sources[chunk.tensor].encode_into(chunk.start, workspace.ring[: chunk.length])

    def _payload(self, chunk: Chunk, workspace: _Workspace) -> Payload:
        spec = self.session.sums[self.sum_index]
        ring = workspace.ring[: chunk.length]
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
