"""The server: bytes in, events out; it adds each masked chunk to its running sum and keeps nothing of it. Order of use:

1. `Server(…)`; hand every message to `receive(client_id, payload)`, write `save()`, then act on the events.
2. A phase ends when everybody has answered, or when you call `close_phase()` because its deadline has passed.
3. After `SetupFinished`: `start_sum(…)`; after `SumFinished`: `decode(tensor)`; then the next `start_sum(…)`.
"""

from collections.abc import Iterator
from hashlib import sha256

import numpy as np
from numpy.typing import NDArray

from . import server_steps as steps
from .client_state import NO_LINK
from .envelope import LINK_BYTES, Envelope, MessageType, open_envelope, seal
from .errors import SERVER, ClientId, LocalProtocolError, RemoteProtocolError
from .events import Aborted, SendToClient, ServerEvent, SetupFinished, SumFinished
from .fixedpoint import decode, signed
from .graph import all_neighbors
from .keys import Identity
from .masks import MaskScratch, apply_masks
from .messages import (
    Abort,
    AbortReason,
    Confirmations,
    EncryptedSum,
    KeyDirectory,
    StartSum,
    SurvivorSet,
    view_digest,
    write_shares,
)
from .recovery import masks_to_remove, open_secrets
from .server_state import RunningSum, ServerData
from .session import Session
from .states import SERVER_ACCEPTS, ServerState
from .tensors import CHUNK_VALUES
from .wire import write_bitmap


class Server:
    """The server's side of one session.

    Raises:
        InvalidSession: `identity` is not the session's server key.

    """

    def __init__(self, session: Session, identity: Identity) -> None:
        self._set_up(session, identity, ServerData())

    @classmethod
    def restore(cls, blob: bytes | memoryview, session: Session, identity: Identity) -> "Server":
        """The server whose `save()` gave these bytes.

        Raises:
            StateRefused: the bytes are damaged or of another session or identity.

        """
        server = cls.__new__(cls)
        server._set_up(session, identity, ServerData.decode(blob, session, identity.public))
        return server

    def _set_up(self, session: Session, identity: Identity, data: ServerData) -> None:
        if identity.public != session.server_key:
            raise LocalProtocolError("this identity is not the session's server key")
        self.session = session
        self._identity = identity
        self._graph = tuple(all_neighbors(session, number) for number in range(len(session.sums)))
        self._data = data
        if data.state is not ServerState.ADVERTISE_KEYS:
            self._narrow_graph()
        self._waiting = steps.missing(session, data)

    def __repr__(self) -> str:
        return f"Server({self.session.num_clients} clients, {self.state})"

    @property
    def state(self) -> ServerState:
        """Which phase this is."""
        return self._data.state

    @property
    def participants(self) -> tuple[int, ...]:
        """The clients whose keys are shared, U2."""
        return tuple(sorted(self._data.share_bodies))

    @property
    def advertisers(self) -> tuple[int, ...]:
        """The clients that have advertised keys, U1."""
        return tuple(sorted(self._data.adverts))

    @property
    def sum_index(self) -> int:
        """The sum that started last, −1 before the first."""
        return -1 if self._data.running is None else self._data.running.index

    @property
    def survivors(self) -> tuple[int, ...]:
        """The clients whose input is in the running or last sum, U3; empty until it is announced."""
        return self._running().survivors

    @property
    def missing(self) -> tuple[int, ...]:
        """The clients that have not answered in this phase."""
        return tuple(sorted(self._waiting))

    def next_chunk(self, client_id: int) -> int:
        """The chunk that a client sends next in the running sum; where an interrupted upload goes on."""
        known = self._running().next_chunk
        if client_id not in known:
            raise LocalProtocolError(f"client {client_id} is no participant")
        return known[client_id]

    def pending(self, client_id: int) -> bytes | None:
        """The last message to a client, to be sent again to one that lost it.

        Only the last: a transport that may lose messages keeps what has not arrived, DeliverShares above all, without
        which a client takes part in no sum.
        """
        return self._data.outbox.get(client_id)

    def save(self) -> bytes:
        """The whole state, running sum included, but for the identity key."""
        return b"".join(self.save_parts())

    def save_parts(self) -> Iterator[bytes | memoryview]:
        """`save()` in pieces, for a file: the running sum is not copied. Take them all before the next call."""
        return self._data.encode(self.session, self._identity.public)

    def check_chunk(self, client_id: int, payload: bytes | bytearray | memoryview, *, index: int) -> None:
        """Check all of a masked input that can be checked before its turn comes, and change nothing.

        For a host that collects a client's chunks and hands them over once the last has arrived (secagg.md, "Partial
        uploads"): `payload` must be what `receive` will take when chunk `index` is next.

        Raises:
            RemoteProtocolError: a check failed.

        """
        envelope = self._open(client_id, payload)
        if envelope.type is not MessageType.MASKED_INPUT or self.state is not ServerState.MASKED_INPUT:
            raise steps.refuse(client_id, "V04", f"{envelope.type.name} as a chunk in state {self.state}")
        with steps.malformed_is_refused(client_id, envelope):
            steps.check(self._view(), client_id, envelope, payload, chunk=index)

    def receive(self, client_id: int, payload: bytes | bytearray | memoryview) -> tuple[ServerEvent, ...]:
        """Take one message from a client. Its last accepted message, repeated, gives no event.

        Raises:
            RemoteProtocolError: a check failed; the state is as it was.

        """
        envelope = self._open(client_id, payload)
        expected = SERVER_ACCEPTS.get(self.state)
        fingerprint = envelope.fingerprint
        if fingerprint == self._data.last_received.get(client_id):
            return ()
        if envelope.type is not expected:
            wanted = expected.name if expected else "no message"
            raise steps.refuse(client_id, "V04", f"{envelope.type.name} in state {self.state}; expected {wanted}")
        with steps.malformed_is_refused(client_id, envelope):
            accept = steps.check(self._view(), client_id, envelope, payload)
        answered = accept()
        self._data.last_received[client_id] = fingerprint
        if answered:
            self._waiting.discard(client_id)
        return () if self._waiting else self._advance()

    def _open(self, client_id: int, payload: bytes | bytearray | memoryview) -> Envelope:
        if not 1 <= client_id <= self.session.num_clients:
            raise LocalProtocolError(f"client {client_id} is not on the roster of {self.session.num_clients}")
        return open_envelope(self.session, payload, ClientId(client_id))

    def close_phase(self) -> tuple[ServerEvent, ...]:
        """The phase's deadline has passed: go on with those who answered, or abort if they are too few."""
        if self.state not in SERVER_ACCEPTS:
            raise LocalProtocolError(f"close_phase() in state {self.state}, which waits for nobody")
        return self._advance()

    def cancel(self) -> tuple[ServerEvent, ...]:
        """End the session on the operator's word."""
        return self._abort(AbortReason.CANCELLED, found=len(self.participants), needed=self.session.min_survivors)

    def start_sum(self, *, link: bytes = NO_LINK) -> tuple[ServerEvent, ...]:
        """Start the next sum, whose masks are bound to `link`, 32 bytes."""
        if self.state is not ServerState.READY:
            raise LocalProtocolError(f"start_sum() in state {self.state}; expected READY")
        if len(link) != LINK_BYTES:
            raise LocalProtocolError(f"a link has {LINK_BYTES} bytes, found {len(link)}")
        index = 0 if self._data.running is None else self._data.running.index + 1
        self._data.running = RunningSum(
            index=index,
            link=link,
            totals=[
                np.zeros(self.session.form(tensor).total_words(tensor.num_values), np.uint64)
                for tensor in self.session.sums[index].tensors
            ],
            next_chunk=dict.fromkeys(self.participants, 0),
        )
        self._enter(ServerState.MASKED_INPUT)
        return self._to_all(MessageType.START_SUM, StartSum(sum_index=index, link=link).encode())

    def total(self, tensor: str) -> NDArray[np.int64]:
        """The finished sum of one tensor, as signed integers in the order in which they travel."""
        number, ring = self._cleared(tensor)
        return signed(ring, 64 - self.session.sums[self._running().index].tensors[number].bits)

    def decode(self, tensor: str) -> NDArray[np.float64]:
        """The finished sum of one tensor, in its own shape and units."""
        number, ring = self._cleared(tensor)
        return decode(self.session.sums[self._running().index].tensors[number], ring)

    def encrypted_sum(self) -> bytes:
        """The finished sum's EncryptedSum, for the key holder alone (P14); `encrypted_chunk` has its ciphertexts."""
        running, view = self._finished(), self._view()
        adverts = view.adverts()
        secrets = open_secrets(view.recovery(), adverts, running.revealed)
        chunks = range(self.session.sums[running.index].num_chunks)
        message = EncryptedSum(
            sum_index=running.index,
            link=running.link,
            survivors=running.survivors,
            masks=tuple(map(tuple, masks_to_remove(view.recovery(), adverts, secrets))),
            digests=tuple(sha256(self.encrypted_chunk(index)).digest() for index in chunks),
        )
        return seal(self.session, self._identity, MessageType.ENCRYPTED_SUM, SERVER, message.encode(self.session))

    def encrypted_chunk(self, index: int) -> memoryview:
        """One chunk of the finished sum's ciphertexts, where it lies."""
        running = self._finished()
        spec = self.session.sums[running.index]
        chunk = spec.chunk(index)
        form = self.session.form(spec.tensors[chunk.tensor])
        return running.totals[chunk.tensor][form.place(chunk)].data.cast("B")

    def _finished(self) -> RunningSum:
        running = self._running()
        if self.state not in (ServerState.READY, ServerState.FINISHED):
            raise LocalProtocolError(f"sum {running.index} is not finished; state {self.state}")
        return running

    def _cleared(self, tensor: str) -> tuple[int, NDArray[np.uint64]]:
        """The tensor's ring elements, masks taken off in place when they are first asked for."""
        running = self._finished()
        if self.session.is_encrypted:
            raise LocalProtocolError("this sum is encrypted; the key holder alone can open it: encrypted_sum()")
        names = [spec.name for spec in self.session.sums[running.index].tensors]
        if tensor not in names:
            raise LocalProtocolError(f"sum {running.index} has no tensor {tensor!r}; it has {', '.join(names)}")
        number = names.index(tensor)
        ring = running.totals[number]
        if number not in running.cleared:
            if not running.masks:
                view, adverts = self._view().recovery(), self._view().adverts()
                running.masks = masks_to_remove(view, adverts, open_secrets(view, adverts, running.revealed))
            scratch = MaskScratch()
            for start in range(0, len(ring), CHUNK_VALUES):
                apply_masks(ring[start : start + CHUNK_VALUES], start, running.masks[number], scratch)
            running.cleared.add(number)
        return number, ring

    def _running(self) -> RunningSum:
        if self._data.running is None:
            raise LocalProtocolError("no sum has started")
        return self._data.running

    def _view(self) -> steps.View:
        return steps.View(session=self.session, data=self._data, graph=self._graph, waiting=self._waiting)

    def _advance(self) -> tuple[ServerEvent, ...]:
        """End the phase."""
        shortage = steps.shortage(self._view())
        if shortage is not None:
            return self._abort(
                shortage.reason, found=shortage.found, needed=shortage.needed, culprits=shortage.culprits
            )
        return {
            ServerState.ADVERTISE_KEYS: self._send_directories,
            ServerState.SHARE_KEYS: self._deliver_shares,
            ServerState.MASKED_INPUT: self._announce_survivors,
            ServerState.CONSISTENCY_CHECK: self._send_confirmations,
            ServerState.UNMASK: self._finish_sum,
        }[self.state]()

    def _enter(self, state: ServerState) -> None:
        self._data.state = state
        self._waiting = steps.missing(self.session, self._data)

    def _narrow_graph(self) -> None:
        """From the whole roster to those who advertised keys, U1."""
        known = self._data.adverts
        self._graph = tuple(
            {
                client: tuple(peer for peer in peers if peer in known)
                for client, peers in graph.items()
                if client in known
            }
            for graph in self._graph
        )

    def _send_directories(self) -> tuple[ServerEvent, ...]:
        data = self._data
        self._narrow_graph()
        self._enter(ServerState.SHARE_KEYS)
        events = []
        for client in sorted(data.adverts):
            peers = sorted({peer for graph in self._graph for peer in graph[client]})
            directory = KeyDirectory(
                advertisers=tuple(data.adverts), adverts=tuple(data.adverts[peer] for peer in peers)
            )
            events.append(self._send(client, MessageType.KEY_DIRECTORY, directory.encode(self.session)))
        return tuple(events)

    def _deliver_shares(self) -> tuple[ServerEvent, ...]:
        self._enter(ServerState.READY)
        view, participants = self._view(), self.participants
        bitmap = write_bitmap(participants, self.session.num_clients)
        events: list[ServerEvent] = []
        for client in participants:
            dealt = write_shares(
                view.sealed(number, dealer, client)
                for number, graph in enumerate(self._graph)
                for dealer in graph[client]
                if dealer in self._data.share_bodies
            )
            events.append(self._send(client, MessageType.DELIVER_SHARES, bitmap + dealt))
        return (*events, SetupFinished(participants=participants))

    def _announce_survivors(self) -> tuple[ServerEvent, ...]:
        running = self._running()
        running.survivors = steps.uploaded(self.session, running)
        running.view = view_digest(
            self.session,
            participants=self.participants,
            survivors=running.survivors,
            sum_index=running.index,
            link=running.link,
        )
        self._enter(ServerState.CONSISTENCY_CHECK)
        message = SurvivorSet(sum_index=running.index, survivors=running.survivors)
        return self._to_all(MessageType.SURVIVORS, message.encode(self.session))

    def _send_confirmations(self) -> tuple[ServerEvent, ...]:
        running, graph = self._running(), self._graph[self._running().index]
        self._enter(ServerState.UNMASK)
        events = []
        for client in sorted(running.confirmations):
            signers = sorted(set(running.confirmations) & {client, *graph[client]})
            signatures = tuple((ClientId(signer), running.confirmations[signer]) for signer in signers)
            body = Confirmations(sum_index=running.index, signatures=signatures).encode()
            events.append(self._send(client, MessageType.CONFIRMATIONS, body))
        return tuple(events)

    def _finish_sum(self) -> tuple[ServerEvent, ...]:
        running, view = self._running(), self._view()
        try:
            open_secrets(view.recovery(), view.adverts(), running.revealed)
        except RemoteProtocolError as error:
            needed = self.session.threshold
            return self._abort(AbortReason.BAD_DEALER, found=needed, needed=needed, culprits=error.culprits)
        last = running.index + 1 == len(self.session.sums)
        self._enter(ServerState.FINISHED if last else ServerState.READY)
        message = SurvivorSet(sum_index=running.index, survivors=running.survivors)
        sent = self._to_all(MessageType.FINISH_SUM, message.encode(self.session))
        return (*sent, SumFinished(sum_index=running.index, survivors=running.survivors))

    def _abort(
        self, reason: AbortReason, *, found: int, needed: int, culprits: tuple[int, ...] = ()
    ) -> tuple[ServerEvent, ...]:
        if self.state in (ServerState.FINISHED, ServerState.ABORTED):
            raise LocalProtocolError(f"the session is over; state {self.state}")
        phase, running = self.state, self._data.running
        index = 0 if running is None else running.index
        message = Abort(
            reason=reason,
            phase=list(ServerState).index(phase),
            found=found,
            needed=needed,
            sum_index=index,
            culprits=culprits,
        )
        self._enter(ServerState.ABORTED)
        self._data.running = None  # what was masked stays masked
        body = message.encode(self.session)
        sent = [self._send(client, MessageType.ABORT, body) for client in sorted(self._data.adverts)]
        event = Aborted(
            reason=reason, phase=phase, sum_index=index, found=found, needed=needed, culprits=tuple(culprits)
        )
        return (*sent, event)

    def _to_all(self, kind: MessageType, body: bytes) -> tuple[ServerEvent, ...]:
        payload = seal(self.session, self._identity, kind, SERVER, body)
        self._data.outbox.update(dict.fromkeys(self.participants, payload))
        return tuple(SendToClient(client_id=ClientId(client), payload=payload) for client in self.participants)

    def _send(self, client: int, kind: MessageType, body: bytes) -> SendToClient:
        payload = seal(self.session, self._identity, kind, SERVER, body)
        self._data.outbox[client] = payload
        return SendToClient(client_id=ClientId(client), payload=payload)
