"""Where a language model is edited: its blocks, its MLP output projections, and their weights.

An MLP output projection is the second matrix of a block's feed-forward network (MEMIT's `rewrite_module_tmp`). It maps
a key k (d_in) to W k (d_out) and is what an edit changes: W + Δ. Hugging Face stores W in two ways, (d_out, d_in) in
`nn.Linear` and (d_in, d_out) in GPT-2's `Conv1D`; here it always reads (d_out, d_in), decided by the module's type.
"""

import hashlib
import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from types import TracebackType

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.pytorch_utils import Conv1D

from collabsecure.architectures import ARCHITECTURES, Architecture
from collabsecure.checkpoints import read_checkpoint, write_checkpoint
from collabsecure.errors import ModelMismatch, NotAModel, UnknownArchitecture


class Restore:
    """The weights as they were before `EditableModel.apply`; gives them back bit for bit.

    As a context manager it does so on leaving. Of several on one layer, revert the latest first.
    """

    def __init__(self, originals: Mapping[int, Tensor], weights: Mapping[int, Tensor]) -> None:
        self._originals = dict(originals)
        self._weights = dict(weights)

    def revert(self) -> None:
        """Put the original weights back; a second call does nothing."""
        with torch.no_grad():
            for layer, original in self._originals.items():
                self._weights[layer].copy_(original)
        self._originals.clear()

    def __enter__(self) -> "Restore":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.revert()


class EditableModel:
    """A causal language model, its tokenizer, and where its MLP output projections are.

    Make one with `load` or `wrap`. The model is put into evaluation mode and its weights take no gradients.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, architecture: Architecture) -> None:
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.architecture = architecture
        self.num_layers = _count_blocks(model, architecture)

    @classmethod
    def load(
        cls,
        name_or_path: str,
        *,
        revision: str | None = None,
        device: str | torch.device | None = None,
        dtype: torch.dtype = torch.float32,
        architecture: Architecture | None = None,
    ) -> "EditableModel":
        """Load a Hugging Face directory, or a model of the hub, with its tokenizer.

        Without a `device` it goes to CUDA or MPS where there is one, else to the CPU.

        Raises:
            NotAModel: there is no such model or tokenizer, it cannot be fetched, or weights are missing.
            UnknownArchitecture: the model's family is not in `ARCHITECTURES` and no `architecture` was given.
        """
        model, tokenizer = read_checkpoint(name_or_path, revision=revision, dtype=dtype)
        return cls.wrap(model.to(device or _best_device()), tokenizer, architecture)

    @classmethod
    def wrap(
        cls, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, architecture: Architecture | None = None
    ) -> "EditableModel":
        """Make a model and tokenizer that are already in memory editable.

        Raises:
            UnknownArchitecture: the model's family is not in `ARCHITECTURES` and no `architecture` was given, or its
                projections are not where `architecture` says.
            NotAModel: the tokenizer cannot tell where in a text its tokens come from.
        """
        if architecture is None:
            architecture = ARCHITECTURES.get(model.config.model_type)
        if architecture is None:
            raise UnknownArchitecture(
                f"{type(model).__name__} (model_type {model.config.model_type!r}) is none of "
                f"{', '.join(sorted(ARCHITECTURES))}; give an Architecture(block=…, projection=…) with the paths of a "
                "block and of its MLP output projection, such as block='transformer.h.{}' and "
                "projection='transformer.h.{}.mlp.c_proj'"
            )
        if not tokenizer.is_fast:
            raise NotAModel(
                f"{type(tokenizer).__name__} does not tell where in a text its tokens come from, and without that a "
                "subject's last token cannot be found; give a fast tokenizer (tokenizer.json)"
            )
        return cls(model, tokenizer, architecture)

    @property
    def device(self) -> torch.device:
        """Where the model's input goes."""
        device: torch.device = self.model.device
        return device

    @property
    def dtype(self) -> torch.dtype:
        """The type of the weights that are edited."""
        return self.weight(0).dtype

    @cached_property
    def d_model(self) -> int:
        """Width of the residual stream, and of every projection's output (d_out)."""
        return self.weight(0).shape[0]

    @cached_property
    def blocks_return_tuples(self) -> bool:
        """Whether blocks return a tuple that starts with the hidden states, as GPT-J's do, or these alone."""
        outputs: list[object] = []
        handle = self.block(0).register_forward_hook(lambda _block, _inputs, output: outputs.append(output))
        try:
            with torch.no_grad():
                tokens = torch.zeros(1, 1, dtype=torch.long, device=self.device)
                self.model.base_model(input_ids=tokens, attention_mask=torch.ones_like(tokens))
        finally:
            handle.remove()
        return isinstance(outputs[0], tuple)

    def d_in(self, layer: int) -> int:
        """Width of a layer's keys."""
        return self.weight(layer).shape[1]

    def block(self, layer: int) -> nn.Module:
        """The block of a layer, counted from 0."""
        self._check_layers([layer])
        block: nn.Module = self.model.get_submodule(self.architecture.block_of(layer))
        return block

    def projection(self, layer: int) -> nn.Module:
        """The MLP output projection of a layer."""
        self._check_layers([layer])
        projection: nn.Module = self.model.get_submodule(self.architecture.projection_of(layer))
        return projection

    def weight(self, layer: int) -> Float[Tensor, "d_out d_in"]:
        """The projection's weight, (d_out, d_in) however it is stored; a view, so writing to it edits the model."""
        projection = self.projection(layer)
        weight = projection.weight
        if not isinstance(weight, Tensor) or not weight.is_floating_point():
            raise UnknownArchitecture(
                f"{self.architecture.projection_of(layer)} holds no floating-point weight (a quantised model?)"
            )
        return weight.T if isinstance(projection, Conv1D) else weight

    def apply(self, deltas: Mapping[int, Float64[np.ndarray, "d_out _"]]) -> Restore:
        """Add Δ to the weights of its layers: W + Δ in float64, rounded once to the model's type.

        What it returns reverts the change, exactly; dropped, the change stays.

        Raises:
            ModelMismatch: a layer that the model has not, or a Δ of another shape; nothing is changed then.
        """
        self._check_layers(deltas)
        weights = {layer: self.weight(layer) for layer in deltas}
        for layer, delta in deltas.items():
            if delta.shape != weights[layer].shape:
                raise ModelMismatch(
                    f"layer {layer}: found a Δ of shape {delta.shape}, expected {tuple(weights[layer].shape)}"
                )
        originals = {layer: weight.detach().clone() for layer, weight in weights.items()}
        with torch.no_grad():
            for layer, delta in deltas.items():
                # On the CPU: not every device has float64.
                edited = weights[layer].cpu().double() + torch.from_numpy(np.ascontiguousarray(delta))
                weights[layer].copy_(edited.to(weights[layer].dtype))
        return Restore(originals, weights)

    @contextmanager
    def projection_inputs(self, layers: Collection[int]) -> Iterator[Mapping[int, Float[Tensor, "batch tokens _"]]]:
        """Capture the keys of whole sequences: after each forward pass, `[layer]` is the projection's input."""
        captured: dict[int, Tensor] = {}

        def capture(layer: int) -> "torch.utils.hooks.RemovableHandle":
            def hook(_: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
                captured[layer] = self._of_sequences(_first_tensor([*args, *kwargs.values()]).detach())

            return self.projection(layer).register_forward_pre_hook(hook, with_kwargs=True)

        handles = [capture(layer) for layer in layers]
        try:
            yield captured
        finally:
            for handle in handles:
                handle.remove()

    @contextmanager
    def block_outputs(self, layers: Collection[int]) -> Iterator[Mapping[int, Float[Tensor, "batch tokens d_model"]]]:
        """Capture the residual stream: after each forward pass, `[layer]` is the block's output."""
        captured: dict[int, Tensor] = {}

        def capture(layer: int) -> "torch.utils.hooks.RemovableHandle":
            def hook(_: nn.Module, args: tuple[object, ...], output: object) -> None:
                captured[layer] = _first_tensor(output if isinstance(output, tuple) else [output]).detach()

            return self.block(layer).register_forward_hook(hook)

        handles = [capture(layer) for layer in layers]
        try:
            yield captured
        finally:
            for handle in handles:
                handle.remove()

    def weights_digest(self, layers: Iterable[int] | None = None) -> str:
        """SHA-256 over the edited layers' weights, or without `layers` over the whole model; in hexadecimal.

        Names, types and shapes are part of it; for the whole model its configuration too.
        """
        digest = hashlib.sha256()
        if layers is None:
            config = self.model.config.to_diff_dict()
            for volatile in ("transformers_version", "_name_or_path", "dtype", "architectures"):
                config.pop(volatile, None)
            digest.update(json.dumps(config, sort_keys=True, default=str).encode())
            named = [*self.model.named_parameters(), *self.model.named_buffers()]
        else:
            named = [(self.architecture.projection_of(layer), self.weight(layer)) for layer in sorted(layers)]
        with ThreadPoolExecutor() as pool:  # hashlib lets go of the interpreter lock
            for part in pool.map(_digest_tensor, *zip(*named, strict=True)):
                digest.update(part)
        return digest.hexdigest()

    def save(self, directory: str | Path) -> None:
        """Write the model and its tokenizer as a Hugging Face directory; files there of the same names are replaced.

        Nothing takes its name before all is written.

        Raises:
            BadFile: the directory cannot be written.
        """
        write_checkpoint(Path(directory), self.model, self.tokenizer)

    def _of_sequences(self, states: Tensor) -> Float[Tensor, "batch tokens _"]:
        if states.dim() != 3:
            raise UnknownArchitecture(
                f"{type(self.model).__name__} gives its projections an input of shape {tuple(states.shape)}; "
                "expected (batch, tokens, d_in)"
            )
        return states

    def _check_layers(self, layers: Iterable[int]) -> None:
        for layer in layers:
            if not 0 <= layer < self.num_layers:
                raise ModelMismatch(f"found layer {layer}; expected one from 0 to {self.num_layers - 1}")


def _count_blocks(model: PreTrainedModel, architecture: Architecture) -> int:
    count = 0
    try:
        while True:
            model.get_submodule(architecture.block_of(count))
            model.get_submodule(architecture.projection_of(count))
            count += 1
    except (AttributeError, IndexError):
        pass
    if count == 0 or count != getattr(model.config, "num_hidden_layers", count):
        raise UnknownArchitecture(
            f"{type(model).__name__}: found {count} blocks with an MLP output projection at {architecture.block} and "
            f"{architecture.projection}; expected one for each layer of the model"
        )
    return count


def _first_tensor(values: Iterable[object]) -> Tensor:
    """What a module was given or gave back: blocks return a tensor or, as in GPT-J, a tuple that starts with it."""
    return next(value for value in values if isinstance(value, Tensor))


def _digest_tensor(name: str, tensor: Tensor) -> bytes:
    header = f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode()
    data = tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy()  # numpy has no bfloat16
    return hashlib.sha256(header).digest() + hashlib.sha256(data.data).digest()


def _best_device() -> torch.device:
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
