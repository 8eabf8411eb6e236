"""`collabsecure evaluate`: how well edits took, as CounterFact measures it."""

from pathlib import Path

import click

from collabsecure.edits import load_requests
from collabsecure_cli.config import emit, operator_options
from collabsecure_cli.options import ModelChoice, model_options
from collabsecure_cli.progress import evaluation_bar


@click.command("evaluate")
@model_options
@click.option(
    "--records",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    required=True,
    help="Edits, in any form that collabsecure reads.",
)
@click.option("--limit", type=click.IntRange(min=1), help="Evaluate the first records alone.")
@operator_options
def evaluate(model: ModelChoice, *, records: Path, limit: int | None) -> None:
    """Measure efficacy (ES), paraphrase (PS) and neighbourhood score (NS) of a model on records, and their Score.

    \b
    Example:
      collabsecure evaluate --model edited/ --records edits.json
    """  # noqa: D301 - \b is click's mark for lines that stay as they are
    requests = load_requests(records)[:limit]
    click.echo(f"Loading {model.name}", err=True)
    editable = model.load()

    from collabsecure.evaluate import evaluate_counterfact

    with evaluation_bar("evaluate") as tell:
        scores = evaluate_counterfact(editable, requests, progress=tell)
    figures = {"ES": scores.es, "PS": scores.ps, "NS": scores.ns, "Score": scores.score}
    rows = [f"{name:<6}{'–' if value is None else f'{100 * value:.1f}':>6}" for name, value in figures.items()]
    emit(
        {"model": model.name, "records": len(requests), **{name.lower(): value for name, value in figures.items()}},
        "\n".join(
            [
                f"{model.name} on {len(requests)} records, in per cent:",
                *rows,
                "Next: the same command with the model from before the edit says what the edit has changed.",
            ]
        ),
    )
