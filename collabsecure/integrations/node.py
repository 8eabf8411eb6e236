"""A node's side of a session of sums: the protocol's client with a store under it, request in, reply out.

What the client knows is in the store before anything that follows from it leaves, and so are the values that are
masked: a process that was ended at any moment goes on with identical bytes, so an engine may repeat every request and
start a new process for each. Used by the daemon; an app that has it in its own process has the keys there, too.
"""

import hashlib
import re
import threading
from collections.abc import Iterator, Mapping
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from collabsecure.errors import BadSession
from collabsecure.integrations.arrays import checked
from collabsecure.integrations.exchange import (
    MOST_PARTS,
    SHARD_BYTES,
    Carry,
    Hello,
    Messages,
    Ready,
    Refused,
    Reply,
    Shard,
    decode_request,
    encode,
)
from collabsecure.integrations.host import ValuesNeeded
from collabsecure.integrations.node_state import Given, NodeLedger, decode_state, encode_state
from collabsecure.integrations.stores import Store
from collabsecure_protocols import (
    Client,
    ClientState,
    Identity,
    Ledger,
    LocalProtocolError,
    Policy,
    PolicyRefusal,
    RemoteProtocolError,
    Session,
    Tensor,
    ValueRefused,
)
from collabsecure_protocols.client_state import NO_LINK
from collabsecure_protocols.envelope import MessageType
from collabsecure_protocols.keys import Rng
from collabsecure_protocols.wire import Writer

_LEDGER = "sums-ledger"
_OVER = (ClientState.FINISHED, ClientState.ABORTED)
_ZEROS = bytes(32)  # in the place of a digest
_OPENING = tuple(bytes([kind]) for kind in (MessageType.SURVIVORS, MessageType.CONFIRMATIONS))  # after its version


class SumNode:
    """`host.Answering`, for a client of a session of sums.

    Values may be given before their sum starts, and others in their place until the first of them has left; then none,
    and what is given is not compared with what there is. The very same arrays are taken for no second session's sum
    once one was opened with them: the difference of two sums whose cohorts differ by one client is that client's part.
    All zeros are taken always.

    Raises:
        PolicyRefusal: the session asks for less than `policy` insists on, or was begun elsewhere (V36).
        BadSession: it is no session of plain masked sums.
        InvalidSession: `identity` is not on its roster.
        StateRefused: what the store has is damaged, or another's.
    """

    def __init__(self, session: Session, identity: Identity, *, policy: Policy, store: Store, rng: Rng) -> None:
        if session.is_encrypted:
            raise BadSession(
                f"found a session encrypted with {session.encryption}; expected one without: embedded sums"
            )
        self.session = session
        self._store, self._lock = store, threading.Lock()
        self._broken: BaseException | None = None  # what kept the last step from the store
        self._arrays: dict[int, dict[str, NDArray[np.float64]]] = {}  # by sum; read once
        self._forgotten: set[int] = set()  # sums whose values are no longer in the store
        self._prefix = f"sums-{session.transcript.hex()[:32]}"
        saved = store.read(self._prefix)
        if saved is None:
            self._given: dict[int, Given] = {}
            self._received = 0
            # The contribution is the session itself: what goes into several sessions, the digests of values tell.
            contribution, ledger = session.transcript, self._ledger.protocol
            self._client = Client(session, identity, policy=policy, rng=rng, ledger=ledger, contribution=contribution)
        else:
            self._received, self._given, client = decode_state(saved)
            self._client = Client.restore(client, session, identity, policy=policy, ledger=self._ledger.protocol)
            self._save()  # of an ended process, the ledger may lack what the state has

    def __repr__(self) -> str:
        return f"SumNode({self._client.client_id} of {self.session.num_clients}, {self._client.state})"

    @property
    def state(self) -> ClientState:
        """Where this client stands."""
        return self._client.state

    @property
    def is_over(self) -> bool:
        """Whether there is nothing more to answer."""
        return self._client.state in _OVER

    def answer(self, request: bytes) -> bytes:
        """The reply to a request, what it follows from saved before.

        Raises:
            ValuesNeeded: give these first, then ask again.
            BadExchange: it is no request.
            BadFile: the store would not take what must be kept; nothing has left.
        """
        found = decode_request(request)
        with self._lock:
            self._refuse_if_broken()
            return encode(self._reply(found))

    def give(self, sum_name: str, values: Mapping[str, NDArray[np.generic]], *, link: bytes = NO_LINK) -> None:
        """Take all of a sum's arrays.

        Raises:
            ValueRefused: one is missing, unknown, not finite or out of range; or they were summed before (V34).
            LocalProtocolError: there is no such sum.
        """
        tensors = self.session.sums[self._index(sum_name)].tensors
        for tensor in tensors:
            if tensor.name not in values:
                raise ValueRefused(tensor.name, "expected by the session, not given")
        for name, array in values.items():
            self.put(sum_name, name, array, link=link)

    def put(
        self, sum_name: str, tensor_name: str, values: NDArray[np.generic], *, link: bytes = NO_LINK
    ) -> tuple[str, ...]:
        """Take one array of a sum, flat or in its shape; returns the names of those that are still missing.

        Raises:
            ValueRefused: as `give`.
            LocalProtocolError: there is no such sum.
        """
        with self._lock:
            self._refuse_if_broken()
            index, number = self._place(sum_name, tensor_name)
            if index == self._client.sum_index and self._client.chunks_sent:  # said of the same ones, too: who may ask
                raise ValueRefused(  # whether they are the same could try until they are
                    tensor_name, f"V33: values of sum {sum_name!r} have left; no others are taken, nor the same again"
                )
            array = checked(self.session.sums[index].tensors[number], values)
            digest = hashlib.sha256(array.data).digest() if array.any() else _ZEROS
            given = self._given.get(index) or Given()
            if given.tensors.get(number) != digest or given.link != link:
                self._arrays.pop(index, None)
                kept = given.tensors if given.link == link else {}
                if number in given.tensors:  # an end in between must not leave the one's digest with the other's values
                    self._given[index] = Given(link=link, tensors={at: kept[at] for at in kept if at != number})
                    self._save()
                self._store.write(self._file(index, number), [array.data.cast("B")])
                self._given[index] = Given(link=link, tensors={**kept, number: digest})
                missing = self._missing(index)
                if not missing and self._opened_elsewhere(index):
                    del self._given[index]
                    self._save()  # before the files go: what the state names is there
                    self._forget(index)
                    raise ValueRefused(tensor_name, self._why_not_again(sum_name))
                self._save()
            return self._missing(index)

    def tensor(self, sum_name: str, tensor_name: str) -> Tensor:
        """What the session says of an array.

        Raises:
            ValueRefused: the sum has none of this name.
            LocalProtocolError: there is no such sum.
        """
        tensors = {tensor.name: tensor for tensor in self.session.sums[self._index(sum_name)].tensors}
        if tensor_name not in tensors:
            raise ValueRefused(tensor_name, f"not in sum {sum_name!r}, which has {', '.join(islice(tensors, 20))}")
        return tensors[tensor_name]

    def _refuse_if_broken(self) -> None:
        """What is known here may be ahead of the store, so nothing may follow from it: a new node goes on there."""
        if self._broken is not None:
            raise self._broken

    def _index(self, sum_name: str) -> int:
        names = [spec.name for spec in self.session.sums]
        if sum_name not in names:
            raise LocalProtocolError(f"found values for sum {sum_name!r}; expected one of {', '.join(names[:20])}")
        return names.index(sum_name)

    def _place(self, sum_name: str, tensor_name: str) -> tuple[int, int]:
        index = self._index(sum_name)
        number = self.session.sums[index].tensors.index(self.tensor(sum_name, tensor_name))
        if index not in self._open_sums():
            raise ValueRefused(tensor_name, f"sum {sum_name!r} is over for this client")
        return index, number

    def _open_sums(self) -> range:
        """The sums to which values may still be wanted."""
        if self._client.state in _OVER:
            return range(0)
        running = self._client.state is ClientState.CONTRIBUTING
        return range(self._client.sum_index + (not running), len(self.session.sums))

    def _missing(self, index: int) -> tuple[str, ...]:
        tensors, given = self.session.sums[index].tensors, self._given.get(index) or Given()
        return tuple(tensor.name for number, tensor in enumerate(tensors) if number not in given.tensors)

    def _reply(self, request: Hello | Messages | Shard | Carry) -> Reply:
        if request.transcript != self.session.transcript:
            ours, theirs = self.session.transcript.hex()[:16], request.transcript.hex()[:16]
            return Refused(check="", reason=f"another session: found {theirs}…; this node takes part in {ours}…")
        try:
            match request:
                case Hello():
                    return Ready(payloads=(Writer().u16(self._client.client_id).finish(),))
                case Messages():
                    return self._take(request)
                case Shard():
                    return self._shard(request)
                case Carry():
                    return Refused(check="", reason="this node takes part in sums; it has nothing to carry")
        except RemoteProtocolError as error:
            return Refused(check=error.check, reason=str(error))
        except (LocalProtocolError, PolicyRefusal) as error:
            number = re.match(r"V\d\d", str(error))
            return Refused(check=number[0] if number else "", reason=str(error))

    def _take(self, request: Messages) -> Reply:
        """Receive those of the server's messages that are new; answer the last."""
        new = self._new(request)
        if new is None:
            reason = (
                f"found messages from number {request.first} on; expected {self._received} to be next, or all of them"
            )
            return Refused(check="", reason=reason)
        if self._client.state is ClientState.NEW and not request.payloads:
            self._client.start()
            self._save()
        for number in new:
            payload = request.payloads[number]
            if payload[1:2] in _OPENING:
                self._refuse_repeats(self._client.sum_index)
            self._client.receive(payload)
            self._received = request.first + number + 1
            self._save()
        return Ready(payloads=tuple(event.payload for event in self._client.pending))

    def _new(self, request: Messages) -> range | None:
        """Which of these messages follow the last that was accepted, if that can be told.

        No message says its number, and who brings them may have brought one under another's, so numbers are believed
        only as long as what they say fits: where all messages are sent, the last accepted one is among them.
        """
        for number in reversed(range(len(request.payloads))):
            if self._client.has_received(request.payloads[number]):
                self._received = request.first + number + 1
                return range(number + 1, len(request.payloads))
        return range(len(request.payloads)) if request.first == self._received else None

    def _shard(self, request: Shard) -> Reply:
        """Masked input; of no chunks, when only the values are asked for."""
        index = request.sum_index
        if self._client.state is not ClientState.CONTRIBUTING or index != self._client.sum_index:
            here = f"{self._client.state} of sum {self._client.sum_index}"
            return Refused(
                check="V20", reason=f"found a request for input to sum {index} in {here}; expected it to run"
            )
        spec = self.session.sums[index]
        if self._missing(index):
            raise ValuesNeeded(spec.name)
        self._refuse_repeats(index)
        count = min(request.count, spec.num_chunks - request.first, MOST_PARTS)
        if count <= 0:
            return Ready()
        chunks = self._client.masked_input(self._values(index), link=self._given[index].link, first=request.first)
        payloads, size = [], 0
        for chunk in islice(chunks, count):
            payloads.append(bytes(chunk))
            size += len(chunk)
            if size + self.session.max_chunk_bytes > SHARD_BYTES:
                break
        self._save()
        return Ready(payloads=tuple(payloads))

    def _values(self, index: int) -> dict[str, NDArray[np.float64]]:
        if index not in self._arrays:
            self._arrays = {index: dict(self._read(index))}
        return self._arrays[index]

    def _read(self, index: int) -> Iterator[tuple[str, NDArray[np.float64]]]:
        for number, tensor in enumerate(self.session.sums[index].tensors):
            data = self._store.read(self._file(index, number))
            if data is None:
                raise ValuesNeeded(self.session.sums[index].name)
            yield tensor.name, np.frombuffer(data, "<f8").reshape(tensor.shape)

    def _refuse_repeats(self, index: int) -> None:
        """V34 by the values themselves, asked again: another session may have opened them meanwhile."""
        if index in self._given and not self._missing(index) and self._opened_elsewhere(index):
            raise PolicyRefusal(self._why_not_again(self.session.sums[index].name))

    def _why_not_again(self, sum_name: str) -> str:
        return (
            f"V34: all arrays of sum {sum_name!r} are the same as some that were opened in another session; the "
            "difference of two sums over other cohorts would show them alone"
        )

    def _opened_elsewhere(self, index: int) -> bool:
        opened = self._ledger.values.get(self._digest(index))
        is_zero = {*self._given[index].tensors.values()} == {_ZEROS}
        return opened is not None and opened != self.session.transcript and not is_zero

    def _digest(self, index: int) -> bytes:
        """Of a sum's values, whatever the session calls its arrays and in which order they stand."""
        digests = {*self._given[index].tensors.values()} - {_ZEROS}  # an array of zeros more or less is no other value
        return hashlib.sha256(b"".join(sorted(digests))).digest()

    def _save(self) -> None:
        """Keep what is known; if the store fails, this node answers nothing more (V35)."""
        try:
            self._keep()
        except BaseException as error:
            self._broken = error
            raise

    def _keep(self) -> None:
        """The values' digests, then the state, then the protocol's ledger.

        After an end in between, no other session takes values that this one may have opened, and this one goes on: it
        would be held back by its own entry in the protocol's ledger alone (V36), and that follows its state.
        """
        names = {name for what, name in self._client.ledger.opened if what == self.session.transcript}
        opened = {
            self._digest(index): self.session.transcript
            for index, spec in enumerate(self.session.sums)
            if spec.name in names and index in self._given
        }
        self._remember(Ledger(), opened)
        self._store.write(self._prefix, [encode_state(self._received, self._given, self._client.save())])
        self._remember(self._client.ledger, opened)
        for index in self._given.keys() - set(self._open_sums()) - self._forgotten:
            self._forget(index)
            self._forgotten.add(index)

    @property
    def _ledger(self) -> NodeLedger:
        """As it is now: nodes of other sessions write it, too."""
        return NodeLedger.decode(self._store.read(_LEDGER))

    def _remember(self, protocol: Ledger, values: Mapping[bytes, bytes]) -> None:
        known = self._ledger
        ledger = NodeLedger(protocol=known.protocol | protocol, values={**values, **known.values})
        if ledger != known:
            self._store.write(_LEDGER, [ledger.encode()])

    def _forget(self, index: int) -> None:
        """A sum's values; not their digests."""
        self._arrays.pop(index, None)
        for number in range(len(self.session.sums[index].tensors)):
            self._store.remove(self._file(index, number))

    def _file(self, index: int, number: int) -> str:
        return f"{self._prefix}-{index}-{number}"
