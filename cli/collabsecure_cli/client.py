"""`collabsecure client`: one organisation's part of a session, on its own machine."""

import contextlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from collabsecure.agreement import Agreement
from collabsecure.edits import EditRequest, load_requests
from collabsecure.errors import BadFile
from collabsecure_cli.config import emit, operator_options
from collabsecure_cli.daemon import SocketChoice, line_options, take_part_in_sums
from collabsecure_cli.encryption_pool import default_workers, encryption_pool
from collabsecure_cli.endpoints import ServerChoice
from collabsecure_cli.folder import StateFolder
from collabsecure_cli.group import NoResult, Unreachable, interruptible
from collabsecure_cli.identity import load_identity
from collabsecure_cli.ledger import EditLedger, edit_digest
from collabsecure_cli.moments import SessionMoments
from collabsecure_cli.progress import progress_bar, say, upload_bar
from collabsecure_cli.report import DELTA, Report, norms, refuse_foreign, write_merged
from collabsecure_cli.results import Results
from collabsecure_cli.session import load_session
from collabsecure_protocols import Identity, InvalidSession, Policy, Session

if TYPE_CHECKING:
    from collabsecure_cli.connection import Connection

_file = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command("client")
@click.option("--session", "session_file", type=_file, required=True, help="The session that all parties agreed on.")
@click.option("--key", type=_file, required=True, help="This client's key file.")
@click.option("--edits", type=_file, help="Edit requests, in any form that collabsecure reads.")
@click.option("--model", help="Where the session's model is here: directory or name.  [default: as in the session]")
@click.option("--revision", help="Revision of a model on the hub.  [default: as in the session]")
@click.option("--device", help="cpu, cuda, cuda:1, mps…  [default: a GPU if there is one]")
@click.option(
    "--second-moment",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of `collabsecure second-moment`; for one-shot sessions.  [default: stats/ beside the session file]",
)
@click.option("--out", type=click.Path(path_type=Path), default="merged", show_default=True, help="For the result.")
@click.option("--force", is_flag=True, help="Replace what is at --out.")
@click.option("--state", type=click.Path(file_okay=False, path_type=Path), help="State.  [default: <key>.state]")
@click.option("--digest", help="The session's digest as compared with the others; any other session is refused.")
@click.option("--min-clients", type=click.IntRange(min=3), default=3, show_default=True, help="On the roster.")
@click.option("--min-survivors", type=click.IntRange(min=3), default=3, show_default=True, help="In every sum.")
@click.option(
    "--accept-honest-but-curious",
    is_flag=True,
    help="Take part in sessions of so many clients that the server must be trusted to follow the protocol.",
)
@click.option(
    "--max-change",
    type=float,
    default=1.0,
    show_default=True,
    help="Largest ‖Δ‖/‖W‖ of an update; a larger one ends it.",
)
@click.option(
    "--encryption-processes",
    type=click.IntRange(min=1),
    help="In an encrypted session.  [default: one for each core but one]",
)
@line_options
@operator_options
def client(
    line: ServerChoice | SocketChoice,
    *,
    session_file: Path,
    key: Path,
    edits: Path | None,
    model: str | None,
    revision: str | None,
    device: str | None,
    second_moment: Path | None,
    out: Path,
    force: bool,
    state: Path | None,
    digest: str | None,
    min_clients: int,
    min_survivors: int,
    accept_honest_but_curious: bool,
    max_change: float,
    encryption_processes: int | None,
) -> None:
    """Take part in a session: compute, mask, upload, and get the merged update.

    The edits stay here. What leaves is masked; what comes back is the update that all clients' edits make together.
    Killed or interrupted, the same command goes on where it was. Read `collabsecure session show` first.

    \b
    Example:
      collabsecure client --session session.json --key alice.key --edits edits.json \\
        --server https://sum.example.org:8443

    With --daemon, an app that an engine such as Flower or NVFlare ships here carries the same messages between
    --socket and the coordinating end. It gets no key, no edit, and no say in what is agreed to. Without --edits, the
    daemon takes part in a session of sums, whose values the app gives; with --values, its owner alone.

    \b
    Example:
      collabsecure client --session session.json --key alice.key --edits edits.json \\
        --daemon --socket /run/user/1000/collabsecure/alice.sock
    """  # noqa: D301 - \b is click's mark for lines that stay as they are
    session, identity = load_session(session_file), load_identity(key)
    policy = Policy(
        transcript=_transcript(digest),
        min_clients=min_clients,
        min_survivors=min_survivors,
        accept_honest_but_curious=accept_honest_but_curious,
    )
    policy.check(session)
    try:
        session.id_of(identity.public)
    except InvalidSession as error:
        raise InvalidSession(f"{key}: {error}. Give the --key whose line the organiser has") from error
    state = state or key.with_suffix(".state")
    if edits is None:
        if isinstance(line, ServerChoice):
            raise click.UsageError("Missing option '--edits'.")
        take_part_in_sums(line, session, identity, policy, state)
        return
    if isinstance(line, SocketChoice) and line.values is not None:
        raise click.UsageError("--values is for sessions of sums; here the values are computed from --edits.")
    agreement = Agreement.of(session)
    refuse_foreign(out, session, force=force)
    requests = load_requests(edits)
    if len(requests) > agreement.max_edits:
        raise BadFile(
            edits,
            found=f"{len(requests)} edits",
            expected=f"at most {agreement.max_edits}, which the session was made for",
            remedy="Leave some for a later session, or ask the organiser for a larger --max-edits",
        )
    with interruptible(state), StateFolder.opened(state) as folder, line.ready(session, identity) as connect:
        part = _Part(
            session=session,
            agreement=agreement,
            identity=identity,
            folder=folder,
            requests=requests,
            policy=policy,
            out=out,
            force=force,
        )
        part.take(
            connect,
            _ModelHere(
                name=model or agreement.model,
                revision=revision or (agreement.revision if model is None else None),
                device=device,
                moments=SessionMoments(second_moment or session_file.parent / "stats", agreement),
                max_change=max_change,
            ),
            encryption_processes or default_workers(),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _ModelHere:
    """The session's model on this machine, not loaded yet."""

    name: str
    revision: str | None
    device: str | None
    moments: SessionMoments
    max_change: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """One run of the command, once all files are read."""

    session: Session
    agreement: Agreement
    identity: Identity
    folder: StateFolder
    requests: list[EditRequest]
    policy: Policy
    out: Path
    force: bool

    def take(self, connect: Callable[[], "Connection"], here: _ModelHere, workers: int) -> None:
        """From loading the model to the written result."""
        from collabsecure_cli.answers import NoAnswer, NoResultForUs
        from collabsecure_cli.contribution import LocalEdits, Setting, load_model  # imports torch
        from collabsecure_cli.participant import Masking, Participant, Progress

        ledger = EditLedger(self.folder)
        ledger.refuse_repeats(
            self.session.transcript, [edit_digest(request) for request in self.requests], self.agreement.layers
        )
        one_shot = self.agreement.flow == "one-shot"
        if one_shot:
            here.moments.check(say)
        say(f"Loading {here.name}…")
        setting = Setting(
            agreement=self.agreement,
            model=load_model(self.agreement, here.name, here.revision, here.device),
            moments=here.moments if one_shot else None,
            max_change=here.max_change,
            say=say,
        )
        inside = self.folder.folder(self.session.transcript.hex()[:32])
        with interruptible(self.folder.path), progress_bar("optimise values", len(self.requests)) as advance:
            edits = LocalEdits.prepare(setting, self.requests, self.folder.path / "values", advance)
        started = time.monotonic()
        with (
            upload_bar() as uploaded,
            contextlib.closing(connect()) as connection,
            encryption_pool(self.session, workers) as encrypt,
        ):
            participant = Participant(
                Results(self.session, self.agreement, inside.folder("results")),
                self.identity,
                edits,
                connection,
                ledger=ledger,
                folder=inside,
                policy=self.policy,
                rng=os.urandom,
                progress=Progress(say=say, uploaded=uploaded),
                masking=Masking(encrypt=encrypt, at_once=max(2, workers)),
            )
            if participant.resumed:
                say(f"Going on from {self.folder.path}, in {participant.state}")
            try:
                with interruptible(self.folder.path):
                    participant.run()
            except NoResultForUs as error:
                raise NoResult(f"No result: {error}.") from error
            except NoAnswer as error:
                raise Unreachable(f"{error}. The same command goes on.") from error
        figures = {
            "edits_of_this_client": len(self.requests),
            "bytes_sent_by_the_last_run": connection.bytes_sent,
            "seconds_of_the_last_run": round(time.monotonic() - started),
        }
        self._write(participant.results, participant.is_in, figures)

    def _write(self, results: Results, is_in: dict[int, bool], figures: dict[str, int]) -> None:
        name = self.agreement.client_names[self.session.id_of(self.identity.public) - 1]
        report = Report(
            session=self.session,
            agreement=self.agreement,
            party=name,
            survivors=results.survivors,
            norms=norms(results),
            digests=results.digests,
            figures=figures,
        )
        if not refuse_foreign(self.out, self.session, force=self.force):
            write_merged(self.out, results, report, force=self.force)
        absent = [str(layer) for layer, included in is_in.items() if not included]
        missing = f"\nThese edits are NOT in layers {', '.join(absent)}: their sums went on without." if absent else ""
        emit(
            {
                "outcome": "finished",
                "session": self.session.transcript.hex(),
                "out": str(self.out),
                "included": {str(layer): included for layer, included in is_in.items()},
                **figures,
            },
            f"The update of layers {', '.join(map(str, self.agreement.layers))} is in {self.out / DELTA}, "
            f"with report.md beside it.{missing}\n"
            f"Next: collabsecure apply --model {self.agreement.model} --delta {self.out / DELTA} --out edited/",
        )


def _transcript(digest: str | None) -> bytes | None:
    """The digest as it was typed: groups and capitals do not matter."""
    if digest is None:
        return None
    plain = "".join(digest.split()).replace("-", "").lower()
    try:
        found = bytes.fromhex(plain)
    except ValueError:
        found = b""
    if len(found) != 32:
        raise click.BadParameter(f"found {digest!r}; expected 64 hex digits", param_hint="--digest")
    return found
