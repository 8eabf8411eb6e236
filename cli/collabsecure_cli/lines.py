"""How an aggregator is reached, and how a client knows that it is the right one."""

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

import httpx2

from collabsecure.errors import BadFile
from collabsecure_cli.answers import NoAnswer

_LONGEST_READ, _SHORTEST_READ = 60.0, 30.0  # seconds without a byte; the aggregator answers a poll within 25
_CONNECT_SECONDS = 10.0


class Line(Protocol):
    """What an aggregator is asked over."""

    @property
    def host(self) -> str:
        """What the other side is called where something is said about it."""

    def open(self, base: str, *, patience: float) -> httpx2.Client:
        """Begin to speak; `base` is the part of the path that all requests have.

        `patience` is for how long a request is tried again, in seconds: one that hangs leaves time for another.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where the aggregator is, and how to know that it is the right one."""

    url: str
    ca: Path | None = None  # PEM; without it, the system's authorities
    certificate: tuple[Path, Path] | None = None  # this client's, and its key, for mutual TLS
    insecure: bool = False  # plain HTTP, which only loopback addresses may have

    @property
    def host(self) -> str:
        """The name and port in the address."""
        return urlsplit(self.url).netloc

    def open(self, base: str, *, patience: float) -> httpx2.Client:
        """An HTTP client, connected when it is first used.

        Raises:
            BadFile: a certificate cannot be read.
            NoAnswer: the environment names a proxy that is none.
        """
        verify = self.context()
        read = max(_SHORTEST_READ, min(_LONGEST_READ, patience / 4))
        try:
            return httpx2.Client(
                base_url=f"{self.url.rstrip('/')}{base}",
                verify=verify,
                timeout=httpx2.Timeout(read, connect=_CONNECT_SECONDS),
                trust_env=not self.insecure,  # HTTPS_PROXY and NO_PROXY; loopback needs no proxy
                follow_redirects=False,
            )
        except (ValueError, httpx2.InvalidURL) as error:  # whose text might show the proxy's password
            raise NoAnswer(
                "the environment names a proxy that is none (HTTPS_PROXY, ALL_PROXY); expected http://HOST:PORT"
            ) from error

    def context(self) -> ssl.SSLContext | bool:
        """TLS as this endpoint wants it.

        Raises:
            BadFile: a certificate cannot be read.
        """
        if self.insecure:
            return False
        try:
            context = ssl.create_default_context(cafile=self.ca) if self.ca else httpx2.create_ssl_context()
        except (OSError, ssl.SSLError) as error:
            raise BadFile(self.ca, found=f"no certificates ({error})", expected="an authority's, PEM") from error
        if self.certificate is not None:
            try:
                context.load_cert_chain(*self.certificate)
            except (OSError, ssl.SSLError) as error:
                found = f"no certificate with its key ({error})"
                raise BadFile(self.certificate[0], found=found, expected="PEM files that belong together") from error
        return context
