"""The aggregator's engine: the protocol's server with a disk under it. No sockets, no clock, no threads of its own.

Every step is on the disk before anybody can see its effect, so a process that was killed goes on where it was: what
clients were told stays true, and what they were not told never happened. Masked input is checked chunk by chunk when
it comes, kept until a client's last chunk is there, then added to the sum and forgotten: a client that leaves in the
middle costs the session its own input and no more, and memory does not grow with the number of clients.
"""

from collections.abc import Iterable
from contextlib import suppress

import numpy as np
from jaxtyping import Float64

from collabsecure.errors import BadFile, NotPositiveDefinite
from collabsecure_cli.folder import StateFolder
from collabsecure_cli.journal import Journal, Kind, Memory, Step
from collabsecure_cli.results import LoadSecondMoment, MergedSum, Results
from collabsecure_cli.updates import ReceivedUpdates, SignedDigests
from collabsecure_cli.uploads import StagedUpload, WrongOffset, boundaries
from collabsecure_protocols import (
    Aborted,
    Identity,
    RemoteProtocolError,
    SendToClient,
    ServerState,
    Session,
)
from collabsecure_protocols.envelope import MessageType, open_envelope
from collabsecure_protocols.errors import ClientId
from collabsecure_protocols.events import ServerEvent

_FOLDED_BYTES = 1 << 30  # of uploads that are in the sum and still on the disk, before a snapshot lets them go


class TooLate(Exception):
    """What a client asks for is over, or never was for it; the text says what it can still do."""


class Aggregator:
    """One session's server. Call it from one thread at a time; `merge` takes seconds to minutes, all else is short.

    Raises:
        BadFile: the state is another session's, or damaged.
    """

    def __init__(self, session: Session, identity: Identity, folder: StateFolder, results: Results) -> None:
        self.session = session
        self.results = results
        self._folder = folder
        self._journal = Journal(folder, session, identity)
        self.resumed = not self._journal.is_new
        self.mailboxes: dict[int, list[bytes]] = {int(client): [] for client in session.client_ids}
        self._bounds: tuple[int, ...] = ()  # of the running sum's chunks
        self._staged: dict[int, StagedUpload] = {}  # of the running sum, not in the snapshot yet
        self._folded_bytes = 0
        self.served: frozenset[int] = frozenset()  # parties that know how it ended
        self.updates = ReceivedUpdates(results, folder)  # the key holder's, where there is one
        try:
            self._go_on()
        except BaseException:
            self.close()
            raise

    # What there is to see

    @property
    def state(self) -> ServerState:
        """Which phase this is."""
        return self._server.state

    @property
    def missing(self) -> tuple[int, ...]:
        """The clients that the phase waits for."""
        return self._server.missing

    @property
    def participants(self) -> tuple[int, ...]:
        """The clients that shared their keys."""
        return self._server.participants

    @property
    def sum_index(self) -> int:
        """The sum that started last, −1 before the first."""
        return self._server.sum_index

    @property
    def survivors(self) -> tuple[int, ...]:
        """The clients whose input is in that sum; empty until it is announced."""
        return self._server.survivors

    @property
    def wants_merge(self) -> bool:
        """Whether a sum is finished and has not been merged."""
        finished = self.state in (ServerState.READY, ServerState.FINISHED) and self.sum_index >= 0
        return finished and self.failure is None and not self.results.has(self.sum_index)

    @property
    def wants_start(self) -> bool:
        """Whether the next sum can start."""
        return self.state is ServerState.READY and self.failure is None and not self.wants_merge

    @property
    def is_over(self) -> bool:
        """Whether nothing more will happen: all results are there, or there will be none."""
        return self.failure is not None or (self.state is ServerState.FINISHED and not self.wants_merge)

    @property
    def out(self) -> frozenset[int]:
        """The clients without whom the session goes on, or went on."""
        if self.state is ServerState.ADVERTISE_KEYS:
            return frozenset()
        early = self.state is ServerState.SHARE_KEYS
        there = self._server.advertisers if early else self._server.participants
        return frozenset(map(int, self.session.client_ids)) - frozenset(there)

    def uploaded_bytes(self, client: int) -> int:
        """How much of the running sum's masked input of a client is here."""
        if self._has_uploaded(client):
            return self._bounds[-1]
        return self._staged[client].size if client in self._staged else 0

    # What clients do

    def receive(self, client: int, payload: bytes) -> None:
        """Take a message that is no masked input.

        Raises:
            RemoteProtocolError: a check failed; nothing has changed.
            BadFile: the disk would not take it; end the process, and it will go on from what the disk has.
        """
        if open_envelope(self.session, payload, ClientId(client)).type is MessageType.MASKED_INPUT:
            raise RemoteProtocolError("masked input among the messages", check="V04", culprits=(ClientId(client),))
        before = self.state, self.missing
        events = self._server.receive(client, payload)
        if (self.state, self.missing) == before:
            return  # a repetition
        self._journal.append(Step(kind=Kind.MESSAGE, client=client, body=payload))
        self._publish(events)

    def offset(self, client: int, sum_index: int) -> int:
        """The byte at which a client's masked input goes on.

        Raises:
            TooLate: the sum is not the running one, or goes on without this client.
        """
        self._check_running(client, sum_index)
        return self.uploaded_bytes(client)

    def upload(self, client: int, sum_index: int, offset: int, chunk: bytes) -> int:
        """Take the chunk that stands at `offset` of a client's masked input; returns where the next one goes.

        Raises:
            WrongOffset: another chunk is next.
            TooLate: the sum is not the running one, or goes on without this client.
            RemoteProtocolError: a check failed; nothing has changed.
            BadFile: as `receive`.
        """
        self._check_running(client, sum_index)
        if offset != self.uploaded_bytes(client) or self._has_uploaded(client):
            raise WrongOffset(self.uploaded_bytes(client))
        staged = self._staged.get(client) or self._open_upload(client)
        self._server.check_chunk(client, chunk, index=staged.chunks)
        staged.append(chunk)
        self._staged[client] = staged
        if staged.is_complete:
            self._do(Step(kind=Kind.UPLOADED, client=client))
        return offset + len(chunk)

    # What this side does

    def close_phase(self, state: ServerState, sum_index: int) -> None:
        """The time of this phase is up; if another has begun meanwhile, that one goes on."""
        if (self.state, self.sum_index) == (state, sum_index):
            self._do(Step(kind=Kind.CLOSED))

    def start_sum(self) -> None:
        """Start the next sum, bound to the results so far."""
        self._do(Step(kind=Kind.STARTED, body=self.results.link))

    def merge(self, second_moment: LoadSecondMoment) -> None:
        """Make and keep the updates of the sum that is finished.

        Raises:
            BadFile: the disk would not take them, or C cannot be read.
        """
        try:
            deltas = MergedSum(self.results, self.sum_index, self._server.decode, second_moment)
            self.results.keep(self.sum_index, deltas, self._server.survivors)
        except NotPositiveDefinite as error:
            self.fail(f"{self.session.sums[self.sum_index].name} cannot be merged: {error}")

    def decode(self, tensor: str) -> Float64[np.ndarray, "rows columns"]:
        """One tensor of the sum that is finished, as long as the next has not begun."""
        return self._server.decode(tensor)

    # What the key holder of an encrypted session does

    def encrypted_sum(self, sum_index: int) -> bytes:
        """The EncryptedSum of the sum that is finished.

        Raises:
            TooLate: the sum is not the one that waits for the key holder.
        """
        self._check_opening(sum_index)
        return self._server.encrypted_sum()

    def encrypted_chunk(self, sum_index: int, index: int) -> bytes:
        """One chunk of its ciphertexts; raises as `encrypted_sum`."""
        self._check_opening(sum_index)
        return bytes(self._server.encrypted_chunk(index))

    def take_results(self, sum_index: int, signed: SignedDigests) -> None:
        """Take over the updates of a sum that the key holder has made, uploaded and signed.

        Raises:
            TooLate: the sum is not the one that waits for the key holder.
            RemoteProtocolError: an update is not all here, not the one of that digest, or not signed by the key holder.
            BadFile: as `receive`.
        """
        self._check_opening(sum_index)
        self.updates.take(sum_index, signed, self._server.survivors)

    def close_opening(self, sum_index: int, time: str) -> None:
        """The key holder's time is up; if it has just handed a sum's updates back, the session goes on."""
        if self.wants_merge and self.sum_index == sum_index:
            self.fail(f"the key holder has not opened {self.session.sums[sum_index].name} within {time}")

    def fail(self, reason: str) -> None:
        """End the session without a result."""
        self._do(Step(kind=Kind.FAILED, body=reason.encode()))

    def note_served(self, party: int) -> None:
        """A party knows how it ended, and has what the session gave it: nobody waits for it, now or after a restart."""
        if party not in self.served:
            self._do(Step(kind=Kind.SERVED, client=party))

    def close(self) -> None:
        """Let go of the files; everything is in them."""
        self._journal.close()

    # How it is done, now or again after a crash

    def _go_on(self) -> None:
        """From what the folder has, to where a killed process was."""
        memory = self._journal.load()
        self._server = memory.server
        self.mailboxes.update(memory.mailboxes)
        self.failure = memory.failure  # why there is no result
        self._find_uploads()
        for step in self._journal.steps():
            self._apply(step)
        self._take_up_uploads()
        self._checkpoint_if_due()
        for path in set(self._folder.path.glob("upload-*")) - {staged.path for staged in self._staged.values()}:
            self._folder.remove(path.name)  # of a sum that is over, or in the snapshot

    def _do(self, step: Step) -> None:
        self._journal.append(step)
        self._apply(step)
        self._checkpoint_if_due()

    def _apply(self, step: Step) -> None:
        match step.kind:
            case Kind.MESSAGE:
                self._publish(self._server.receive(step.client, step.body))
            case Kind.UPLOADED:
                self._fold(step.client)
            case Kind.CLOSED:
                self._publish(self._server.close_phase())
            case Kind.STARTED:
                events = self._server.start_sum(link=step.body)
                self._find_uploads()
                self._publish(events)
            case Kind.SERVED:
                self.served |= {step.client}  # replaced, not changed: others read it meanwhile
            case Kind.FAILED:
                self.failure = step.body.decode()
                if self.state not in (ServerState.FINISHED, ServerState.ABORTED):
                    self._publish(self._server.cancel())

    def _publish(self, events: Iterable[ServerEvent]) -> None:
        for event in events:
            match event:
                case SendToClient(client_id=client, payload=payload):
                    self.mailboxes[client].append(payload)
                case Aborted():
                    self.failure = self.failure or str(event)
                case _:  # what has finished, the state says
                    pass

    def _fold(self, client: int) -> None:
        """Add a complete upload to the sum."""
        staged = self._staged.get(client) or self._open_upload(client)
        self._staged[client] = staged
        events: tuple[ServerEvent, ...] = ()
        if not staged.is_complete:
            raise BadFile(self._folder.path, found=f"part of client {client}'s upload", expected="all of it")
        try:
            for chunk in staged.read():
                events = self._server.receive(client, chunk)
        except RemoteProtocolError as error:  # each chunk has passed its checks when it came
            raise BadFile(staged.path, found=f"a damaged upload ({error})", expected="what was written") from error
        self._folded_bytes += staged.size
        self._publish(events)

    def _checkpoint_if_due(self) -> None:
        """Keep the sum as it is, and forget the uploads that are in it, or that it goes on without."""
        over = self.state is not ServerState.MASKED_INPUT
        if not (over and self._staged) and self._folded_bytes < _FOLDED_BYTES:
            return
        self._journal.snapshot(Memory(server=self._server, mailboxes=self.mailboxes, failure=self.failure))
        self._folded_bytes = 0
        for client, staged in list(self._staged.items()):
            if over or self._has_uploaded(client):
                staged.discard()
                del self._staged[client]

    def _find_uploads(self) -> None:
        """Look for what a killed process had of the running sum's uploads."""
        self._staged = {}
        if self.state is not ServerState.MASKED_INPUT:
            return
        self._bounds = boundaries(self.session, self.sum_index)
        for client in self._server.missing:
            staged = self._open_upload(client)
            if staged.chunks:
                self._staged[client] = staged

    def _take_up_uploads(self) -> None:
        """After a restart: which of the uploads that were not in the sum yet are as they were checked.

        A power cut may have kept a file's length and lost what was in it.
        """
        for client, staged in list(self._staged.items()):
            if client not in self._server.missing or self.state is not ServerState.MASKED_INPUT:
                continue
            sound = 0
            with suppress(RemoteProtocolError):
                for index, chunk in enumerate(staged.read()):
                    self._server.check_chunk(client, chunk, index=index)
                    sound = index + 1
            staged.go_back_to(sound)
            if staged.is_complete:  # killed just before it was written down
                self._do(Step(kind=Kind.UPLOADED, client=client))

    def _open_upload(self, client: int) -> StagedUpload:
        return StagedUpload(self._folder.path / f"upload-{self.sum_index}-{client}", self._bounds)

    def _has_uploaded(self, client: int) -> bool:
        return self.state is ServerState.MASKED_INPUT and client not in self._server.missing

    def _check_opening(self, sum_index: int) -> None:
        if self.failure is not None:
            raise TooLate(self.failure)
        if not self.wants_merge or sum_index != self.sum_index:
            raise TooLate(f"sum {sum_index} does not wait for the key holder")

    def _check_running(self, client: int, sum_index: int) -> None:
        if self.state is ServerState.MASKED_INPUT and sum_index == self.sum_index and client in self.participants:
            return
        if self.is_over or client not in self.participants:
            raise TooLate("this session takes no more input from this client")
        following = self.sum_index + (self.state is not ServerState.MASKED_INPUT)
        if following < len(self.session.sums):
            name = self.session.sums[following].name
            raise TooLate(f"sum {sum_index} takes no input now; the one to join is {name!r}")
        raise TooLate(f"sum {sum_index} takes no more input, and it was the last one")
