"""A client's part of a session, with a disk under it: message by message, sum by sum, to the update or the end.

What the protocol's client knows is on the disk before anything that follows from it leaves, and so are the statistics
that are masked: a process that was killed goes on with identical bytes. Nothing else of the edits leaves this folder.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from itertools import islice
from typing import Protocol

import numpy as np
from jaxtyping import Float64

from collabsecure.errors import BadFile
from collabsecure_cli.answers import NoResultForUs, OtherOffset, Refused, survivors_in
from collabsecure_cli.connection import Connection
from collabsecure_cli.downloads import download
from collabsecure_cli.folder import StateFolder
from collabsecure_cli.ledger import EditLedger, contributed
from collabsecure_cli.results import Results
from collabsecure_cli.saved import Saved
from collabsecure_cli.tensor_files import TensorFiles
from collabsecure_cli.uploads import boundaries
from collabsecure_protocols import (
    Aborted,
    Client,
    ClientState,
    Excluded,
    Identity,
    Ledger,
    NeedInput,
    PeerMisbehaved,
    Policy,
    PolicyRefusal,
    RemoteProtocolError,
    SendToServer,
    SumFinished,
)
from collabsecure_protocols.events import ClientEvent
from collabsecure_protocols.keys import Rng
from collabsecure_protocols.upload import Encrypt

_STATE = "client"
_TRIES = 5  # to get a message whose bytes arrive damaged
_MESSAGES, _MESSAGES_EACH = 3, 4  # from the server to a client: in a session, and in each of its sums
_BYTES_AT_ONCE = 8 << 20  # of chunks are remembered with one write to the disk
_OFFSETS_WITHOUT_PROGRESS = 20


class Contribution(Protocol):
    """Where a client's statistics come from, and where updates go."""

    @property
    def edits(self) -> Sequence[bytes]:
        """A digest of each edit."""

    def statistics(self, sum_index: int) -> Iterator[tuple[str, Float64[np.ndarray, "rows columns"]]]:
        """A sum's tensors by name, computed on the model as all updates so far have left it."""

    def apply(self, deltas: Mapping[int, Float64[np.ndarray, "d_out _"]]) -> None:
        """Take over updates, by layer; refuses what no policy would let through."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How a session's course is told."""

    say: Callable[[str], None]
    uploaded: Callable[[int, int], None]  # bytes so far, of how many


@dataclass(frozen=True, slots=True, kw_only=True)
class Masking:
    """By whom masked input is encrypted, where it is, and how many chunks are in work at a time."""

    encrypt: Encrypt | None = None
    at_once: int = 2


class Participant:
    """One client of one session.

    Raises:
        SummedBefore: some edits were summed before.
        PolicyRefusal: the session asks for less than the policy insists on.
        StateRefused, BadFile: the state is another's, or damaged.
    """

    def __init__(
        self,
        results: Results,
        identity: Identity,
        contribution: Contribution,
        connection: Connection,
        *,
        ledger: EditLedger,
        folder: StateFolder,
        policy: Policy,
        rng: Rng,
        progress: Progress,
        masking: Masking | None = None,
    ) -> None:
        self.results, self._session = results, results.session
        self._contribution, self._connection, self._ledger = contribution, connection, ledger
        self._folder, self._progress, self._masking = folder, progress, masking or Masking()
        self._tensors = TensorFiles(folder)
        self._received = 0  # messages taken from the aggregator
        self._sat_out = b""  # the last that this client's policy would not let it take
        self._survivors: dict[int, tuple[int, ...]] = {}  # sum → whose input is in it
        ledger.refuse_repeats(self._session.transcript, contribution.edits, results.agreement.layers)
        saved = folder.read(_STATE)
        self.resumed = saved is not None
        whole = contributed(contribution.edits, results.agreement)
        if saved is None:
            self._client = Client(
                self._session, identity, policy=policy, rng=rng, ledger=ledger.protocol, contribution=whole
            )
        else:
            found = Saved.decode(saved, folder.path / _STATE, self._session.num_clients)
            self._received, self._survivors = found.received, dict(found.survivors)
            self._client = Client.restore(found.client, self._session, identity, policy=policy, ledger=ledger.protocol)
            if self._client.contribution != whole:
                raise BadFile(
                    folder.path,
                    found="a session that was begun with other edits",
                    expected="the same edits in every run",
                    remedy="Give the file that it was begun with",
                )
        for index in range(len(self._session.sums)):
            if results.has(index):
                contribution.apply({layer: results.load(layer) for layer in results.layers_of(index)})

    @property
    def state(self) -> ClientState:
        """Where this client stands."""
        return self._client.state

    @property
    def is_in(self) -> dict[int, bool]:
        """By layer with a result: whether this client's edits are in it."""
        number = self._client.client_id
        return {layer: number in survivors for layer, survivors in self.results.survivors.items()}

    def run(self) -> None:
        """Take part until the last update is here.

        Raises:
            NoResultForUs: there will be none.
            NoAnswer: the aggregator is gone.
            Refused, RemoteProtocolError: the aggregator does what it must not.
            ValueRefused: this client's statistics are outside the session's ranges.
            BadFile: the disk failed.
        """
        try:
            self._take_part()
        except NoResultForUs as error:
            why = self._connection.end(self._received)
            if why and why not in str(error):  # what the protocol has no words for
                raise NoResultForUs(f"{why}; {error}") from error
            raise
        self._connection.end(self._received)  # so that the aggregator need not wait for us

    def _take_part(self) -> None:
        if self.state is ClientState.NEW:
            events: Sequence[ClientEvent] = self._client.start()
            self._progress.say("Advertising keys; waiting for the others…")
        else:
            events = self._client.pending
        self._save()  # of a killed process, the ledger may lack what the state has
        self._forget_statistics()
        if self.state is ClientState.ABORTED:
            raise NoResultForUs(f"the session was aborted. {self._what_is_open()}")
        self._find_place()
        self._act(events)
        if self.state is ClientState.CONTRIBUTING:
            self._contribute()
        while self.state is not ClientState.FINISHED:
            self._act(self._next())
        self._fetch(len(self._session.sums))

    def _next(self) -> Sequence[ClientEvent]:
        """Take the next message; what has become of it is on the disk when this returns."""
        for left in reversed(range(_TRIES)):
            try:
                payload = self._brought()
                events: Sequence[ClientEvent] = self._client.receive(payload)
                break
            except Refused as error:
                if error.is_over:
                    raise NoResultForUs(str(error)) from error
                raise
            except PolicyRefusal as error:
                self._progress.say(f"Sitting this out: {error}")
                events, self._sat_out = (), payload
                break
            except RemoteProtocolError:
                if not left:
                    raise
        self._received += 1
        for event in events:
            if isinstance(event, SumFinished):
                self._survivors[event.sum_index] = event.survivors
        self._save()
        return events

    def _brought(self) -> bytes:
        """What is brought as the next message; not the last one once more, after which a real one would be missed."""
        payload = self._connection.message(self._received)
        if self._client.has_received(payload) or payload == self._sat_out:
            raise RemoteProtocolError(f"the message before came again as number {self._received}", check="V04")
        return payload

    def _find_place(self) -> None:
        """After a restart: which message is next. None says its number; who carried one may have given it another's."""
        if self.state is ClientState.FINISHED or self._received == 0:
            return
        most = _MESSAGES + _MESSAGES_EACH * len(self._session.sums)
        for number in (self._received - 1, *range(most)):
            try:
                is_last = self._client.has_received(self._connection.message(number))
            except (Refused, RemoteProtocolError):  # as none that was accepted is
                continue
            if is_last:
                self._received = number + 1
                return

    def _act(self, events: Sequence[ClientEvent]) -> None:
        for event in events:
            match event:
                case SendToServer(payload=payload):
                    self._send(payload)
                case NeedInput():
                    self._contribute()
                case Excluded(sum_index=index, reason=reason):
                    self._forget_statistics()
                    self._progress.say(
                        f"This client's edits are not in {self._name(index)}: {reason}. {self._can_join(index + 1)}"
                    )
                case SumFinished(sum_index=index, survivors=survivors):
                    self._forget_statistics()
                    self._progress.say(f"{self._name(index)} is summed over {len(survivors)} clients")
                case PeerMisbehaved(culprits=culprits, reason=reason):
                    self._progress.say(f"Warning: clients {', '.join(map(str, culprits))}: {reason}")
                case Aborted():
                    self._forget_statistics()
                    raise NoResultForUs(f"the session was aborted: {event}. {self._what_is_open()}")

    def _send(self, payload: bytes) -> None:
        try:
            self._connection.post(payload)
        except Refused as error:
            if not error.is_late:
                raise
            self._progress.say(f"Too late for this phase ({error}); waiting for what comes next")

    def _contribute(self) -> None:
        """Compute, keep and upload this client's part of the running sum."""
        index = self._client.sum_index
        self._fetch(index)
        bounds = boundaries(self._session, index)
        try:
            offset = self._connection.offset(index)
            self._chunk_at(bounds, offset)
            if offset < bounds[-1]:
                if not self._tensors.has(index):
                    self._progress.say(f"Computing keys and residuals for {self._name(index)}…")
                    self._tensors.keep(index, self._contribution.statistics(index))
                self._upload(index, self._tensors.open(index), bounds, offset)
        except Refused as error:
            if not error.is_late:
                raise
            self._progress.say(f"Too late to upload more to {self._name(index)} ({error}); waiting for what comes next")

    def _upload(
        self,
        index: int,
        values: Mapping[str, Float64[np.ndarray, "rows columns"]],
        bounds: Sequence[int],
        offset: int,
    ) -> None:
        furthest, without_progress = offset, 0
        while offset < bounds[-1]:
            first = self._chunk_at(bounds, offset)
            chunks = self._client.masked_input(
                values,
                link=self.results.link,
                first=first,
                threads=self._masking.at_once,
                encrypt=self._masking.encrypt,
            )
            try:
                while batch := list(islice(chunks, max(1, _BYTES_AT_ONCE // self._session.max_chunk_bytes))):
                    self._save()
                    for chunk in batch:
                        self._connection.upload(index, offset, chunk)
                        offset += len(chunk)
                        if offset > furthest:
                            furthest, without_progress = offset, 0
                        self._progress.uploaded(offset, bounds[-1])
                self._connection.settle()
            except OtherOffset as other:
                self._chunk_at(bounds, other.offset)
                offset, without_progress = other.offset, without_progress + 1
                if without_progress > _OFFSETS_WITHOUT_PROGRESS:
                    raise

    def _chunk_at(self, bounds: Sequence[int], offset: int) -> int:
        """The chunk at an offset at which an aggregator wants an upload to go on: none that it cannot have reached."""
        number = bisect_left(bounds, offset)
        if number > self._client.chunks_sent or bounds[number] != offset:
            raise Refused(HTTPStatus.OK, f"an upload cannot go on at byte {offset}", "")
        return number

    def _fetch(self, before: int) -> None:
        """Get the updates of all sums before this one, check them, and take them over."""
        for index in range(before):
            if self.results.has(index):
                continue
            deltas, answer = download(self._connection, self.results, index)
            self._contribution.apply(deltas)
            survivors = self._survivors.get(index) or survivors_in(answer, self._session)
            self.results.keep(index, deltas, survivors)

    def _save(self) -> None:
        """The edits' ledger, then the state, then the protocol's ledger.

        After a crash in between, no other session takes edits that this one may have opened, and this one goes on: it
        is not held back by its own edits, but would be by its own entry in the protocol's ledger.
        """
        session, layers, edits = self._session.transcript, self._opened_layers(), self._contribution.edits
        self._ledger.remember(Ledger(), session, layers, edits)
        saved = Saved(received=self._received, survivors=self._survivors, client=self._client.save())
        self._folder.write(_STATE, [saved.encode(self._session.num_clients)])
        self._ledger.remember(self._client.ledger, session, layers, edits)

    def _opened_layers(self) -> tuple[int, ...]:
        names = {name for what, name in self._client.ledger.opened if what == self._client.contribution}
        return tuple(
            layer
            for index, spec in enumerate(self._session.sums)
            if spec.name in names
            for layer in self.results.layers_of(index)
        )

    def _what_is_open(self) -> str:
        index, opened, word = self._client.sum_index, self._opened_layers(), ""
        is_whole = index >= 0 and self._client.chunks_sent == self._session.sums[index].num_chunks
        if is_whole and index not in self._survivors and not {*self.results.layers_of(index)} <= {*opened}:
            word = f". That {self._name(index)}, to which all was uploaded, was not, is the aggregator's word"
        if opened:
            return f"Layers {', '.join(map(str, opened))} were opened with these edits and cannot be summed again{word}"
        return f"Nothing of these edits was opened; a new session may have them{word}"

    def _forget_statistics(self) -> None:
        """Of all sums but the one that they may still be uploaded to."""
        for index in range(len(self._session.sums)):
            if self.state is not ClientState.CONTRIBUTING or index != self._client.sum_index:
                self._tensors.forget(index)

    def _name(self, index: int) -> str:
        return self._session.sums[index].name

    def _can_join(self, index: int) -> str:
        if index < len(self._session.sums):
            return f"It can join again in {self._name(index)}"
        return "That was the last sum"
