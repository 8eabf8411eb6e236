"""How well edits took: efficacy, paraphrase and neighbourhood scores as CounterFact defines them.

CollabEdit's appendix C, which is ROME's and MEMIT's evaluation. Of two targets after a prompt, that one is likelier
whose tokens have the lower negative log-likelihood on average. Equal is not likelier.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from statistics import fmean, harmonic_mean

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from collabsecure.edits import EditRequest
from collabsecure.errors import BadRequest, FieldFault, PromptTooLong
from collabsecure.layers import EditableModel
from collabsecure.prompts import pad_right

Progress = Callable[[int, int], None]  # gets the number of continuations scored so far, and of all

TOKENIZED_AT_ONCE = 1024  # texts; the offsets of more would take more memory than the tokens are worth


@dataclass(frozen=True, slots=True, kw_only=True)
class Continuation:
    """A prompt and a target that may follow it, after one space."""

    prompt: str
    target: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """After one prompt: mean negative log-likelihood per token, in nats, of either target.

    >>> Comparison(new=2.5, true=2.5).prefers_new, Comparison(new=2.5, true=2.5).prefers_true
    (False, False)
    """

    new: float  # of the edit's target
    true: float  # of the true target, or the neighbour's answer

    @property
    def prefers_new(self) -> bool:
        """Whether the new target is likelier."""
        return self.new < self.true

    @property
    def prefers_true(self) -> bool:
        """Whether the true target is likelier."""
        return self.true < self.new


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordScores:
    """One record's comparisons, and its share of a score: the part of its prompts where the right target is likelier.

    A share is None where the record has nothing to compare: no paraphrases, no neighbours, or no true target to set
    against the new one (zsRE has none).
    """

    case_id: int | str
    rewrite: tuple[Comparison, ...]  # one, or none without a true target
    paraphrases: tuple[Comparison, ...]
    neighborhood: tuple[Comparison, ...]

    @property
    def es(self) -> float | None:
        """Efficacy: the new target is likelier after the edited prompt."""
        return _mean(comparison.prefers_new for comparison in self.rewrite)

    @property
    def ps(self) -> float | None:
        """Generalisation: the new target is likelier after the paraphrases."""
        return _mean(comparison.prefers_new for comparison in self.paraphrases)

    @property
    def ns(self) -> float | None:
        """Specificity: the true answer stays likelier after the neighbours' prompts."""
        return _mean(comparison.prefers_true for comparison in self.neighborhood)


@dataclass(frozen=True, slots=True, kw_only=True)
class CounterfactScores:
    """ES, PS, NS and Score, as fractions in [0, 1]; each is the mean over the records that have a share in it.

    None where no record has one; `Score` needs all three.

    >>> kept, lost = Comparison(new=3.0, true=1.0), Comparison(new=1.0, true=3.0)
    >>> one = RecordScores(case_id=0, rewrite=(lost,), paraphrases=(lost, kept), neighborhood=(kept,))
    >>> two = RecordScores(case_id=1, rewrite=(lost,), paraphrases=(), neighborhood=(kept, lost))
    >>> scores = CounterfactScores(records=(one, two))
    >>> scores.es, scores.ps, scores.ns, scores.score  # 3 / (1/1 + 1/0.5 + 1/0.75)
    (1.0, 0.5, 0.75, 0.6923076923076923)
    """

    records: tuple[RecordScores, ...]  # in the order of the requests

    @property
    def es(self) -> float | None:
        """Efficacy score."""
        return _mean(record.es for record in self.records)

    @property
    def ps(self) -> float | None:
        """Paraphrase score."""
        return _mean(record.ps for record in self.records)

    @property
    def ns(self) -> float | None:
        """Neighbourhood score."""
        return _mean(record.ns for record in self.records)

    @property
    def score(self) -> float | None:
        """Harmonic mean of the three; 0 if one of them is."""
        three = [value for value in (self.es, self.ps, self.ns) if value is not None]
        return float(harmonic_mean(three)) if len(three) == 3 else None


def evaluate_counterfact(
    model: EditableModel,
    requests: Sequence[EditRequest],
    *,
    batch_size: int = 16,
    progress: Progress | None = None,
) -> CounterfactScores:
    """Compare the new target with the true one after every request's prompt, paraphrases and neighbours' prompts.

    What the scores are does not depend on `batch_size` (texts that the model reads at once) but for rounding.

    Raises:
        BadRequest: a prompt or a target leaves no token.
        PromptTooLong: a prompt with its target does not fit into the model's context.
    """
    compared = [_prompts(request) for request in requests]
    # Neighbours are shared between records, and so are scored once.
    continuations = list(dict.fromkeys(chain.from_iterable(pair for groups in compared for pair in chain(*groups))))
    scores = negative_log_likelihoods(model, continuations, batch_size=batch_size, progress=progress)
    found = dict(zip(continuations, scores, strict=True))

    def compare(pairs: Sequence[tuple[Continuation, Continuation]]) -> tuple[Comparison, ...]:
        return tuple(Comparison(new=found[new], true=found[true]) for new, true in pairs)

    return CounterfactScores(
        records=tuple(
            RecordScores(
                case_id=request.case_id,
                rewrite=compare(rewrite),
                paraphrases=compare(paraphrases),
                neighborhood=compare(neighborhood),
            )
            for request, (rewrite, paraphrases, neighborhood) in zip(requests, compared, strict=True)
        )
    )


def negative_log_likelihoods(
    model: EditableModel,
    continuations: Sequence[Continuation],
    *,
    batch_size: int = 16,
    progress: Progress | None = None,
) -> list[float]:
    """Per continuation, the mean over the target's tokens of −log p(token | all before it), in nats.

    Logits are made for the target's tokens alone: with GPT-2 XL, 0.2 MB each.

    Raises:
        BadRequest: a prompt or a target leaves no token.
        PromptTooLong: a prompt with its target does not fit into the model's context.
    """
    sequences = list(_tokenize(model, continuations))
    texts = sorted(_share(sequences), key=lambda text: -len(text.tokens))  # like with like, for little padding
    scores = [0.0] * len(sequences)
    done = 0
    for start in range(0, len(texts), batch_size):
        batch = texts[start : start + batch_size]
        for index, score in zip(chain.from_iterable(text.members for text in batch), _score(model, batch), strict=True):
            scores[index] = score
            done += 1
        if progress is not None:
            progress(done, len(sequences))
    return scores


def complete(model: EditableModel, prompts: Sequence[str], *, max_new_tokens: int) -> list[str]:
    """Continue each prompt with the likeliest token, again and again; gives back the continuations alone.

    Raises:
        BadRequest: a prompt leaves no token.
        PromptTooLong: there is not so much room in the model's context.
    """
    return [_complete(model, prompt, max_new_tokens) for prompt in prompts]


Pairs = list[tuple[Continuation, Continuation]]  # new target, true target


def _prompts(request: EditRequest) -> tuple[Pairs, Pairs, Pairs]:
    """Pair up what is compared on a request's own prompt, its paraphrases and its neighbours' prompts."""

    def pairs(prompts: Iterable[tuple[str, str | None]]) -> Pairs:
        return [
            (Continuation(prompt=prompt, target=request.target_new), Continuation(prompt=prompt, target=true))
            for prompt, true in prompts
            if true is not None
        ]

    return (
        pairs([(request.text, request.target_true)]),
        pairs((paraphrase, request.target_true) for paraphrase in request.paraphrases),
        pairs((neighbor.prompt, neighbor.answer) for neighbor in request.neighborhood),
    )


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
def _score(model: EditableModel, texts: Sequence[_Text]) -> list[float]:
    """Score the members of each text, text by text."""
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
    return [fmean(islice(losses, sequence.num_target)) for text in texts for sequence in text.members.values()]


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


def _mean(values: Iterable[float | None]) -> float | None:
    counted = [value for value in values if value is not None]
    return fmean(counted) if counted else None
