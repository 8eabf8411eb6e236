"""The options by which a party finds the aggregator, and knows that it is the right one."""

import contextlib
import functools
import ipaddress
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar
from urllib.parse import urlsplit

import click

from collabsecure_cli.durations import Duration
from collabsecure_cli.progress import say
from collabsecure_protocols import Identity, Session

if TYPE_CHECKING:
    from collabsecure_cli.connection import Connection

P = ParamSpec("P")
R = TypeVar("R")

_file = click.Path(exists=True, dir_okay=False, path_type=Path)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerChoice:
    """The aggregator that was asked for; nothing is connected yet."""

    url: str
    ca: Path | None
    certificate: tuple[Path, Path] | None  # this party's, and its key
    insecure: bool
    patience: float  # seconds

    @contextlib.contextmanager
    def ready(self, session: Session, identity: Identity) -> Iterator[Callable[[], "Connection"]]:
        """What connects: nothing need be done before."""
        yield functools.partial(self.connect, session, identity)

    def connect(self, session: Session, identity: Identity) -> "Connection":
        """A line to it, in this party's name; the HTTP library is only imported here.

        Raises:
            BadFile: a certificate cannot be read.
            NoAnswer: the environment names a proxy that is none.
        """
        from collabsecure_cli.connection import Connection
        from collabsecure_cli.lines import Endpoint

        endpoint = Endpoint(url=self.url, ca=self.ca, certificate=self.certificate, insecure=self.insecure)
        return Connection(endpoint, session, identity, patience=self.patience, tell=say)


def server_options(command: Callable[Concatenate[ServerChoice, P], R]) -> Callable[P, R]:
    """Give a command --server and what belongs to it; it gets them as its first argument, a `ServerChoice`."""

    @wraps(command)
    def with_choice(*args: P.args, **kwargs: P.kwargs) -> R:
        return command(taken_choice(kwargs), *args, **kwargs)

    return with_server_options(with_choice, required=True)


def with_server_options(command: Callable[P, R], *, required: bool) -> Callable[P, R]:
    """The same options, for `taken_choice` to take from what the command is called with."""
    for option in reversed(
        (
            click.option("--server", required=required, help="The aggregator's address: https://sum.example.org:8443"),
            click.option(
                "--ca", type=_file, help="Authority of the server's certificate, PEM.  [default: the system's]"
            ),
            click.option("--tls-cert", type=_file, help="This party's certificate, for mutual TLS, PEM."),
            click.option("--tls-key", type=_file, help="Its private key, PEM."),
            click.option("--insecure", is_flag=True, help="Plain HTTP; to loopback addresses alone."),
            click.option(
                "--patience", type=Duration(), default=86_400.0, help="To wait for a server that is away.  [24h]"
            ),
        )
    ):
        command = option(command)
    return command


def taken_choice(given: dict[str, Any]) -> ServerChoice:
    """Take the options' values out of a command's arguments, and check them."""
    server, insecure = given.pop("server"), given.pop("insecure")
    tls_cert, tls_key = given.pop("tls_cert"), given.pop("tls_key")
    _check_url(server, insecure=insecure)
    if (tls_cert is None) != (tls_key is None):
        raise click.UsageError("Mutual TLS takes both --tls-cert and --tls-key.")
    certificate = None if tls_cert is None or tls_key is None else (tls_cert, tls_key)
    return ServerChoice(
        url=server, ca=given.pop("ca"), certificate=certificate, insecure=insecure, patience=given.pop("patience")
    )


def _check_url(server: str, *, insecure: bool) -> None:
    if "@" in server:  # HTTP libraries send it in the place of our signature, and messages would show it
        raise click.UsageError("--server: found a user or password in the address; expected none: the key signs.")
    try:
        parts = urlsplit(server)
        host = parts.hostname or ""
        expected = "http" if insecure else "https"
        well_formed = parts.scheme == expected and host and (parts.port or True) and not parts.query
    except ValueError:
        well_formed, expected, host = False, "https", ""
    if not well_formed:
        hint = "" if insecure else " (http:// needs --insecure, and a server on this machine)"
        raise click.UsageError(f"--server: found {server!r}; expected {expected}://HOST:PORT{hint}.")
    if insecure and not is_loopback(host):
        raise click.UsageError(f"--insecure is for loopback addresses alone; found {server}.")


def is_loopback(host: str) -> bool:
    """Whether a host, as it was typed, is this machine and no other.

    >>> is_loopback("localhost"), is_loopback("::1"), is_loopback("0.0.0.0"), is_loopback("example.org")
    (True, True, False, False)
    """
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"
