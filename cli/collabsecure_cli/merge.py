"""`collabsecure merge`: several finished edits into one, by the methods that CollabEdit is compared with."""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import click
import numpy as np
from jaxtyping import Float64
from safetensors import SafetensorError, safe_open

from collabsecure.deltas import Delta, Provenance, load_delta, save_delta
from collabsecure.errors import BadFile, ModelMismatch
from collabsecure.files import refuse_existing, unreadable, unwritable
from collabsecure.merging import Update, simple_average, task_arithmetic, ties
from collabsecure_cli.config import emit, operator_options
from collabsecure_cli.options import layers_in_short


def _number(_: click.Context, __: click.Parameter, value: float | None) -> float | None:
    if value is not None and not math.isfinite(value):  # passes for one in click, even within a range
        raise click.BadParameter(f"found {value}; expected a finite number")
    return value


@click.command("merge")
@click.option(
    "--method",
    type=click.Choice(["simple-average", "task-arithmetic", "ties"]),
    required=True,
    help="How to merge; see above.",
)
@click.option(
    "--lambda", "scale", type=float, callback=_number, help="λ of task-arithmetic and ties.  [default: 1]", metavar="λ"
)
@click.option(
    "--keep",
    type=click.FloatRange(0, 1, min_open=True),
    callback=_number,
    help="k of ties: the part of each update's entries that stays.  [default: 0.2]",
    metavar="PART",
)
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), required=True, help="The merged edit.")
@click.option("--force", is_flag=True, help="Replace a file that is there.")
@click.argument("deltas", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@operator_options
def merge(
    *,
    method: str,
    scale: float | None,
    keep: float | None,
    out: Path,
    force: bool,
    deltas: tuple[Path, ...],
) -> None:
    """Merge finished edits, each a delta.safetensors, into one: for comparison with what `aggregate` gives.

    \b
    simple-average    the mean of the updates
    task-arithmetic   λ times their sum (Ilharco et al. 2023)
    ties              of each update the largest entries, of these the ones whose
                      sign outweighs the other, averaged, times λ (Yadav et al. 2023)

    None of them is what `collabsecure aggregate` does. That one solves, layer by layer and from sums of all clients'
    statistics, for exactly the update that editing with all requests in one place gives. These methods see finished
    updates, each made as if there were no others, and give something else. They also need every client's own update,
    which says much about its edits; `aggregate` never sees one.

    The updates must be of the same layers of the same weights.

    \b
    Examples:
      collabsecure merge --method simple-average --out merged.safetensors a/delta.safetensors b/delta.safetensors
      collabsecure merge --method ties --keep 0.2 --lambda 0.4 --out merged.safetensors */delta.safetensors
    """  # noqa: D301 - \b is click's mark for lines that stay as they are
    if method == "simple-average" and scale is not None:
        raise click.UsageError("--lambda is of task-arithmetic and ties; simple-average has none.")
    if method != "ties" and keep is not None:
        raise click.UsageError(f"--keep is of ties; {method} keeps all entries.")
    scale, keep = 1.0 if scale is None else scale, 0.2 if keep is None else keep
    if not force:
        refuse_existing(out)
    origins = [load_delta(path).provenance for path in deltas]
    updates = [_OnDisk(path) for path in deltas]
    _check_origins(deltas, updates, origins)
    click.echo(f"Merging {len(deltas)} updates", err=True)
    mode, merged = _merged(method, updates, scale=scale, keep=keep)
    if not all(np.isfinite(values).all() for values in merged.values()):
        raise ModelMismatch(f"found a merged update with infinite entries ({mode}); expected smaller updates or λ")
    first = origins[0]
    revision = first.revision if all(origin.revision == first.revision for origin in origins) else None
    provenance = Provenance(
        model=first.model,
        revision=revision,
        weights_digest=first.weights_digest,
        weights_dtype=first.weights_dtype,
        mode=mode,
    )
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(out.parent, error) from error
    save_delta(out, Delta(layers=merged, provenance=provenance), force=force)
    norms = {layer: float(np.linalg.norm(values)) for layer, values in merged.items()}
    listed = ", ".join(f"layer {layer}: {norm:.2e}" for layer, norm in norms.items())
    emit(
        {
            "out": str(out),
            "mode": mode,
            "updates": len(deltas),
            "layers": list(merged),
            "weights_digest": first.weights_digest,
            "norms": {str(layer): norm for layer, norm in norms.items()},
        },
        f"Wrote {out}: {len(deltas)} updates of {first.model} in layers {layers_in_short(list(merged))}, merged by "
        f"{mode} (‖Δ‖ {listed}).\nNext: collabsecure apply --model MODEL --delta {out} --out edited/",
    )


def _merged(method: str, updates: Sequence[Update], *, scale: float, keep: float) -> tuple[str, Update]:
    """The merged update, and what its provenance says of how: parameters are part of it."""
    with np.errstate(over="ignore", invalid="ignore"):  # `merge` says so in words
        match method:
            case "simple-average":
                return method, simple_average(updates)
            case "task-arithmetic":
                return f"{method} lambda={scale}", task_arithmetic(updates, scale=scale)
            case _:
                return f"{method} keep={keep} lambda={scale}", ties(updates, keep=keep, scale=scale)


class _OnDisk(Mapping[int, Float64[np.ndarray, "_ _"]]):
    """An edit's layers, each read when it is asked for: ten edits of GPT2-XL are 4 GB. `load_delta` has checked it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with self._opened() as file:
            self._layers = sorted(int(name.removeprefix("layer.")) for name in file.keys())  # noqa: SIM118 - no mapping

    def __getitem__(self, layer: int) -> Float64[np.ndarray, "_ _"]:
        if layer not in self._layers:
            raise KeyError(layer)
        try:
            with self._opened() as file:
                values: Float64[np.ndarray, "_ _"] = file.get_tensor(f"layer.{layer}")
        except SafetensorError as error:
            raise BadFile(self._path, found=f"another file than before ({error})", expected="the same") from error
        return values

    def __iter__(self) -> Iterator[int]:
        return iter(self._layers)

    def __len__(self) -> int:
        return len(self._layers)

    def _opened(self) -> safe_open:
        try:
            return safe_open(self._path, framework="numpy")
        except OSError as error:
            raise unreadable(self._path, error) from error


def _check_origins(paths: tuple[Path, ...], updates: list[_OnDisk], origins: list[Provenance]) -> None:
    """Are all of them of the same layers of the same weights? What the model was called may differ: paths do.

    Raises:
        ModelMismatch: they are not.
    """
    for path, update, origin in zip(paths, updates, origins, strict=True):
        found, expected = layers_in_short(list(update)), layers_in_short(list(updates[0]))
        if found != expected:
            raise ModelMismatch(f"{path}: found layers {found}; expected {expected}, those of {paths[0]}")
        if _weights(origin) != _weights(origins[0]):
            raise ModelMismatch(
                f"{path}: found an edit of weights {_weights(origin)}; expected {_weights(origins[0])}, those that "
                f"{paths[0]} is of"
            )


def _weights(origin: Provenance) -> str:
    return f"{origin.weights_digest} in {origin.weights_dtype}"
