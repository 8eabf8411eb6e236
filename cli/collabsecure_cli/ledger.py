"""What a client has put into sums that were opened, across sessions: no edit goes twice into one layer's sum.

The difference of two sums whose cohorts differ by one client is that client's matrix. The protocol refuses to repeat a
contribution as a whole (secagg.md P7); here every edit counts by itself, and one-shot sums count for all their layers.
An edit is its prompt, subject and target: a fact that changes again has another target, and may be written again.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from collabsecure.agreement import Agreement
from collabsecure.edits import EditRequest
from collabsecure.errors import BadFile, CollabsecureError
from collabsecure_cli.folder import StateFolder
from collabsecure_protocols import Ledger
from collabsecure_protocols.wire import Malformed

_NAME = "ledger.json"
_FORMAT = "collabsecure ledger 1"


class SummedBefore(CollabsecureError):
    """Edits that were in an opened sum of the same layer; nothing was sent."""


def edit_digest(request: EditRequest) -> bytes:
    """What an edit is known by here; it never leaves the state folder."""
    fact = json.dumps([request.prompt, request.subject, request.target_new])
    return hashlib.sha256(fact.encode()).digest()


def contributed(edits: Iterable[bytes], agreement: Agreement) -> bytes:
    """What a client contributes to a session, as the protocol's ledger calls it.

    That keeps it by sum, and the sum of a one-shot session has the same name whatever its layers are.
    """
    layers = agreement.layers if agreement.flow == "one-shot" else ()
    return hashlib.sha256(b"".join((*sorted(edits), *(f" layer {layer}".encode() for layer in layers)))).digest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """What one session has opened."""

    layers: tuple[int, ...]
    edits: tuple[bytes, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """All that is remembered: the protocol's part, and by session the edits."""

    protocol: Ledger
    sessions: Mapping[bytes, Opened]


class EditLedger:
    """The ledger of one state folder.

    Raises:
        BadFile: it is damaged. Without it nothing may be contributed.
    """

    def __init__(self, folder: StateFolder) -> None:
        self._folder = folder
        written = folder.read(_NAME)
        self._content = Content(protocol=Ledger(), sessions={}) if written is None else _parse(folder, written)

    @property
    def protocol(self) -> Ledger:
        """The protocol's part."""
        return self._content.protocol

    def refuse_repeats(self, session: bytes, edits: Sequence[bytes], layers: Iterable[int]) -> None:
        """Refuse edits that another session has opened in one of these layers.

        Raises:
            SummedBefore: says how many, and where.
        """
        wanted = set(layers)
        for transcript, opened in self._content.sessions.items():
            again, where = set(edits) & set(opened.edits), wanted & set(opened.layers)
            if transcript != session and again and where:
                numbers = [number for number, edit in enumerate(edits, 1) if edit in again]
                shown = ", ".join(map(str, numbers[:10])) + (", …" if len(numbers) > 10 else "")
                raise SummedBefore(
                    f"found {len(again)} of {len(edits)} edits (records {shown}) that session {transcript.hex()[:16]}… "
                    f"has summed in layers {', '.join(map(str, sorted(where)))}; expected new ones. The difference of "
                    "two sums would show this client's part: take them out, or edit other layers"
                )

    def remember(self, ledger: Ledger, session: bytes, layers: Sequence[int], edits: Sequence[bytes]) -> None:
        """Write down what a session has begun or opened, before anything that follows from it leaves.

        Raises:
            BadFile: the disk would not take it.
        """
        sessions = dict(self._content.sessions)
        if layers:
            sessions[session] = Opened(layers=tuple(layers), edits=tuple(edits))
        content = replace(self._content, protocol=self._content.protocol | ledger, sessions=sessions)
        if content == self._content:
            return
        self._folder.write(_NAME, [_format(content)])
        self._content = content


def _format(content: Content) -> bytes:
    written = {
        "format": _FORMAT,
        "protocol": content.protocol.encode().hex(),
        "sessions": {
            transcript.hex(): {"layers": opened.layers, "edits": [edit.hex() for edit in opened.edits]}
            for transcript, opened in content.sessions.items()
        },
    }
    return json.dumps(written).encode()


def _parse(folder: StateFolder, written: bytes) -> Content:
    try:
        found = {_FORMAT: json.loads(written)}[json.loads(written)["format"]]
        return Content(
            protocol=Ledger.decode(bytes.fromhex(found["protocol"])),
            sessions={
                bytes.fromhex(transcript): Opened(
                    layers=tuple(opened["layers"]), edits=tuple(bytes.fromhex(edit) for edit in opened["edits"])
                )
                for transcript, opened in found["sessions"].items()
            },
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, Malformed) as error:
        raise BadFile(
            folder.path / _NAME,
            found="a damaged ledger",
            expected="the one that this folder had",
            remedy="Without it, nobody knows which edits were summed before; restore it from a backup",
        ) from error
