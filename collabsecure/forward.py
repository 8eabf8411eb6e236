"""Parts of a forward pass: only the blocks up to a layer, or only those above one.

Attention is causal and nothing is edited below the last edited layer, so most of a forward pass is the same every
time. `running_up_to` leaves the upper blocks out. `Upper` runs them alone, again and again: on the tokens from each
row's subject on, against the attention keys and values that the tokens before it left behind in one full pass. Both
let the model's own `forward` do everything else (positions, masks, rotary embeddings, final norm), through hooks that
skip blocks and the cache interface that generation uses, so that no architecture's forward pass is rewritten here.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from transformers.cache_utils import Cache

from collabsecure.errors import UnknownArchitecture
from collabsecure.layers import EditableModel
from collabsecure.prompts import pad_right


@contextmanager
def running_up_to(model: EditableModel, layer: int) -> Iterator[None]:
    """Leave out the blocks above `layer`; what the model returns then means nothing, what hooks see does."""
    with ExitStack() as stack:
        for skipped in range(layer + 1, model.num_layers):
            stack.enter_context(_replacing(model, skipped, None))
        yield


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Upper:
    """Rows of tokens that are cut open at the last edited layer's output, from each row's `start` on.

    A row's window is its tokens from `start` to its end, filled up on the right; what the window's hidden states are
    replaced by only changes windows. Keys and values of the tokens before it are kept for the blocks above.
    """

    model: EditableModel
    layer: int
    hidden: Float[Tensor, "rows window d_model"]  # output of block `layer`
    positions: Int64[Tensor, "rows window"]
    mask: Float[Tensor, "rows 1 window keys"]  # 0 where a query may look, very negative where not
    past: Mapping[int, tuple[Tensor, Tensor]]  # block → keys, values (rows, heads, prefix, head size)

    @classmethod
    def of(cls, model: EditableModel, layer: int, rows: Sequence[Sequence[int]], starts: Sequence[int]) -> "Upper":
        """Run the whole model once over `rows`, and keep what the blocks above `layer` need.

        Raises:
            UnknownArchitecture: the model is one that cannot be cut open this way.
        """
        tokens = pad_right(rows, model.device)  # (rows, tokens)
        start = torch.tensor(starts, device=model.device)[:, None]
        num_rows, width = tokens.shape
        index = torch.arange(width, device=model.device)
        window = max(len(row) - begin for row, begin in zip(rows, starts, strict=True))
        recorder = _Recorder(layer, max(starts))
        causal = index[:, None] >= index  # (tokens, tokens)
        with torch.no_grad(), model.block_outputs([layer]) as outputs:
            _last_hidden_state(
                model,
                input_ids=tokens,
                position_ids=index.expand(num_rows, width),
                attention_mask=_additive(causal.expand(num_rows, 1, width, width), model.dtype),
                past_key_values=recorder,
            )
        # Rows that are too short for their window see their last token again; nothing looks at it.
        inside = (start + index[:window]).clamp(max=width - 1)  # (rows, window)
        prefix = (index[: max(starts)] < start)[:, None, None, :]  # (rows, 1, 1, prefix)
        visible = torch.cat([prefix.expand(-1, 1, window, -1), causal[:window, :window].expand(num_rows, 1, -1, -1)], 3)
        return cls(
            model=model,
            layer=layer,
            hidden=_take(outputs[layer], inside),
            positions=inside,
            mask=_additive(visible, model.dtype),
            past=recorder.past,
        )._checked(rows, starts)

    def run(self, hidden: Float[Tensor, "rows window d_model"]) -> Float[Tensor, "rows window d_model"]:
        """Run the blocks above on other hidden states; gradients flow. Returns the states after the final norm."""
        with ExitStack() as stack:
            for skipped in range(self.layer + 1):
                stack.enter_context(_replacing(self.model, skipped, hidden))
            return _last_hidden_state(
                self.model,
                inputs_embeds=hidden,
                position_ids=self.positions,
                attention_mask=self.mask,
                past_key_values=_Past(self.past),
            )

    def select(self, rows: Int64[Tensor, " kept"]) -> "Upper":
        """Keep some rows."""
        return replace(
            self,
            hidden=self.hidden[rows],
            positions=self.positions[rows],
            mask=self.mask[rows],
            past={layer: (keys[rows], values[rows]) for layer, (keys, values) in self.past.items()},
        )

    def logits(self, states: Float[Tensor, "positions d_model"]) -> Float[Tensor, "positions vocabulary"]:
        """What the model predicts at some positions, from its states there after the final norm."""
        logits: Tensor = self.model.model.get_output_embeddings()(states)
        return logits

    def _checked(self, rows: Sequence[Sequence[int]], starts: Sequence[int]) -> "Upper":
        """Compare one row with a plain forward pass: models differ, and a silent difference would be a wrong edit."""
        row = max(range(len(rows)), key=lambda index: starts[index])
        plain = torch.tensor([list(rows[row][: starts[row] + 1])], device=self.model.device)
        with torch.no_grad():
            expected = self.model.model(input_ids=plain, attention_mask=torch.ones_like(plain), use_cache=False).logits
            one = self.select(torch.tensor([row], device=self.model.device))
            found = self.logits(one.run(one.hidden)[0, :1])
        # Some models compute in float32 what they hold in float64.
        precision = max(torch.finfo(found.dtype).eps, torch.finfo(torch.float32).eps)
        if not (found - expected[0, -1:]).abs().max() <= precision**0.5 * expected[0, -1].abs().max():
            raise _uncuttable(self.model, "its blocks do not depend on hidden states and attention cache alone")
        return self


class _Recorder(Cache):  # type: ignore[misc]
    """An attention cache that only listens: it keeps the first tokens' keys and values of the blocks above a layer."""

    def __init__(self, layer: int, length: int) -> None:
        super().__init__(layers=[])
        self.past: dict[int, tuple[Tensor, Tensor]] = {}
        self._layer = layer
        self._length = length

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: object, **__: object
    ) -> tuple[Tensor, Tensor]:
        if layer_idx > self._layer:
            kept = (key_states[:, :, : self._length].clone(), value_states[:, :, : self._length].clone())
            self.past[layer_idx] = kept
        return key_states, value_states


class _Past(Cache):  # type: ignore[misc]
    """An attention cache that always holds the same: it puts the recorded keys and values in front of the new."""

    def __init__(self, past: Mapping[int, tuple[Tensor, Tensor]]) -> None:
        super().__init__(layers=[])
        self._past = past

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: object, **__: object
    ) -> tuple[Tensor, Tensor]:
        keys, values = self._past[layer_idx]
        return torch.cat([keys, key_states], dim=2), torch.cat([values, value_states], dim=2)


@contextmanager
def _replacing(model: EditableModel, layer: int, output: Tensor | None) -> Iterator[None]:
    """Let a block return `output` without running, or its own input where that is None."""
    block = model.block(layer)
    as_tuple = model.blocks_return_tuples

    def forward(hidden_states: Tensor, *_: object, **__: object) -> Tensor | tuple[Tensor, None]:
        result = hidden_states if output is None else output
        return (result, None) if as_tuple else result

    with _instance_attribute(block, "forward", forward):
        yield


@contextmanager
def _instance_attribute(module: nn.Module, name: str, value: object) -> Iterator[None]:
    """Set an attribute on one object; what was there before, if anything, comes back."""
    before = {name: vars(module)[name]} if name in vars(module) else {}
    vars(module)[name] = value
    try:
        yield
    finally:
        del vars(module)[name]
        vars(module).update(before)


def _last_hidden_state(model: EditableModel, **inputs: object) -> Float[Tensor, "rows tokens d_model"]:
    try:
        state: Tensor = model.model.base_model(use_cache=False, **inputs)[0]
    except (TypeError, ValueError) as error:  # how models refuse positions, masks or caches that they do not know
        raise _uncuttable(model, str(error)) from error
    return state


def _uncuttable(model: EditableModel, reason: str) -> UnknownArchitecture:
    return UnknownArchitecture(f"{type(model.model).__name__} cannot be run from layer to layer: {reason}")


def _additive(visible: Bool[Tensor, "rows 1 queries keys"], dtype: torch.dtype) -> Float[Tensor, "rows 1 queries keys"]:
    """The mask as attention adds it, which every implementation of attention takes."""
    mask = torch.zeros(visible.shape, dtype=dtype, device=visible.device)
    return mask.masked_fill(~visible, torch.finfo(dtype).min)


def _take(
    states: Float[Tensor, "rows tokens d"], index: Int64[Tensor, "rows window"]
) -> Float[Tensor, "rows window d"]:
    """Each row's states at its own positions."""
    return states.gather(1, index[:, :, None].expand(-1, -1, states.shape[2]))
