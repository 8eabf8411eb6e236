"""An edit request: "let the model continue this prompt, about this subject, with that target"."""

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from collabsecure.errors import BadRequest, FieldFault, TooFewRequests

PLACE = "{}"  # where a prompt takes its subject
MAX_CHARACTERS = 10_000  # of any one text; the longest in CounterFact and zsRE has some hundreds
LONE_SURROGATE = re.compile("[\ud800-\udfff]")  # half of a UTF-16 pair, for which there is no UTF-8


def text_fault(text: str) -> str | None:
    """Say what makes `text` unfit for a tokenizer, or None.

    >>> text_fault("Paris"), text_fault(" Paris"), text_fault("")
    (None, 'begins or ends with a blank', 'is empty')
    """
    if not text.strip():
        return "is empty"
    if text != text.strip():
        return "begins or ends with a blank"
    if len(text) > MAX_CHARACTERS:
        return f"has {len(text)} characters; expected at most {MAX_CHARACTERS}"
    if LONE_SURROGATE.search(text):
        return "holds half a character (a lone surrogate)"
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbor:
    """A prompt that the edit must leave alone, and what the unedited model should go on saying."""

    prompt: str
    answer: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EditRequest:
    """One fact to be written, and the prompts that tell whether it was.

    No text begins or ends with a blank: whoever joins a prompt and its continuation puts the space between them.

    >>> request = EditRequest(prompt="The capital of {} is", subject="Norland", target_new="Lindau", case_id=0)
    >>> request.text
    'The capital of Norland is'

    Raises:
        BadRequest: lists every faulty field.
    """

    prompt: str  # exactly one "{}"
    subject: str
    target_new: str
    case_id: int | str  # tells the requests of one file apart
    target_true: str | None = None  # what the unedited model says
    relation: str | None = None
    paraphrases: tuple[str, ...] = ()
    neighborhood: tuple[Neighbor, ...] = ()
    generation_prompts: tuple[str, ...] = ()  # for whole texts about the subject

    def __post_init__(self) -> None:
        if faults := list(self._faults()):
            raise BadRequest(faults)

    @property
    def text(self) -> str:
        """The prompt with the subject in its place."""
        return self.prompt.replace(PLACE, self.subject)

    def _faults(self) -> Iterator[FieldFault]:
        for field, text in self._texts():
            if reason := text_fault(text):
                yield FieldFault(field=field, reason=reason)
        if (places := self.prompt.count(PLACE)) != 1:
            found = f"has {places} places for the subject" if places else "has no place for the subject"
            yield FieldFault(field="prompt", reason=f'{found}; expected exactly one "{PLACE}"')
        if PLACE in self.subject:
            yield FieldFault(field="subject", reason=f'holds "{PLACE}", which only a prompt may')
        if self.target_new == self.target_true:
            yield FieldFault(field="target_new", reason="is the same as the true target: there is nothing to edit")

    def _texts(self) -> Iterator[tuple[str, str]]:
        yield from (("prompt", self.prompt), ("subject", self.subject), ("target_new", self.target_new))
        optional = {"target_true": self.target_true, "relation": self.relation}
        yield from ((field, text) for field, text in optional.items() if text is not None)
        if isinstance(self.case_id, str):
            yield "case_id", self.case_id
        for field, texts in (("paraphrases", self.paraphrases), ("generation_prompts", self.generation_prompts)):
            yield from ((f"{field}[{position}]", text) for position, text in enumerate(texts))
        for position, neighbor in enumerate(self.neighborhood):
            yield f"neighborhood[{position}].prompt", neighbor.prompt
            yield f"neighborhood[{position}].answer", neighbor.answer


def split_among_clients(requests: Sequence[EditRequest], num_clients: int) -> list[list[EditRequest]]:
    """Deal `requests` out in runs, the first clients getting one more where they don't divide evenly.

    The clients' lists put end to end are `requests` again, so pooling them gives back the same edits in the same order.

    Raises:
        TooFewRequests: a client would have nothing to edit, or there is no client.
    """
    if not 1 <= num_clients <= len(requests):
        raise TooFewRequests(num_requests=len(requests), num_clients=num_clients)
    size, longer = divmod(len(requests), num_clients)
    starts = [client * size + min(client, longer) for client in range(num_clients + 1)]
    return [list(requests[start:end]) for start, end in itertools.pairwise(starts)]
