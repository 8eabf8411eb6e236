"""What an edit does to whole texts: NE and RS, as CounterFact defines them (CollabEdit's appendix C, ROME, MEMIT).

A record's generation prompts are continued; NE says whether the texts still vary, RS whether they speak of what the new
target brings with it.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from statistics import fmean
from typing import ClassVar

import numpy as np

from collabsecure.edits import EditRequest
from collabsecure.evaluate.intervals import bootstrap
from collabsecure.evaluate.scores import Figure
from collabsecure.fluency import n_gram_entropy, words
from collabsecure.generation import LENGTH, Opening, Progress, generate
from collabsecure.layers import EditableModel
from collabsecure.references import References
from collabsecure.tfidf import Vector, cosine


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRecord:
    """One record's generated texts and their scores; None where it has no generation prompts, or no references."""

    case_id: int | str
    texts: tuple[str, ...]  # one for each generation prompt, which it begins with
    ne: float | None  # bits: mean over the texts of their n-gram entropy
    rs: float | None  # in [0, 1]: cosine of all texts together with all references together


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationScores:
    """NE in bits and RS in [0, 1], each the mean over the records that have one; published tables give 100 × both.

    >>> one = GenerationRecord(case_id=0, texts=("a b a b",), ne=1.5, rs=0.25)
    >>> two = GenerationRecord(case_id=1, texts=("a b a b",), ne=2.5, rs=None)
    >>> scores = GenerationScores(records=(one, two))
    >>> scores.ne, scores.rs
    (2.0, 0.25)
    """

    NAMES: ClassVar = ("NE", "RS")

    records: tuple[GenerationRecord, ...]  # in the order of the requests

    @property
    def ne(self) -> float | None:
        """N-gram entropy, which the literature also calls fluency."""
        return _mean(record.ne for record in self.records)

    @property
    def rs(self) -> float | None:
        """Reference score, which the literature also calls consistency."""
        return _mean(record.rs for record in self.records)

    def figures(self, *, seed: int = 0) -> tuple[Figure, ...]:
        """NE, which is in bits, and RS with their 95% intervals over the records; `seed` is the resampling's."""
        shares = np.array([(record.ne, record.rs, None) for record in self.records], dtype=np.float64).reshape(-1, 3)
        return tuple(
            Figure(name=name, value=value, interval=interval)
            for name, value, interval in zip(self.NAMES, (self.ne, self.rs), bootstrap(shares, seed=seed), strict=False)
        )


def evaluate_generation(
    model: EditableModel,
    requests: Sequence[EditRequest],
    references: References | None,
    *,
    seed: int,
    length: int = LENGTH,
    batch_size: int = 64,
    progress: Progress | None = None,
) -> GenerationScores:
    """Continue every request's generation prompts to texts of `length` tokens, and score them.

    A record's texts depend on the seed and its own prompts, so they are the same whatever other records there are, and
    in parts as in one go. A prompt that a record lists several times gives as many different texts.

    Raises:
        BadRequest: a prompt leaves no token.
        PromptTooLong: a prompt does not fit into the model's context.
    """
    opened = [list(_openings(request)) for request in requests]
    openings = list(dict.fromkeys(chain.from_iterable(opened)))  # records may share prompts
    written = generate(model, openings, seed=seed, length=length, batch_size=batch_size, progress=progress)
    text_of = dict(zip(openings, written, strict=True))
    vectors: dict[str, Vector] = {}  # of reference texts, which are long and shared between records

    def compare(case_id: int | str, texts: Sequence[str]) -> float | None:
        found = " ".join(references.texts.get(case_id, ())) if references else ""
        if references is None or not texts or not found:
            return None
        if found not in vectors:
            vectors[found] = references.tfidf.vector(found)
        return cosine(references.tfidf.vector(" ".join(texts)), vectors[found])

    records = []
    for request, own in zip(requests, opened, strict=True):
        texts = tuple(text_of[opening] for opening in own)
        ne = _mean(n_gram_entropy(words(text)) for text in texts)
        records.append(
            GenerationRecord(case_id=request.case_id, texts=texts, ne=ne, rs=compare(request.case_id, texts))
        )
    return GenerationScores(records=tuple(records))


def _openings(request: EditRequest) -> Iterator[Opening]:
    before: Counter[str] = Counter()
    for prompt in request.generation_prompts:
        yield Opening(prompt=prompt, draw=before[prompt])
        before[prompt] += 1


def _mean(values: Iterable[float | None]) -> float | None:
    counted = [value for value in values if value is not None]
    return fmean(counted) if counted else None
