"""`collabsecure attack`: what each party could learn, tried out; the findings as a page and as JSON."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource
from tqdm import tqdm

from collabsecure.attacks.attack import Finding
from collabsecure.attacks.suite import SUITES, VIEWS, Grid, Plan, Suite
from collabsecure.files import complete_or_absent
from collabsecure_cli.attack_report import AttackReport
from collabsecure_cli.attack_session import SessionTarget
from collabsecure_cli.attack_state import AttackState, Done
from collabsecure_cli.attack_target import Target
from collabsecure_cli.config import emit, operator_options
from collabsecure_cli.durations import in_words
from collabsecure_cli.own_folder import own_folder
from collabsecure_cli.progress import say

if TYPE_CHECKING:
    from collabsecure.attacks.cases.editing import Laboratory

MARK = "collabsecure-attack"  # a file that says that a folder is a report's own
_VIEW_NAMES = tuple(view.name for view in VIEWS)
_existing_file = click.Path(exists=True, dir_okay=False, path_type=Path)
_existing_folder = click.Path(exists=True, file_okay=False, path_type=Path)


class _Numbers(click.ParamType):  # type: ignore[type-arg]  # not generic in older clicks
    """Numbers from 1, as `1,2,5`."""

    name = "numbers"

    def convert(
        self, value: str | tuple[int, ...], param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        parts = [part.strip() for part in value.split(",")]
        if not all(part.isascii() and part.isdigit() and 0 < int(part) < 10**6 for part in parts):
            self.fail(f"found {value!r}; expected numbers such as 1,2,5", param, ctx)
        return tuple(sorted({int(part) for part in parts}))


class _Views(click.ParamType):  # type: ignore[type-arg]
    """Names of views, as `plain,sum`."""

    name = "views"

    def convert(
        self, value: str | tuple[str, ...], param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        if isinstance(value, tuple):
            return value
        wanted = {part.strip() for part in value.split(",")}
        if not wanted <= set(_VIEW_NAMES):
            unknown = ", ".join(sorted(wanted - set(_VIEW_NAMES)))
            self.fail(f"found {unknown!r}; expected some of {','.join(_VIEW_NAMES)}", param, ctx)
        return tuple(name for name in _VIEW_NAMES if name in wanted)


@click.command("attack")
@click.option(
    "--suite",
    type=click.Choice(list(SUITES)),
    default="quick",
    show_default=True,
    help="quick: two or three minutes; full: some ten minutes, larger sums and every defence.",
)
@click.option(
    "--model",
    help="Hugging Face directory or name such as gpt2-xl.  [default: the small world's GPT-2; of a session, its own]",
)
@click.option("--records", type=_existing_file, help="Edits, in any form that collabsecure reads; needed with --model.")
@click.option("--hparams", type=_existing_file, help="MEMIT's hyper-parameters as JSON; needed with --model.")
@click.option(
    "--second-moment", type=_existing_folder, help="Folder of `collabsecure second-moment`; needed with --model."
)
@click.option(
    "--views",
    type=_Views(),
    default=",".join(_VIEW_NAMES),
    show_default=True,
    help="Whose eyes to look with, see above.",
)
@click.option("--clients", type=_Numbers(), help="Numbers of clients, such as 1,2,5,10.  [default: the suite's]")
@click.option(
    "--edits-per-client", type=_Numbers(), help="Numbers of edits of each, such as 5,20,100.  [default: the suite's]"
)
@click.option(
    "--session-state", type=_existing_folder, help="Attack a real session instead: its aggregator's --state folder."
)
@click.option("--session", type=_existing_file, help="That session's file.")
@click.option(
    "--edited", type=_existing_file, help="What was edited in it, by all clients; --records are other candidates then."
)
@click.option("--device", help="cpu, cuda, mps…  [default: a GPU if there is one]")
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Of who is edited, and of what attacks draw.",
)
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), default="out/attack", show_default=True, help="Results."
)
@click.option("--force", is_flag=True, help="Use a folder that holds something else.")
@operator_options
def attack(
    *,
    suite: str,
    model: str | None,
    records: Path | None,
    hparams: Path | None,
    second_moment: Path | None,
    views: tuple[str, ...],
    clients: tuple[int, ...] | None,
    edits_per_client: tuple[int, ...] | None,
    session_state: Path | None,
    session: Path | None,
    edited: Path | None,
    device: str | None,
    seed: int,
    out: Path,
    force: bool,
) -> None:
    """Try to learn what was edited, and by whom, from what each party sees.

    Edits of known origin are shared as in a session; then attacks get what a party has of them, the public model and
    public data, and are scored against the truth. Each is also tried on edits of other subjects, in which there is
    nothing to find (the null); on protected uploads there are controls that must be found out. Writes report.html,
    which any browser shows, and report.json. Interrupted, the same command goes on.

    --clients and --edits-per-client say how large the sessions on the model are. Beside them, the suite tries each view
    on synthetic keys, on the protocol itself and, for sum, under defences, all of sizes of its own.

    With --session-state it is a real session: attacks get what lies in its aggregator's folder, which is read and not
    changed.

    \b
    Views:
      plain            K Kᵀ and R Kᵀ of one client, as CollabEdit uploads them
      masked           what the server of a session gets from one client
      ckks-aggregator  what the aggregator of an encrypted session gets from one client
      sum              the sums, which the server or the key holder opens
      delta            the update that everybody gets with the edited model

    \b
    Examples:
      collabsecure attack
      collabsecure attack --suite full --out report/
      collabsecure attack --views sum,delta --clients 2,5 --edits-per-client 5,20
      collabsecure attack --model gpt2-xl --records multi_counterfact.json --hparams gpt2-xl.json --second-moment stats/
      collabsecure attack --session-state state/ --session session.json --edited all.json --records others.json \\
        --second-moment stats/

    Ends with exit code 1 if a control did not fire (the run then proves nothing), or if something that is protected
    gave something away.
    """  # noqa: D301 - \b is click's mark for lines that stay as they are
    target: Target | SessionTarget
    if session_state is not None:
        _refuse_what_a_session_has(clients=clients, edits_per_client=edits_per_client, hparams=hparams)
        target = SessionTarget.of(
            session_state,
            session=session,
            model=model,
            edited=edited,
            records=records,
            second_moment=second_moment,
            device=device,
            seed=seed,
        )
        todo = target.plan(views)
    elif session is not None or edited is not None:
        raise click.UsageError("--session and --edited belong to --session-state.")
    else:
        target = Target.of(model, records, hparams, second_moment, device=device, seed=seed)
        todo = _plan(target, SUITES[suite], clients, edits_per_client, views, out)
    with own_folder(out, mark=MARK, found="findings so far", force=force):
        # What is tried in an experiment depends on the views, and on which number of clients is the largest.
        asked = (",".join(views), str(max(clients)) if clients else "")
        state = AttackState(out / "state", of=(suite, *target.identity, *asked))
        findings, seconds = _run(todo, state)
        report = AttackReport(
            suite=suite if session_state is None else "session",
            target=target.name,
            views=views,
            seed=seed,
            command=_command_line(),
            findings=findings,
            left_out=todo.left_out,
            seconds=seconds,
            written=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        )
        _write(report, out)
    emit({"out": str(out), **report.summary()}, f"{report.to_text()}\n\nThe whole report: {out / 'report.html'}")
    if report.failures:
        raise click.ClickException("controls failed, so this run proves nothing; the report says which")
    if report.broken:
        raise click.ClickException("what should give nothing away did; the report says what")


def _refuse_what_a_session_has(**values: object) -> None:
    """A session is what it was: what would not be looked at is not taken.

    Raises:
        click.UsageError: something was asked for that says what sessions to make.
    """
    given = [name for name, value in values.items() if value is not None]
    source = click.get_current_context().get_parameter_source("suite")
    if source not in (ParameterSource.DEFAULT, None):
        given.append("suite")
    if given:
        options = ", ".join("--" + name.replace("_", "-") for name in given)
        raise click.UsageError(f"A session has its own sizes and hyper-parameters: leave out {options}.")


def _plan(
    target: Target,
    suite: Suite,
    clients: tuple[int, ...] | None,
    edits_per_client: tuple[int, ...] | None,
    views: tuple[str, ...],
    out: Path,
) -> Plan:
    from collabsecure.attacks.plan import plan  # what it needs of SciPy takes a second that no other command should

    @cache
    def laboratory() -> Laboratory:
        say(f"Loading {target.name}…")
        return target.laboratory(out / "values")

    return plan(
        suite,
        laboratory=laboratory,
        name=target.name,
        num_requests=target.num_requests(),
        grid=Grid(
            clients=clients or suite.grid.clients,
            edits_per_client=edits_per_client or suite.grid.edits_per_client,
        ),
        views=views,
        seed=target.seed,
    )


def _run(todo: Plan, state: AttackState) -> tuple[tuple[Finding, ...], float]:
    """All findings, those of an earlier run included, and the seconds they took."""
    found = {experiment.name: state.read(experiment.name) for experiment in todo.experiments}
    left = [experiment for experiment in todo.experiments if found[experiment.name] is None]
    for reason in todo.left_out:
        say(f"Left out: {reason}")
    total = sum(experiment.seconds for experiment in left)
    experiments = "experiment" if len(left) == 1 else "experiments"
    say(f"{len(left)} {experiments} of {len(todo.experiments)} to do, about {in_words(total)} on two cores")
    form = "{desc} {percentage:3.0f}%|{bar}| {elapsed}, {remaining} left"
    with tqdm(total=total, bar_format=form, dynamic_ncols=True) as bar:
        for experiment in left:
            bar.set_description_str(f"{experiment.name:<44}")
            start = time.monotonic()
            findings = tuple(experiment.run())
            done = Done(findings=findings, seconds=time.monotonic() - start)
            state.write(experiment.name, done)
            found[experiment.name] = done
            bar.update(experiment.seconds)
        bar.set_description_str(f"{'done':<44}")
    all_done = [done for done in found.values() if done is not None]
    return tuple(finding for done in all_done for finding in done.findings), sum(done.seconds for done in all_done)


def _write(report: AttackReport, out: Path) -> None:
    from collabsecure_cli.attack_page import page

    texts: dict[str, Callable[[], str]] = {
        "report.json": lambda: json.dumps(report.to_json(), indent=1, ensure_ascii=False, allow_nan=False) + "\n",
        "report.html": lambda: page(report),
    }
    for name, text in texts.items():
        with complete_or_absent(out / name, force=True) as path:
            path.write_text(text(), encoding="utf-8")


def _command_line() -> str:
    """What was asked for, in full: defaults may be others in another version."""
    context = click.get_current_context()
    words = ["collabsecure", "attack"]
    for parameter in context.command.params:
        value = context.params.get(parameter.name or "")
        if value is None or value is False or parameter.name in ("out", "force", "device"):
            continue
        if parameter.name == "suite" and context.params.get("session_state") is not None:
            continue
        words += [parameter.opts[0], ",".join(map(str, value)) if isinstance(value, tuple) else str(value)]
    return shlex.join(words)
