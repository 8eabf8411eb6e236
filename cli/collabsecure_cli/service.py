"""An aggregator at work: its phases' times, its merging, and whom to wake when something has happened.

The engine runs in one thread of its own, so that a merge of minutes keeps nobody from an answer; everybody else reads
the picture that was taken when its last step was done.
"""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import ParamSpec, TypeVar

from collabsecure.errors import CollabsecureError
from collabsecure_cli.aggregator import Aggregator, TooLate
from collabsecure_cli.durations import in_words
from collabsecure_cli.results import LoadSecondMoment
from collabsecure_cli.uploads import WrongOffset
from collabsecure_protocols import RemoteProtocolError, ServerState

P = ParamSpec("P")
R = TypeVar("R")


class EngineFailed(CollabsecureError):
    """A bug ended the engine's work; what it had written down is whole."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Durations:
    """How long each phase waits for who has not answered, in seconds; a restart gives it its whole time again."""

    join: float = 24 * 3600.0  # for everybody's keys
    upload: float = 6 * 3600.0  # for masked input, which takes a client some computing
    answer: float = 3600.0  # for anything else
    opening: float = 6 * 3600.0  # for the key holder of an encrypted session to open and merge a sum
    linger: float = 3600.0  # at the end, for those who have not fetched the outcome

    def of(self, state: ServerState) -> float | None:
        """The time of a phase; None where nobody is waited for."""
        return {
            ServerState.ADVERTISE_KEYS: self.join,
            ServerState.SHARE_KEYS: self.answer,
            ServerState.MASKED_INPUT: self.upload,
            ServerState.CONSISTENCY_CHECK: self.answer,
            ServerState.UNMASK: self.answer,
        }.get(state)


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """Where the engine stood after its last step."""

    state: ServerState
    sum_index: int
    missing: tuple[int, ...]
    out: frozenset[int]  # clients without whom the session goes on
    is_merging: bool
    is_over: bool
    failure: str | None


class Service:
    """Drives one engine. Every method but `picture` and `message` is for the event loop's thread alone."""

    def __init__(
        self,
        aggregator: Aggregator,
        second_moment: LoadSecondMoment,
        durations: Durations,
        *,
        tell: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.aggregator = aggregator
        self.session = aggregator.session
        self._second_moment, self._durations, self._tell, self.clock = second_moment, durations, tell, clock
        self._engine = ThreadPoolExecutor(1, "engine")
        self._changed = asyncio.Event()
        self.broken: CollabsecureError | None = None  # why the engine had to stop
        self.is_stopping = False
        self.started = clock()
        self.bytes_of: dict[int, int] = dict.fromkeys(map(int, self.session.client_ids), 0)  # received since the start
        self.seen: dict[int, float] = {}  # client → when it last asked for something
        self.picture = self._take_picture()
        self._phase_ends = self._end_of_phase()

    # For whoever answers requests

    def message(self, client: int, number: int) -> bytes | None:
        """One of the messages to a client, if there is one yet."""
        box = self.aggregator.mailboxes[client]
        return box[number] if number < len(box) else None

    async def note_end(self, client: int, number: int) -> None:
        """A client has asked for the message after the last: if all is over, it has everything."""
        if self.picture.is_over and number >= len(self.aggregator.mailboxes[client]):
            await self.note_told(client)

    async def note_told(self, party: int) -> None:
        """A party was told how it ended: for it alone, or for all. It has no reason to come back."""
        await self.call(self.aggregator.note_served, party)
        self._wake()

    @property
    def concerned(self) -> frozenset[int]:
        """Who is waited for at the end: whoever was ever in it; the key holder if it was here, or results are its."""
        clients = {client for client, box in self.aggregator.mailboxes.items() if box}
        holder = self.session.num_clients + 1
        was_here = holder in self.seen or self.aggregator.results.signatures
        return frozenset(clients | {holder}) if was_here else frozenset(clients)

    @property
    def is_served(self) -> bool:
        """Whether all is over and everybody who was ever in it knows."""
        return self.picture.is_over and self.concerned <= self.done

    @property
    def done(self) -> frozenset[int]:
        """The parties that know how it ended."""
        return frozenset(self.aggregator.served)

    @property
    def phase_seconds(self) -> float | None:
        """That the phase has in all; None where nobody is waited for."""
        if self.picture.is_over:
            return None
        return self._durations.opening if self.is_opening else self._durations.of(self.picture.state)

    @property
    def is_opening(self) -> bool:
        """Whether the key holder of an encrypted session is waited for."""
        return self.picture.is_merging and self.session.is_encrypted

    @property
    def seconds_left(self) -> float | None:
        """Of the phase; None where nobody is waited for."""
        return None if self._phase_ends is None else max(0.0, self._phase_ends - self.clock())

    async def call(self, step: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run a step of the engine in its thread, then let everybody know.

        Raises:
            CollabsecureError: the disk failed; the engine takes no more steps.
            whatever the step refuses with.
        """
        if self.broken is not None:
            raise self.broken

        def run() -> tuple[R, Picture]:
            result = step(*args, **kwargs)
            return result, self._take_picture()

        try:
            result, picture = await asyncio.get_running_loop().run_in_executor(self._engine, run)
        except (RemoteProtocolError, TooLate, WrongOffset):  # refused; nothing has changed
            raise
        except CollabsecureError as error:
            self._break(error)
            raise
        except Exception as error:
            # A step that was half done must not be gone on from: the next start plays what is on the disk.
            self._break(
                EngineFailed(f"the aggregator met a bug ({type(error).__name__}) and stopped; the disk is whole")
            )
            raise
        if picture != self.picture:
            self._enter(picture)
        return result

    def _break(self, error: CollabsecureError) -> None:
        self.broken = error
        self._wake()

    async def change(self, seconds: float) -> None:
        """Wait until something has happened, at most so long."""
        try:
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        except TimeoutError:
            pass

    # What this side does by itself

    async def run(self) -> None:
        """Take the session to its end, and wait until everybody knows, or has had the time to.

        Raises:
            CollabsecureError: the disk failed, or C is not the session's.
        """
        engine = self.aggregator
        while not self.picture.is_over:
            if self.broken is not None:
                raise self.broken
            if self.picture.is_merging and not self.is_opening:
                self._tell(f"Merging {self.session.sums[self.picture.sum_index].name}…")
                await self.call(engine.merge, self._second_moment)
            elif self.picture.state is ServerState.READY and not self.picture.is_merging:
                await self.call(engine.start_sum)
            elif self.seconds_left == 0 and self.is_opening:
                await self.note_told(self.session.num_clients + 1)  # the key holder has had its time
                await self.call(engine.close_opening, self.picture.sum_index, in_words(self._durations.opening))
            elif self.seconds_left == 0:
                self._tell(f"The time of {self.picture.state} is up; waited for clients {_list(self.picture.missing)}")
                await self.call(engine.close_phase, self.picture.state, self.picture.sum_index)
            else:
                await self.change(self.seconds_left if self.seconds_left is not None else 60.0)

    async def linger(self) -> None:
        """Wait until everybody who takes part has the outcome, or has had the time to fetch it."""
        ends = self.clock() + self._durations.linger
        while not self.is_served and self.clock() < ends:
            await self.change(ends - self.clock())

    def stop(self) -> None:
        """Let nobody wait any longer."""
        self.is_stopping = True
        self._wake()

    def close(self) -> None:
        """Let the step in work finish, and take no more."""
        self._engine.shutdown(wait=True)

    def _enter(self, picture: Picture) -> None:
        before, self.picture = self.picture, picture
        if self._phase(picture) != self._phase(before):
            self._phase_ends = self._end_of_phase()
            name = f" of {self.session.sums[picture.sum_index].name}" if picture.sum_index >= 0 else ""
            self._tell("Waiting for the key holder to open the sum…" if self.is_opening else f"{picture.state}{name}")
        self._wake()

    def _phase(self, picture: Picture) -> tuple[ServerState, int, bool]:
        return picture.state, picture.sum_index, picture.is_merging and self.session.is_encrypted

    def _end_of_phase(self) -> float | None:
        return None if self.phase_seconds is None else self.clock() + self.phase_seconds

    def _take_picture(self) -> Picture:
        engine = self.aggregator
        return Picture(
            state=engine.state,
            sum_index=engine.sum_index,
            missing=engine.missing,
            out=engine.out,
            is_merging=engine.wants_merge,
            is_over=engine.is_over,
            failure=engine.failure,
        )

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()


def _list(clients: tuple[int, ...]) -> str:
    return ", ".join(map(str, clients)) or "none"
