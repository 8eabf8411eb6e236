"""The public model as an adversary uses it: to read a residual as words, and to ask for what comes after a prompt."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn

from collabsecure.attacks.behaviour import EditedModel
from collabsecure.attacks.case import Shown
from collabsecure.edits import EditRequest
from collabsecure.layers import EditableModel
from collabsecure.prompts import TokenizedPrompt, pad_right, tokenize_prompt

_AT_ONCE = 32  # prompts


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PromptDecoder:
    """Puts a residual where an edit would, and lets the blocks above say what the prompt would go on with.

    An edit leaves z = (state at the last edited layer) + r · (layers left to edit) at the subject's last token (MEMIT
    eq. 20, backwards). This is a `knowledge.Decoder`.
    """

    model: EditableModel
    candidates: Sequence[EditRequest]  # in the adversary's order
    layers: Sequence[int]  # those that are edited, ascending
    lower: Mapping[int, Float64[np.ndarray, "d_out _"]] = field(default_factory=dict)  # Δ of layers below, if known

    def objects(self, layer: int, candidates: Sequence[int], residuals: Float64[np.ndarray, "d_out num"]) -> list[str]:
        """For each candidate's prompt, the token that would come next."""
        left = len(self.layers) - list(self.layers).index(layer)
        values = torch.from_numpy(np.ascontiguousarray(residuals.T * left))
        found: list[str] = []
        with self.model.apply({below: delta for below, delta in self.lower.items() if below < layer}):
            for start in range(0, len(candidates), _AT_ONCE):
                part = slice(start, start + _AT_ONCE)
                prompts = [tokenize_prompt(self.model.tokenizer, self.candidates[place]) for place in candidates[part]]
                tokens = self._next_tokens(prompts, values[part].to(self.model.device, self.model.dtype))
                found += [self.model.tokenizer.decode([token]) for token in tokens]
        return found

    @torch.inference_mode()
    def _next_tokens(self, prompts: Sequence[TokenizedPrompt], added: Float[Tensor, "prompts d_model"]) -> list[int]:
        rows, subjects = range(len(prompts)), [prompt.subject_last for prompt in prompts]

        def add(_block: nn.Module, _args: tuple[object, ...], output: Tensor | tuple[Tensor, ...]) -> None:
            states = output[0] if isinstance(output, tuple) else output
            states[rows, subjects] += added

        handle = self.model.block(self.layers[-1]).register_forward_hook(add)
        try:
            logits = _next_logits(self.model, [prompt.tokens for prompt in prompts])
        finally:
            handle.remove()
        likeliest: list[int] = logits.argmax(dim=1).tolist()
        return likeliest


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Continuations:
    """What a model says next after each candidate's prompt: a `behaviour.Predictor`."""

    model: EditableModel
    candidates: Sequence[EditRequest]
    deltas: Mapping[int, Float64[np.ndarray, "d_out _"]]  # empty: the model as it was

    @torch.inference_mode()
    def __call__(self, candidates: Sequence[int]) -> Float64[np.ndarray, "num vocabulary"]:
        """Log-probabilities of the next token."""
        parts = []
        with self.model.apply(self.deltas):
            for start in range(0, len(candidates), _AT_ONCE):
                requests = [self.candidates[place] for place in candidates[start : start + _AT_ONCE]]
                rows = [tokenize_prompt(self.model.tokenizer, request).tokens for request in requests]
                parts.append(_next_logits(self.model, rows).double().log_softmax(dim=1).numpy())
        return np.concatenate(parts)


def edited_model(model: EditableModel, candidates: Sequence[EditRequest], shown: Shown) -> EditedModel:
    """The view of who has the model before and after a run."""
    return EditedModel(
        before=Continuations(model=model, candidates=candidates, deltas={}),
        after=Continuations(model=model, candidates=candidates, deltas=shown.deltas),
    )


def _next_logits(model: EditableModel, rows: Sequence[Sequence[int]]) -> Float[Tensor, "rows vocabulary"]:
    tokens = pad_right(rows, model.device)
    logits: Tensor = model.model(input_ids=tokens, attention_mask=torch.ones_like(tokens), use_cache=False).logits
    return logits[range(len(rows)), [len(row) - 1 for row in rows]].cpu()
