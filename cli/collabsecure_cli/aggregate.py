"""`collabsecure aggregate`: the server of one session, from its first key to the merged update."""

import asyncio
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import click

from collabsecure.agreement import Agreement
from collabsecure_cli.aggregator import Aggregator
from collabsecure_cli.api import Api
from collabsecure_cli.config import emit, operator_options
from collabsecure_cli.durations import Duration
from collabsecure_cli.endpoints import is_loopback
from collabsecure_cli.folder import StateFolder
from collabsecure_cli.group import Interrupted, NoResult
from collabsecure_cli.identity import load_identity
from collabsecure_cli.metrics import Metrics
from collabsecure_cli.moments import SessionMoments
from collabsecure_cli.overview import describe
from collabsecure_cli.progress import say
from collabsecure_cli.refusals import RefusalLimiter, limit_refusals
from collabsecure_cli.report import DELTA, Report, norms, refuse_foreign, write_merged
from collabsecure_cli.results import Results
from collabsecure_cli.service import Durations, Service
from collabsecure_cli.serving import Limits, Tls, serve
from collabsecure_cli.session import load_session
from collabsecure_protocols import Identity, Session

_file = click.Path(exists=True, dir_okay=False, path_type=Path)
_DURATIONS, _LIMITS = Durations(), Limits()


class Address(click.ParamType):  # type: ignore[type-arg]  # not generic in older clicks
    """Where to listen: 0.0.0.0:8443, [::]:8443, localhost:8443.

    >>> Address().convert("[::1]:8443", None, None)
    ('::1', 8443)
    """

    name = "host:port"

    def convert(
        self, value: str | tuple[str, int], param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, int]:
        """Read what was typed."""
        if isinstance(value, tuple):
            return value
        host, _, port = value.rpartition(":")
        if not host or not (port.isascii() and port.isdigit()) or int(port) > 65_535:
            self.fail(f"found {value!r}; expected HOST:PORT such as 0.0.0.0:8443", param, ctx)
        return host.strip("[]"), int(port)


@click.command("aggregate")
@click.option("--session", "session_file", type=_file, required=True, help="The session that all parties agreed on.")
@click.option("--key", type=_file, required=True, help="The server's key file.")
@click.option(
    "--second-moment",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of `collabsecure second-moment`.  [default: stats/ beside the session file]",
)
@click.option("--listen", type=Address(), default="127.0.0.1:8443", show_default=True, help="Where clients connect.")
@click.option(
    "--status-listen",
    type=Address(),
    help="Where the status page and /metrics are; they say who takes part.  [default: 127.0.0.1, the next port]",
)
@click.option("--tls-cert", type=_file, help="The server's certificate chain, PEM.")
@click.option("--tls-key", type=_file, help="Its private key, PEM.")
@click.option("--client-ca", type=_file, help="Let in only who has a certificate of this authority (mutual TLS), PEM.")
@click.option("--insecure", is_flag=True, help="Without TLS; on loopback addresses alone.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for the result; all or nothing.")
@click.option("--force", is_flag=True, help="Replace what is at --out.")
@click.option("--state", type=click.Path(file_okay=False, path_type=Path), help="State.  [default: <out>.state]")
@click.option("--join-time", type=Duration(), default=_DURATIONS.join, help="To wait for everybody's keys.  [24h]")
@click.option("--upload-time", type=Duration(), default=_DURATIONS.upload, help="To wait for masked input.  [6h]")
@click.option("--answer-time", type=Duration(), default=_DURATIONS.answer, help="To wait for anything else.  [1h]")
@click.option(
    "--open-time", type=Duration(), default=_DURATIONS.opening, help="To wait for the key holder, a sum.  [6h]"
)
@click.option(
    "--linger", type=Duration(), default=_DURATIONS.linger, help="To wait at the end until all have the result.  [1h]"
)
@click.option("--max-connections", type=click.IntRange(min=1), default=_LIMITS.max_connections, show_default=True)
@click.option(
    "--max-connections-per-address",
    type=click.IntRange(min=1),
    default=_LIMITS.max_connections_per_address,
    show_default=True,
    help="Behind a reverse proxy: as many as --max-connections.",
)
@click.option(
    "--max-refusals-per-minute",
    type=click.IntRange(min=1),
    default=_LIMITS.refusals_per_minute,
    show_default=True,
    help="Of one address, before it is not listened to.",
)
@click.option(
    "--header-time", type=Duration(), default=_LIMITS.header_seconds, help="For one request's headers to arrive.  [10s]"
)
@click.option(
    "--idle-time", type=Duration(), default=_LIMITS.idle_seconds, help="For a connection without a request.  [75s]"
)
@click.option(
    "--request-time", type=Duration(), default=_LIMITS.body_seconds, help="For one request's body to arrive.  [2m]"
)
@operator_options
def aggregate(
    *,
    session_file: Path,
    key: Path,
    second_moment: Path | None,
    listen: tuple[str, int],
    status_listen: tuple[str, int] | None,
    tls_cert: Path | None,
    tls_key: Path | None,
    client_ca: Path | None,
    insecure: bool,
    out: Path,
    force: bool,
    state: Path | None,
    join_time: float,
    upload_time: float,
    answer_time: float,
    open_time: float,
    linger: float,
    max_connections: int,
    max_connections_per_address: int,
    max_refusals_per_minute: int,
    header_time: float,
    idle_time: float,
    request_time: float,
) -> None:
    """Add up what the clients upload, masked, and merge it.

    Needs no model and no GPU: the session, the server's key, and the second moments that the session was made with.
    Clients connect by HTTPS; operators have a status page on this machine. Killed or stopped, the same command goes
    on where it was. It ends when every client has the result, or the session has failed (exit code 3).

    \b
    Example:
      collabsecure aggregate --session session.json --key server.key --listen 0.0.0.0:8443 \\
        --tls-cert fullchain.pem --tls-key privkey.pem --out merged/
    """  # noqa: D301 - \b is click's mark for lines that stay as they are
    tls = _tls(listen[0], tls_cert, tls_key, client_ca, insecure=insecure)
    if status_listen is not None:
        check_status(status_listen, tls)
    session, identity = load_session(session_file), load_identity(key)
    agreement = Agreement.of(session)
    refuse_foreign(out, session, force=force)
    moments = SessionMoments(second_moment or session_file.parent / "stats", agreement)
    durations = Durations(join=join_time, upload=upload_time, answer=answer_time, opening=open_time, linger=linger)
    limits = Limits(
        max_connections=max_connections,
        max_connections_per_address=max_connections_per_address,
        refusals_per_minute=max_refusals_per_minute,
        header_seconds=header_time,
        idle_seconds=idle_time,
        body_seconds=request_time,
    )
    with StateFolder.opened(state or out.with_name(f"{out.name}.state")) as folder:
        results = Results(session, agreement, folder.folder("results"))
        engine = Aggregator(session, identity, folder, results)
        if not results.are_complete and not session.is_encrypted:
            moments.check(say)
        if engine.resumed:
            say(f"Going on from {folder.path}, in {engine.state}")
        run = _Run(
            session=session,
            agreement=agreement,
            identity=identity,
            results=results,
            service=lambda: Service(engine, moments.__getitem__, durations, tell=say),
            out=out,
            force=force,
        )
        beside = "127.0.0.1", listen[1] and listen[1] + 1
        asyncio.run(run.until_over(listen, status_listen or beside, tls, limits))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    """One run of the command, once everything is loaded."""

    session: Session
    agreement: Agreement
    identity: Identity
    results: Results
    service: Callable[[], Service]
    out: Path
    force: bool

    async def until_over(
        self, listen: tuple[str, int], status: tuple[str, int], tls: Tls | None, limits: Limits
    ) -> None:
        service, stop, interrupted = self.service(), asyncio.Event(), asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, interrupted.set)
        api = Api(service, self.identity, lambda: describe(service, self.agreement), Metrics())
        app = limit_refusals(api.app, RefusalLimiter(limits.refusals_per_minute, clock=service.clock))

        def listening(url: str) -> None:
            say(f"Listening on {url}. Session {self.session.transcript.hex()}")

        async def work() -> None:
            await service.run()
            if self.results.are_complete:
                tasks.append(loop.create_task(service.call(self._write, service)))  # meanwhile, clients are answered
                await asyncio.shield(tasks[-1])
            say("Waiting until every client knows…" if not service.is_served else "Every client knows.")
            await service.linger()

        serving = loop.create_task(
            serve(app, host=listen[0], port=listen[1], tls=tls, limits=limits, on_listening=listening, stop=stop)
        )
        watched = loop.create_task(
            serve(
                api.operators,
                host=status[0],
                port=status[1],
                tls=None if is_loopback(status[0]) else tls,
                limits=limits,
                on_listening=lambda url: say(f"Status page: {url}"),
                stop=stop,
            )
        )
        working, signalled = loop.create_task(work()), loop.create_task(interrupted.wait())
        tasks: list[asyncio.Task[object]] = [serving, watched, working, signalled]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            if interrupted.is_set():
                say("Stopping, once the step in work is done…")
            service.stop()
            await asyncio.sleep(0)  # long polls answer before their connections are closed
            stop.set()
            for task in (working, signalled):
                task.cancel()
            done = await asyncio.gather(*tasks, return_exceptions=True)
            service.close()
            # The loop takes its handlers with it: from here on a signal would end the process without its last word.
            signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
        for error in done:
            if isinstance(error, BaseException) and not isinstance(error, asyncio.CancelledError):
                raise error
        self._end(service, interrupted=interrupted.is_set())

    def _write(self, service: Service) -> None:
        """Write the result, unless an earlier run has."""
        if refuse_foreign(self.out, self.session, force=self.force):
            return
        figures = {
            "bytes_received_by_the_last_run": sum(service.bytes_of.values()),
            "seconds_of_the_last_run": round(service.clock() - service.started),
        }
        report = Report(
            session=self.session,
            agreement=self.agreement,
            party=self.agreement.server_name,
            survivors=self.results.survivors,
            norms=norms(self.results),
            digests=self.results.digests,
            figures=figures,
        )
        write_merged(self.out, self.results, report, force=self.force)

    def _end(self, service: Service, *, interrupted: bool) -> None:
        picture = service.picture
        if not picture.is_over:
            raise Interrupted("Stopped. Everything is on the disk; the same command goes on.")
        if picture.failure is not None:
            raise NoResult(
                f"No result: {picture.failure}. Nothing was merged. Clients that had not yet shown shares may run "
                "the same edits again in a new session (collabsecure session new)."
            )
        names = self.agreement.client_names
        waiting = [names[client - 1] for client in self.session.client_ids if client not in service.done]
        unserved = f"\nWithout the result so far: {', '.join(waiting)}." if waiting else ""
        if interrupted and waiting:
            unserved += " The same command goes on serving it."
        survivors = {str(layer): list(members) for layer, members in self.results.survivors.items()}
        emit(
            {
                "outcome": "finished",
                "session": self.session.transcript.hex(),
                "out": str(self.out),
                "survivors": survivors,
                "without_result": waiting,
            },
            f"Merged layers {', '.join(survivors)} over {_counts(survivors)} of {self.session.num_clients} clients: "
            f"{self.out / DELTA}, with report.md beside it.{unserved}\n"
            f"Next: collabsecure apply --model {self.agreement.model} --delta {self.out / DELTA} --out edited/",
        )


def _tls(
    host: str, certificate: Path | None, key: Path | None, client_ca: Path | None, *, insecure: bool
) -> Tls | None:
    if certificate is not None and key is not None and not insecure:
        return Tls(certificate=certificate, key=key, client_ca=client_ca)
    if certificate or key or client_ca:
        raise click.UsageError("TLS takes both --tls-cert and --tls-key, and no --insecure.")
    if not insecure:
        raise click.UsageError(
            "Give --tls-cert and --tls-key: sums travel readable without TLS. For trying things on this machine alone: "
            "--insecure --listen 127.0.0.1:8443"
        )
    if not is_loopback(host):
        raise click.UsageError(f"--insecure is for loopback addresses alone; found --listen {host}.")
    return None


def check_status(listen: tuple[str, int], tls: Tls | None) -> None:
    """Refuse a status page that others could read on its way: it says who takes part."""
    if tls is None and not is_loopback(listen[0]):
        raise click.UsageError(f"--insecure is for loopback addresses alone; found --status-listen {listen[0]}.")


def _counts(survivors: dict[str, list[int]]) -> str:
    counts = sorted({len(members) for members in survivors.values()})
    return str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
