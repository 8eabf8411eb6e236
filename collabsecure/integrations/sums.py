"""The coordinating end of a session of sums: the protocol's server over any engine, phase by phase.

    secure_sum = SecureSum(host, session, identity)
    result = secure_sum.run("round 1")      # the set-up, too, when it is the first
    result.arrays["weights"]                # summed over result.survivors, and nothing finer was seen

It asks each node for what its client owes, again and again until the phase's time is up; who has not answered by then
is left out. Masked input is collected in a file for each client, and added once its last chunk is there: a client that
leaves in the middle costs its own input alone, and memory does not grow with the number of clients.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from collabsecure.errors import BadFile, BadSession, SumAborted
from collabsecure.integrations.asking import Asked, Nodes
from collabsecure.integrations.exchange import MOST_PARTS, SHARD_BYTES, Messages, Refused, Shard
from collabsecure.integrations.host import Host, Node
from collabsecure.integrations.staging import Staging
from collabsecure_protocols import (
    Aborted,
    Identity,
    LocalProtocolError,
    RemoteProtocolError,
    SendToClient,
    Server,
    ServerState,
    Session,
)
from collabsecure_protocols.client_state import NO_LINK
from collabsecure_protocols.envelope import CHUNK_HEADER_BYTES, HEADER_BYTES
from collabsecure_protocols.events import ServerEvent
from collabsecure_protocols.keys import SIGNATURE_BYTES

_MOST_ANSWERS = 8  # messages that a client may have to give in one reply
_LATE = ("V04", "V08", "V20")  # checks that fail for an answer to what is over
_LAST_WORD_SECONDS = 30.0  # at a sum's end, for those who answered until then
_PLACE_SECONDS = 60.0  # without an answer, or a tenth of a phase's: then another may upload as well
_WORD_AFTER = 15.0  # seconds until a phase tells for whom it waits; then after twice as long each time
_LONGEST_WAIT = 2.0  # seconds between two looks at who is there
_AROUND = HEADER_BYTES + CHUNK_HEADER_BYTES + SIGNATURE_BYTES  # bytes in a message, around a chunk's values


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SumResult:
    """What a sum gave."""

    name: str
    arrays: dict[str, NDArray[np.float64]] = field(repr=False)  # by tensor name, in the session's shapes
    survivors: tuple[int, ...]  # the clients over whom it is, by their numbers on the roster
    seconds: float  # with the set-up, if that was in it
    bytes_received: int  # of masked input, in those clients' messages


class SumOptions(TypedDict, total=False):
    """What a `SecureSum` may be told beyond host, session and key, for adapters that pass it on."""

    phase_seconds: float
    upload_seconds: float
    at_once: int
    shard_bytes: int
    staging: Path | None
    tell: Callable[[str], None]


class SecureSum:
    """Runs a session's sums, in order. If it aborts, or its process ends, the session is over: make another.

    `phase_seconds` is how long clients have for each answer, and at first to come; `upload_seconds`, to compute and
    upload one sum's input, `at_once` of them at a time. `staging` is a folder for what they have uploaded so far; by
    default it is the system's temporary one. `tell` hears what happens, in words.

    Raises:
        BadSession: it is no session of plain masked sums.
        LocalProtocolError: `identity` is not the session's server key.
    """

    def __init__(
        self,
        host: Host,
        session: Session,
        identity: Identity,
        *,
        phase_seconds: float = 600.0,
        upload_seconds: float = 6 * 3600.0,
        at_once: int = 2,
        shard_bytes: int = SHARD_BYTES,
        staging: Path | None = None,
        tell: Callable[[str], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if session.is_encrypted:
            raise BadSession(f"found a session encrypted with {session.encryption}; embedded sums are masked alone")
        self.session = session
        self._server = Server(session, identity)
        self._nodes = Nodes(host, session, clock=clock, tell=tell)
        self._phase_seconds, self._upload_seconds = phase_seconds, upload_seconds
        self._place_seconds = max(_PLACE_SECONDS, phase_seconds / 10)
        self._at_once, self._tell, self._clock = at_once, tell, clock
        self._chunks_at_once = min(max(1, shard_bytes // (_AROUND + session.max_chunk_bytes)), MOST_PARTS)
        self._staging = Staging(staging)
        self._mail: dict[int, list[bytes]] = {}  # client → all messages to it, in order
        self._has_values: set[int] = set()  # clients that are ready to upload to the running sum
        self._wanted: dict[int, int] = {}  # client → chunks there should be after its turn to upload
        self._slow: dict[int, int] = {}  # client → turns that brought less
        self._silent: set[int] = set()  # clients that have let a phase of this run go by

    def __repr__(self) -> str:
        return f"SecureSum({self.session.num_clients} clients, {self._server.state})"

    @property
    def participants(self) -> tuple[int, ...]:
        """The clients that are set up; none before the first sum."""
        return self._server.participants

    def run(self, sum_name: str | None = None, *, link: bytes = NO_LINK) -> SumResult:
        """The session's next sum, which must have that name if one is given; its masks are bound to `link`.

        Raises:
            SumAborted: too few clients stayed; nothing of it was opened.
            LocalProtocolError: another sum is next, or none.
            BadFile: the disk would not take what was uploaded, or has lost it.
        """
        if self._server.state in (ServerState.FINISHED, ServerState.ABORTED):
            raise LocalProtocolError(f"the session is over, {self._server.state}; make another, with a new id")
        spec, started = self.session.sums[self._server.sum_index + 1], self._clock()
        if sum_name not in (None, spec.name):
            raise LocalProtocolError(f"found sum {sum_name!r} asked for; expected {spec.name!r}, which is next")
        self._has_values.clear()
        self._wanted.clear()
        self._slow.clear()
        self._silent.clear()
        self._nodes.forgive()
        try:
            with self._staging.opened():
                while self._server.state in (ServerState.ADVERTISE_KEYS, ServerState.SHARE_KEYS):
                    self._finish_phase()
                self._act(self._server.start_sum(link=link))
                while self._server.state not in (ServerState.READY, ServerState.FINISHED):
                    self._finish_phase()
        except SumAborted:
            self._tell_the_end()
            raise
        self._tell_the_end()
        survivors = self._server.survivors
        self._tell(f"{spec.name} is summed over clients {_list(survivors)}")
        size = sum(_AROUND + self.session.chunk_bytes(spec, chunk) for chunk in spec.chunks())
        return SumResult(
            name=spec.name,
            arrays={tensor.name: self._server.decode(tensor.name) for tensor in spec.tensors},
            survivors=survivors,
            seconds=self._clock() - started,
            bytes_received=size * len(survivors),
        )

    def _finish_phase(self) -> None:
        """Ask until the server has moved on, or the phase's time is up."""
        state = self._server.state
        ends = self._clock() + (self._upload_seconds if self._wants_input else self._phase_seconds)
        word = self._clock() + (pause := _WORD_AFTER)
        while self._server.state is state:
            left, missing = ends - self._clock(), self._server.missing
            hopeless = state is not ServerState.ADVERTISE_KEYS and all(map(self._nodes.has_given_up, missing))
            if left <= 0 or hopeless:
                self._silent.update(missing)
                self._tell(f"{state}: going on without clients {_list(missing)}")
                self._act(self._server.close_phase())
                return
            if self._clock() >= word:
                self._tell(f"{state}: waiting for clients {_list(missing)}, for another {left:.0f} s at most")
                word = self._clock() + (pause := 2 * pause)
            self._ask(missing)
            self._hear(left)

    def _tell_the_end(self) -> None:
        """Bring the last message to those who have answered so far; a client that misses it gets it with the next."""
        ends = self._clock() + _LAST_WORD_SECONDS
        while (left := ends - self._clock()) > 0:
            unread = [client for client, mail in self._mail.items() if self._nodes.taken(client) < len(mail)]
            self._ask(unread)
            if not any(client not in self._silent and not self._nodes.has_given_up(client) for client in unread):
                return
            self._hear(left)

    def _ask(self, clients: Iterable[int]) -> None:
        """Send each of them what it owes an answer to, if its node is free."""
        self._nodes.meet(clients := sorted(clients, key=self._rank))
        places = self._at_once - sum(seconds <= self._place_seconds for _, seconds in self._nodes.uploading())
        for client in clients:
            for node in self._nodes.free(client):
                request, is_proven = self._owed(client, node), self._nodes.is_proven(node)
                if isinstance(request, Shard) and request.count and is_proven:
                    if places <= 0:
                        continue
                    places -= 1
                    self._note_turn(client, request)
                self._nodes.ask(node, request)

    def _note_turn(self, client: int, request: Shard) -> None:
        """A client is asked for chunks; if its last turn did not bring all that were wanted, it is slow."""
        if request.first < self._wanted.get(client, 0):
            self._slow[client] = self._slow.get(client, 0) + 1
        self._wanted[client] = min(request.first + request.count, self.session.sums[request.sum_index].num_chunks)

    def _rank(self, client: int) -> tuple[int, int]:
        """What was begun is finished first, but nobody who is slow comes before the rest."""
        return self._slow.get(client, 0), -self._staging.chunks(client)

    def _owed(self, client: int, node: Node) -> Messages | Shard:
        transcript, mail, taken = self.session.transcript, self._mail.get(client, []), self._nodes.taken_by(node)
        if taken < len(mail) or not self._wants_input:
            return Messages(transcript=transcript, first=taken, payloads=tuple(mail[taken:]))
        count = 1  # of a node that has proven nothing, as the chunk's signature will tell
        if self._nodes.is_proven(node):
            count = self._chunks_at_once if client in self._has_values else 0  # all compute at once, upload in turn
        first = self._staging.chunks(client)
        return Shard(transcript=transcript, sum_index=self._server.sum_index, first=first, count=count)

    def _hear(self, seconds: float) -> None:
        for asked in self._nodes.hear(min(seconds, _LONGEST_WAIT)):
            self._take(asked)

    def _take(self, asked: Asked) -> None:
        if self._nodes.is_proven(asked.node):
            self._silent.discard(asked.client)
        if isinstance(asked.reply, Refused):
            self._nodes.tell_of(asked.node, f"client {asked.client} refuses: {asked.reply.reason}")
            self._nodes.refused(asked)
        elif self._is_in_order(asked, asked.reply.payloads):
            self._nodes.take(asked)
        else:
            self._nodes.put_off(asked)

    def _is_in_order(self, asked: Asked, payloads: Sequence[bytes]) -> bool:
        """Use what a node answered; whether it may be asked for the next thing at once."""
        client, request, state = asked.client, asked.request, self._server.state
        if isinstance(request, Shard):
            if not self._wants_input or request.sum_index != self._server.sum_index:
                return True  # that was for a phase which is over
            if request.count == 0:
                self._has_values.add(client)
                return True
            return client not in self._server.missing or self._stage(asked, request, payloads)
        if self._wants_input:
            return True  # nothing is owed for the messages; a chunk that came so would be in the sum before its turn
        is_new = [self._receive(asked, payload) for payload in payloads[:_MOST_ANSWERS]]
        is_owed = self._server.state is state and client in self._server.missing
        return not is_owed and (any(is_new) or self._nodes.is_proven(asked.node))

    def _receive(self, asked: Asked, payload: bytes) -> bool:
        """Whether it was what the client owed."""
        was_missing = asked.client in self._server.missing
        state = self._server.state
        try:
            events = self._server.receive(asked.client, payload)
        except RemoteProtocolError as error:
            if error.check not in _LATE:
                self._nodes.tell_of(asked.node, str(error))
            return False
        is_new = was_missing and (self._server.state is not state or asked.client not in self._server.missing)
        if is_new:  # what was received before may have been repeated by anybody
            self._nodes.trust(asked)
        self._act(events)
        return is_new

    def _stage(self, asked: Asked, request: Shard, chunks: Sequence[bytes]) -> bool:
        """Keep a client's next chunks, and add all of them once they are complete; whether there were any."""
        client = asked.client
        num_chunks = self.session.sums[self._server.sum_index].num_chunks
        before = self._staging.chunks(client)
        wanted = min(request.count, num_chunks - request.first)
        for number, chunk in enumerate(chunks[before - request.first : wanted], before):
            try:
                self._server.check_chunk(client, chunk, index=number)
            except RemoteProtocolError as error:
                self._nodes.tell_of(asked.node, str(error))
                break
            self._nodes.trust(asked)
            self._has_values.add(client)
            self._staging.append(client, chunk)
        if self._staging.chunks(client) == before:
            return False
        if self._staging.chunks(client) == num_chunks:
            self._add(client)
        return True

    def _add(self, client: int) -> None:
        """Add all that was collected of a client to the sum."""
        try:
            for chunk in self._staging.take(client):
                self._act(self._server.receive(client, chunk))
        except (OSError, RemoteProtocolError) as error:  # each chunk has passed its checks when it came
            found = f"a damaged upload ({error})"
            raise BadFile(self._staging.path(client), found=found, expected="what was written") from error

    def _act(self, events: Iterable[ServerEvent]) -> None:
        for event in events:
            if isinstance(event, SendToClient):
                self._mail.setdefault(event.client_id, []).append(event.payload)
            elif isinstance(event, Aborted):
                raise SumAborted(str(event))

    @property
    def _wants_input(self) -> bool:
        return self._server.state is ServerState.MASKED_INPUT


def _list(clients: Sequence[int]) -> str:
    return ", ".join(map(str, clients)) or "none"
