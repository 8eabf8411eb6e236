"""Options that several commands share, and the types of their values."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from itertools import groupby
from typing import TYPE_CHECKING, Concatenate, ParamSpec, TypeVar

import click

if TYPE_CHECKING:
    from collabsecure.layers import EditableModel

P = ParamSpec("P")
R = TypeVar("R")

_MOST_LAYERS = 10_000  # a slip of the finger must not fill the memory


class Layers(click.ParamType):  # type: ignore[type-arg]  # not generic in older clicks
    """Layers as `13-17`, `3,4,5` or both together, counted from 0; in ascending order whatever was typed.

    >>> Layers().convert("0-2,5", None, None)
    (0, 1, 2, 5)
    """

    name = "layers"

    def convert(
        self, value: str | tuple[int, ...], param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        """Read what was typed; a default that is a tuple already stays as it is."""
        if isinstance(value, tuple):
            return value
        layers: list[int] = []
        for part in value.split(","):
            match = re.fullmatch(r"\s*(\d{1,5})(?:\s*-\s*(\d{1,5}))?\s*", part, re.ASCII)
            if match is None:
                self.fail(f"found {value!r}; expected layers such as 13-17 or 3,4,5", param, ctx)
            first, last = int(match[1]), int(match[2] or match[1])
            if last < first or last >= _MOST_LAYERS:
                self.fail(f"found {part.strip()!r}; expected the lower layer first, below {_MOST_LAYERS}", param, ctx)
            layers += range(first, last + 1)
        if len(set(layers)) < len(layers):
            self.fail(f"found {value!r}; expected each layer once", param, ctx)
        return tuple(sorted(layers))


def layers_in_short(layers: Sequence[int]) -> str:
    """Layers as one would type them.

    >>> layers_in_short((13, 14, 15, 17))
    '13-15,17'
    """
    runs = [
        [layer for _, layer in run] for _, run in groupby(enumerate(sorted(layers)), lambda pair: pair[1] - pair[0])
    ]
    return ",".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelChoice:
    """The model that was asked for, not loaded yet."""

    name: str
    revision: str | None
    device: str | None

    def load(self, dtype: str = "float32") -> "EditableModel":
        """Load it with its tokenizer, in one of `agreement.WEIGHTS_DTYPES`; PyTorch is only imported here.

        Raises:
            click.BadParameter: PyTorch has no such device.
            NotAModel: it cannot be loaded.
            UnknownArchitecture: it cannot be edited.
        """
        import torch

        from collabsecure.layers import EditableModel

        if self.device is not None:
            try:
                torch.empty(1, device=self.device)
            except (RuntimeError, AssertionError, NotImplementedError) as error:
                reason = str(error).partition("\n")[0]
                raise click.BadParameter(
                    f"found {self.device!r} ({reason}); expected one that PyTorch has here", param_hint="--device"
                ) from error
        return EditableModel.load(self.name, revision=self.revision, device=self.device, dtype=getattr(torch, dtype))


def model_options(command: Callable[Concatenate[ModelChoice, P], R]) -> Callable[P, R]:
    """Give a command --model, --revision and --device; it gets them as its first argument, a `ModelChoice`."""

    @click.option("--model", required=True, help="Hugging Face model: a local directory or a name such as gpt2-xl.")
    @click.option("--revision", help="Revision of a model on the hub: branch, tag or commit.")
    @click.option("--device", help="cpu, cuda, cuda:1, mps…  [default: a GPU if there is one]")
    @wraps(command)
    def with_choice(*args: P.args, **kwargs: P.kwargs) -> R:
        choice = ModelChoice(
            name=str(kwargs.pop("model")),
            revision=_optional_text(kwargs.pop("revision")),
            device=_optional_text(kwargs.pop("device")),
        )
        return command(choice, *args, **kwargs)

    return with_choice


def _optional_text(value: object) -> str | None:
    return None if value is None else str(value)
