"""What an aggregator answers, taken apart: whoever answers may be anybody until a signature says otherwise."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus

from collabsecure.errors import CollabsecureError, said
from collabsecure_cli.uploads import OFFSET_HEADER
from collabsecure_protocols import Session

MOST_JSON_BYTES = 1 << 20
_LONGEST_WAIT = 300.0  # seconds that an answer may tell us to wait: proxies say a day


class Refused(CollabsecureError):
    """The aggregator will not do what was asked; asking again would change nothing."""

    def __init__(self, status: int, error: str, check: str) -> None:
        super().__init__(f"the aggregator refused: {error}")
        self.status, self.reason, self.check = status, error, check

    @property
    def is_late(self) -> bool:
        """Whether it is the aggregator's state that has moved on, and not the request that is wrong."""
        return self.status in (HTTPStatus.CONFLICT, HTTPStatus.GONE)

    @property
    def is_over(self) -> bool:
        """Whether there is nothing more for this client where it asked."""
        return self.status == HTTPStatus.GONE


class OtherOffset(CollabsecureError):
    """The upload goes on at another byte."""

    def __init__(self, offset: int) -> None:
        super().__init__(f"the upload goes on at byte {offset}")
        self.offset = offset


class NoAnswer(CollabsecureError):
    """The aggregator did not answer for as long as we were told to wait."""


class NoResultForUs(CollabsecureError):
    """The session ended without a result, or goes on without this party."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the aggregator said, read whole."""

    status: int
    headers: Mapping[str, str]
    content: bytes


def refusal(answer: Answer) -> Refused:
    """What an answer that is no success says."""
    problem = json_in(answer.content)
    if problem is None:
        return Refused(answer.status, _foreign(answer), "")
    return Refused(answer.status, said(problem.get("error", "")), said(problem.get("check", "")))


def seconds_to_wait(answer: Answer) -> float | None:
    """How long an answer says to wait; its Retry-After may also be a date, or nonsense."""
    wait = answer.headers.get("Retry-After", "")
    return min(float(wait), _LONGEST_WAIT) if wait.isascii() and wait.isdigit() else None


def expected(method: str, answer: Answer) -> Answer:
    """An answer that says that it is done; no other party's page says so."""
    if answer.status == HTTPStatus.NO_CONTENT or (method == "GET" and answer.status == HTTPStatus.OK):
        return answer
    raise Refused(answer.status, _foreign(answer), "")


def _foreign(answer: Answer) -> str:
    return f"status {answer.status}, and not in an aggregator's words: is the address right?"


def offset_in(answer: Answer) -> int:
    """Where an answer says that an upload goes on, in bytes.

    Raises:
        Refused: it does not.
    """
    text = answer.headers.get(OFFSET_HEADER, "")
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise Refused(answer.status, f"no {OFFSET_HEADER} in an answer about an upload", "")
    return int(text)


def json_in(content: bytes) -> dict[str, object] | None:
    """A JSON object, or None for anything else."""
    try:
        found = json.loads(content) if len(content) <= MOST_JSON_BYTES else None
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def signed_digest(layer: int, answer: Mapping[str, object]) -> tuple[bytes, bytes]:
    """A layer's digest among a sum's results, and the signature under it, which is still to be checked.

    Raises:
        Refused: there are none.
    """
    try:
        entry = answer["layers"][str(layer)]  # type: ignore[index]  # whatever it is, it is checked by failing
        return bytes.fromhex(entry["digest"]), bytes.fromhex(entry["signature"])
    except (KeyError, TypeError, ValueError) as error:
        raise Refused(HTTPStatus.OK, f"no signed digest of layer {layer} among the results", "") from error


def survivors_in(answer: Mapping[str, object], session: Session) -> tuple[int, ...]:
    """Whose edits are in a sum, as the server says it of one that went on without word to this client.

    Raises:
        Refused: no such clients could be.
    """
    found = answer.get("survivors")
    if isinstance(found, list) and len(found) >= session.min_survivors:
        clients = [client for client in session.client_ids if client in found]
        if clients == found and all(type(one) is int for one in found):
            return tuple(found)
    raise Refused(HTTPStatus.OK, "no survivors among the results", "")
