"""`delta.safetensors`: the updates Δ of an edit, and what they may be applied to. NumPy and safetensors only.

One tensor `layer.{n}` of float64, (d_out, d_in), for each edited layer; the rest is text in the file's metadata.
Hugging Face's Conv1D holds weights the other way round: `EditableModel.apply` knows.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np
from jaxtyping import Float64
from safetensors import SafetensorError, safe_open

import collabsecure
from collabsecure.agreement import FLOWS, WEIGHTS_DTYPES
from collabsecure.errors import BadFile
from collabsecure.files import unreadable, write_safetensors

_FORMAT = "collabsecure delta 1"
_REQUIRED = frozenset({"collabsecure_version", "model", "weights_digest", "weights_dtype", "mode", "layers", "dtype"})
_OPTIONAL = ("revision", "session", "flow")  # absent where None
_DIGEST = re.compile(r"[0-9a-f]{64}")


class _Unfit(ValueError):
    """A provenance that cannot be."""

    def __init__(self, found: str, expected: str) -> None:
        self.found, self.expected = found, expected
        super().__init__(f"found {found}; expected {expected}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """What an edit was made on, and how.

    Raises:
        ValueError: a digest, type or flow is none, or survivors are not clients' numbers in ascending order.
    """

    model: str  # name or path, as the user gave it
    revision: str | None
    weights_digest: str  # SHA-256 in hexadecimal of the edited layers' weights before the edit, in …
    weights_dtype: str  # … this type, one of `agreement.WEIGHTS_DTYPES`: the digest covers it
    mode: str  # how the clients' statistics were summed: "plain", "masked", …; or what merged their updates: "ties …"
    session: str | None = None  # the session's transcript, SHA-256 in hexadecimal
    survivors: Mapping[int, tuple[int, ...]] = field(default_factory=dict)  # layer → clients in its sum; may be empty
    flow: str | None = None  # one of `agreement.FLOWS`

    def __post_init__(self) -> None:
        for what, digest in (("weights_digest", self.weights_digest), ("session", self.session)):
            if digest is not None and not _DIGEST.fullmatch(digest):
                raise _Unfit(f"{what} {digest!r}", "64 hex digits")
        if self.weights_dtype not in WEIGHTS_DTYPES:
            raise _Unfit(f"weights_dtype {self.weights_dtype!r}", f"one of {', '.join(WEIGHTS_DTYPES)}")
        if self.flow is not None and self.flow not in FLOWS:
            raise _Unfit(f"flow {self.flow!r}", f"one of {', '.join(FLOWS)}")
        for layer, clients in self.survivors.items():
            if not clients or clients[0] < 1 or any(a >= b for a, b in pairwise(clients)):
                raise _Unfit(f"survivors {clients} of layer {layer}", "clients' numbers from 1, ascending")


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
        ValueError: there is no layer, a Δ is not a finite float64 matrix, or a layer without Δ has survivors.
    """
    if not delta.layers:
        raise ValueError("found no layers; expected at least one")
    if others := delta.provenance.survivors.keys() - delta.layers.keys():
        raise ValueError(f"found survivors of layers {sorted(others)}; expected those of edited layers alone")
    for layer, values in delta.layers.items():
        if values.dtype != np.float64 or values.ndim != 2 or not np.isfinite(values).all():
            raise ValueError(f"layer {layer}: found {values.dtype} {values.shape}; expected a finite float64 matrix")
    metadata = {
        "format": _FORMAT,
        "collabsecure_version": delta.version,
        "model": delta.provenance.model,
        "weights_digest": delta.provenance.weights_digest,
        "weights_dtype": delta.provenance.weights_dtype,
        "mode": delta.provenance.mode,
        "layers": ",".join(map(str, sorted(delta.layers))),
        "dtype": "float64",
    }
    for name in _OPTIONAL:
        value = getattr(delta.provenance, name)
        if value is not None:
            metadata[name] = value
    if delta.provenance.survivors:
        metadata["survivors"] = _write_survivors(delta.provenance.survivors)
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
            missing = _REQUIRED - metadata.keys()
            if missing:
                raise _malformed(path, f"no {', no '.join(sorted(missing))} in the metadata")
            provenance = _read_provenance(path, metadata)
            names = _layer_names(path, metadata["layers"])
            if set(names.values()) != set(file.keys()):
                raise _malformed(path, f"tensors {', '.join(file.keys())}", expected=", ".join(names.values()))
            if not provenance.survivors.keys() <= names.keys():
                raise _malformed(path, f"survivors of layers {', '.join(map(str, sorted(provenance.survivors)))}")
            layers = {layer: _checked(path, name, file.get_tensor(name)) for layer, name in names.items()}
    except OSError as error:
        raise unreadable(path, error) from error
    except SafetensorError as error:
        raise _malformed(path, f"no intact safetensors ({error})") from error
    return Delta(layers=layers, provenance=provenance, version=metadata["collabsecure_version"])


def _read_provenance(path: Path, metadata: Mapping[str, str]) -> Provenance:
    try:
        return Provenance(
            model=metadata["model"],
            weights_digest=metadata["weights_digest"],
            weights_dtype=metadata["weights_dtype"],
            mode=metadata["mode"],
            survivors=_read_survivors(path, metadata["survivors"]) if "survivors" in metadata else {},
            **{name: metadata.get(name) for name in _OPTIONAL},
        )
    except _Unfit as error:
        raise _malformed(path, error.found, expected=error.expected) from error


def _write_survivors(survivors: Mapping[int, tuple[int, ...]]) -> str:
    return json.dumps({str(layer): list(clients) for layer, clients in sorted(survivors.items())})


def _read_survivors(path: Path, text: str) -> dict[int, tuple[int, ...]]:
    try:
        survivors = {int(layer): tuple(map(int, clients)) for layer, clients in json.loads(text).items()}
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError):
        survivors = {}
    if not survivors or _write_survivors(survivors) != text:  # one way to write them
        raise _malformed(path, f"survivors {text[:80]!r}", expected="the clients of each layer")
    return survivors


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
