"""`collabsecure reproduce`: the paper's Table 1 and Figures 1 and 3, on the small world or on a model of one's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Concatenate, ParamSpec, TypeVar, cast

import click

from collabsecure.errors import BadFile
from collabsecure_cli.attack_target import Target
from collabsecure_cli.config import emit, operator_options
from collabsecure_cli.own_folder import own_folder
from collabsecure_cli.progress import progress_bar, say
from collabsecure_cli.reproduce_results import as_lines, manifest_of, words_in_full, write_plot, write_table

if TYPE_CHECKING:
    from collabsecure.reproduction.experiments import Evaluation, Repeated, Step
    from collabsecure.reproduction.methods import Cohort, Editing, Merging
    from collabsecure.reproduction.results import Row
    from collabsecure_cli.reproduce_rows import Found, Plan
    from collabsecure_cli.reproduce_target import Data, Ground
    from collabsecure_cli.written_texts import WrittenTexts

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
    data: Data  # of the small world
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

    def load(self, what: str) -> Ground:
        """Load model and records.

        Raises:
            BadFile: there are results of other ones already, and `force` is not set.
        """
        from collabsecure.reproduction.manifest import digests_in
        from collabsecure_cli.reproduce_target import Ground

        say(f"Loading {self.target.name}…")
        ground = Ground.load(self.target, data=self.data)
        manifest = manifest_of(self.named(what, ground))
        others = sorted(
            name for name, digest in digests_in(manifest).items() if ground.digests.get(name, digest) != digest
        )
        if others and not self.force:
            raise BadFile(
                manifest,
                found=f"results of other {', '.join(others)}",
                expected="none, or this run's",
                remedy="Give another --out, or --force",
            )
        return ground

    def cohort(self, ground: Ground, edits: int) -> Cohort:
        say(
            f"{self.clients} clients with {edits} edits each on {ground.name}; edits to λ: "
            f"{self.clients * edits} to {ground.hyperparameters.second_moment_weight:g} (the paper's: 5000 to 20000)"
        )
        return ground.cohort(num_clients=self.clients, edits_per_client=edits, cache=self.out / "values")

    def named(self, what: str, ground: Ground) -> Path:
        """Where results go, without what their kinds end in; those on zsRE's records beside the others'."""
        return self.out / (f"{what}-zsre" if ground.data == "zsRE" else what)

    def write_manifest(
        self,
        ground: Ground,
        path: Path,
        *,
        edits: Sequence[int],
        texts: WrittenTexts | None = None,
        settings: Mapping[str, object] | None = None,
    ) -> None:
        """Write what the results at `path` hang on beside them."""
        from collabsecure.reproduction.manifest import write_manifest

        resolved: dict[str, object] = {"edits_per_client": tuple(edits)}
        if self.is_small_world:
            resolved["data"] = self.data
        command = words_in_full(click.get_current_context(), resolved)
        manifest = ground.manifest(command, seed=self.target.seed, texts=texts, settings=settings or {})
        write_manifest(manifest_of(path), manifest)

    def measure(self, ground: Ground, plan: Plan, counts: Sequence[int], *, effort: int) -> list[Found]:
        """What a plan finds with each number of edits; a record takes so much `effort`."""
        from collabsecure_cli.reproduce_rows import Effort, measure_rows
        from collabsecure_cli.reproduce_state import FinishedRows

        state = FinishedRows(folder=self.out / "rows", of=ground.key)
        cohorts = {edits: self.cohort(ground, edits) for edits in counts}
        with Effort(effort * self.clients * sum(counts)) as bar:
            return [measure_rows(cohorts[edits], plan, state, edits=edits, effort=bar) for edits in counts]


def _experiment(command: Callable[Concatenate[_Run, P], R]) -> Callable[P, R]:
    """Give a command the options that all experiments have; it gets them as its first argument."""

    @click.option("--model", help="Hugging Face directory or name such as gpt2-xl.  [default: the small world's GPT-2]")
    @click.option("--records", type=_existing_file, help="Edits, in any form that collabsecure reads.")
    @click.option(
        "--data",
        type=click.Choice(["counterfact", "zsre"]),
        help="Form of the small world's records, which says whose metrics.  [default: counterfact]",
    )
    @click.option("--hparams", type=_existing_file, help="MEMIT's hyper-parameters as JSON, with λ.")
    @click.option("--second-moment", type=_existing_folder, help="Folder of `collabsecure second-moment`.")
    @click.option("--clients", type=click.IntRange(min=3), default=10, show_default=True, help="Clients that edit.")
    @click.option("--device", help="cpu, cuda, mps…  [default: a GPU if there is one]")
    @click.option(
        "--seed", type=int, default=0, show_default=True, help="Of contexts, texts, and the small world's order."
    )
    @click.option(
        "--out",
        type=click.Path(file_okay=False, path_type=Path),
        default="out/reproduce",
        show_default=True,
        help="Results; all experiments can have the same, and then share values and rows.",
    )
    @click.option("--force", is_flag=True, help="Use a folder that holds something else, or results of something else.")
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
        data = _text(given.pop("data"))
        if data is not None and target.model is not None:
            raise click.UsageError("--data is the small world's; with --model, --records says what data there are.")
        run = _Run(
            target=target,
            data=cast("Data", data or "counterfact"),
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

    Interrupted, the same command goes on: values, finished rows and repetitions are kept in --out.
    """  # noqa: D301 - \b is click's mark for lines that stay as they are


@reproduce.command("table1")
@_experiment
@click.option("--edits-per-client", type=click.IntRange(min=1), help="Of each.  [default: 15; 500 with --model]")
@click.option(
    "--snippets",
    type=_existing_file,
    help="ROME's attribute_snippets.json, or a file like it, for NE and RS.  [default: the small world's own; "
    "with --model, neither NE nor RS]",
)
@click.option(
    "--tfidf",
    type=_existing_folder,
    help="Folder with ROME's tfidf_vocab.json and idf.npy.  [default: words are weighed by all the snippets]",
)
@operator_options
def table1(run: _Run, *, edits_per_client: int | None, snippets: Path | None, tfidf: Path | None) -> None:
    """Compare all methods on the same clients: Table 1.

    GLOBAL-EDIT is MEMIT with all edits in one place. COLLABEDIT goes through the real secure sum, layer by layer
    (which gives GLOBAL-EDIT's figures) or with one sum for all layers. SIMPLE-AVERAGE, TASK-ARITHMETIC and TIES-MERGING
    merge the clients' finished updates; of the last two there is also the best of a sweep, chosen on the records that
    it is measured on, which is more than they could have. On zsRE's records, zsRE's metrics; on CounterFact's, NE and
    RS as well, of texts that the edited models write. Of a sweep, whose rows are compared by Score, only the best one
    writes texts.

    \b
    Writes table1.json, .md and .tex, sweeps.json with all that was swept, and table1-manifest.json; on zsRE's
    records table1-zsre.json and so on. On the small world: some five minutes; on zsRE's records some two.

    \b
    Examples:
      collabsecure reproduce table1
      collabsecure reproduce table1 --data zsre
      collabsecure reproduce table1 --edits-per-client 30 --out out/more-edits/
    """  # noqa: D301 - \b is click's mark for lines that stay as they are
    if run.is_small_world and snippets is not None:
        raise click.UsageError("--snippets belongs to a --model; the small world has its own.")
    if tfidf is not None and snippets is None:
        raise click.UsageError("--tfidf belongs to --snippets.")
    edits = edits_per_client or (15 if run.is_small_world else 500)
    with run.folder():
        from collabsecure.reproduction.experiments import best_of, joined
        from collabsecure.reproduction.methods import METHODS, SWEEPS
        from collabsecure.reproduction.results import Table
        from collabsecure.reproduction.tables import to_text

        ground = run.load("table1")
        texts = _texts(run, ground, snippets, tfidf)
        scores, *others = evaluations = _evaluations(ground, texts)

        def best(sweep: Sequence[Merging], found: Found) -> Merging:
            return best_of({method: found[method, scores.name] for method in sweep})

        def plan(found: Found) -> Iterator[Step]:
            for method in METHODS:
                yield from ((method, evaluation) for evaluation in evaluations)
            for sweep in SWEEPS:
                yield from ((method, scores) for method in sweep)
                yield from ((best(sweep, found), evaluation) for evaluation in others)

        swept = [method for sweep in SWEEPS for method in sweep]
        effort = _effort(evaluations) * len(METHODS) + len(swept) + _effort(others) * len(SWEEPS)
        (found,) = run.measure(ground, plan, [edits], effort=effort)

        def row(method: Editing | Merging) -> Row:
            return joined([found[method, evaluation.name] for evaluation in evaluations])

        rows = [row(method) for method in METHODS]
        rows += [replace(row(best(sweep, found)), note=f"best of {len(sweep)}") for sweep in SWEEPS]
        table = Table(title=ground.name, data=ground.data, rows=tuple(rows))
        all_swept = tuple(found[method, scores.name] for method in swept)
        write_table(path := run.named("table1", ground), table)
        title = f"{ground.name}, sweeps"
        write_table(run.named("sweeps", ground), Table(title=title, data=ground.data, rows=all_swept))
        run.write_manifest(ground, path, edits=[edits], texts=texts)
    emit({"out": str(run.out), **table.to_json()}, f"{to_text(table)}\n\nWritten: {path}.json, .md, .tex")


def _texts(run: _Run, ground: Ground, snippets: Path | None, tfidf: Path | None) -> WrittenTexts | None:
    """What texts there are to be written; none for zsRE, and none with a model without snippets."""
    from collabsecure_cli.written_texts import WrittenTexts

    if ground.data == "zsRE":
        if snippets is not None:
            raise click.UsageError("--snippets belongs to CounterFact's records; zsRE has no prompts for texts.")
        return None
    if run.target.records is None:
        return WrittenTexts.of_small_world(seed=run.target.seed)
    return WrittenTexts.read(run.target.records, snippets, tfidf, seed=run.target.seed) if snippets else None


def _evaluations(ground: Ground, texts: WrittenTexts | None = None) -> list[Evaluation]:
    """What is measured of each method; first what has a Score."""
    from collabsecure.reproduction.experiments import COUNTERFACT, ZSRE, written_texts

    if texts is None:
        return [ZSRE if ground.data == "zsRE" else COUNTERFACT]
    return [COUNTERFACT, written_texts(texts.references, seed=texts.seed, name=texts.name)]


def _effort(evaluations: Sequence[Evaluation]) -> int:
    return sum(evaluation.effort for evaluation in evaluations)


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

        ground = run.load("figure1")
        methods = [method for method in METHODS if method is not BEFORE]
        (scores,) = _evaluations(ground)
        steps = [(method, scores) for method in methods]
        found = run.measure(ground, lambda _: steps, counts, effort=len(steps))
        rows = [some[method, scores.name] for method in methods for some in found]
        plot = plot_scores(rows, title=f"Score on {ground.data}, {run.clients} clients, {ground.name}")
        write_plot(path := run.named("figure1", ground), plot)
        run.write_manifest(ground, path, edits=counts)
    emit({"out": str(run.out), **plot.to_json()}, as_lines(plot, path))


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
        from collabsecure_cli.reproduce_state import RepeatedEdits

        ground = run.load("figure3")
        cohort = run.cohort(ground, edits)
        state = RepeatedEdits(
            path=run.out / "repeated.safetensors",
            of=(*ground.key, str(run.clients), str(edits)),
        )
        since = state.read(cohort.second_moments)
        with progress_bar("edit again", REPEATS + 1) as advance:

            def keep(repeated: Repeated) -> None:
                state.write(repeated)
                advance(1)

            advance(since.times if since else 0)
            measured = residuals_over_repeats(cohort, repeats=REPEATS, since=since, keep=keep)
        predicted = predicted_over_repeats(cohort, repeats=REPEATS)
        plot = plot_residuals(measured, predicted, title=f"‖R‖ of {run.clients * edits} edits, {ground.name}")
        write_plot(path := run.named("figure3", ground), plot)
        run.write_manifest(ground, path, edits=[edits], settings={"repeats": REPEATS})
        state.forget()
    emit({"out": str(run.out), **plot.to_json()}, as_lines(plot, path))
