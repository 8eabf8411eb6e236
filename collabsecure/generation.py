"""Whole texts that a model writes: sampled top-k, seeded, in batches, each the same as if it were written alone.

ROME's and MEMIT's `generate_fast`: a text is its prompt and what the model adds, of a fixed number of tokens in all; an
end-of-text token does not end it but is left out of what is read. Rows of a batch start together and none is padded: a
row whose prompt is longer than others' follows it where they are sampled already.
"""

import hashlib
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from collabsecure.errors import BadRequest, FieldFault, PromptTooLong
from collabsecure.layers import EditableModel
from collabsecure.prompts import pad_right

Progress = Callable[[int, int], None]  # gets the number of texts written so far, and of all

LENGTH = 100  # tokens of a text, its prompt's included
TOP_K = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """How a text begins. CounterFact asks for several texts from one prompt: `draw` tells them apart."""

    prompt: str
    draw: int = 0


def generate(
    model: EditableModel,
    openings: Sequence[Opening],
    *,
    seed: int,
    length: int = LENGTH,
    top_k: int = TOP_K,
    batch_size: int = 64,
    progress: Progress | None = None,
) -> list[str]:
    """Write one text for each opening: every next token is drawn from the `top_k` likeliest, by their likelihoods.

    What is drawn depends on the seed, the opening and the model, and on no other opening; on `batch_size` only where
    rounding tips a draw. Texts have `length` tokens, or as many as the model's context holds; a prompt that has so many
    itself is its own text. As ROME's, texts are NFKD and their blank lines spaces.

    Raises:
        BadRequest: a prompt leaves no token.
        PromptTooLong: a prompt does not fit into the model's context.
    """
    context: int = getattr(model.model.config, "max_position_embeddings", None) or length
    rows = [_tokenize(model, opening.prompt, context) for opening in openings]
    order = sorted(range(len(rows)), key=lambda index: len(rows[index]))  # like with like: fewer steps
    texts = [""] * len(rows)
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        uniforms = np.stack([_uniforms(seed, openings[index], length) for index in batch])
        written = _continue(model, [rows[index] for index in batch], uniforms, min(length, context), top_k)
        for index, tokens in zip(batch, written, strict=True):
            texts[index] = _read(model, tokens)
        if progress is not None:
            progress(start + len(batch), len(order))
    return texts


def _tokenize(model: EditableModel, prompt: str, context: int) -> list[int]:
    tokens: list[int] = model.tokenizer(prompt, add_special_tokens=False)["input_ids"]
    if not tokens:
        raise BadRequest([FieldFault(field="prompt", reason=f"leaves no token in {prompt!r}")])
    if len(tokens) > context:
        raise PromptTooLong(prompt, num_tokens=len(tokens), context=context)
    return tokens


def _uniforms(seed: int, opening: Opening, length: int) -> Float32[np.ndarray, " length"]:
    """One number in [0, 1) for each place in the text, from SHAKE-256: the same with every version of every library."""
    stream = hashlib.shake_256(f"{seed} {opening.draw} {opening.prompt}".encode()).digest(4 * length)
    return (np.frombuffer(stream, "<u4") >> 8).astype(np.float32) * np.float32(2**-24)  # 24 bits: exact


@torch.inference_mode()
def _continue(
    model: EditableModel,
    prompts: Sequence[Sequence[int]],
    uniforms: Float32[np.ndarray, "rows length"],
    limit: int,
    top_k: int,
) -> Iterator[list[int]]:
    """Give back each row's tokens, the prompt's among them."""
    lengths = torch.tensor([len(prompt) for prompt in prompts], device=model.device)
    tokens = pad_right(prompts, model.device)
    tokens = torch.nn.functional.pad(tokens, (0, max(0, limit - tokens.shape[1])))  # (rows, ≥ limit)
    draws = torch.from_numpy(uniforms).to(model.device)
    mask = torch.ones_like(tokens)  # nothing is padding where the model reads; said, since it would guess
    start, cache = 0, None
    for place in range(min(map(len, prompts)), limit):
        output = model.model(
            input_ids=tokens[:, start:place], attention_mask=mask[:, :place], past_key_values=cache, use_cache=True
        )
        drawn = _draw(output.logits[:, -1].float(), draws[:, place], top_k)
        tokens[:, place] = torch.where(place < lengths, tokens[:, place], drawn)
        start, cache = place, output.past_key_values
    return (row[: max(limit, len(prompt))] for row, prompt in zip(tokens.tolist(), prompts, strict=True))


def _draw(
    logits: Float[Tensor, "rows vocabulary"], uniforms: Float[Tensor, " rows"], top_k: int
) -> Int64[Tensor, " rows"]:
    """Draw by inverse distribution function, over the likeliest tokens in the order of their ids.

    In the order of likelihoods two near equals could change places by rounding, and the draw with them.
    """
    likeliest = logits.topk(top_k, dim=1)
    ids, order = likeliest.indices.sort(dim=1)
    cumulative = likeliest.values.gather(1, order).softmax(dim=1).cumsum(dim=1)
    chosen = (cumulative[:, :-1] <= uniforms[:, None]).sum(dim=1, keepdim=True)
    return ids.gather(1, chosen)[:, 0]


def _read(model: EditableModel, tokens: Sequence[int]) -> str:
    text: str = model.tokenizer.decode(tokens, skip_special_tokens=True)
    return unicodedata.normalize("NFKD", text).replace("\n\n", " ")
