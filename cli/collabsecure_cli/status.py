"""What operators see of a session: one value, as JSON for programs and as one read-only page for people."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections import Counter
from dataclasses import asdict, dataclass
from html import escape
from importlib.resources import files
from typing import Final

from collabsecure_cli.durations import in_words
from collabsecure_cli.promises import HONEST


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientStatus:
    """One client, as the aggregator sees it."""

    number: int
    name: str
    standing: str  # "waited for" | "arrived" | "taking part" | "left out" | "done"
    bytes_received: int
    last_seen_seconds: float | None  # since its last authentic request


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """A session at one moment; nothing in it is secret."""

    session: str  # transcript, hex
    task: str
    model: str
    flow: str
    phase: str  # ServerState's value, or "MERGING", or "OPENING" where the key holder does that
    sum_name: str | None  # None before the first sum
    sum_index: int  # from 0, as in the messages
    num_sums: int
    clients: tuple[ClientStatus, ...]
    bytes_received: int
    seconds_left: float | None  # of the phase; None where nothing is waited for
    running_seconds: float
    outcome: str | None  # None while it goes on; else one line for people
    finished: bool  # with a result
    version: str
    phase_seconds: float | None = None  # that the phase has in all; None: the bar shows what is left of the most seen

    def to_json(self) -> dict[str, object]:
        """What /status.json says; the page's script reads it too."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Phase:
    label: str
    hint: str
    done: int  # steps that are behind us, [0, 5]
    current: int | None  # the step we are at


_STEPS = (
    ("Advertise keys", "once"),
    ("Share keys", "once"),
    ("Masked input", "each sum"),
    ("Consistency check", "each sum"),
    ("Unmask", "each sum"),
)
PHASES: Final = {
    "ADVERTISE_KEYS": _Phase(label="Advertise keys", hint="Each client publishes fresh keys.", done=0, current=0),
    "SHARE_KEYS": _Phase(label="Share keys", hint="Clients share their secrets, encrypted.", done=1, current=1),
    "READY": _Phase(label="Ready", hint="Set up; the next sum is about to start.", done=2, current=None),
    "MASKED_INPUT": _Phase(label="Masked input", hint="Clients upload what only adds up.", done=2, current=2),
    "CONSISTENCY_CHECK": _Phase(
        label="Consistency check", hint="Clients sign whose uploads are in the sum.", done=3, current=3
    ),
    "UNMASK": _Phase(
        label="Unmask", hint="Clients take the masks off the sum, and off nothing else.", done=4, current=4
    ),
    "MERGING": _Phase(label="Merging", hint="The aggregator solves for the layer's update.", done=5, current=None),
    "OPENING": _Phase(label="Opening", hint="The key holder decrypts the sum and merges it.", done=5, current=None),
    "FINISHED": _Phase(label="Finished", hint="All sums are done.", done=5, current=None),
    "ABORTED": _Phase(label="Aborted", hint="The session ended without a result.", done=0, current=None),
}
STANDINGS = ("waited for", "arrived", "taking part", "left out", "done")
_TEMPLATE: Final = (files("collabsecure_cli") / "status.html").read_text(encoding="utf-8")


def page(status: Status) -> tuple[str, dict[str, str]]:
    """The page with the values of this moment, and its headers.

    It needs no script: without one it loads itself again every five seconds. Operators' words are escaped, and the
    policy in the headers lets the browser run and fetch nothing but what stands in `status.html`.
    """
    phase = PHASES[status.phase]
    has_time = status.seconds_left is not None
    values = {
        "task": escape(status.task),
        "model": escape(status.model),
        "flow": escape(status.flow),
        "tone": _tone(status),
        "outcome": escape(status.outcome or ""),
        "outcome_hidden": "" if status.outcome else "hidden",
        "phase": escape(phase.label),
        "hint": escape(phase.hint),
        "sum": escape(_sum_in_words(status)),
        "steps": "\n".join(map(_step, range(len(_STEPS)), [phase] * len(_STEPS))),
        "sums_done": str(_sums_done(status)),
        "num_sums": str(status.num_sums),
        "time_hidden": "" if has_time else "hidden",
        "left": in_words(status.seconds_left or 0),
        "left_seconds": f"{status.seconds_left or 0:.0f}",
        "phase_seconds": f"{status.phase_seconds or max(status.seconds_left or 0, 1):.0f}",
        "counts": escape(_counts(status)),
        "num_clients": str(len(status.clients)),
        "received": in_bytes(status.bytes_received),
        "running": in_words(status.running_seconds),
        "rows": "\n".join(map(_row, status.clients)),
        "id": escape(status.session),
        "session": " ".join(re.findall(".{1,8}", escape(status.session))),
        "version": escape(status.version),
        "honest": escape(" ".join(HONEST.split())),
        "refresh": "" if status.outcome else '<noscript><meta http-equiv="refresh" content="5"></noscript>',
        "phases": json.dumps({name: asdict(each) for name, each in PHASES.items()}),
        "standings": json.dumps(STANDINGS),
    }
    html = re.sub(r"\{\{(\w+)\}\}", lambda match: values[match[1]], _TEMPLATE)  # once: values are not looked into
    return html, dict(_HEADERS)


def in_bytes(count: float) -> str:
    """A number of bytes as people say it.

    >>> in_bytes(999), in_bytes(1234), in_bytes(1.2e9)
    ('999 B', '1.2 kB', '1.2 GB')
    """
    if count < 1000:
        return f"{count:.0f} B"
    for unit in ("kB", "MB", "GB"):
        count /= 1000
        if count < 999.95:
            return f"{count:.1f} {unit}"
    return f"{count / 1000:.1f} TB"


def _tone(status: Status) -> str:
    if status.outcome is None:
        return "going-on"
    return "good" if status.finished else "bad"


def _sums_done(status: Status) -> int:
    if status.phase == "FINISHED":
        return status.num_sums
    return status.sum_index + (status.phase in ("MERGING", "OPENING"))


def _sum_in_words(status: Status) -> str:
    if status.sum_name is None:
        return f"{status.num_sums} {'sum' if status.num_sums == 1 else 'sums'} to come"
    return f"Sum {status.sum_index + 1} of {status.num_sums}: {status.sum_name}"


def _counts(status: Status) -> str:
    counted = Counter(client.standing for client in status.clients)
    return ", ".join(f"{counted[standing]} {standing}" for standing in STANDINGS if counted[standing])


def _step(number: int, phase: _Phase) -> str:
    label, how_often = _STEPS[number]
    state = "current" if number == phase.current else "done" if number < phase.done else "ahead"
    current = ' aria-current="step"' if state == "current" else ""
    return f'<li data-state="{state}"{current}><b>{label}</b> <small>{how_often}</small></li>'


def _row(client: ClientStatus) -> str:
    seen = "never" if client.last_seen_seconds is None else f"{in_words(client.last_seen_seconds)} ago"
    standing = escape(client.standing)
    # Narrow screens lay rows out as a grid, and some browsers then forget that they are rows: so the roles.
    cell = '<td role="cell">'
    return (
        f'<tr role="row">{cell}{client.number}</td>'
        f'<th role="rowheader" scope="row"><bdi>{escape(client.name)}</bdi></th>'
        f'{cell}<span data-standing="{standing}">{standing}</span></td>'
        f"{cell}{in_bytes(client.bytes_received)}</td>{cell}{seen}</td></tr>"
    )


def _hash_of(tag: str) -> str:
    (text,) = re.findall(rf"<{tag}>(.*?)</{tag}>", _TEMPLATE, re.DOTALL)
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


_HEADERS: Final = {
    "Content-Type": "text/html; charset=utf-8",
    "Content-Security-Policy": (
        f"default-src 'none'; script-src {_hash_of('script')}; style-src {_hash_of('style')}; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
