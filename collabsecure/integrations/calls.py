"""HTTP requests that others signed, made against one aggregator: those of its API for clients, and no others."""

import http.client
import ipaddress
import re
import ssl
import time
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from urllib.parse import urlsplit

from collabsecure.errors import BadFile, CollabsecureError
from collabsecure.files import in_words
from collabsecure.integrations.exchange import SHARD_BYTES, Answer, Call
from collabsecure_protocols import Session
from collabsecure_protocols.envelope import HEADER_BYTES, MessageType, max_body
from collabsecure_protocols.keys import SIGNATURE_BYTES

_TARGET = re.compile("[a-z0-9/]{1,100}")
_METHODS = ("GET", "HEAD", "POST", "PATCH")
_SENT = ("authorization", "upload-offset", "range", "accept-encoding")  # headers that go to the aggregator
_RETURNED = ("upload-offset", "retry-after", "content-type", "content-range")  # and back
_SECONDS = 60.0  # the aggregator answers a poll within 25


class BadAddress(CollabsecureError):
    """No address at which an aggregator could be."""


class Aggregator:
    """One aggregator, and when it last answered. Its connections may be in several threads.

    Raises:
        BadAddress: `url` is none, or plain HTTP that leaves this machine.
        BadFile: `ca` holds no certificates.
    """

    def __init__(self, url: str, ca: Path | None, session: Session) -> None:
        self.address = _Address.of(url, ca)
        self.contact = time.monotonic()
        self._clients = f"/v1/{session.transcript.hex()}/clients/"
        bodies = (max_body(session, kind) for kind in MessageType)
        self.longest = HEADER_BYTES + SIGNATURE_BYTES + max(bodies)  # bytes of a request's body

    def allows(self, call: Call, client: int) -> bool:
        """Whether it is a request to the API for this session's clients, in that client's name."""
        base = f"{self._clients}{client}/"
        is_target = call.target.startswith(base) and _TARGET.fullmatch(call.target, len(base)) is not None
        return is_target and call.method in _METHODS

    def look(self) -> None:
        """Find out whether it is there."""
        connection = self.address.connect()
        with suppress(OSError, http.client.HTTPException):
            connection.request("GET", self.address.base + "/healthz")
            connection.getresponse().read(1)
            self.contact = time.monotonic()
        connection.close()


class Connection:
    """Makes one request at a time; what fails is answered as by a server that is away."""

    def __init__(self, aggregator: Aggregator) -> None:
        self._aggregator = aggregator
        self._http: http.client.HTTPConnection | None = None
        self._is_over = False

    def end(self) -> None:
        """Hang up for good; who waits in another thread waits no longer."""
        self._is_over = True
        self.hang_up()

    def hang_up(self) -> None:
        """Leave the aggregator the connection for others; the next request makes another."""
        if self._http is not None:
            self._http.close()
            self._http = None

    def answer(self, call: Call, client: int) -> Answer:
        """What the aggregator says to a client; of a long body, the first bytes: the rest is asked for by range."""
        if not self._aggregator.allows(call, client):
            return Answer(number=call.number, status=HTTPStatus.BAD_REQUEST)
        try:
            if self._http is not None:  # kept open, and perhaps closed at the other end meanwhile
                with suppress(OSError, http.client.HTTPException):
                    return self._ask(call)
                self.hang_up()
            return self._ask(call)
        except (OSError, http.client.HTTPException):
            self.hang_up()
            return Answer(number=call.number, status=HTTPStatus.SERVICE_UNAVAILABLE)
        except ValueError:  # what is no header's value
            self.hang_up()
            return Answer(number=call.number, status=HTTPStatus.BAD_REQUEST)
        finally:
            if self._is_over:  # and was connected again meanwhile
                self.hang_up()

    def _ask(self, call: Call) -> Answer:
        if self._is_over:
            raise ConnectionAbortedError
        connection = self._http = self._http or self._aggregator.address.connect()
        headers = {name: value for name, value in call.headers if name.lower() in _SENT}
        connection.request(call.method, self._aggregator.address.base + call.target, call.body or None, headers)
        response = connection.getresponse()
        body = response.read(SHARD_BYTES)
        if not response.isclosed():
            self.hang_up()
        self._aggregator.contact = time.monotonic()
        returned = tuple((name, value) for name, value in response.getheaders() if name.lower() in _RETURNED)
        return Answer(number=call.number, status=response.status, headers=returned, body=body)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Address:
    url: str
    name: str
    port: int | None
    base: str  # what stands before /v1 in its targets
    context: ssl.SSLContext | None  # None: plain HTTP

    @classmethod
    def of(cls, url: str, ca: Path | None) -> "_Address":
        try:
            parts = urlsplit(url)
            name, port = parts.hostname or "", parts.port
        except ValueError:
            parts, name, port = urlsplit(""), "", None
        if not name or parts.scheme not in ("https", "http") or parts.username or parts.query or parts.fragment:
            raise BadAddress("found no address of an aggregator; expected https://HOST:PORT, where it listens")
        if parts.scheme == "http" and not _is_loopback(name):
            raise BadAddress(f"found {url!r}; expected https://…, for it is not on this machine")
        context = None
        if parts.scheme == "https":
            try:
                context = ssl.create_default_context(cafile=ca)
            except OSError as error:  # of which SSLError is one
                raise BadFile(ca, found=in_words(error), expected="an authority's certificates, PEM") from error
        return cls(url=url, name=name, port=port, base=parts.path.rstrip("/"), context=context)

    def connect(self) -> http.client.HTTPConnection:
        """A connection that its first request opens."""
        if self.context is None:
            return http.client.HTTPConnection(self.name, self.port, timeout=_SECONDS)
        return http.client.HTTPSConnection(self.name, self.port, timeout=_SECONDS, context=self.context)


def _is_loopback(name: str) -> bool:
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost"
