"""What is found on each record, and the figures that it comes to; NumPy only.

CollabEdit's appendix C, which is ROME's and MEMIT's evaluation: a record's prompts are averaged, then the records. Of
two targets after a prompt, that one is likelier whose tokens have the lower negative log-likelihood on average. Equal
is not likelier.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, harmonic_mean
from typing import ClassVar

import numpy as np
from jaxtyping import Float64

from collabsecure.evaluate.intervals import Interval, bootstrap

Shares = tuple[float | None, float | None, float | None]  # a record's part in each of three means


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One figure with what it is called, as fractions in [0, 1]; None where no record has a part in it."""

    name: str
    value: float | None
    interval: Interval | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """After one prompt: mean negative log-likelihood per token, in nats, of either target.

    >>> Comparison(new=2.5, true=2.5).prefers_new, Comparison(new=2.5, true=2.5).prefers_true
    (False, False)
    """

    new: float  # of the edit's target
    true: float  # of the true target, or the neighbour's answer
    is_right: bool = False  # the model says the whole right target: new, or after a neighbour's prompt the true one

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

    NAMES: ClassVar = ("ES", "PS", "NS", "Score")

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
        return _harmonic_mean((self.es, self.ps, self.ns))

    def figures(self, *, seed: int = 0) -> tuple[Figure, ...]:
        """ES, PS, NS and Score with their 95% intervals over the records; `seed` is the resampling's."""
        shares = [(record.es, record.ps, record.ns) for record in self.records]
        return _figures(self.NAMES, (self.es, self.ps, self.ns, self.score), shares, seed)


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordAccuracies:
    """One record's targets, token by token: whether each is what the model says when those before it are given.

    The tokens of a group's prompts are put end to end, as MEMIT's evaluation of zsRE does. A share is None where the
    record has no such prompts.

    >>> record = RecordAccuracies(case_id=0, rewrite=(True, True), paraphrases=(True, False), neighborhood=())
    >>> record.ea, record.pa, record.na
    (1.0, 0.5, None)
    """

    case_id: int | str
    rewrite: tuple[bool, ...]  # the new target after the edited prompt
    paraphrases: tuple[bool, ...]  # the new target after each paraphrase
    neighborhood: tuple[bool, ...]  # the true answer after each neighbour's prompt

    @property
    def ea(self) -> float | None:
        """Efficacy: the part of the new target's tokens that the model says."""
        return _mean(map(float, self.rewrite))

    @property
    def pa(self) -> float | None:
        """Generalisation: the same after the paraphrases."""
        return _mean(map(float, self.paraphrases))

    @property
    def na(self) -> float | None:
        """Specificity: the part of the true answers' tokens that the model still says."""
        return _mean(map(float, self.neighborhood))


@dataclass(frozen=True, slots=True, kw_only=True)
class ZsreScores:
    """EA, PA, NA and Score, as fractions in [0, 1]; each is the mean over the records that have a share in it.

    None where no record has one; `Score` needs all three.

    >>> one = RecordAccuracies(case_id=0, rewrite=(True, True), paraphrases=(True, False), neighborhood=(True,))
    >>> two = RecordAccuracies(case_id=1, rewrite=(True,), paraphrases=(False,), neighborhood=(True, False))
    >>> scores = ZsreScores(records=(one, two))
    >>> scores.ea, scores.pa, scores.na, scores.score  # 3 / (1/1 + 1/0.25 + 1/0.75)
    (1.0, 0.25, 0.75, 0.4736842105263158)
    """

    NAMES: ClassVar = ("EA", "PA", "NA", "Score")

    records: tuple[RecordAccuracies, ...]  # in the order of the requests

    @property
    def ea(self) -> float | None:
        """Efficacy, as accuracy."""
        return _mean(record.ea for record in self.records)

    @property
    def pa(self) -> float | None:
        """Paraphrase accuracy."""
        return _mean(record.pa for record in self.records)

    @property
    def na(self) -> float | None:
        """Neighbourhood accuracy."""
        return _mean(record.na for record in self.records)

    @property
    def score(self) -> float | None:
        """Harmonic mean of the three; 0 if one of them is."""
        return _harmonic_mean((self.ea, self.pa, self.na))

    def figures(self, *, seed: int = 0) -> tuple[Figure, ...]:
        """EA, PA, NA and Score with their 95% intervals over the records; `seed` is the resampling's."""
        shares = [(record.ea, record.pa, record.na) for record in self.records]
        return _figures(self.NAMES, (self.ea, self.pa, self.na, self.score), shares, seed)


def _figures(
    names: Sequence[str], values: Sequence[float | None], shares: Sequence[Shares], seed: int
) -> tuple[Figure, ...]:
    table: Float64[np.ndarray, "records 3"] = np.array(shares, dtype=np.float64).reshape(-1, 3)  # None becomes NaN
    return tuple(
        Figure(name=name, value=value, interval=interval)
        for name, value, interval in zip(names, values, bootstrap(table, seed=seed), strict=True)
    )


def _mean(values: Iterable[float | None]) -> float | None:
    counted = [value for value in values if value is not None]
    return fmean(counted) if counted else None


def _harmonic_mean(values: Shares) -> float | None:
    counted = [value for value in values if value is not None]
    return float(harmonic_mean(counted)) if len(counted) == len(values) else None
