"""`collabsecure apply`: put an edit into a model, or take it out again bit for bit.

Beside the edited model lie the edited layers' original weights: W + Δ is rounded, so Δ alone cannot always undo it.
"""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click
import numpy as np
from safetensors import SafetensorError, safe_open

from collabsecure.deltas import Delta, load_delta
from collabsecure.errors import BadFile, ModelMismatch
from collabsecure.files import file_digest, folder_complete_or_absent, refuse_existing, unreadable
from collabsecure_cli.config import emit, operator_options
from collabsecure_cli.options import ModelChoice, layers_in_short, model_options

if TYPE_CHECKING:
    from torch import Tensor

    from collabsecure.layers import EditableModel

ORIGINALS = "collabsecure-originals.safetensors"  # in an edited model's folder
_FORMAT = "collabsecure originals 1"


@click.command("apply")
@model_options
@click.option(
    "--delta",
    "delta_path",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    required=True,
    help="The edit: delta.safetensors.",
)
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="Folder to make.")
@click.option("--revert", is_flag=True, help="Take the edit out of the model instead.")
@click.option("--force", is_flag=True, help="Replace a model that is in the folder.")
@operator_options
def apply(model: ModelChoice, *, delta_path: Path, out: Path, revert: bool, force: bool) -> None:
    """Write a model with an edit in it, as a Hugging Face directory; --revert gives back the original bit for bit.

    The edit is refused on any other weights than those that it was made on.

    \b
    Examples:
      collabsecure apply --model gpt2-xl --delta merged/delta.safetensors --out edited/
      collabsecure apply --model edited/ --delta merged/delta.safetensors --out original/ --revert
    """  # noqa: D301 - \b is click's mark for lines that stay as they are
    delta = load_delta(delta_path)
    _check_out(out, model, force=force)
    digest = file_digest(delta_path)
    click.echo(f"Loading {model.name}", err=True)
    editable = model.load(delta.provenance.weights_dtype)
    if revert:
        _take_out(editable, delta, _read_originals(Path(model.name) / ORIGINALS, delta, digest), model.name)
        done, following = "without the edit", "It is the original again, bit for bit."
        originals = None
    else:
        originals = _put_in(editable, delta, model.name)
        done = "with the edit"
        following = (
            f"Next: collabsecure evaluate --model {out} --records FILE. To undo: collabsecure apply --model {out} "
            f"--delta {delta_path} --out ORIGINAL --revert."
        )
    sizes = {layer: _relative_size(editable, layer, values) for layer, values in sorted(delta.layers.items())}
    click.echo(f"Writing {out}", err=True)
    with folder_complete_or_absent(out, force=force) as folder:
        editable.save(folder)
        if originals is not None:
            _write_originals(folder / ORIGINALS, originals, digest)
    listed = ", ".join(f"layer {layer}: {size:.1e}" for layer, size in sizes.items())
    emit(
        {
            "out": str(out),
            "reverted": revert,
            "layers": sorted(delta.layers),
            "weights_digest": editable.weights_digest(delta.layers),
            "relative_sizes": {str(layer): size for layer, size in sizes.items()},
        },
        f"Wrote {out}: {model.name} {done} in layers {layers_in_short(list(delta.layers))} (‖Δ‖/‖W‖ {listed}).\n"
        f"{following}",
    )


def _put_in(model: "EditableModel", delta: Delta, name: str) -> "dict[int, Tensor]":
    """Edit the model; what the layers were before."""
    found, expected = model.weights_digest(delta.layers), delta.provenance.weights_digest
    if found != expected:
        raise ModelMismatch(
            f"{name}: found weights {found} in layers {layers_in_short(list(delta.layers))}; expected {expected}, "
            f"those of {delta.provenance.model} that the edit was made on"
        )
    originals = {layer: model.weight(layer).detach().clone() for layer in delta.layers}
    model.apply(delta.layers)
    return originals


def _take_out(model: "EditableModel", delta: Delta, originals: "dict[int, Tensor] | None", name: str) -> None:
    """Give the model its original weights back; without them W − Δ, which rounding may have made another."""
    if originals is None:
        model.apply({layer: -values for layer, values in delta.layers.items()})
    else:
        for layer, original in originals.items():
            weight = model.weight(layer)
            if original.shape != weight.shape:
                raise ModelMismatch(
                    f"{name}: found layer {layer} of shape {tuple(weight.shape)}; expected {tuple(original.shape)}"
                )
            weight.copy_(original)
    found, expected = model.weights_digest(delta.layers), delta.provenance.weights_digest
    if found != expected:
        how = f"W − Δ, as there is no {ORIGINALS}" if originals is None else f"those of {ORIGINALS}"
        raise ModelMismatch(
            f"{name}: found weights {found} after taking the edit out ({how}); expected {expected}. Use the original "
            f"model, {delta.provenance.model}"
        )


def _write_originals(path: Path, originals: "dict[int, Tensor]", delta_digest: str) -> None:
    from safetensors.torch import save_file

    tensors = {f"layer.{layer}": weight.cpu().contiguous() for layer, weight in originals.items()}
    try:
        save_file(tensors, path, {"format": _FORMAT, "delta": delta_digest})
    except SafetensorError as error:
        raise BadFile(path.name, found=str(error), expected="a place that can be written") from error


def _read_originals(path: Path, delta: Delta, delta_digest: str) -> "dict[int, Tensor] | None":
    """The original weights that `apply` has left, if it has."""
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != _FORMAT:
                raise BadFile(path, found=f"format {metadata.get('format')!r}", expected=f"{_FORMAT!r}")
            if metadata.get("delta") != delta_digest:
                raise BadFile(
                    path,
                    found=f"original weights of before another edit ({metadata.get('delta')})",
                    expected=f"those of before this --delta ({delta_digest})",
                )
            names = {layer: f"layer.{layer}" for layer in delta.layers}
            if set(names.values()) != set(file.keys()):
                raise BadFile(path, found=f"tensors {_in_short(file.keys())}", expected=_in_short(names.values()))
            return {layer: file.get_tensor(name) for layer, name in names.items()}
    except OSError as error:
        raise unreadable(path, error) from error
    except SafetensorError as error:
        raise BadFile(path, found=f"no intact safetensors ({error})", expected="what `apply` wrote") from error


def _check_out(out: Path, model: ModelChoice, *, force: bool) -> None:
    """Before any work: is there room? --force replaces a model's folder, never one with other things, nor the source.

    Raises:
        BadFile: there is none.
    """
    if not force:
        refuse_existing(out)
    elif out.exists() and Path(model.name).exists() and out.samefile(model.name):
        raise BadFile(out, found="the model that is to be read", expected="another folder")
    elif out.exists() and not (out / "config.json").exists():
        raise BadFile(out, found="something that is no model", expected="a new name, or a model's folder to replace")


def _relative_size(model: "EditableModel", layer: int, values: np.ndarray) -> float:
    """‖Δ‖/‖W‖, Frobenius."""
    size = float(model.weight(layer).float().norm())
    return float(np.linalg.norm(values)) / size if size else math.inf


def _in_short(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))
