"""The app's end of a node whose keys, policy and data are in a daemon beside it: bytes in, bytes out, nothing kept.

The daemon is `collabsecure client --daemon --socket PATH`; what it listens to is HTTP on a Unix socket:

    POST /exchange               a request → 200, the reply
                                 → 428, {"sum": name}: the values of that sum are needed first
                                 → 400, {"error": why it is no request}
    PUT /values/{sum}/{tensor}   float64, little-endian, in the array's order → 200, {"missing": [tensors]}
                                 → 422, {"error": why these values are refused}

Names are percent-encoded. Beside values, a `Collabsecure-Shape` header has the array's shape, as in `768,3072`, and a
`Collabsecure-Link` header may have 64 hex digits: what their sum follows.
"""

import http.client
import json
import os
import socket
import struct
from collections.abc import Iterator, Mapping
from contextlib import suppress
from http import HTTPStatus
from pathlib import Path
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from collabsecure.errors import CollabsecureError
from collabsecure.integrations.arrays import real
from collabsecure.integrations.exchange import BadExchange
from collabsecure.integrations.host import ValuesNeeded
from collabsecure_protocols import ValueRefused
from collabsecure_protocols.client_state import NO_LINK

SHAPE_HEADER, LINK_HEADER = "Collabsecure-Shape", "Collabsecure-Link"
_SECONDS = 600.0  # masking a shard takes seconds; what takes longer, the daemon answers with WAIT
_CREDENTIALS = struct.Struct("iII")  # process, user, group
_PIECE_VALUES = 1 << 20  # converted and sent at a time


class NoDaemon(CollabsecureError):
    """Nobody answers at the socket, or it is no daemon of collabsecure's."""


class Daemon:
    """`host.Answering`, by whoever listens on a socket."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    def __repr__(self) -> str:
        return f"Daemon({str(self.path)!r})"

    def answer(self, request: bytes) -> bytes:
        """What the daemon replies.

        Raises:
            ValuesNeeded: give it these first.
            BadExchange: it takes the request for none.
            NoDaemon: there is none.
        """
        status, body = self._ask("POST", "/exchange", [request], len(request), {})
        if status == HTTPStatus.OK:
            return body
        if status == HTTPStatus.PRECONDITION_REQUIRED:
            raise ValuesNeeded(str(self._said(body, "sum")))
        if status == HTTPStatus.BAD_REQUEST:
            raise BadExchange(f"the daemon at {self.path} refuses the request: {self._said(body, 'error')}")
        raise self._strange(status, body)

    def give(self, sum_name: str, values: Mapping[str, NDArray[np.generic]], *, link: bytes = NO_LINK) -> None:
        """Hand a sum's arrays to the daemon, which checks and keeps them.

        Raises:
            ValueRefused: an array is none of the session's, missing, or outside its range.
            NoDaemon: there is none.
        """
        missing: list[object] = []
        for name, array in [(name, real(name, array)) for name, array in values.items()]:
            target = f"/values/{quote(sum_name, safe='')}/{quote(name, safe='')}"
            headers = {SHAPE_HEADER: ",".join(map(str, array.shape)), LINK_HEADER: link.hex()}
            status, body = self._ask("PUT", target, _pieces(array), 8 * array.size, headers)
            if status == HTTPStatus.UNPROCESSABLE_ENTITY:
                reason = str(self._said(body, "error"))
                raise ValueRefused(name, reason.removeprefix(f"tensor {name!r}: "))
            if status != HTTPStatus.OK:
                raise self._strange(status, body)
            found = self._said(body, "missing")
            missing = found if isinstance(found, list) else []
        if missing:
            raise ValueRefused(str(missing[0]), "expected by the session, not given")

    def _ask(
        self, method: str, target: str, body: list[bytes] | Iterator[memoryview], length: int, headers: dict[str, str]
    ) -> tuple[int, bytes]:
        connection = _Connection(self.path)
        try:
            with suppress(BrokenPipeError, ConnectionResetError):  # it would not read all of it, and may have said why
                connection.request(method, target, body, {"Content-Length": str(length), **headers})
            response = connection.getresponse()
            return response.status, response.read()
        except (OSError, http.client.HTTPException) as error:
            raise NoDaemon(
                f"{self.path}: found no daemon ({type(error).__name__}: {error}); expected one to run there "
                "(collabsecure client --daemon), as the same user as this app"
            ) from error
        finally:
            connection.close()

    def _said(self, body: bytes, name: str) -> object:
        try:
            return json.loads(body)[name]
        except (ValueError, KeyError, TypeError) as error:
            raise NoDaemon(
                f"{self.path}: found something else than collabsecure's daemon; it says {body[:80]!r}"
            ) from error

    def _strange(self, status: int, body: bytes) -> NoDaemon:
        return NoDaemon(
            f"{self.path}: found status {status} ({body[:200].decode(errors='replace')}); expected an answer"
        )


def _pieces(array: NDArray[np.generic]) -> Iterator[memoryview]:
    """The array's bytes as float64, little-endian, without a copy of the whole."""
    flat = np.ascontiguousarray(array).reshape(-1)
    for start in range(0, flat.size, _PIECE_VALUES):
        yield flat[start : start + _PIECE_VALUES].astype("<f8", copy=False).data.cast("B")


class _Connection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=_SECONDS)
        self._path = path

    def connect(self) -> None:
        """Open the socket, and see that this app's own user listens: who can move a directory can put another there.

        Raises:
            PermissionError: it is another; nothing was sent.
        """
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))
        if hasattr(socket, "SO_PEERCRED"):  # Linux
            credentials = self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
            _, user, _ = _CREDENTIALS.unpack(credentials)
            if user != os.geteuid():
                raise PermissionError(f"user {user} listens there, and this app is user {os.geteuid()}")
