"""What a model makes of a target that may follow a prompt: each token's likelihood, and whether it would say it.

Teacher-forced: every token of the target is judged with the ones before it given, in one pass over the text.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from statistics import fmean

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from collabsecure.errors import BadRequest, FieldFault, PromptTooLong
from collabsecure.layers import EditableModel
from collabsecure.prompts import pad_right

Progress = Callable[[int, int], None]  # gets the number of continuations read so far, and of all

TOKENIZED_AT_ONCE = 1024  # texts; the offsets of more would take more memory than the tokens are worth


@dataclass(frozen=True, slots=True, kw_only=True)
class Continuation:
    """A prompt and a target that may follow it, after one space."""

    prompt: str
    target: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """A target in its place, token by token; as many `losses` as `likeliest`, and at least one.

    >>> reading = Reading(losses=(0.5, 1.5), likeliest=(True, False))
    >>> reading.loss, reading.is_said
    (1.0, False)
    """

    losses: tuple[float, ...]  # −log p(token | all before it), in nats
    likeliest: tuple[bool, ...]  # the token is the one that the model would say in this place

    @property
    def loss(self) -> float:
        """The mean negative log-likelihood per token, in nats."""
        return fmean(self.losses)

    @property
    def is_said(self) -> bool:
        """Whether the model, always taking the likeliest token, says the whole target."""
        return all(self.likeliest)


def read_continuations(
    model: EditableModel,
    continuations: Sequence[Continuation],
    *,
    batch_size: int = 16,
    progress: Progress | None = None,
) -> list[Reading]:
    """Read each target after its prompt; `batch_size` texts at once, on which nothing depends but rounding.

    Logits are made for the target's tokens alone: with GPT-2 XL, 0.2 MB each.

    Raises:
        BadRequest: a prompt or a target leaves no token.
        PromptTooLong: a prompt with its target does not fit into the model's context.
    """
    sequences = list(_tokenize(model, continuations))
    texts = sorted(_share(sequences), key=lambda text: -len(text.tokens))  # like with like, for little padding
    readings: dict[int, Reading] = {}
    for start in range(0, len(texts), batch_size):
        batch = texts[start : start + batch_size]
        readings.update(zip(chain.from_iterable(text.members for text in batch), _read(model, batch), strict=True))
        if progress is not None:
            progress(len(readings), len(sequences))
    return [readings[index] for index in range(len(sequences))]


def negative_log_likelihoods(
    model: EditableModel,
    continuations: Sequence[Continuation],
    *,
    batch_size: int = 16,
    progress: Progress | None = None,
) -> list[float]:
    """Per continuation, the mean over the target's tokens of −log p(token | all before it), in nats.

    Raises:
        BadRequest, PromptTooLong: as `read_continuations`.
    """
    readings = read_continuations(model, continuations, batch_size=batch_size, progress=progress)
    return [reading.loss for reading in readings]


def complete(model: EditableModel, prompts: Sequence[str], *, max_new_tokens: int) -> list[str]:
    """Continue each prompt with the likeliest token, again and again; gives back the continuations alone.

    Raises:
        BadRequest: a prompt leaves no token.
        PromptTooLong: there is not so much room in the model's context.
    """
    return [_complete(model, prompt, max_new_tokens) for prompt in prompts]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sequence:
    tokens: tuple[int, ...]
    num_target: int  # of the tokens, the last ones; 1 ≤ num_target < len(tokens)

    @property
    def read(self) -> tuple[int, ...]:
        """What the model has to read: what it says after the last token is of no interest."""
        return self.tokens[:-1]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Text:
    """What the model reads once for several sequences that begin it."""

    tokens: tuple[int, ...]
    members: dict[int, _Sequence]  # by their place among all sequences


def _share(sequences: Sequence[_Sequence]) -> list[_Text]:
    """Find the fewest texts that every sequence begins; with one-token targets, that is one for a prompt's two.

    Attention is causal, so what follows in a text changes nothing for a sequence that ends before.
    """
    texts: list[_Text] = []
    # In lexical order backwards, all that begin a text come right behind it.
    for index in sorted(range(len(sequences)), key=lambda index: sequences[index].read, reverse=True):
        read = sequences[index].read
        if not texts or texts[-1].tokens[: len(read)] != read:
            texts.append(_Text(tokens=read, members={}))
        texts[-1].members[index] = sequences[index]
    return texts


def _tokenize(model: EditableModel, continuations: Sequence[Continuation]) -> Iterator[_Sequence]:
    for start in range(0, len(continuations), TOKENIZED_AT_ONCE):
        chunk = continuations[start : start + TOKENIZED_AT_ONCE]
        texts = [f"{continuation.prompt} {continuation.target}" for continuation in chunk]
        encoded = model.tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True)
        for continuation, tokens, spans in zip(chunk, encoded["input_ids"], encoded["offset_mapping"], strict=True):
            # The target's tokens are those that reach beyond the prompt: right also where a tokenizer would cut the
            # target alone otherwise than in its place.
            num_target = sum(end > len(continuation.prompt) for _, end in spans)
            if not 0 < num_target < len(tokens):
                part = "target" if num_target == 0 else "prompt"
                reason = f"leaves no token in {continuation.prompt!r} + {continuation.target!r}"
                raise BadRequest([FieldFault(field=part, reason=reason)])
            _check_length(model, continuation.prompt, len(tokens))
            yield _Sequence(tokens=tuple(tokens), num_target=num_target)


def _check_length(model: EditableModel, prompt: str, num_tokens: int) -> None:
    context: int | None = getattr(model.model.config, "max_position_embeddings", None)
    if context is not None and num_tokens > context:
        raise PromptTooLong(prompt, num_tokens=num_tokens, context=context)


@torch.inference_mode()
def _read(model: EditableModel, texts: Sequence[_Text]) -> list[Reading]:
    """Read the members of each text, text by text."""
    rows: list[int] = []
    positions: list[int] = []  # what the model says at a position is about the token that comes next
    targets: list[int] = []
    for row, text in enumerate(texts):
        for sequence in text.members.values():
            rows += [row] * sequence.num_target
            positions += range(len(sequence.tokens) - sequence.num_target - 1, len(sequence.tokens) - 1)
            targets += sequence.tokens[-sequence.num_target :]
    index = torch.tensor([rows, positions, targets], device=model.device)
    logits = _logits_at(model, pad_right([text.tokens for text in texts], model.device), index[0], index[1])
    losses = iter(nn.functional.cross_entropy(logits, index[2], reduction="none").tolist())
    likeliest = iter((logits.argmax(-1) == index[2]).tolist())
    return [
        Reading(
            losses=tuple(islice(losses, sequence.num_target)),
            likeliest=tuple(islice(likeliest, sequence.num_target)),
        )
        for text in texts
        for sequence in text.members.values()
    ]


def _logits_at(
    model: EditableModel,
    tokens: Int64[Tensor, "batch length"],
    rows: Int64[Tensor, " wanted"],
    positions: Int64[Tensor, " wanted"],
) -> Float[Tensor, "wanted vocabulary"]:
    """Run the model, and its output layer at some places alone; logits in float32.

    They are picked out where the states enter the output layer, so that whatever a family does behind it is done. No
    attention mask: the padding is on the right, attention is causal, and nobody asks what stands at the padding.
    """

    def pick(_: nn.Module, args: tuple[Tensor, ...]) -> Tensor:
        states: Float[Tensor, "batch length d_model"] = args[0]
        return states[rows, positions].unsqueeze(0)

    handle = model.model.get_output_embeddings().register_forward_pre_hook(pick)
    try:
        logits: Tensor = model.model(input_ids=tokens, use_cache=False).logits
    finally:
        handle.remove()
    return logits[0].float()


@torch.inference_mode()
def _complete(model: EditableModel, prompt: str, max_new_tokens: int) -> str:
    tokens: list[int] = model.tokenizer(prompt, add_special_tokens=False)["input_ids"]
    if not tokens:
        raise BadRequest([FieldFault(field="prompt", reason=f"leaves no token in {prompt!r}")])
    _check_length(model, prompt, len(tokens) + max_new_tokens)
    written: list[int] = []
    step, cache = tokens, None
    while len(written) < max_new_tokens:
        output = model.model(input_ids=pad_right([step], model.device), past_key_values=cache, use_cache=True)
        likeliest = int(output.logits[0, -1].argmax())
        if likeliest == model.tokenizer.eos_token_id:
            break
        written.append(likeliest)
        step, cache = [likeliest], output.past_key_values
    return str(model.tokenizer.decode(written))
