"""Edit requests as the model reads them: tokens, where the subject ends, and which tokens are the target.

No token is added in front (MEMIT edits GPT models, which have none), and a target follows its prompt after one space.
Tokens are found by the characters they come from, so neither merges at a subject's edges nor repeated words mislead.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int64
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from collabsecure.edits import EditRequest
from collabsecure.errors import BadRequest, FieldFault, PromptTooLong
from collabsecure.layers import EditableModel


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizedPrompt:
    """A prompt in one context, with or without a target behind it."""

    tokens: tuple[int, ...]
    subject_last: int  # index of the token with the subject's last character
    num_target: int = 0  # tokens at the end that are the target

    @property
    def until_subject(self) -> tuple[int, ...]:
        """The tokens up to the subject's last; a causal model's states there depend on nothing else."""
        return self.tokens[: self.subject_last + 1]


def tokenize_prompt(
    tokenizer: PreTrainedTokenizerBase, request: EditRequest, *, context: str = "{}", prompt: str | None = None
) -> TokenizedPrompt:
    """Tokenize a request's prompt, or another `prompt` about its subject, in a context; up to the prompt's end.

    Raises:
        BadRequest: the subject leaves no token.
    """
    (before, after), subject = _around_subject(context, prompt or request.prompt), request.subject
    tokens, spans = _encode(tokenizer, f"{before}{subject}{after}")
    return TokenizedPrompt(tokens=tokens, subject_last=_last_token(spans, len(before), len(before) + len(subject)))


def tokenize_rewriting(
    tokenizer: PreTrainedTokenizerBase, request: EditRequest, *, context: str = "{}"
) -> TokenizedPrompt:
    """Tokenize a request's prompt in a context, a space, and its new target.

    Target tokens are those that hold the target's characters, as the prompt before them makes them. For byte-level
    tokenizers they are what MEMIT gets from the target alone with a space in front; where a tokenizer would put a
    mark of its own before a lone text, as SentencePiece does, they are what the model meets in evaluation.

    Raises:
        BadRequest: the subject or the target leaves no token.
    """
    (before, after), subject = _around_subject(context, request.prompt), request.subject
    prefix = f"{before}{subject}{after}"
    tokens, spans = _encode(tokenizer, f"{prefix} {request.target_new}")
    num_target = sum(end > len(prefix) for _, end in spans)
    if num_target and tokens[-num_target] in (tokenizer.bos_token_id, tokenizer.unk_token_id):
        num_target -= 1  # as MEMIT: no target begins with these
        tokens = (*tokens[: -num_target - 1], *tokens[len(tokens) - num_target :])
    if not 0 < num_target < len(tokens):
        raise BadRequest([FieldFault(field="target_new", reason=f"{request.target_new!r} leaves no token to learn")])
    last = _last_token(spans, len(before), len(before) + len(subject))
    return TokenizedPrompt(tokens=tokens, subject_last=last, num_target=num_target)


def check_length(model: EditableModel, request: EditRequest, prompt: TokenizedPrompt) -> None:
    """Refuse a prompt that does not fit in the model's context, or in the window of its attention.

    Raises:
        PromptTooLong: it does not.
    """
    config = model.model.config
    limits = (getattr(config, name, None) for name in ("max_position_embeddings", "sliding_window"))
    context = min((limit for limit in limits if limit), default=len(prompt.tokens))
    if len(prompt.tokens) > context:
        raise PromptTooLong(request.text, num_tokens=len(prompt.tokens), context=context)


def pad_right(rows: Sequence[Sequence[int]], device: torch.device) -> Int64[Tensor, "rows tokens"]:
    """Token rows as one tensor. What fills them up is never looked at: attention is causal."""
    width = max(map(len, rows))
    return torch.tensor([[*row, *[0] * (width - len(row))] for row in rows], device=device)


def _around_subject(context: str, prompt: str) -> tuple[str, str]:
    """The text before and after the subject."""
    context_before, _, context_after = context.partition("{}")
    before, _, after = prompt.partition("{}")
    return context_before + before, after + context_after


def _encode(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[tuple[int, ...], list[tuple[int, int]]]:
    encoding = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    return tuple(encoding["input_ids"]), [(int(start), int(end)) for start, end in encoding["offset_mapping"]]


def _last_token(spans: Sequence[tuple[int, int]], start: int, end: int) -> int:
    """The last token that holds a character of [start, end)."""
    holding = [index for index, span in enumerate(spans) if span[0] < end and span[1] > start]
    if not holding:
        raise BadRequest([FieldFault(field="subject", reason="leaves no token")])
    return holding[-1]
