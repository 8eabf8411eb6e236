"""`collabsecure second-moment`: E[k kᵀ] of a model's keys on ordinary text, one file per layer."""

import sys
from collections.abc import Iterator
from pathlib import Path

import click
from tqdm import tqdm

from collabsecure.files import refuse_existing, unwritable
from collabsecure.statistics import second_moment_filename
from collabsecure.texts import dataset_texts, read_texts
from collabsecure_cli.config import emit, operator_options
from collabsecure_cli.group import Interrupted
from collabsecure_cli.options import Layers, ModelChoice, layers_in_short, model_options


@click.command("second-moment")
@model_options
@click.option("--layers", type=Layers(), required=True, help="Layers to be edited: 13-17 or 3,4,5, counted from 0.")
@click.option(
    "--texts",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="UTF-8 file: JSON lines (.jsonl, .json), else one text on each line.",
)
@click.option(
    "--dataset",
    metavar="NAME[:CONFIG]",
    help="Hugging Face data set on the hub, or a local folder; streamed, shuffled.",
)
@click.option("--split", default="train", show_default=True, help="Split of the data set.")
@click.option("--field", default="text", show_default=True, help="Where records of a data set or .jsonl have the text.")
@click.option(
    "--samples",
    type=click.IntRange(min=1),
    default=100_000,
    show_default=True,
    help="Texts to read, as MEMIT's mom2_n_samples: texts, not tokens; fewer if there are no more.",
)
@click.option(
    "--batch-tokens",
    type=click.IntRange(min=1),
    default=4096,
    show_default=True,
    help="Tokens in memory at a time; longer texts are cut off here, or at the model's context.",
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    help="Folder for the files; made if need be.",
)
@click.option("--force", is_flag=True, help="Overwrite files that are there.")
@operator_options
def second_moment(
    model: ModelChoice,
    *,
    layers: tuple[int, ...],
    texts: Path | None,
    dataset: str | None,
    split: str,
    field: str,
    samples: int,
    batch_tokens: int,
    out: Path,
    force: bool,
) -> None:
    """Compute the second moment of keys on ordinary text.

    MEMIT weighs an edit against what the layers must keep doing: C = λ·E[k kᵀ], k being a key of ordinary text.
    This computes E[k kᵀ] for all layers in one pass and writes MEMIT's .npz files, which MEMIT reads too. Files that
    MEMIT has published can be used as they are; then there is no need for this command.

    Interrupted, it keeps a checkpoint in the folder; the same command goes on from there.

    \b
    Example: the layers that MEMIT edits in GPT2-XL, on Wikipedia
      collabsecure second-moment --model gpt2-xl --layers 13-17 \\
        --dataset wikimedia/wikipedia:20231101.en --out stats/gpt2-xl
    """  # noqa: D301 - \b is click's mark for lines that stay as they are
    source = _source(texts, dataset, split, field)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(out, error) from error
    editable = model.load()
    names = {layer: editable.architecture.projection_of(layer) for layer in layers}
    if not force:
        for name in names.values():
            refuse_existing(out / second_moment_filename(name, samples))
    checkpoint = out / f"checkpoint_layers_{layers_in_short(layers)}.safetensors"

    from collabsecure.second_moment import compute_second_moments  # imports torch

    with tqdm(total=samples, unit="text", dynamic_ncols=True) as bar:

        def advance(num_texts: int) -> None:
            if num_texts and not bar.n and checkpoint.exists():
                bar.write(f"Going on after {num_texts} texts, from {checkpoint}", file=sys.stderr)
                bar.n = bar.initial = num_texts  # so that the speed is this run's
            bar.update(num_texts - bar.n)

        try:
            moments = compute_second_moments(
                editable,
                source,
                layers,
                sample_size=samples,
                batch_tokens=batch_tokens,
                checkpoint=checkpoint,
                progress=advance,
            )
        except KeyboardInterrupt as error:
            bar.close()
            kept = (
                f"{checkpoint} is kept; the same command goes on from it."
                if checkpoint.exists()
                else "Nothing is kept."
            )
            raise Interrupted(f"Interrupted. {kept}") from error
        num_texts = bar.n
    if num_texts < samples:
        click.echo(f"There were only {num_texts} texts, not {samples}; the files' names say so", err=True)
    paths = {}
    for layer, moment in moments.items():
        paths[layer] = out / second_moment_filename(names[layer], moment.sample_size)
        moment.save_npz(paths[layer], force=force)
    checkpoint.unlink()
    emit(
        {"files": {str(layer): str(path) for layer, path in paths.items()}, "texts": num_texts},
        "\n".join(map(str, paths.values())),
    )
    click.echo(f"Next: collabsecure session new --second-moment {out} …, or collabsecure demo", err=True)


def _source(texts: Path | None, dataset: str | None, split: str, field: str) -> Iterator[str]:
    """Where the texts come from; nothing is read yet."""
    if texts is not None and dataset is None:
        return read_texts(texts, field=field)
    if dataset and texts is None:
        name, _, config = dataset.partition(":")
        return dataset_texts(name, config=config or None, split=split, field=field)
    raise click.UsageError("Give one of --texts and --dataset.")
