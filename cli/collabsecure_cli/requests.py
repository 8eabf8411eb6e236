"""What the aggregator's routes have in common: numbers, bodies, and refusals in one form."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

from starlette.requests import Request
from starlette.responses import Response

BINARY = "application/octet-stream"

Handler = Callable[[Request, int], Awaitable[Response]]  # the int is who asks
Signed = Callable[[Handler], Callable[[Request], Awaitable[Response]]]
Waiting = Callable[[], AsyncIterator[None]]  # at once, then whenever something has happened, for a poll's time

_MOST_DIGITS = 15
_BODY_UNREAD = (400, 401, 404, 413)


class TooLong(Exception):
    """A body of more bytes than any that is wanted."""


async def whole_body(request: Request, longest: int) -> bytes:
    """A request's body, given up as soon as it is too long."""
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > longest:
            raise TooLong(f"more than {longest} bytes, the longest in this session")
    return bytes(body)


def number_in(text: str) -> int | None:
    """A whole number, plainly written; None for anything else."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS else None


def as_json(content: object, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """An answer in JSON."""
    return Response(json.dumps(content), status, headers, media_type="application/json")


def problem(status: int, error: str, *, check: str = "", headers: Mapping[str, str] | None = None) -> Response:
    """Why something is refused."""
    # Without this, a refused peer's body would be read to its end for nothing.
    closing = {"Connection": "close"} if status in _BODY_UNREAD else {}
    content = {"error": error, "check": check} if check else {"error": error}
    return as_json(content, status=status, headers={**closing, **(headers or {})})
