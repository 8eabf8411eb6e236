"""Crash points: a process kills itself with SIGKILL before, during or after its N-th write to the disk or send.

Test code only; `zygote` installs it in a child that was told to crash, to write down what it does, or not to wait for
the dead.
"""

import functools
import os
import signal
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

BEFORE, DURING, AFTER = "before", "during", "after"


@dataclass(frozen=True, kw_only=True)
class Crash:
    """Die at a call. `call` is one of `POINTS`; `name` is what the call is about, any if it is empty.

    >>> str(Crash(call="write", name="client", number=3))
    'before write client 3'
    """

    call: str
    name: str = ""  # a file's name, a step's kind, a message's number
    number: int = 1  # the how-manieth such call
    when: str = BEFORE  # or during: half of it is on the disk; or after
    until: int | None = None  # up to which sum the aggregator need not wait for the dead; None: for good

    def __str__(self):
        return " ".join(filter(None, (self.when, self.call, self.name, str(self.number))))


@dataclass(frozen=True, kw_only=True)
class Hooks:
    """What a child does beside its work."""

    crash: Crash | None = None
    trace: str = ""  # file that gets a line for each call to a crash point
    dead: str = ""  # folder: who crashes leaves a file with its name there; whom the aggregator need not wait for
    me: str = ""
    without_masks: bool = False  # uploads go out as the plain integers, to see whether a test would notice

    def to_json(self):
        return asdict(self)


def install(hooks):
    """Wrap the calls of this process, which has `Hooks` as JSON."""
    crash = hooks["crash"] and Crash(**hooks["crash"])
    if hooks["without_masks"]:
        from collabsecure_protocols import upload

        upload.apply_masks = lambda *_: None
    if hooks["dead"] and hooks["me"] == "aggregator":
        _do_not_wait_for_the_dead(Path(hooks["dead"]))
    if crash is None and not hooks["trace"]:
        return
    seen = Counter()
    points = _points()

    def die():
        if hooks["dead"]:
            (Path(hooks["dead"]) / hooks["me"]).write_text("" if crash.until is None else str(crash.until))
        os.kill(os.getpid(), signal.SIGKILL)

    def wrap(call, owner, attribute, name_of, half):
        whole = getattr(owner, attribute)

        @functools.wraps(whole)
        def wrapped(*arguments, **options):
            name = name_of(*arguments)
            number = seen[call] = seen[call] + 1
            seen[call, name] += 1
            if hooks["trace"]:
                with Path(hooks["trace"]).open("a") as file:
                    file.write(f"{call} {name}\n")
            due = crash is not None and crash.call == call
            if due and crash.name:
                due, number = crash.name == name, seen[call, name]
            due = due and number == crash.number
            if due and crash.when == BEFORE:
                die()
            if due and crash.when == DURING:
                half(die, *arguments)
            try:
                return whole(*arguments, **options)
            finally:  # an answer may be an exception
                if due:
                    die()

        setattr(owner, attribute, wrapped)

    for call, owner, attribute, name_of, half in points:
        wrap(call, owner, attribute, name_of, half)


def _points():
    """call, class or module, its function, what a call is about, and how to do half of it."""
    from collabsecure.integrations.node import SumNode
    from collabsecure.integrations.stores import FolderStore
    from collabsecure_cli import aggregate, client, keyholder
    from collabsecure_cli.carried import CarriedConnection, Mailbox
    from collabsecure_cli.connection import Connection
    from collabsecure_cli.folder import Records, StateFolder
    from collabsecure_cli.journal import Kind
    from collabsecure_cli.uploads import StagedUpload

    def half_a_write(die, folder, name, parts):
        whole = b"".join(map(bytes, parts))
        (folder.path / f".{name}.12345678.part").write_bytes(whole[: len(whole) // 2])
        die()

    def half_a_record(die, records, record):
        records._file.write(len(record).to_bytes(4, "big") + bytes(8) + record[: len(record) // 2])
        records._file.flush()
        die()

    def half_a_chunk(die, staged, chunk):
        with staged.path.open("ab") as file:
            file.write(chunk[: len(chunk) // 2])
        die()

    def half_an_upload(die, connection):
        while len(connection._chunks) > 1:
            connection._chunks.pop()
        settle(connection)
        die()

    settle = CarriedConnection.settle

    def nothing(die, *_):
        raise AssertionError("there is no half of this")

    return [
        ("write", StateFolder, "write", lambda folder, name, _parts: name, half_a_write),
        ("append", Records, "append", lambda _records, record: Kind(record[0]).name.lower(), half_a_record),
        ("stage", StagedUpload, "append", lambda staged, _chunk: staged.path.name, half_a_chunk),
        ("post", Connection, "post", lambda *_: "", nothing),
        ("upload", Connection, "upload", lambda _connection, index, *_: str(index), nothing),
        ("settle", CarriedConnection, "settle", lambda *_: "", half_an_upload),
        ("exchange", Mailbox, "answer", lambda *_: "", nothing),
        ("exchange", SumNode, "answer", lambda *_: "", nothing),
        ("write", FolderStore, "write", lambda _store, name, _parts: name, half_a_write),
        ("message", Connection, "message", lambda _connection, number: str(number), nothing),
        ("result", Connection, "result", lambda _connection, index: str(index), nothing),
        ("end", Connection, "end", lambda *_: "", nothing),
        ("encrypted sum", Connection, "encrypted_sum", lambda _connection, index: str(index), nothing),
        ("encrypted chunk", Connection, "encrypted_chunk", lambda _connection, index, _chunk: str(index), nothing),
        ("update", Connection, "upload_delta", lambda _connection, layer, *_: str(layer), nothing),
        ("hand back", Connection, "post_results", lambda _connection, index, _results: str(index), nothing),
        ("end of opening", Connection, "end_opening", lambda *_: "", nothing),
        ("merged", aggregate, "write_merged", lambda *_: "", nothing),
        ("merged", client, "write_merged", lambda *_: "", nothing),
        ("merged", keyholder, "write_merged", lambda *_: "", nothing),
    ]


def _do_not_wait_for_the_dead(dead):
    """Let a phase's time be up as soon as nobody but the dead is missing, so that no test waits for a clock."""
    from collabsecure_cli.service import Service

    whole, concerned = Service.seconds_left.fget, Service.concerned.fget

    def numbers(service):
        found = {int(path.name): path.read_text() for path in dead.iterdir() if path.name.isdecimal()}
        return {number for number, until in found.items() if not until or service.picture.sum_index <= int(until)}

    def seconds_left(service):
        left, missing = whole(service), set(service.picture.missing)
        if left is None:
            return None
        return 0.0 if missing and missing <= numbers(service) else min(left, 0.05)

    Service.seconds_left = property(seconds_left)
    Service.concerned = property(lambda service: concerned(service) - numbers(service))


def every_call(trace):
    """From a trace: each call with its name and how many of that name there were before it, from 1."""
    lines = [line.rsplit(" ", 1) for line in Path(trace).read_text().splitlines()]
    counts = Counter()
    for call, name in lines:
        counts[call, name] += 1
        yield call, name, counts[call, name]
