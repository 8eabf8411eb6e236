"""`collabsecure evaluate`: how well edits took, as CounterFact or zsRE measure it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from collabsecure.edits import EditRequest, load_requests
from collabsecure_cli.case_folder import MARK, CaseFolder, case_names
from collabsecure_cli.config import emit, operator_options
from collabsecure_cli.options import ModelChoice, model_options
from collabsecure_cli.own_folder import own_folder
from collabsecure_cli.progress import evaluation_bar
from collabsecure_cli.written_texts import WrittenTexts

if TYPE_CHECKING:
    from collabsecure.evaluate import Figure
    from collabsecure.evaluate.cases import MetricSet, RecordWithTexts
    from collabsecure.layers import EditableModel

Record = TypeVar("Record")
Tell = Callable[[int, int], None]  # how much is done, and of how much

AT_ONCE = 32  # records; what an interruption costs at most


@click.command("evaluate")
@model_options
@click.option(
    "--records",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    required=True,
    help="Edits, in any form that collabsecure reads.",
)
@click.option("--limit", type=click.IntRange(min=1), help="Evaluate the first records alone.")
@click.option(
    "--metrics",
    "wanted",
    type=click.Choice(["counterfact", "zsre"]),
    help="Whose metrics.  [default: CounterFact's; zsRE's if no record has a true target]",
)
@click.option(
    "--generation", is_flag=True, help="Have texts written as well: CounterFact's NE and, with --snippets, RS."
)
@click.option(
    "--snippets",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="ROME's attribute_snippets.json, or a file like it: texts about subjects of which new targets are true.",
)
@click.option(
    "--tfidf",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder with ROME's tfidf_vocab.json and idf.npy.  [default: words are weighed by all the snippets]",
)
@click.option("--seed", type=int, help="The written texts'.  [default: 0]")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for a file of each record, in MEMIT's form, and summary.json; interrupted, the same command goes on.",
)
@click.option("--force", is_flag=True, help="Use a folder that holds something else.")
@operator_options
def evaluate(
    model: ModelChoice,
    *,
    records: Path,
    limit: int | None,
    wanted: str | None,
    generation: bool,
    snippets: Path | None,
    tfidf: Path | None,
    seed: int | None,
    out: Path | None,
    force: bool,
) -> None:
    """Measure how well edits took: a model's scores on records, with 95% bootstrap intervals over the records.

    CounterFact's metrics are the efficacy (ES), paraphrase (PS) and neighbourhood score (NS): how often the right one
    of two targets is likelier. zsRE's are accuracies (EA, PA, NA): how many of the answer's tokens the model says.
    Score is the harmonic mean of the three. With --generation the model writes texts on from CounterFact's prompts: NE
    is their n-gram entropy, which falls where they go round in circles, RS how near they are to the snippets.

    \b
    Examples:
      collabsecure evaluate --model edited/ --records edits.json
      collabsecure evaluate --model edited/ --records zsre_mend_eval.json --out results/
      collabsecure evaluate --model edited/ --records edits.json --generation --snippets attribute_snippets.json
    """  # noqa: D301 - \b is click's mark for lines that stay as they are
    if force and out is None:
        raise click.UsageError("--force belongs to --out.")
    if not generation and (snippets is not None or seed is not None):
        raise click.UsageError("--snippets and --seed belong to --generation.")
    if tfidf is not None and snippets is None:
        raise click.UsageError("--tfidf belongs to --snippets.")
    requests = load_requests(records)
    names = case_names(requests)
    texts = WrittenTexts.read(records, snippets, tfidf, seed=seed or 0) if generation else None
    click.echo(f"Loading {model.name}", err=True)

    from collabsecure.evaluate.cases import COUNTERFACT, ZSRE, default_metrics

    metrics = wanted or default_metrics(requests)
    if texts is not None and metrics != COUNTERFACT.name:
        raise click.UsageError("--generation belongs to CounterFact's metrics; zsRE has no prompts for texts.")
    editable = model.load()
    folder = None
    if out is not None:
        weights = editable.weights_digest()
        asked = metrics if texts is None else f"{metrics} and {texts.name}"
        folder = CaseFolder(out, model=model.name, weights=weights, records=records, metrics=asked)
        if not force:
            folder.refuse_another()
    work = _Work(model=editable, requests=requests[:limit], names=names[:limit], folder=folder)
    with nullcontext() if out is None else own_folder(out, mark=MARK, found="findings so far", force=force):
        if metrics == ZSRE.name:
            figures = work.figures(ZSRE)
        else:
            figures = work.figures(_metrics(texts)) if texts else work.figures(COUNTERFACT)
        summary: dict[str, object] = {"model": model.name, "metrics": metrics, "records": len(work.requests)}
        summary |= _as_json(figures) if texts is None else {"seed": texts.seed, **_as_json(figures)}
        if folder is not None:
            folder.finish(summary)
    title = ZSRE.title if metrics == ZSRE.name else COUNTERFACT.title
    unit = "in per cent" if texts is None else "in per cent (NE in hundredths of a bit)"
    lines = [
        f"{model.name} on {len(work.requests)} records, by {title}, {unit}, with 95% bootstrap intervals:",
        *map(_as_row, figures),
        *([] if out is None else [f"A file of each record, and summary.json: {out}"]),
        "Next: the same command with the model from before the edit says what the edit has changed.",
    ]
    emit(summary, "\n".join(lines))


def _metrics(texts: WrittenTexts) -> MetricSet[RecordWithTexts]:
    from collabsecure.evaluate.cases import counterfact_with_texts

    return counterfact_with_texts(texts.references, seed=texts.seed)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Work:
    """A model, the records that it is asked about, and where what is found is kept."""

    model: EditableModel
    requests: Sequence[EditRequest]
    names: Sequence[str]  # of the records' files
    folder: CaseFolder | None

    def figures(self, metrics: MetricSet[Record]) -> tuple[Figure, ...]:
        """What all records come to, those that were done before included.

        They are done some at a time, always the same ones together, so that an interrupted run ends with the same
        figures to the last bit.
        """
        if self.folder is not None:
            self.folder.start()
        found: list[Record] = []
        with evaluation_bar("evaluate") as tell:
            for start in range(0, len(self.requests), AT_ONCE):
                part = slice(start, start + AT_ONCE)
                found += self._records(metrics, part, partial(self._tell, tell, start))
                tell(len(found), len(self.requests))
        return metrics.gather(tuple(found)).figures()

    def _records(self, metrics: MetricSet[Record], part: slice, progress: Tell) -> tuple[Record, ...]:
        requests, names = self.requests[part], self.names[part]
        if self.folder is None:
            return metrics.find(self.model, requests, progress)
        records = self.folder.read(metrics, names)
        if records is None:
            records = metrics.find(self.model, requests, progress)
            self.folder.keep(metrics, names, requests, records)
        return records

    def _tell(self, tell: Tell, start: int, done: int, of: int) -> None:
        """Tell in records how far the part that begins at `start` is, of which so many continuations are read."""
        size = min(AT_ONCE, len(self.requests) - start)
        tell(start + size * done // of, len(self.requests))


def _as_json(figures: Sequence[Figure]) -> dict[str, object]:
    values: dict[str, object] = {figure.name.lower(): figure.value for figure in figures}
    intervals = {
        figure.name.lower(): None if figure.interval is None else [figure.interval.low, figure.interval.high]
        for figure in figures
    }
    return {**values, "intervals": intervals}


def _as_row(figure: Figure) -> str:
    if figure.value is None or figure.interval is None:
        return f"{figure.name:<6}{'–':>6}"
    low, high = 100 * figure.interval.low, 100 * figure.interval.high
    return f"{figure.name:<6}{100 * figure.value:>6.1f}   {low:.1f} – {high:.1f}"
