"""`collabsecure reproduce`: the paper's Table 1 and Figures 1 and 3, on the small world or on a model of one's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Concatenate, ParamSpec, TypeVar

import click
from tqdm import tqdm

from collabsecure.errors import MissingExtra
from collabsecure.files import complete_or_absent
from collabsecure_cli.attack_target import Target
from collabsecure_cli.config import emit, operator_options
from collabsecure_cli.own_folder import own_folder
from collabsecure_cli.progress import progress_bar, say

if TYPE_CHECKING:
    from collabsecure.reproduction.experiments import Metrics
    from collabsecure.reproduction.methods import Cohort, Editing, Merging
    from collabsecure.reproduction.results import Plot, Row, Table
    from collabsecure_cli.reproduce_state import FinishedRows
    from collabsecure_cli.reproduce_target import Ground

P = ParamSpec("P")
R = TypeVar("R")

MARK = "collabsecure-reproduce"  # a file that says that a folder is a reproduction's own
REPEATS = 10  # of Figure 3's edits
_existing_file = click.Path(exists=True, dir_okay=False, path_type=Path)
_existing_folder = click.Path(exists=True, file_okay=False, path_type=Path)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    """What all experiments are asked for."""

    target: Target
    clients: int
    out: Path
    force: bool

    @property
    def is_small_world(self) -> bool:
        return self.target.model is None

    @contextmanager
    def folder(self) -> Iterator[None]:
        """The folder for results, values and rows."""
        with own_folder(self.out, mark=MARK, found="rows and values so far", force=self.force):
            yield

    def load(self) -> Ground:
        from collabsecure_cli.reproduce_target import Ground

        say(f"Loading {self.target.name}…")
        return Ground.load(self.target)

    def cohort(self, ground: Ground, edits: int) -> Cohort:
        say(
            f"{self.clients} clients with {edits} edits each on {ground.name}; edits to λ: "
            f"{self.clients * edits} to {ground.hyperparameters.second_moment_weight:g} (the paper's: 5000 to 20000)"
        )
        return ground.cohort(num_clients=self.clients, edits_per_client=edits, cache=self.out / "values")

    def rows(self) -> FinishedRows:
        from collabsecure_cli.reproduce_state import FinishedRows

        return FinishedRows(folder=self.out / "rows", of=self.target.identity)


def _experiment(command: Callable[Concatenate[_Run, P], R]) -> Callable[P, R]:
    """Give a command the options that all experiments have; it gets them as its first argument."""

    @click.option("--model", help="Hugging Face directory or name such as gpt2-xl.  [default: the small world's GPT-2]")
    @click.option("--records", type=_existing_file, help="Edits, in any form that collabsecure reads.")
    @click.option("--hparams", type=_existing_file, help="MEMIT's hyper-parameters as JSON, with λ.")
    @click.option("--second-moment", type=_existing_folder, help="Folder of `collabsecure second-moment`.")
    @click.option("--clients", type=click.IntRange(min=3), default=10, show_default=True, help="Clients that edit.")
    @click.option("--device", help="cpu, cuda, mps…  [default: a GPU if there is one]")
    @click.option(
        "--seed", type=int, default=0, show_default=True, help="Of the contexts, and of the small world's order."
    )
    @click.option(
        "--out",
        type=click.Path(file_okay=False, path_type=Path),
        default="out/reproduce",
        show_default=True,
        help="Results; all experiments can have the same, and then share values and rows.",
    )
    @click.option("--force", is_flag=True, help="Use a folder that holds something else.")
    @wraps(command)
    def with_run(*args: P.args, **kwargs: P.kwargs) -> R:
        given: dict[str, object] = dict(kwargs)
        target = Target.of(
            _text(given.pop("model")),
            _path(given.pop("records")),
            _path(given.pop("hparams")),
            _path(given.pop("second_moment")),
            device=_text(given.pop("device")),
            seed=int(str(given.pop("seed"))),
        )
        run = _Run(
            target=target,
            clients=int(str(given.pop("clients"))),
            out=Path(str(given.pop("out"))),
            force=bool(given.pop("force")),
        )
        return command(run, *args, **given)  # type: ignore[arg-type]

    return with_run


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _path(value: object) -> Path | None:
    return None if value is None else Path(str(value))


@click.group("reproduce")
def reproduce() -> None:
    """Repeat the experiments of the CollabEdit paper (arXiv 2410.09508).

    Without --model they run on the small world that ships with collabsecure, in minutes; with a model of your own and
    records, as long as the edits and their evaluation take. GPT2-XL with 10 clients of 500 edits is the paper's.

    \b
    Examples:
      collabsecure reproduce table1
      collabsecure reproduce figure1
      collabsecure reproduce figure3
      collabsecure reproduce table1 --model gpt2-xl --records multi_counterfact.json --hparams gpt2-xl.json \\
        --second-moment stats/

    Interrupted, the same command goes on: values and finished rows are kept in --out.
    """  # noqa: D301 - \b is click's mark for lines that stay as they are


@reproduce.command("table1")
@_experiment
@click.option("--edits-per-client", type=click.IntRange(min=1), help="Of each.  [default: 15; 500 with --model]")
@operator_options
def table1(run: _Run, *, edits_per_client: int | None) -> None:
    """Compare all methods on the same clients: Table 1.

    GLOBAL-EDIT is MEMIT with all edits in one place. COLLABEDIT goes through the real secure sum, layer by layer
    (which gives GLOBAL-EDIT's figures) or with one sum for all layers. SIMPLE-AVERAGE, TASK-ARITHMETIC and TIES-MERGING
    merge the clients' finished updates; of the last two there is also the best of a sweep, chosen on the records that
    it is measured on, which is more than they could have. On zsRE's records, zsRE's metrics.

    \b
    Writes table1.json, .md and .tex, sweeps.json with all that was swept, and table1-manifest.json.
    On the small world: about three minutes.

    \b
    Examples:
      collabsecure reproduce table1
      collabsecure reproduce table1 --edits-per-client 30 --out out/more-edits/
    """  # noqa: D301 - \b is click's mark for lines that stay as they are
    edits = edits_per_client or (15 if run.is_small_world else 500)
    with run.folder():
        from collabsecure.reproduction.experiments import best_of
        from collabsecure.reproduction.methods import METHODS, SWEEPS
        from collabsecure.reproduction.results import Table
        from collabsecure.reproduction.tables import to_text

        ground = run.load()
        swept = [method for sweep in SWEEPS for method in sweep]
        found = _measure(run, ground, [*METHODS, *swept], [edits])
        best = [best_of([found[method, edits] for method in sweep]) for sweep in SWEEPS]
        data = ground.data
        table = Table(title=ground.name, data=data, rows=(*(found[method, edits] for method in METHODS), *best))
        sweeps = Table(title=f"{ground.name}, sweeps", data=data, rows=tuple(found[method, edits] for method in swept))
        _write_table(run.out / "table1", table)
        _write_table(run.out / "sweeps", sweeps)
        _write_manifest(run, ground, "table1")
    emit({"out": str(run.out), **table.to_json()}, f"{to_text(table)}\n\nWritten: {run.out / 'table1'}.json, .md, .tex")


@reproduce.command("figure1")
@_experiment
@click.option(
    "--edits-per-client",
    type=click.IntRange(min=1),
    multiple=True,
    help="Of each; give it several times.  [default: 5, 15, 30, 45; 100, 200, … 500 with --model]",
)
@operator_options
def figure1(run: _Run, *, edits_per_client: tuple[int, ...]) -> None:
    """Measure each method's Score as clients make more edits: Figure 1.

    λ stays as it is, so more edits press harder. Rows that `table1` has measured in the same --out are not measured
    again.

    \b
    Writes figure1.json, .svg and .png, and figure1-manifest.json. On the small world: some six minutes.

    \b
    Example:
      collabsecure reproduce figure1 --edits-per-client 15 --edits-per-client 30
    """  # noqa: D301 - \b is click's mark for lines that stay as they are
    counts = tuple(sorted(set(edits_per_client))) or (
        (5, 15, 30, 45) if run.is_small_world else (100, 200, 300, 400, 500)
    )
    with run.folder():
        from collabsecure.reproduction.experiments import plot_scores
        from collabsecure.reproduction.methods import BEFORE, METHODS

        ground = run.load()
        methods = [method for method in METHODS if method is not BEFORE]
        found = _measure(run, ground, methods, counts)
        rows = [found[method, edits] for method in methods for edits in counts]
        plot = plot_scores(rows, title=f"Score on {ground.data}, {run.clients} clients, {ground.name}")
        _write_plot(run.out / "figure1", plot)
        _write_manifest(run, ground, "figure1")
    emit({"out": str(run.out), **plot.to_json()}, _as_lines(plot, run.out / "figure1"))


@reproduce.command("figure3")
@_experiment
@click.option("--edits-per-client", type=click.IntRange(min=1), help="Of each.  [default: 15; 500 with --model]")
@operator_options
def figure3(run: _Run, *, edits_per_client: int | None) -> None:
    """Make the same edits again and again: Figure 3.

    What is left to write, ‖R‖, is measured on the model as MEMIT edits it over and over; beside it, what the paper's
    recursion says of each layer, if that layer alone is edited.

    \b
    Writes figure3.json, .svg and .png, and figure3-manifest.json. On the small world: a minute.
    """  # noqa: D301 - \b is click's mark for lines that stay as they are
    edits = edits_per_client or (15 if run.is_small_world else 500)
    with run.folder():
        from collabsecure.reproduction.experiments import (
            plot_residuals,
            predicted_over_repeats,
            residuals_over_repeats,
        )

        ground = run.load()
        cohort = run.cohort(ground, edits)
        with progress_bar("edit again", REPEATS + 1) as advance:
            measured = residuals_over_repeats(cohort, repeats=REPEATS, progress=advance)
        predicted = predicted_over_repeats(cohort, repeats=REPEATS)
        plot = plot_residuals(measured, predicted, title=f"‖R‖ of {run.clients * edits} edits, {ground.name}")
        _write_plot(run.out / "figure3", plot)
        _write_manifest(run, ground, "figure3")
    emit({"out": str(run.out), **plot.to_json()}, _as_lines(plot, run.out / "figure3"))


Found = Mapping[tuple["Editing | Merging", int], "Row"]


def _measure(run: _Run, ground: Ground, methods: Sequence[Editing | Merging], counts: Sequence[int]) -> Found:
    """Each method's row with each number of edits, those of an earlier run included."""
    from collabsecure.reproduction.experiments import measure

    metrics: Metrics = "zsre" if ground.data == "zsRE" else "counterfact"
    state = run.rows()
    found = {
        (method, edits): row
        for edits in counts
        for method in methods
        if (row := state.read(method, clients=run.clients, edits=edits)) is not None
    }
    left = [(method, edits) for edits in counts for method in methods if (method, edits) not in found]
    say(f"{len(left)} rows of {len(methods) * len(counts)} to do")
    cohorts = {edits: run.cohort(ground, edits) for edits in dict.fromkeys(edits for _, edits in left)}
    sizes = {pair: run.clients * pair[1] for pair in left}  # records to ask about, which is what takes long
    form = "{desc} {percentage:3.0f}%|{bar}| {elapsed}, {remaining} left"
    with tqdm(total=sum(sizes.values()), bar_format=form, dynamic_ncols=True) as bar:

        def tell(part: float, edits: int) -> None:
            finished = sum(size for pair, size in sizes.items() if pair in found)
            bar.update(finished + round(part * run.clients * edits) - bar.n)

        for edits, cohort in cohorts.items():
            wanted = [method for method, of in left if of == edits]
            asked = partial(_tell, tell, edits)
            for method, row in measure(cohort, wanted, metrics=metrics, evaluating=asked):
                state.write(row, method, clients=run.clients, edits=edits)
                found[method, edits] = row
                bar.set_description_str(f"{row.name[:44]:<44}")
    return found


def _tell(tell: Callable[[float, int], None], edits: int, done: int, of: int) -> None:
    tell(done / of, edits)


def _write_manifest(run: _Run, ground: Ground, name: str) -> None:
    """Write what the results hang on beside them, with what was asked for in full: defaults may change."""
    from collabsecure.reproduction.manifest import write_manifest

    context = click.get_current_context()
    words = ["collabsecure", "reproduce", str(context.info_name)]
    for parameter in context.command.params:
        value = context.params.get(parameter.name or "")
        if value is not None and parameter.name not in ("out", "force", "device"):
            for one in value if isinstance(value, tuple) else (value,):
                words += [parameter.opts[0], str(one)]
    write_manifest(run.out / f"{name}-manifest.json", ground.manifest(words, seed=run.target.seed))


def _write_table(path: Path, table: Table) -> None:
    from collabsecure.reproduction.results import write_result
    from collabsecure.reproduction.tables import to_latex, to_markdown

    write_result(path.with_suffix(".json"), table)
    for suffix, text in ((".md", to_markdown(table)), (".tex", to_latex(table))):
        with complete_or_absent(path.with_suffix(suffix), force=True) as temporary:
            temporary.write_text(text + "\n", encoding="utf-8")


def _write_plot(path: Path, plot: Plot) -> None:
    from collabsecure.reproduction.plots import write_plot
    from collabsecure.reproduction.results import write_result

    write_result(path.with_suffix(".json"), plot)
    try:
        for suffix in (".svg", ".png"):
            write_plot(path.with_suffix(suffix), plot)
    except MissingExtra as error:
        say(f"The figures are in {path}.json, but not drawn: {error}")


def _as_lines(plot: Plot, path: Path) -> str:
    """Numbers for a terminal: a line for each series."""
    width = max((len(series.label) for series in plot.series), default=0)
    lines = [plot.title, f"{plot.y_label} by {plot.x_label}:"]
    for series in plot.series:
        points = "  ".join(f"{x:g}: {y:.3g}" for x, y in zip(series.x, series.y, strict=True))
        lines.append(f"  {series.label:<{width}}  {points}")
    return "\n".join([*lines, f"Written: {path}.json, and .svg and .png where matplotlib is installed"])
