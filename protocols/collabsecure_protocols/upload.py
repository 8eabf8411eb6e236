"""One client's masked input, chunk by chunk: encode, mask, pack or encrypt, sign. Memory: a few chunks."""

import hashlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from .envelope import CHUNK_HEADER_BYTES, HEADER_BYTES, MessageType, header_bytes, signed_message
from .fixedpoint import Encoder, pack_into
from .keys import SIGNATURE_BYTES, Identity
from .masks import Mask, MaskScratch, apply_masks
from .session import Session
from .tensors import CHUNK_VALUES, Chunk
from .wire import Writer

Payload = tuple[int, bytearray, bytes]  # chunk number, signed message, SHA-256 of what is masked in it
Encrypt = Callable[[NDArray[np.uint64], int], Future[bytes]]  # masked integers and their bits → ciphertexts, in time


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
    encrypt: Encrypt | None  # None where nothing is encrypted

    def check(self) -> None:
        """V32: raise `ValueRefused` before anything is sent if any value is out of range."""
        workspace = self._workspace()
        for chunk in self._chunks(0):
            self._encode(chunk, workspace)

    def payloads(self, first: int, threads: int) -> Iterator[Payload]:
        """Chunk numbers from `first` on, their signed messages, and SHA-256 of their bodies.

        Where values are encrypted, the digest is of the masked integers: ciphertexts of the same are never the same.
        `threads` is then how many chunks may be with `encrypt` at a time. Else each thread has one chunk in work and
        one that waits for the reader. The caller encodes while they rest: encoding's steps are so short that threads
        beside it spend their time on stopping and waking each other.
        """
        if self.encrypt is not None:
            yield from self._encrypted(self.encrypt, first, threads)
            return
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

    def _encrypted(self, encrypt: Encrypt, first: int, at_once: int) -> Iterator[Payload]:
        """Mask here, encrypt elsewhere, sign in order."""
        workspace, waiting = self._workspace(), deque[tuple[Chunk, bytes, Future[bytes]]]()
        for chunk in self._chunks(first):
            bits = self._bits(chunk)
            self._encode(chunk, workspace)
            ring = workspace.ring[: chunk.length]
            apply_masks(ring, chunk.start, self.masks[chunk.tensor], workspace.scratch)
            masked: NDArray[np.uint64] = ring & np.uint64((1 << bits) - 1)
            waiting.append((chunk, hashlib.sha256(masked.data).digest(), encrypt(masked, bits)))
            if len(waiting) > at_once:
                yield self._signed_ciphertexts(*waiting.popleft())
        while waiting:
            yield self._signed_ciphertexts(*waiting.popleft())

    def _signed_ciphertexts(self, chunk: Chunk, fingerprint: bytes, encrypted: Future[bytes]) -> Payload:
        payload, at = self._frame(chunk)
        payload[at:-SIGNATURE_BYTES] = encrypted.result()
        self._sign(payload)
        return chunk.index, payload, fingerprint

    def _payload(self, chunk: Chunk, workspace: _Workspace) -> Payload:
        ring = workspace.ring[: chunk.length]
        apply_masks(ring, chunk.start, self.masks[chunk.tensor], workspace.scratch)
        payload, at = self._frame(chunk)
        pack_into(ring, self._bits(chunk), payload, at)
        return chunk.index, payload, self._sign(payload)

    def _bits(self, chunk: Chunk) -> int:
        return self.session.sums[self.sum_index].tensors[chunk.tensor].bits

    def _frame(self, chunk: Chunk) -> tuple[bytearray, int]:
        """A message with its header, room for values and signature, and where the values go."""
        spec = self.session.sums[self.sum_index]
        header = header_bytes(self.session, MessageType.MASKED_INPUT, self.client_id)
        place = Writer().u16(self.sum_index).u32(chunk.index).raw(self.link).finish()
        at = HEADER_BYTES + CHUNK_HEADER_BYTES
        payload = bytearray(at + self.session.chunk_bytes(spec, chunk) + SIGNATURE_BYTES)
        payload[:at] = header + place
        return payload, at

    def _sign(self, payload: bytearray) -> bytes:
        """Fill in the signature; returns SHA-256 of the body."""
        with memoryview(payload) as view:
            body = view[HEADER_BYTES:-SIGNATURE_BYTES]
            fingerprint = hashlib.sha256(body).digest()
            signature = self.identity.sign(signed_message(bytes(view[:HEADER_BYTES]), fingerprint))
            body.release()
        payload[-SIGNATURE_BYTES:] = signature
        return fingerprint
