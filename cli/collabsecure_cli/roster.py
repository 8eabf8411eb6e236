"""`roster.toml`: who takes part, by name and public key.

    [server]
    sum-server = "ed25519:…"
    [clients]                     # in this order they are clients 1, 2, 3 …
    alice = "ed25519:…"
    bob = "ed25519:…"
    carol = "ed25519:…"
    [key_holder]                  # of an encrypted session alone
    dora = "ed25519:…"

Each line is what `collabsecure identity new` prints.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from collabsecure.agreement import is_name
from collabsecure.errors import BadFile
from collabsecure_cli.config import read_toml

_KEY = re.compile(r"ed25519:([0-9a-f]{64})")
_BARE = re.compile(r"[A-Za-z0-9_-]+")  # what TOML takes for a key without quotes


@dataclass(frozen=True, slots=True, kw_only=True)
class Roster:
    """The parties of a session; names and keys all differ."""

    server_name: str
    server_key: bytes  # Ed25519 public key
    clients: Mapping[str, bytes]  # name → Ed25519 public key, in order; at least 3
    key_holder: tuple[str, bytes] | None = None  # name and key, where the session is to be encrypted


def load_roster(path: Path) -> Roster:
    """Read a roster.

    Raises:
        BadFile: not such a file; fewer than three clients, not exactly one server, a name or key that is none or
            stands twice.
    """
    content = read_toml(path)
    unknown = content.keys() - {"server", "clients", "key_holder"}
    if unknown:
        listed = ", ".join(map(repr, sorted(unknown)))
        raise BadFile(path, found=listed, expected="the tables [server], [clients] and [key_holder]")
    server, clients = _keys(path, content, "server"), _keys(path, content, "clients")
    holder = _keys(path, content, "key_holder") if "key_holder" in content else {}
    for table, lines in (("server", server), ("key_holder", holder)):
        if table in content and len(lines) != 1:
            raise BadFile(path, found=f"{len(lines)} lines in [{table}]", expected="one")
    if len(clients) < 3:
        raise BadFile(
            path,
            found=f"{len(clients)} clients",
            expected="at least 3",
            remedy="A sum of fewer hides nothing: each of two would know the other's part",
        )
    names: dict[bytes, str] = {}
    for name, key in [*server.items(), *holder.items(), *clients.items()]:
        if key in names:
            both = f"{format_key(key)} as {names[key]!r} and {name!r}"
            raise BadFile(path, found=both, expected="a key of its own for each", remedy="Ask them for the right line")
        names[key] = name
    ((server_name, server_key),) = server.items()
    for name in (server.keys() | holder.keys()) & clients.keys() | (server.keys() & holder.keys()):
        raise BadFile(path, found=f"{name!r} in two tables", expected="a name of its own for each")
    return Roster(
        server_name=server_name,
        server_key=server_key,
        clients=clients,
        key_holder=next(iter(holder.items()), None),
    )


def roster_line(name: str, public: bytes) -> str:
    """The line that stands for a party.

    >>> roster_line("Müller & Co", bytes(32))[:30]
    '"Müller & Co" = "ed25519:00000'
    """
    key = name if _BARE.fullmatch(name) else json.dumps(name, ensure_ascii=False)
    return f'{key} = "{format_key(public)}"'


def format_key(public: bytes) -> str:
    """An identity's public key as rosters have it."""
    return f"ed25519:{public.hex()}"


def _keys(path: Path, content: Mapping[str, object], table: str) -> dict[str, bytes]:
    lines = content.get(table)
    if not isinstance(lines, dict):
        raise BadFile(path, found=f"no table [{table}]", expected="one with lines of `collabsecure identity new`")
    found: dict[str, bytes] = {}
    for name, value in lines.items():
        if not is_name(name):
            raise BadFile(path, found=f"the name {name!r} in [{table}]", expected="printable text")
        match = _KEY.fullmatch(value) if isinstance(value, str) else None
        if match is None:
            raise BadFile(path, found=f"{name} = {value!r}", expected='"ed25519:" and 64 hex digits (0-9, a-f)')
        found[name] = bytes.fromhex(match[1])
    return found
