"""`delta.safetensors`: the updates Δ of an edit, and what they may be applied to. NumPy and safetensors only.

One tensor `layer.{n}` of float64, (d_out, d_in), for each edited layer; the rest is text in the file's metadata.
Hugging Face's Conv1D holds weights the other way round: `EditableModel.apply` knows.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float64
from safetensors import SafetensorError, safe_open

import collabsecure
from collabsecure.errors import BadFile
from collabsecure.files import unreadable, write_safetensors

_FORMAT = "collabsecure delta 1"
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """What an edit was made on, and how."""

    model: str  # name or path, as the user gave it
    revision: str | None
    weights_digest: str  # SHA-256 in hexadecimal of the edited layers' weights before the edit
    mode: str  # how the clients' statistics were summed: "plain", …

    def __post_init__(self) -> None:
        if not _DIGEST.fullmatch(self.weights_digest):
            raise ValueError(f"found weights_digest {self.weights_digest!r}; expected 64 hex digits")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Delta:
    """An edit: Δ for each edited layer, and its provenance."""

    layers: Mapping[int, Float64[np.ndarray, "d_out _"]]
    provenance: Provenance
    version: str = collabsecure.__version__  # of the collabsecure that made it


def save_delta(path: Path, delta: Delta, *, force: bool = False) -> None:
    """Write an edit, complete or not at all.

    Raises:
        BadFile: `path` is taken and `force` is not set, or cannot be written.
        ValueError: there is no layer, or a Δ is not a finite float64 matrix.
    """
    if not delta.layers:
        raise ValueError("found no layers; expected at least one")
    for layer, values in delta.layers.items():
        if values.dtype != np.float64 or values.ndim != 2 or not np.isfinite(values).all():
            raise ValueError(f"layer {layer}: found {values.dtype} {values.shape}; expected a finite float64 matrix")
    metadata = {
        "format": _FORMAT,
        "collabsecure_version": delta.version,
        "model": delta.provenance.model,
        "weights_digest": delta.provenance.weights_digest,
        "mode": delta.provenance.mode,
        "layers": ",".join(map(str, sorted(delta.layers))),
        "dtype": "float64",
    }
    if delta.provenance.revision is not None:
        metadata["revision"] = delta.provenance.revision
    tensors = {f"layer.{layer}": np.ascontiguousarray(values) for layer, values in delta.layers.items()}
    write_safetensors(path, tensors, metadata, force=force)


def load_delta(path: Path) -> Delta:
    """Read an edit.

    Raises:
        BadFile: not such a file, or damaged, or it contradicts itself.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != _FORMAT:
                raise _malformed(path, f"format {metadata.get('format', 'none')!r}", expected=f"{_FORMAT!r}")
            missing = {"collabsecure_version", "model", "weights_digest", "mode", "layers", "dtype"} - set(metadata)
            if missing:
                raise _malformed(path, f"no {', no '.join(sorted(missing))} in the metadata")
            if not _DIGEST.fullmatch(metadata["weights_digest"]):
                raise _malformed(path, f"weights_digest {metadata['weights_digest']!r}", expected="64 hex digits")
            names = _layer_names(path, metadata["layers"])
            if set(names.values()) != set(file.keys()):
                raise _malformed(path, f"tensors {', '.join(file.keys())}", expected=", ".join(names.values()))
            layers = {layer: _checked(path, name, file.get_tensor(name)) for layer, name in names.items()}
    except OSError as error:
        raise unreadable(path, error) from error
    except SafetensorError as error:
        raise _malformed(path, f"no intact safetensors ({error})") from error
    return Delta(
        layers=layers,
        provenance=Provenance(
            model=metadata["model"],
            revision=metadata.get("revision"),
            weights_digest=metadata["weights_digest"],
            mode=metadata["mode"],
        ),
        version=metadata["collabsecure_version"],
    )


def _layer_names(path: Path, layers: str) -> dict[int, str]:
    if not re.fullmatch(r"\d{1,6}(,\d{1,6})*", layers, re.ASCII):
        raise _malformed(path, f"layers {layers!r}", expected="numbers with commas between")
    return {int(layer): f"layer.{int(layer)}" for layer in layers.split(",")}


def _checked(path: Path, name: str, values: np.ndarray) -> Float64[np.ndarray, "d_out d_in"]:
    if values.dtype != np.float64 or values.ndim != 2:
        raise _malformed(path, f"{name} of type {values.dtype}, shape {values.shape}", expected="a float64 matrix")
    if not np.isfinite(values).all():
        raise _malformed(path, f"{name} with NaN or infinite entries", expected="finite numbers")
    return values


def _malformed(path: Path, found: str, *, expected: str = "a delta.safetensors of collabsecure") -> BadFile:
    return BadFile(path, found=found, expected=expected)
