"""How well edits took: efficacy, generalisation and specificity as CounterFact and as zsRE define them."""

from collabsecure.evaluate.continuations import (
    Continuation,
    Progress,
    Reading,
    complete,
    negative_log_likelihoods,
    read_continuations,
)
from collabsecure.evaluate.counterfact import evaluate_counterfact
from collabsecure.evaluate.intervals import Interval, bootstrap
from collabsecure.evaluate.scores import (
    Comparison,
    CounterfactScores,
    Figure,
    RecordAccuracies,
    RecordScores,
    ZsreScores,
)
from collabsecure.evaluate.zsre import evaluate_zsre

__all__ = [
    "Comparison",
    "Continuation",
    "CounterfactScores",
    "Figure",
    "Interval",
    "Progress",
    "Reading",
    "RecordAccuracies",
    "RecordScores",
    "ZsreScores",
    "bootstrap",
    "complete",
    "evaluate_counterfact",
    "evaluate_zsre",
    "negative_log_likelihoods",
    "read_continuations",
]
