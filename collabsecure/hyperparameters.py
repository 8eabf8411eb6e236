"""What MEMIT is told beside the requests, and the JSON files in which its authors publish it."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from collabsecure.errors import BadFile, BadRequest, FieldFault
from collabsecure.files import unreadable

Real = float | int  # published files have both, and so may callers

# What our fields are called in MEMIT's files, where it is not the same.
_MEMIT_NAMES = MappingProxyType({"second_moment_weight": "mom2_update_weight"})
# Settings of MEMIT's that here have only the value that its publications use.
_FIXED: Mapping[str, object] = MappingProxyType(
    {"layer_selection": "all", "fact_token": "subject_last", "mom2_adjustment": True}
)
# Which model it is, and where its modules and text are: here the model itself, the architecture registry and
# `collabsecure second-moment` know.
_NOT_NEEDED = frozenset(
    {
        "model_name", "rewrite_module_tmp", "layer_module_tmp", "mlp_module_tmp", "attn_module_tmp", "ln_f_module",
        "lm_head_module", "mom2_dataset", "mom2_n_samples", "mom2_dtype",
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Hyperparameters:
    """MEMIT's hyper-parameters; the defaults are the published ones for GPT-2 XL.

    >>> Hyperparameters(layers=(13, 14, 15, 16, 17), second_moment_weight=20_000).v_num_grad_steps
    20

    Raises:
        BadRequest: lists every value that is out of its range.
    """

    layers: tuple[int, ...]  # edited, ascending; the last is where z is optimised
    second_moment_weight: Real  # λ in C = λ·E[k kᵀ], > 0
    clamp_norm_factor: Real = 0.75  # ‖δ‖ ≤ this · ‖z₀‖, > 0
    v_num_grad_steps: int = 20  # forward passes, ≥ 1; the optimiser steps once less
    v_lr: Real = 0.5  # Adam's, > 0
    v_loss_layer: int | None = None  # whose output predicts the target; None is the model's last
    v_weight_decay: Real = 0.5  # of ‖δ‖/‖z₀‖², ≥ 0
    kl_factor: Real = 0.0625  # of the drift on "{} is a", ≥ 0

    def __post_init__(self) -> None:
        ascending = all(layer < after for layer, after in zip(self.layers, self.layers[1:], strict=False))
        checks = {
            "layers": (bool(self.layers) and ascending and self.layers[0] >= 0, "ascending, from 0, at least one"),
            "second_moment_weight": (_is_above(self.second_moment_weight, 0), "a number above 0"),
            "clamp_norm_factor": (_is_above(self.clamp_norm_factor, 0), "a number above 0"),
            "v_num_grad_steps": (self.v_num_grad_steps >= 1, "at least 1"),
            "v_lr": (_is_above(self.v_lr, 0), "a number above 0"),
            "v_loss_layer": (self.v_loss_layer is None or self.v_loss_layer >= 0, "a layer, from 0"),
            "v_weight_decay": (self.v_weight_decay == 0 or _is_above(self.v_weight_decay, 0), "a number from 0"),
            "kl_factor": (self.kl_factor == 0 or _is_above(self.kl_factor, 0), "a number from 0"),
        }
        faults = [
            FieldFault(field=field, reason=f"is {getattr(self, field)}; expected {expected}")
            for field, (holds, expected) in checks.items()
            if not holds
        ]
        if faults:
            raise BadRequest(faults)

    @classmethod
    def from_json(cls, path: str | Path) -> "Hyperparameters":
        """Read one of MEMIT's hyper-parameter files as it is (`hparams/MEMIT/gpt2-xl.json`), or one with our names.

        Raises:
            BadFile: not such a file, a name that is not MEMIT's, or a setting that would ask for another method.
        """
        path = Path(path)
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise unreadable(path, error) from error
        except ValueError as error:
            raise _unfit(path, f"no JSON ({error})") from error
        if not isinstance(content, dict):
            raise _unfit(path, "JSON that is no object")
        for name, value in _FIXED.items():
            if content.pop(name, value) != value:
                raise BadFile(path, found=f"another {name}", expected=f"{json.dumps(value)}, as MEMIT publishes it")
        ours = {_MEMIT_NAMES.get(field, field): field for field in cls.__slots__}
        ours |= {field: field for field in cls.__slots__}
        unknown = content.keys() - ours.keys() - _NOT_NEEDED
        if unknown:
            raise _unfit(path, f"{', '.join(sorted(unknown))}, which MEMIT does not know")
        fields = {ours[name]: value for name, value in content.items() if name in ours}
        missing = {"layers", "second_moment_weight"} - fields.keys()
        if missing:
            raise _unfit(path, f"no {' and no '.join(_MEMIT_NAMES.get(name, name) for name in sorted(missing))}")
        layers = fields.pop("layers")
        if not isinstance(layers, list) or not all(_is_whole(layer) for layer in layers):
            raise _unfit(path, f"layers {json.dumps(layers)}", expected="a list of whole numbers")
        for field, value in fields.items():
            whole = field in ("v_num_grad_steps", "v_loss_layer")
            if (whole and not _is_whole(value)) or isinstance(value, bool) or not isinstance(value, int | float):
                raise _unfit(path, f"{field} {json.dumps(value)}", expected="a whole number" if whole else "a number")
        try:
            return cls(layers=tuple(layers), **fields)
        except BadRequest as error:
            raise _unfit(path, str(error), expected="values in their ranges") from error


def _is_above(value: Real, bound: int) -> bool:
    return math.isfinite(value) and value > bound


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _unfit(path: Path, found: str, expected: str = "MEMIT's hyper-parameters") -> BadFile:
    return BadFile(path, found=found, expected=expected)
