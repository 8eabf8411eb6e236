"""What can go wrong in editing, as types that a caller can act on.

Every error's text says what was found, what was expected and, where there is something to do, what to do. The command
line turns any `CollabsecureError` into that text and an exit code; anything else that gets out is a bug.
"""

from collections.abc import Sequence
from dataclasses import dataclass

_LONGEST_SAID = 300  # characters


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
        super().__init__("; ".join(f"{fault.field} {fault.reason}" for fault in self.faults))


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordProblem:
    """One faulty field, and where to find it.

    >>> print(RecordProblem(source="a.jsonl", index=3, line=5, field="subject", reason="is missing"))
    a.jsonl: record 3 (line 5): subject is missing
    """

    source: str  # file, or data set and split
    index: int  # position among the source's records, from 0
    line: int | None = None  # where the record starts, from 1, if the form has lines
    field: str  # empty if the record as a whole is at fault
    reason: str

    def __str__(self) -> str:
        line = "" if self.line is None else f" (line {self.line})"
        field = self.field and f" {self.field}"
        return f"{self.source}: record {self.index}{line}:{field} {self.reason}"


class BadRecords(CollabsecureError):
    """Records that were refused: all of a source's problems at once, in the source's order."""

    def __init__(self, problems: Sequence[RecordProblem], *, num_records: int) -> None:
        self.problems = tuple(problems)
        self.num_records = num_records  # good and bad
        num_bad = len({(problem.source, problem.index) for problem in problems})
        summary = f"{num_bad} of {num_records} records cannot be used; mend them or take them out:"
        super().__init__("\n  ".join([summary, *map(str, self.problems)]))


class TooFewRequests(CollabsecureError):
    """Requests that cannot be dealt out so that every client has at least one.

    >>> print(TooFewRequests(num_requests=2, num_clients=5))
    found 2 requests for 5 clients; expected at least one client and one request for each
    """

    def __init__(self, *, num_requests: int, num_clients: int) -> None:
        super().__init__(
            f"found {num_requests} requests for {num_clients} clients; "
            "expected at least one client and one request for each"
        )


class PromptTooLong(CollabsecureError):
    """A prompt with its continuation that does not fit into the model's context."""

    def __init__(self, prompt: str, *, num_tokens: int, context: int) -> None:
        start = prompt if len(prompt) <= 60 else prompt[:60] + "…"
        super().__init__(f"{start!r} comes to {num_tokens} tokens; expected at most the model's {context}: shorten it")


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


class DegenerateSecondMoment(CollabsecureError):
    """A second moment whose diagonal is not positive throughout: some features of the keys were never seen."""

    def __init__(self, indices: Sequence[int], *, first_value: float) -> None:
        self.indices = tuple(indices)  # of the features, ascending
        super().__init__(
            f"found {len(self.indices)} diagonal entries of the second moment that are not positive and finite (first: "
            f"index {self.indices[0]}, {first_value}); expected every feature to occur in the sampled text. Compute it "
            "over more texts (collabsecure second-moment --samples …)"
        )


class ModelMismatch(CollabsecureError):
    """Layers, deltas or hyper-parameters that do not fit the model they are used on."""


class OutOfMemory(CollabsecureError):
    """Not even one edit request at a time fits in the memory that is free."""


class SumAborted(CollabsecureError):
    """Too few clients stayed to open a sum; nothing of it was revealed."""


class BadSession(CollabsecureError):
    """A session whose parameters are no editing session's, or that contradicts itself; nobody can take part in it."""


def said(text: object) -> str:
    """What somebody else says, fit for a terminal and a log: cut, and without what such might act on.

    >>> said("no" + chr(27) + "[2J")
    'no�[2J'
    """
    return "".join(one if one.isprintable() else "�" for one in str(text)[:_LONGEST_SAID])
