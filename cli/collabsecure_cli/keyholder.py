"""`collabsecure keyholder`: who opens the sums of an encrypted session, so that the aggregator learns none."""

import contextlib
from pathlib import Path

import click

from collabsecure.agreement import Agreement
from collabsecure.errors import BadFile
from collabsecure.files import refuse_existing
from collabsecure.sessions import best_bits
from collabsecure_cli.answers import NoAnswer, NoResultForUs
from collabsecure_cli.config import emit, operator_options
from collabsecure_cli.encryption_keys import find_secret, keep_secret, refuse_used, write_public
from collabsecure_cli.endpoints import ServerChoice, server_options
from collabsecure_cli.folder import StateFolder
from collabsecure_cli.group import NoResult, Unreachable, interruptible
from collabsecure_cli.identity import load_identity
from collabsecure_cli.moments import SessionMoments
from collabsecure_cli.progress import chunk_bar, say
from collabsecure_cli.report import DELTA, Report, norms, refuse_foreign, write_merged
from collabsecure_cli.results import Results
from collabsecure_cli.session import load_session
from collabsecure_protocols import KeyPair
from collabsecure_protocols.encryption_parameters import SCHEMES, Scheme, choose_encryption

_file = click.Path(exists=True, dir_okay=False, path_type=Path)
_folder = click.Path(file_okay=False, path_type=Path)


@click.group("keyholder")
def keyholder() -> None:
    """Hold the key of an encrypted session, and open its sums.

    In a session with encryption the aggregator adds ciphertexts and learns no sum; the key holder opens each sum once,
    merges it, and hands back the update. Neither sees any single upload, nor do both together.
    """


@keyholder.command("new")
@click.option("--key", type=_file, required=True, help="The key holder's key file, of `collabsecure identity new`.")
@click.option(
    "--scheme", type=click.Choice(SCHEMES), default="bfv", show_default=True, help="bfv takes half the bytes."
)
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, help="File for the organiser, such as holder.json."
)
@click.option("--state", type=_folder, help="Where the secret stays.  [default: <key>.state]")
@click.option("--force", is_flag=True, help="Overwrite a file that is there.")
@operator_options
def new(*, key: Path, scheme: Scheme, out: Path, state: Path | None, force: bool) -> None:
    """Make an encryption key for one session: a file for the organiser, and a secret that stays here.

    \b
    Example:
      collabsecure keyholder new --key dora.key --out holder.json
    """  # noqa: D301 - \b is click's mark for lines that stay as they are
    identity = load_identity(key)
    if not force:
        refuse_existing(out)
    pair = KeyPair.generate(scheme)
    with StateFolder.opened(state or key.with_suffix(".state")) as folder:
        keep_secret(folder, pair)
    write_public(out, pair.public, identity, force=force)
    emit(
        {"file": str(out), "scheme": scheme, "digest": pair.public.digest.hex()},
        f"Made {out}, a key for {scheme}; the secret is in {folder.path} and stays there. For one session.\n"
        f"Next: send {out} and your roster line to the organiser, who gives it to "
        f"`collabsecure session new --encryption {out.name}`.",
    )


@keyholder.command("explain")
@click.option("--scheme", type=click.Choice(SCHEMES), default="bfv", show_default=True)
@click.option("--clients", type=click.IntRange(min=3), required=True, help="On the roster.")
@click.option("--bits", type=click.IntRange(min=1, max=64), help="Of a masked integer.  [default: what fits best]")
@click.option("--values", type=click.IntRange(min=1), default=154_000_000, show_default=True, help="Of one client.")
@operator_options
def explain(*, scheme: Scheme, clients: int, bits: int | None, values: int) -> None:
    """Say which parameters a session would get, why sums come out exact, and what it costs here.

    Encryption and decryption are measured on this machine for a second, with one process.
    """
    from collabsecure_cli.encryption_costs import explained

    parameters = choose_encryption(scheme, num_clients=clients, bits=bits or best_bits(scheme, clients))
    found = explained(parameters, clients, values)
    width = max(map(len, found))
    emit(found, "\n".join(f"{name:<{width}}  {figure}" for name, figure in found.items()))


@keyholder.command("run")
@click.option("--session", "session_file", type=_file, required=True, help="The session that all parties agreed on.")
@click.option("--key", type=_file, required=True, help="The key holder's key file.")
@click.option(
    "--second-moment",
    type=_folder,
    help="Folder of `collabsecure second-moment`.  [default: stats/ beside the session file]",
)
@click.option("--out", type=click.Path(path_type=Path), default="merged", show_default=True, help="For the result.")
@click.option("--force", is_flag=True, help="Replace an earlier result at --out.")
@click.option("--state", type=_folder, help="Where the secret is, and the state.  [default: <key>.state]")
@server_options
@operator_options
def run(
    server: ServerChoice,
    *,
    session_file: Path,
    key: Path,
    second_moment: Path | None,
    out: Path,
    force: bool,
    state: Path | None,
) -> None:
    """Open the sums of a session, merge them, and hand the updates back.

    Needs no model and no GPU. Killed or interrupted, the same command goes on where it was.

    \b
    Example:
      collabsecure keyholder run --session session.json --key dora.key --server https://sum.example.org:8443
    """  # noqa: D301 - \b is click's mark for lines that stay as they are
    session, identity = load_session(session_file), load_identity(key)
    agreement = Agreement.of(session)
    if identity.public != session.key_holder:
        raise BadFile(key, found="a key that is not the session's key holder's", expected=session.key_holder.hex())
    refuse_foreign(out, session, force=force)
    moments = SessionMoments(second_moment or session_file.parent / "stats", agreement)
    from collabsecure_cli.holder_run import HolderRun  # what it needs is of an extra

    with StateFolder.opened(state or key.with_suffix(".state")) as folder:
        pair = find_secret(folder, session.encryption_key)
        refuse_used(folder, pair.public, session.transcript)
        moments.check(say)
        inside = folder.folder(session.transcript.hex()[:32])
        results = Results(session, agreement, inside.folder("results"))
        connection = server.connect(session, identity)
        with contextlib.closing(connection), chunk_bar("decrypt") as decrypted, interruptible(folder.path):
            try:
                HolderRun(
                    results,
                    identity,
                    pair,
                    connection,
                    keys=folder,
                    folder=inside,
                    second_moment=moments.__getitem__,
                    say=say,
                    decrypted=decrypted,
                ).run()
            except NoResultForUs as error:
                raise NoResult(f"No result: {error}.") from error
            except NoAnswer as error:
                raise Unreachable(f"{error}. The same command goes on.") from error
        if not refuse_foreign(out, session, force=force):
            report = Report(
                session=session,
                agreement=agreement,
                party=agreement.key_holder_name or "key holder",
                survivors=results.survivors,
                norms=norms(results),
                digests=results.digests,
                figures={},
            )
            write_merged(out, results, report, force=force)
    emit(
        {"outcome": "finished", "session": session.transcript.hex(), "out": str(out)},
        f"Opened and merged layers {', '.join(map(str, agreement.layers))}: {out / DELTA}, with report.md beside it.\n"
        f"Next: nothing; the clients have the update. The key pair in {folder.path} served this session, and may go.",
    )
