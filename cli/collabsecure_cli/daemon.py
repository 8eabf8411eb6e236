"""`collabsecure client --daemon`: a client beside an engine's node, to which the shipped app only brings bytes.

Key, policy, model and edits, or a sum's values, stay in this process and its state folder.
"""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

import click

from collabsecure.agreement import FORMAT
from collabsecure.errors import BadSession, CollabsecureError
from collabsecure_cli.config import emit
from collabsecure_cli.durations import in_words
from collabsecure_cli.endpoints import ServerChoice, taken_choice, with_server_options
from collabsecure_cli.group import NoResult, Unreachable, interruptible
from collabsecure_cli.progress import say
from collabsecure_protocols import ClientState, Identity, Policy, Session

if TYPE_CHECKING:
    from collabsecure_cli.carried import Mailbox
    from collabsecure_cli.connection import Connection

P = ParamSpec("P")
R = TypeVar("R")

_TELL_SECONDS = 60.0  # to tell the coordinating end, at the end, that this client is done
_QUIET_SECONDS = 15.0  # without a request, after a session of sums: none comes again


@dataclass(frozen=True, slots=True, kw_only=True)
class SocketChoice:
    """The socket that was asked for; nobody listens there yet."""

    path: Path
    patience: float  # seconds
    values: Path | None = None  # the folder from which a session of sums has them, if the app must give none

    @contextmanager
    def ready(self, session: Session, identity: Identity) -> Iterator[Callable[[], "Connection"]]:
        """Listen for an editing session until the block ends; what connects to its aggregator by way of the socket.

        Before anything is computed, one signed request goes out, by which the coordinating end knows whose node this
        is, and waits for it. At the end it is told that this client is done, if it asks within a minute.

        Raises:
            BadFile: the socket cannot be there.
        """
        from collabsecure_cli.carried import CarriedConnection, Mailbox  # imports the HTTP library
        from collabsecure_cli.daemon_api import DaemonApi, listening

        mailbox = Mailbox(session, identity)

        def connect(tell: Callable[[str], None] = say) -> CarriedConnection:
            return CarriedConnection(mailbox, session, identity, patience=self.patience, tell=tell)

        def greet() -> None:
            with closing(connect(lambda _: None)) as connection, suppress(CollabsecureError):
                connection.offset(0)

        with _terminating(), listening(self.path, DaemonApi(session, mailbox).app):
            say(f"Listening on {self.path}")
            threading.Thread(target=greet, name="greeting", daemon=True).start()
            try:
                try:
                    yield connect
                except NoResult:
                    _tell(mailbox, "this client's part ended without a result")
                    raise
                _tell(mailbox, "this client has its result")
            finally:
                mailbox.stop()


def _tell(mailbox: "Mailbox", outcome: str) -> None:
    """Let the coordinating end know that nothing more will be asked, if it comes to hear."""
    with suppress(KeyboardInterrupt):  # all is done but this
        mailbox.end(outcome, _TELL_SECONDS)


def line_options(command: Callable[Concatenate[ServerChoice | SocketChoice, P], R]) -> Callable[P, R]:
    """Give a command --server and what belongs to it, or --daemon; it gets either as its first argument."""

    @click.option(
        "--daemon",
        is_flag=True,
        help="Connect to nobody: answer the app that Flower, NVFlare or another engine runs beside this.",
    )
    @click.option(
        "--socket",
        type=click.Path(path_type=Path),
        help="Where --daemon answers, until nobody asks for as long as --patience: a Unix socket for its owner alone, "
        "in a directory that nobody else may write.",
    )
    @click.option(
        "--values",
        type=click.Path(exists=True, file_okay=False, path_type=Path),
        help="In a session of sums: take a sum's arrays from FOLDER/SUM.safetensors, and none from the app.",
        metavar="FOLDER",
    )
    @wraps(command)
    def with_line(*args: P.args, **kwargs: P.kwargs) -> R:
        return command(_line(kwargs), *args, **kwargs)

    return with_server_options(with_line, required=False)


def _line(given: dict[str, Any]) -> ServerChoice | SocketChoice:
    daemon, path, values = given.pop("daemon"), given.pop("socket"), given.pop("values")
    if not daemon:
        if values is not None:
            raise click.UsageError("--values is for --daemon in a session of sums: give that, too.")
        if path is not None:
            raise click.UsageError("--socket is where --daemon answers: give that, too.")
        if given["server"] is None:
            raise click.UsageError("Missing option '--server', or beside an engine's node: --daemon --socket PATH.")
        return taken_choice(given)
    if path is None:
        raise click.UsageError("--daemon answers at --socket PATH: give one, in a directory that is yours alone.")
    of_server = {name: given.pop(name) for name in ("server", "ca", "tls_cert", "tls_key", "insecure")}
    for name, value in of_server.items():
        if value:
            option = name.replace("_", "-")
            raise click.UsageError(f"found --{option} beside --daemon, which connects to nobody; expected one of them.")
    return SocketChoice(path=path, patience=given.pop("patience"), values=values)


def take_part_in_sums(line: SocketChoice, session: Session, identity: Identity, policy: Policy, state: Path) -> None:
    """A client's part in a session of sums, whose values the app beside it gives, or files; until the last is finished.

    Raises:
        BadSession: it is another kind of session.
        BadFile: the socket or the state cannot be there, or the disk failed.
        PolicyRefusal: the session asks for less than the policy insists on.
        NoResult: it was aborted.
        Unreachable: nobody asked anything for too long.
    """
    from collabsecure.integrations.node import SumNode
    from collabsecure.integrations.stores import FolderStore
    from collabsecure_cli.daemon_api import DaemonApi, listening, longest_of_sums
    from collabsecure_cli.daemon_sums import DaemonOfSums

    if dict(session.parameters).get("format") == FORMAT:
        raise BadSession("found an editing session; expected --edits FILE with this client's edits for it")
    with _terminating(), interruptible(state), closing(FolderStore(state)) as store:
        node = SumNode(session, identity, policy=policy, store=store, rng=os.urandom)
        side = DaemonOfSums(node, say, folder=line.values)
        api = DaemonApi(
            session, side, longest=longest_of_sums(session), taking=side.takes_values_of, tell=side.tell_of_refusals
        )
        with listening(line.path, api.app):
            say(f"Listening on {line.path}, in {node.state}")
            while not node.is_over:
                api.wait(1.0)
                if api.silence > line.patience:
                    waited = in_words(line.patience)
                    raise Unreachable(f"Nobody has asked anything for {waited}. The same command goes on.")
            say("The session is over; waiting a little for who has not heard the last answer")
            with suppress(KeyboardInterrupt):
                while api.silence < _QUIET_SECONDS:
                    api.wait(1.0)
    if node.state is ClientState.ABORTED:
        raise NoResult("No result: the session was aborted.")
    names = [spec.name for spec in session.sums]
    emit(
        {"outcome": "finished", "session": session.transcript.hex(), "sums": names},
        f"All sums of the session are finished: {', '.join(names)}. Who asked for them has their arrays.",
    )


@contextmanager
def _terminating() -> Iterator[None]:
    """SIGTERM, by which services are stopped, is as Ctrl-C."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
