"""What can go wrong in editing, as types that a caller can act on.

Every error's text says what was found, what was expected and, where there is something to do, what to do. The command
line turns any `CollabsecureError` into that text and an exit code; anything else that gets out is a bug.
"""
# ruff: noqa: N818 (the names say what is wrong, as the design's own `NotPositiveDefinite` does; "Error" would add nothing)

from collections.abc import Sequence
from dataclasses import dataclass


class CollabsecureError(Exception):
    """Base of all errors that collabsecure raises on purpose."""


class BadFile(CollabsecureError):
    """A file or directory cannot be read or written, or does not hold what it was said to hold.

    >>> print(BadFile("edits.json", found="JSON that ends too early", expected="a list of records"))
    edits.json: found JSON that ends too early; expected a list of records
    """

    def __init__(self, path: object, *, found: str, expected: str, remedy: str = "") -> None:
        self.path = str(path)
        super().__init__(f"{self.path}: found {found}; expected {expected}" + (f". {remedy}" if remedy else ""))


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldFault:
    """One field of one record, and what is wrong with it."""

    field: str  # as the record's own form names it, dotted: "requested_rewrite.target_new.str"
    reason: str


class BadRequest(CollabsecureError):
    """An edit request that no editor could carry out; lists all faulty fields."""

    def __init__(self, faults: Sequence[FieldFault]) -> None:
        self.faults = tuple(faults)
        super().__init__("; ".join(f"{fault.field}: {fault.reason}" for fault in self.faults))


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordProblem:
    """One faulty field, and where to find it.

    >>> print(RecordProblem(source="a.jsonl", index=3, line=5, field="subject", reason="is missing"))
    a.jsonl: record 3 (line 5): subject: is missing
    """

    source: str  # file, or data set and split
    index: int  # position among the source's records, from 0
    line: int | None = None  # where the record starts, from 1, if the form has lines
    field: str
    reason: str

    def __str__(self) -> str:
        line = "" if self.line is None else f" (line {self.line})"
        return f"{self.source}: record {self.index}{line}: {self.field}: {self.reason}"


class BadRecords(CollabsecureError):
    """Records that were refused: all of a source's problems at once, in the source's order."""

    def __init__(self, problems: Sequence[RecordProblem], *, num_records: int) -> None:
        self.problems = tuple(problems)
        self.num_records = num_records  # good and bad
        num_bad = len({(problem.source, problem.index) for problem in problems})
        summary = f"{num_bad} of {num_records} records cannot be used; mend them or take them out:"
        super().__init__("\n  ".join([summary, *map(str, self.problems)]))


class MissingExtra(CollabsecureError):
    """Something was asked for that needs a package which is not installed."""

    def __init__(self, purpose: str, *, package: str, extra: str) -> None:
        super().__init__(f"{purpose} needs the package {package}: pip install 'collabsecure[{extra}]'")


class NotAModel(CollabsecureError):
    """A directory or name from which no causal language model with its tokenizer can be loaded."""


class UnknownArchitecture(CollabsecureError):
    """A model whose MLP output projections are in no place that the registry knows."""


class NotPositiveDefinite(CollabsecureError):
    """C + Σ KᵢKᵢᵀ has no Cholesky factor: a sum has wrapped or was corrupted, or C is not a second moment."""
