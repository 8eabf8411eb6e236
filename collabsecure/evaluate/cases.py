"""A data set's metrics as one thing to choose, and a record's findings in the form of MEMIT's `…case_ID.json`.

MEMIT's `experiments/summarize.py` reads that form. What its files have beyond this is about how the edit was made
(`time`, `num_edits`, `grouped_case_ids`) or the perplexity of `essence_texts`. A group without prompts is left out, and
so is a score that a record does not have: MEMIT would take the mean of nothing.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Generic, Protocol, TypeVar

from collabsecure.edits import EditRequest
from collabsecure.evaluate.continuations import Progress
from collabsecure.evaluate.counterfact import evaluate_counterfact
from collabsecure.evaluate.generation import GenerationRecord, GenerationScores, evaluate_generation
from collabsecure.evaluate.scores import (
    Comparison,
    CounterfactScores,
    Figure,
    RecordAccuracies,
    RecordScores,
    ZsreScores,
)
from collabsecure.evaluate.zsre import evaluate_zsre
from collabsecure.layers import EditableModel
from collabsecure.references import References

NO_TRUE_TARGET = "<|endoftext|>"  # what MEMIT puts there for zsRE

Record = TypeVar("Record")  # what is found on one record
Find = Callable[[EditableModel, Sequence[EditRequest], Progress | None], tuple[Record, ...]]


class Scores(Protocol):
    """What findings on records come to."""

    def figures(self, *, seed: int = 0) -> tuple[Figure, ...]:
        """Figures with 95% intervals over the records; `seed` is the resampling's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricSet(Generic[Record]):
    """How a data set is evaluated: what is found on records, what that comes to, and MEMIT's form of it."""

    name: str
    title: str  # in a sentence
    find: Find[Record]
    gather: Callable[[tuple[Record, ...]], Scores]
    to_post: Callable[[Record], dict[str, object]]
    from_post: Callable[[int | str, Mapping[str, object]], Record]

    def case_to_json(self, request: EditRequest, record: Record) -> dict[str, object]:
        """One record's file, as `json.dumps` takes it."""
        rewrite: dict[str, object] = {
            "prompt": request.prompt,
            "subject": request.subject,
            "target_new": {"str": request.target_new},
            "target_true": {"str": request.target_true or NO_TRUE_TARGET},
        }
        if request.relation is not None:
            rewrite["relation_id"] = request.relation
        return {"case_id": request.case_id, "requested_rewrite": rewrite, "post": self.to_post(record)}

    def case_from_json(self, data: object) -> Record:
        """What `case_to_json` wrote.

        Raises:
            ValueError: it is something else.
        """
        fields = _as(dict, data)
        case_id = fields.get("case_id")
        return self.from_post(case_id if isinstance(case_id, str) else _as(int, case_id), _as(dict, fields.get("post")))


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordWithTexts:
    """One record's comparisons, and what the model wrote when asked for whole texts."""

    comparisons: RecordScores
    generation: GenerationRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoresWithTexts:
    """All of CounterFact's figures: ES, PS, NS and Score, then NE and RS."""

    records: tuple[RecordWithTexts, ...]  # in the order of the requests

    def figures(self, *, seed: int = 0) -> tuple[Figure, ...]:
        """The figures with their 95% intervals over the records; `seed` is the resampling's."""
        scores = (
            CounterfactScores(records=tuple(record.comparisons for record in self.records)),
            GenerationScores(records=tuple(record.generation for record in self.records)),
        )
        return tuple(figure for some in scores for figure in some.figures(seed=seed))


def _comparisons_to_post(record: RecordScores) -> dict[str, object]:
    post: dict[str, object] = {}
    for group, found in (
        ("rewrite", record.rewrite),
        ("paraphrase", record.paraphrases),
        ("neighborhood", record.neighborhood),
    ):
        if found:
            post[f"{group}_prompts_probs"] = [{"target_new": one.new, "target_true": one.true} for one in found]
            post[f"{group}_prompts_correct"] = [one.is_right for one in found]
    return post


def _comparisons_from_post(case_id: int | str, post: Mapping[str, object]) -> RecordScores:
    def found(group: str) -> tuple[Comparison, ...]:
        losses = [_as(dict, pair) for pair in _as(list, post.get(f"{group}_prompts_probs", []))]
        return tuple(
            Comparison(
                new=_as(float, pair.get("target_new")),
                true=_as(float, pair.get("target_true")),
                is_right=is_right,
            )
            for pair, is_right in zip(losses, _truths(post, group), strict=True)
        )

    return RecordScores(
        case_id=case_id,
        rewrite=found("rewrite"),
        paraphrases=found("paraphrase"),
        neighborhood=found("neighborhood"),
    )


def _tokens_to_post(record: RecordAccuracies) -> dict[str, object]:
    groups = {"rewrite": record.rewrite, "paraphrase": record.paraphrases, "neighborhood": record.neighborhood}
    return {f"{group}_prompts_correct": list(tokens) for group, tokens in groups.items() if tokens}


def _tokens_from_post(case_id: int | str, post: Mapping[str, object]) -> RecordAccuracies:
    return RecordAccuracies(
        case_id=case_id,
        rewrite=_truths(post, "rewrite"),
        paraphrases=_truths(post, "paraphrase"),
        neighborhood=_truths(post, "neighborhood"),
    )


def _with_texts_to_post(record: RecordWithTexts) -> dict[str, object]:
    post, generation = _comparisons_to_post(record.comparisons), record.generation
    if generation.ne is not None:
        post["ngram_entropy"] = generation.ne
    if generation.rs is not None:
        post["reference_score"] = generation.rs
    if generation.texts:
        post["text"] = list(generation.texts)
    return post


def _with_texts_from_post(case_id: int | str, post: Mapping[str, object]) -> RecordWithTexts:
    def score(name: str) -> float | None:
        return None if post.get(name) is None else _as(float, post[name])

    texts = tuple(_as(str, text) for text in _as(list, post.get("text", [])))
    return RecordWithTexts(
        comparisons=_comparisons_from_post(case_id, post),
        generation=GenerationRecord(
            case_id=case_id, texts=texts, ne=score("ngram_entropy"), rs=score("reference_score")
        ),
    )


def _truths(post: Mapping[str, object], group: str) -> tuple[bool, ...]:
    return tuple(_as(bool, truth) for truth in _as(list, post.get(f"{group}_prompts_correct", [])))


Kind = TypeVar("Kind")


def _as(kind: type[Kind], value: object) -> Kind:
    if not isinstance(value, kind):
        raise ValueError(f"found {value!r:.60}; expected a {kind.__name__}")  # noqa: TRY004 (of a file, not of code)
    return value


COUNTERFACT = MetricSet(
    name="counterfact",
    title="CounterFact's metrics",
    find=lambda model, requests, progress: evaluate_counterfact(model, requests, progress=progress).records,
    gather=lambda records: CounterfactScores(records=records),
    to_post=_comparisons_to_post,
    from_post=_comparisons_from_post,
)
ZSRE = MetricSet(
    name="zsre",
    title="zsRE's metrics",
    find=lambda model, requests, progress: evaluate_zsre(model, requests, progress=progress).records,
    gather=lambda records: ZsreScores(records=records),
    to_post=_tokens_to_post,
    from_post=_tokens_from_post,
)


def counterfact_with_texts(references: References | None, *, seed: int) -> MetricSet[RecordWithTexts]:
    """CounterFact's metrics with the generated texts' NE and, where there are references, RS; `seed` is the texts'."""
    return MetricSet(
        name=COUNTERFACT.name,
        title=COUNTERFACT.title,
        find=partial(_find_with_texts, references, seed),
        gather=lambda records: ScoresWithTexts(records=records),
        to_post=_with_texts_to_post,
        from_post=_with_texts_from_post,
    )


def _find_with_texts(
    references: References | None,
    seed: int,
    model: EditableModel,
    requests: Sequence[EditRequest],
    progress: Progress | None,
) -> tuple[RecordWithTexts, ...]:
    def tell_second_half(done: int, of: int) -> None:
        if progress is not None:
            progress(of + done, 2 * of)

    compared = evaluate_counterfact(
        model, requests, progress=None if progress is None else lambda done, of: progress(done, 2 * of)
    )
    written = evaluate_generation(model, requests, references, seed=seed, progress=tell_second_half)
    return tuple(
        RecordWithTexts(comparisons=comparisons, generation=generation)
        for comparisons, generation in zip(compared.records, written.records, strict=True)
    )


def default_metrics(requests: Sequence[EditRequest]) -> str:
    """Name the metrics: CounterFact's need a true target to compare with; where no request has one, as in zsRE, zsRE's.

    >>> default_metrics([EditRequest(prompt="{} is", subject="Norland", target_new="cold", case_id=0)])
    'zsre'
    """
    return ZSRE.name if all(request.target_true is None for request in requests) else COUNTERFACT.name
