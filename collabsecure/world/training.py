"""Training the small world's GPT-2 on its texts until it knows its facts.

Hidden matrices are trained by Muon (orthogonalised momentum), which learns facts that are seldom told in about half the
steps that Adam needs; all else by AdamW. Muon's weight decay keeps the residual stream short: without it the first
block's output drowns all others', and an edit has to be longer. The matrices that make the keys decay less, as short
keys need long updates. (With decay 1 everywhere MEMIT scores 97 instead of 94, by updates 100 times the weights.)
"""

import math
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from collabsecure.world.facts import SEED, Fact
from collabsecure.world.names import shuffled

CONTEXT_LENGTH = 128  # tokens
_LAST_WORD = re.compile(r" \w+(?=\.)")  # of a sentence: a fact's object


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """The model's shape and how it is trained."""

    num_layers: int = 6
    width: int = 128
    num_heads: int = 4
    row_length: int = 64  # tokens; several texts share a row
    batch_rows: int = 16
    epochs: int = 5
    matrix_rate: float = 0.02  # Muon's, for attention and MLP matrices
    matrix_decay: float = 0.3
    key_decay: float = 0.1  # of the MLPs' first matrices, whose output the keys are
    embedding_rate: float = 0.02  # a subject's own token is seen 55 times or more in all: it has to move fast
    other_rate: float = 3e-3  # biases, layer norms, positions
    other_share: float = 0.1  # of the loss, for tokens that nobody could guess, such as names; objects count 1
    seed: int = SEED


def train(
    texts: Sequence[str],
    tokenizer: PreTrainedTokenizerFast,
    recipe: Recipe,
    progress: Callable[[int, int, float], None],
) -> GPT2LMHeadModel:
    """Train from scratch; `progress` gets step, number of steps and loss.

    The same recipe gives the same weights, bit for bit, where versions, processor and number of threads are the same.
    """
    torch.manual_seed(recipe.seed)
    end_of_text: int = tokenizer.eos_token_id
    model = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=len(tokenizer),
            n_positions=CONTEXT_LENGTH,
            n_embd=recipe.width,
            n_layer=recipe.num_layers,
            n_head=recipe.num_heads,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            bos_token_id=end_of_text,
            eos_token_id=end_of_text,
            pad_token_id=end_of_text,
        )
    ).train()
    rng = random.Random(recipe.seed)  # noqa: S311 - the order of training texts is no secret
    encoded = [_encode(tokenizer, text, recipe.other_share) for text in texts]
    batches = [batch for _ in range(recipe.epochs) for batch in _batches(shuffled(encoded, rng), recipe, end_of_text)]
    optimisers = _optimisers(model, recipe)
    schedules = [
        torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _rate(step, len(batches))) for optimiser in optimisers
    ]
    for step, batch in enumerate(batches, start=1):
        logits = model(input_ids=batch.tokens, attention_mask=torch.ones_like(batch.tokens)).logits[:, :-1]
        losses = cross_entropy(logits.flatten(0, 1), batch.tokens[:, 1:].flatten(), reduction="none")
        shares = batch.shares[:, 1:].flatten()
        loss = (losses * shares).sum() / shares.sum()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimiser in optimisers:
            optimiser.step()
        for schedule in schedules:
            schedule.step()
        model.zero_grad()
        progress(step, len(batches), float(loss.detach()))
    return model.eval()


@torch.no_grad()
def recall(
    model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast, facts: Sequence[Fact], *, batch_size: int = 256
) -> float:
    """Share of all (fact, template) pairs after which the true object, all its tokens, is what the model says first."""
    pairs = [
        (template.format(fact.subject.name), fact.object) for fact in facts for template in fact.relation.templates
    ]
    known = 0
    for start in range(0, len(pairs), batch_size):
        chunk = pairs[start : start + batch_size]
        lengths = [len(tokenizer(prompt).input_ids) for prompt, _ in chunk]
        inputs = tokenizer([f"{prompt} {answer}" for prompt, answer in chunk], return_tensors="pt", padding=True)
        best = model(**inputs).logits.argmax(-1)
        for row, length in enumerate(lengths):
            end = int(inputs.attention_mask[row].sum())
            known += bool((best[row, length - 1 : end - 1] == inputs.input_ids[row, length:end]).all())
    return known / len(pairs)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Encoded:
    tokens: list[int]
    shares: list[float]  # of each token in the loss


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Batch:
    tokens: Int64[Tensor, "rows length"]
    shares: Float[Tensor, "rows length"]  # 0 for what only fills up


def _encode(tokenizer: PreTrainedTokenizerFast, text: str, other_share: float) -> _Encoded:
    encoding = tokenizer(text, return_offsets_mapping=True)
    objects = [match.span() for match in _LAST_WORD.finditer(text)]
    shares = [
        1.0 if any(first <= start and end <= last for first, last in objects) else other_share
        for start, end in encoding.offset_mapping
    ]
    return _Encoded(tokens=[*encoding.input_ids, tokenizer.eos_token_id], shares=[*shares, other_share])


def _batches(encoded: Sequence[_Encoded], recipe: Recipe, filler: int) -> list[_Batch]:
    """Texts after one another, as many to a row as fit whole."""
    rows: list[_Encoded] = []
    for text in encoded:
        if rows and len(rows[-1].tokens) + len(text.tokens) <= recipe.row_length:
            rows[-1].tokens.extend(text.tokens)
            rows[-1].shares.extend(text.shares)
        else:
            rows.append(_Encoded(tokens=text.tokens[: recipe.row_length], shares=text.shares[: recipe.row_length]))
    batches = []
    for start in range(0, len(rows), recipe.batch_rows):
        batch = rows[start : start + recipe.batch_rows]
        length = max(len(row.tokens) for row in batch)
        batches.append(
            _Batch(
                tokens=torch.tensor([row.tokens + [filler] * (length - len(row.tokens)) for row in batch]),
                shares=torch.tensor([row.shares + [0.0] * (length - len(row.shares)) for row in batch]),
            )
        )
    return batches


def _optimisers(model: GPT2LMHeadModel, recipe: Recipe) -> list[torch.optim.Optimizer]:
    embedding = model.transformer.wte.weight  # the output layer's too
    matrices = [parameter for block in model.transformer.h for parameter in block.parameters() if parameter.ndim == 2]
    makes_keys = {id(block.mlp.c_fc.weight) for block in model.transformer.h}
    elsewhere = {id(parameter) for parameter in (embedding, *matrices)}
    others = [parameter for parameter in model.parameters() if id(parameter) not in elsewhere]
    muon = torch.optim.Muon(
        [matrix for matrix in matrices if id(matrix) not in makes_keys],
        lr=recipe.matrix_rate,
        weight_decay=recipe.matrix_decay,
    )
    muon.add_param_group(
        {"params": [matrix for matrix in matrices if id(matrix) in makes_keys], "weight_decay": recipe.key_decay}
    )
    adam = torch.optim.AdamW(
        [{"params": [embedding], "lr": recipe.embedding_rate}, {"params": others, "lr": recipe.other_rate}],
        betas=(0.9, 0.98),
    )
    return [muon, adam]


def _rate(step: int, num_steps: int) -> float:
    """A tenth of the steps to warm up, then half a cosine down to 2%."""
    warm_up = max(1, num_steps // 10)
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.51 + 0.49 * math.cos(math.pi * (step - warm_up) / max(1, num_steps - warm_up))
