"""The key holder of an encrypted session: decrypts each finished sum once, rounds it, and takes the masks off.

It learns the sums and nothing finer (secagg.md P15), even together with the server: what it decrypts is a sum of
*masked* integers, and the masks that it can take off are those that a quorum of clients has opened for the survivors.
Order of use:

1. `KeyHolder(…)`; hand it each EncryptedSum with `begin(message)`, write `save()`.
2. Hand the chunks of ciphertexts to `decrypt(index, payload)`, in any order, as often as need be.
3. When all are in, `decode(tensor)`; then the next sum's `begin`.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .ckks import Decryptor, KeyPair
from .client_state import check_saved
from .encryption_parameters import EncryptionParameters
from .envelope import MessageType, open_envelope
from .errors import SERVER, CiphertextRefused, LocalProtocolError, RemoteProtocolError, StateRefused
from .fixedpoint import decode
from .keys import Identity, Label, context
from .masks import Mask, MaskScratch, apply_masks
from .messages import EncryptedSum
from .session import Session
from .tensors import Sum
from .wire import Malformed, Reader, Writer

_NONE = b""


class KeyHolder:
    """One session's key holder.

    Raises:
        LocalProtocolError: the session is not encrypted under this key pair, or its key holder is another identity.
        StateRefused: `saved` is damaged or another session's (V35).

    """

    def __init__(self, session: Session, identity: Identity, key_pair: KeyPair, *, saved: bytes | None = None) -> None:
        if identity.public != session.key_holder or key_pair.public.encode() != session.encryption_key:
            raise LocalProtocolError("this identity, or this encryption key, is not the session's key holder's")
        self.session = session
        self._public = identity.public
        self._decryptors: dict[int, Decryptor] = {}  # by ring bits
        self._key_pair = key_pair
        self._next_sum, self._digest = 0, _NONE  # of the sum that was begun last: SHA-256 of its EncryptedSum
        self._sum: EncryptedSum | None = None
        self._rings: list[NDArray[np.uint64]] = []
        self._missing: set[int] = set()
        self._scratch = MaskScratch()
        if saved is not None:
            self._restore(saved)

    def __repr__(self) -> str:
        return f"KeyHolder(of {self.session.num_clients} clients, sum {self.sum_index})"

    @property
    def sum_index(self) -> int:
        """The sum that was begun last, −1 before the first."""
        return self._next_sum - 1

    @property
    def survivors(self) -> tuple[int, ...]:
        """Whose input is in it."""
        return self._begun().survivors

    @property
    def link(self) -> bytes:
        """What it follows."""
        return self._begun().link

    @property
    def missing(self) -> tuple[int, ...]:
        """The chunks that have not been decrypted."""
        return tuple(sorted(self._missing))

    def save(self) -> bytes:
        """Which sums were begun; write it down before a chunk is decrypted. The key pair is not in it."""
        body = Writer().raw(self._header()).u16(self._next_sum).blob(self._digest).finish()
        return body + hashlib.sha256(body).digest()

    def begin(self, message: bytes | bytearray | memoryview) -> None:
        """Take a finished sum's EncryptedSum. The one that was begun last, repeated, begins anew.

        Raises:
            RemoteProtocolError: a check failed; nothing has changed.

        """
        envelope = open_envelope(self.session, message, SERVER)
        if envelope.type is not MessageType.ENCRYPTED_SUM:
            raise _refuse("V04", f"{envelope.type.name} to the key holder")
        envelope.verify(self.session)
        try:
            found = EncryptedSum.decode(envelope.body, self.session)
        except Malformed as error:
            raise _refuse("V07", f"ENCRYPTED_SUM: {error}") from error
        again = envelope.body_digest == self._digest
        if not again and found.sum_index < self._next_sum:
            raise _refuse("V41", f"sum {found.sum_index} again, or another one; {self._next_sum} is the lowest to come")
        if len(found.survivors) < self.session.min_survivors:
            least = self.session.min_survivors
            raise _refuse("V41", f"a sum over {len(found.survivors)} clients; the session needs {least}")
        spec = self.session.sums[found.sum_index]
        self._sum, self._digest, self._next_sum = found, envelope.body_digest, found.sum_index + 1
        self._rings = [np.zeros(tensor.num_values, np.uint64) for tensor in spec.tensors]
        self._missing = set(range(spec.num_chunks))

    def decrypt(self, index: int, payload: bytes | bytearray | memoryview) -> None:
        """Decrypt one chunk of the sum's ciphertexts, and take its masks off.

        Raises:
            RemoteProtocolError: they are not those that the server signed (V42), or decrypt to no integers (V43): the
                sum cannot be had, and the session is over.

        """
        begun, spec = self._begun(), self._spec()
        chunk = spec.chunk(index)
        if hashlib.sha256(payload).digest() != begun.digests[index]:
            raise _refuse("V42", f"chunk {index} of sum {begun.sum_index} is not the one that the server signed")
        try:
            values = self._decryptor(chunk.tensor).decrypt(payload, chunk.length, num_summands=len(begun.survivors))
        except CiphertextRefused as error:
            raise _refuse("V43", f"chunk {index} of sum {begun.sum_index}: {error}") from error
        apply_masks(values, chunk.start, self._masks(chunk.tensor), self._scratch)
        self._rings[chunk.tensor][chunk.start : chunk.start + chunk.length] = values
        self._missing.discard(index)

    def ring(self, tensor: str) -> NDArray[np.uint64]:
        """The finished sum of one tensor, as integers mod 2^bits in the low bits, in the order in which they travel."""
        if self._missing:
            raise LocalProtocolError(f"{len(self._missing)} chunks of sum {self.sum_index} are not decrypted")
        names = [spec.name for spec in self._spec().tensors]
        if tensor not in names:
            raise LocalProtocolError(f"sum {self.sum_index} has no tensor {tensor!r}; it has {', '.join(names)}")
        return self._rings[names.index(tensor)]

    def decode(self, tensor: str) -> NDArray[np.float64]:
        """The finished sum of one tensor, in its own shape and units."""
        spec = next((spec for spec in self._spec().tensors if spec.name == tensor), None)
        ring = self.ring(tensor)
        if spec is None:
            raise LocalProtocolError(f"sum {self.sum_index} has no tensor {tensor!r}")
        return decode(spec, ring)

    def _decryptor(self, tensor: int) -> Decryptor:
        form = self.session.form(self._spec().tensors[tensor])
        if form.bits not in self._decryptors:
            self._decryptors[form.bits] = Decryptor(self._key_pair, _packing(form.encryption))
        return self._decryptors[form.bits]

    def _masks(self, tensor: int) -> Sequence[Mask]:
        return self._begun().masks[tensor]

    def _begun(self) -> EncryptedSum:
        if self._sum is None:
            raise LocalProtocolError("no sum was begun; begin() comes first")
        return self._sum

    def _spec(self) -> Sum:
        return self.session.sums[self._begun().sum_index]

    def _restore(self, saved: bytes) -> None:
        try:
            data = Reader(check_saved(saved, self._header()))
            self._next_sum, self._digest = data.u16(), data.blob()
            data.finish()
        except Malformed as error:
            raise StateRefused(f"V35: saved state is damaged: {error}") from error

    def _header(self) -> bytes:
        return context(Label.STATE, b"key holder", self.session.transcript, self._public)


def _packing(found: EncryptionParameters | None) -> EncryptionParameters:
    if found is None:
        raise LocalProtocolError("the session is not encrypted")
    return found


def _refuse(check: str, text: str) -> RemoteProtocolError:
    return RemoteProtocolError(text, check=check, culprits=(SERVER,))
