"""The aggregator's memory: a snapshot of the protocol's server now and then, and every step since.

The server is deterministic, so the steps, played again, give the same messages byte for byte. Masked input is not among
them: an upload lies in a file of its own until the next snapshot has it in its sum, and is then forgotten.

    snapshot-N   mailboxes and server as they were (absent for N = 0)
    steps-N      what has happened since
    upload-C     what client C has uploaded to the running sum
"""

import enum
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from collabsecure.errors import BadFile
from collabsecure_cli.folder import Records, StateFolder
from collabsecure_protocols import Identity, Server, Session
from collabsecure_protocols.wire import Malformed, Reader, Writer


class Kind(enum.IntEnum):
    """What happened."""

    MESSAGE = 1  # a client's message was accepted
    UPLOADED = 2  # a client's masked input is complete
    CLOSED = 3  # a phase's time was up
    STARTED = 4  # the next sum began, bound to a link
    FAILED = 5  # the session was ended on this side
    SERVED = 6  # a party knows how it ended, and has what it gave


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One thing that happened to the server."""

    kind: Kind
    client: int = 0
    body: bytes = field(default=b"", repr=False)  # the message, the link, or why it failed

    def encode(self) -> bytes:
        """Bytes for a record."""
        return Writer().u8(self.kind).u16(self.client).blob(self.body).finish()

    @classmethod
    def decode(cls, record: bytes) -> "Step":
        """Read what `encode` wrote; raises `Malformed`."""
        data = Reader(record)
        number, client, body = data.u8(), data.u16(), data.blob()
        data.finish()
        if number not in set(Kind):
            raise Malformed(f"step {number} is unknown")
        return cls(kind=Kind(number), client=client, body=body)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Memory:
    """What a snapshot holds."""

    server: Server
    mailboxes: Mapping[int, list[bytes]] = field(repr=False)  # client → all messages to it, in order
    failure: str | None  # why there is no result


class Journal:
    """Snapshot and steps in a state folder.

    Raises:
        BadFile: they do not belong together, or the disk would not read or write.
    """

    def __init__(self, folder: StateFolder, session: Session, identity: Identity) -> None:
        self._folder, self._session, self._identity = folder, session, identity
        self._number = max(self._numbers("snapshot"), default=0)
        if max(self._numbers("steps"), default=0) > self._number:
            raise BadFile(
                folder.path,
                found="steps without the snapshot that they follow",
                expected="both",
                remedy="Restore the folder from a backup, or begin a new session",
            )
        self._steps = Records(self._path("steps"))
        self._forget_older()

    @property
    def is_new(self) -> bool:
        """Whether nothing had been written when this was opened."""
        return self._number == 0 and not self._steps.found

    def load(self) -> Memory:
        """What the snapshot holds.

        Raises:
            StateRefused: it is damaged or of another session or identity.
            BadFile: it cannot be read.
        """
        if self._number == 0:
            return Memory(server=Server(self._session, self._identity), mailboxes={}, failure=None)
        path = self._path("snapshot")
        view = memoryview(self._folder.read(path.name) or b"")
        length = int.from_bytes(view[:8], "big")
        try:
            mailboxes, failure = _read_head(view[8 : 8 + length])
        except Malformed as error:
            raise BadFile(path, found=f"a damaged snapshot ({error})", expected="what was written") from error
        server = Server.restore(view[8 + length :], self._session, self._identity)
        return Memory(server=server, mailboxes=mailboxes, failure=failure)

    def steps(self) -> Iterator[Step]:
        """What has happened since the snapshot; once only."""
        records, self._steps.found = self._steps.found, []
        for record in records:
            try:
                yield Step.decode(record)
            except Malformed as error:
                raise BadFile(self._steps.path, found=str(error), expected="steps of an aggregator") from error

    def append(self, step: Step) -> None:
        """Write down a step; it is on the disk when this returns."""
        self._steps.append(step.encode())

    def snapshot(self, memory: Memory) -> None:
        """Begin anew from here: what came before is deleted once this is on the disk."""
        head = _write_head(memory)
        self._number += 1

        def parts() -> Iterator[bytes | memoryview]:
            yield len(head).to_bytes(8, "big")
            yield head
            yield from memory.server.save_parts()

        self._folder.write(self._path("snapshot").name, parts())
        self._steps.close()
        self._steps = Records(self._path("steps"))
        self._forget_older()

    def close(self) -> None:
        """Let go of the files."""
        self._steps.close()

    def _numbers(self, what: str) -> list[int]:
        names = (path.name.removeprefix(f"{what}-") for path in self._folder.path.glob(f"{what}-*"))
        return [int(name) for name in names if name.isdecimal()]

    def _forget_older(self) -> None:
        """What a snapshot has made needless; a process that was killed in between left it."""
        for what in ("snapshot", "steps"):
            for number in self._numbers(what):
                if number < self._number:
                    self._folder.remove(f"{what}-{number}")

    def _path(self, what: str) -> Path:
        return self._folder.path / f"{what}-{self._number}"


def _write_head(memory: Memory) -> bytes:
    out = Writer().u8(memory.failure is not None).text(memory.failure or "").u16(len(memory.mailboxes))
    for client, messages in sorted(memory.mailboxes.items()):
        out.u16(client).u32(len(messages))
        for message in messages:
            out.blob(message)
    return out.finish()


def _read_head(data: memoryview) -> tuple[dict[int, list[bytes]], str | None]:
    reader = Reader(data)
    failed, reason = reader.flag(), reader.text()
    mailboxes = {reader.u16(): [reader.blob() for _ in range(reader.u32())] for _ in range(reader.u16())}
    reader.finish()
    return mailboxes, reason if failed else None
