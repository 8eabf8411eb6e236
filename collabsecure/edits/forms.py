"""The forms in which edit requests are published, and how one record of each becomes an `EditRequest`.

A record's texts are taken without the blanks around them; otherwise as they are. What a form has beyond an
`EditRequest`'s fields (CounterFact's `attribute_prompts`, zsRE's further `answers`, …) is left unread.
"""

import dataclasses
import enum
import re
from collections.abc import Callable, Iterable, Mapping

from collabsecure.edits.request import PLACE, EditRequest, Neighbor
from collabsecure.errors import BadRequest, FieldFault


class RecordForm(enum.StrEnum):
    """The forms that can be read; each says which fields tell it from the others."""

    MULTI_COUNTERFACT = "multi_counterfact"  # requested_rewrite; as published with ROME and MEMIT
    ZSRE = "zsre"  # src, answers; as published with MEND
    EASYEDIT_COUNTERFACT = "easyedit_counterfact"  # prompt, with ground_truth, rephrase_prompt or locality_prompt
    PLAIN = "plain"  # prompt or target_new; an EditRequest's own fields


def recognise(record: Mapping[str, object]) -> RecordForm | None:
    """Tell a record's form from the names of its fields.

    >>> recognise({"prompt": "{} is", "subject": "Norland", "target_new": "cold"})
    <RecordForm.PLAIN: 'plain'>
    """
    names = record.keys()
    if "requested_rewrite" in names:
        return RecordForm.MULTI_COUNTERFACT
    if "src" in names and "answers" in names:
        return RecordForm.ZSRE
    if "prompt" in names and not names.isdisjoint({"ground_truth", "rephrase_prompt", "locality_prompt"}):
        return RecordForm.EASYEDIT_COUNTERFACT
    return None if names.isdisjoint({"prompt", "target_new"}) else RecordForm.PLAIN


def parse_record(record: Mapping[str, object], *, form: RecordForm, index: int) -> EditRequest:
    """Read one record; `index`, its position in the source, is its case_id where it has none.

    >>> parse_record({"prompt": "{} is", "subject": 7, "target_new": ""}, form=RecordForm.PLAIN, index=0)
    Traceback (most recent call last):
    collabsecure.errors.BadRequest: subject is a number; expected a text; target_new is empty

    Raises:
        BadRequest: names the faulty fields as the form does.
    """
    reader = _READERS[form]
    fields = _Fields(record)
    try:
        request = reader.read(fields, index)
    except BadRequest as error:
        for fault in error.faults:
            fields.note(reader.name(fault.field), fault.reason)
    if fields.faults:
        raise BadRequest([FieldFault(field=field, reason=reason) for field, reason in fields.faults.items()])
    return request


class _Fields:
    """Reads a record's fields by dotted path, noting what is wrong instead of stopping at it: one fault per field."""

    def __init__(self, record: Mapping[str, object]) -> None:
        self._record = record
        self.faults: dict[str, str] = {}  # by field, the first one found

    def note(self, field: str, reason: str) -> None:
        self.faults.setdefault(field, reason)

    def text(self, path: str) -> str:
        text = self.optional_text(path)
        if text is None:
            self.note(path, "is missing")
        return text or ""

    def optional_text(self, path: str) -> str | None:
        value = self._find(path)
        return None if value is None else self._as_text(path, value)

    def texts(self, path: str) -> tuple[str, ...]:
        return tuple(self._as_text(f"{path}[{position}]", item) for position, item in enumerate(self._list(path)))

    def neighbors(self, path: str) -> tuple[Neighbor, ...]:
        found = []
        for position, item in enumerate(self._list(path)):
            if not isinstance(item, Mapping):
                self.note(f"{path}[{position}]", f"is {describe(item)}; expected an object with prompt and answer")
                continue
            within = _Fields(item)
            within.refuse_all_but(["prompt", "answer"])
            found.append(Neighbor(prompt=within.text("prompt"), answer=within.text("answer")))
            for field, reason in within.faults.items():
                self.note(f"{path}[{position}].{field}", reason)
        return tuple(found)

    def case_id(self, index: int) -> int | str:
        value = self._find("case_id")
        if isinstance(value, str):
            return value.strip()
        if isinstance(value, int) and not isinstance(value, bool):
            return value
        if value is not None:
            self.note("case_id", f"is {describe(value)}; expected a whole number or a text")
        return index

    def refuse_all_but(self, names: Iterable[str]) -> None:
        for name in sorted(self._record.keys() - set(names)):
            self.note(name, f"is no field of this form; its fields are {', '.join(names)}")

    def _find(self, path: str) -> object:
        value: object = self._record
        walked: list[str] = []
        for name in path.split("."):
            if value is None:  # a table's empty cell, or a struct's: the same as absent
                return None
            if not isinstance(value, Mapping):
                self.note(".".join(walked), f"is {describe(value)}; expected an object")
                return None
            value = value.get(name)
            walked.append(name)
        return value

    def _list(self, path: str) -> list[object]:
        value = self._find(path)
        if value is None:
            return []
        if not isinstance(value, list):
            self.note(path, f"is {describe(value)}; expected a list")
            return []
        return value

    def _as_text(self, path: str, value: object) -> str:
        if isinstance(value, str):
            return value.strip()
        self.note(path, f"is {describe(value)}; expected a text")
        return ""


def describe(value: object) -> str:
    """Say in JSON's words what `value` is."""
    words = {
        bool: "true or false",
        int: "a number",
        float: "a number",
        str: "a text",
        list: "a list",
        dict: "an object",
    }
    return "null" if value is None else words.get(type(value), type(value).__name__)


def _mentions(prompt: str, subject: str) -> list[int]:
    """Find where `prompt` names `subject`; as whole words, where there are any.

    >>> _mentions("During the reign of Ur", "Ur")
    [20]
    """
    if prompt.count(subject) == 1:
        return [prompt.index(subject)]
    literal = re.escape(subject)
    # Scripts without spaces have no whole words in this sense; nor has "Beatle" in "Beatles".
    for pattern in (rf"(?<!\w){literal}(?!\w)", literal):
        if found := [match.start() for match in re.finditer(pattern, prompt)]:
            return found
    return []


def _marked(fields: _Fields, path: str, subject: str) -> str:
    """Read a prompt that names its subject, and put "{}" in the subject's place.

    MEMIT's own reading replaces every mention and then cannot use the prompt, since an edit has one place; which
    mention is meant is for whoever wrote the record to say, with a "{}" there.
    """
    prompt = fields.text(path)
    if prompt.count(PLACE) == 1:
        return prompt
    if not subject:
        return prompt and PLACE  # refused for its subject; that it isn't found as well would be no news
    mentions = _mentions(prompt, subject)
    if len(mentions) != 1:
        found = f"names the subject {subject!r} {len(mentions)} times" if mentions else f"does not name {subject!r}"
        fields.note(path, f'{found}; expected its subject once, or one "{PLACE}" in its place')
        return prompt
    return prompt[: mentions[0]] + PLACE + prompt[mentions[0] + len(subject) :]


def _read_multi_counterfact(fields: _Fields, index: int) -> EditRequest:
    target_true = fields.text("requested_rewrite.target_true.str")
    return EditRequest(
        prompt=fields.text("requested_rewrite.prompt"),
        subject=fields.text("requested_rewrite.subject"),
        target_new=fields.text("requested_rewrite.target_new.str"),
        target_true=target_true,
        relation=fields.optional_text("requested_rewrite.relation_id"),
        case_id=fields.case_id(index),
        paraphrases=fields.texts("paraphrase_prompts"),
        neighborhood=tuple(
            Neighbor(prompt=prompt, answer=target_true) for prompt in fields.texts("neighborhood_prompts")
        ),
        generation_prompts=fields.texts("generation_prompts"),
    )


def _read_zsre(fields: _Fields, index: int) -> EditRequest:
    answers = fields.texts("answers")
    if not answers:
        fields.note("answers[0]", "is missing")
    subject = fields.text("subject")
    return EditRequest(
        prompt=_marked(fields, "src", subject),
        subject=subject,
        target_new=answers[0] if answers else "",  # as MEMIT: the fact is written, not MEND's made-up `alt`
        case_id=fields.case_id(index),
        paraphrases=_one_or_none(fields.optional_text("rephrase")),
        neighborhood=_one_neighbor(fields, prompt="loc", answer="loc_ans", ask=_ask),
    )


def _ask(question: str) -> str:
    # With its "nq question: " mark and a question mark, as ROME's and MEMIT's evaluations ask it.
    return question and question.removesuffix("?") + "?"


def _read_easyedit(fields: _Fields, index: int) -> EditRequest:
    subject = fields.text("subject")
    return EditRequest(
        prompt=_marked(fields, "prompt", subject),
        subject=subject,
        target_new=fields.text("target_new"),
        target_true=fields.optional_text("ground_truth"),
        case_id=fields.case_id(index),
        paraphrases=_one_or_none(fields.optional_text("rephrase_prompt")),
        neighborhood=_one_neighbor(fields, prompt="locality_prompt", answer="locality_ground_truth"),
    )


def _read_plain(fields: _Fields, index: int) -> EditRequest:
    # A mistyped name would otherwise drop a field in silence.
    fields.refuse_all_but([field.name for field in dataclasses.fields(EditRequest)])
    return EditRequest(
        prompt=fields.text("prompt"),
        subject=fields.text("subject"),
        target_new=fields.text("target_new"),
        target_true=fields.optional_text("target_true"),
        relation=fields.optional_text("relation"),
        case_id=fields.case_id(index),
        paraphrases=fields.texts("paraphrases"),
        neighborhood=fields.neighbors("neighborhood"),
        generation_prompts=fields.texts("generation_prompts"),
    )


def _one_or_none(text: str | None) -> tuple[str, ...]:
    return () if text is None else (text,)


def _one_neighbor(
    fields: _Fields, *, prompt: str, answer: str, ask: Callable[[str], str] = str
) -> tuple[Neighbor, ...]:
    if fields.optional_text(prompt) is None and fields.optional_text(answer) is None:
        return ()
    return (Neighbor(prompt=ask(fields.text(prompt)), answer=fields.text(answer)),)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Reader:
    """How a form is read, and how it calls an EditRequest's fields ("[]" stands for a position)."""

    read: Callable[[_Fields, int], EditRequest]
    names: Mapping[str, str]

    def name(self, field: str) -> str:
        position = re.search(r"\[\d+\]", field)
        if position is None:
            return self.names.get(field, field)
        own = self.names.get(field.replace(position[0], "[]"))
        return field if own is None else own.replace("[]", position[0])


_READERS = {
    RecordForm.MULTI_COUNTERFACT: _Reader(
        read=_read_multi_counterfact,
        names={
            "prompt": "requested_rewrite.prompt",
            "subject": "requested_rewrite.subject",
            "target_new": "requested_rewrite.target_new.str",
            "target_true": "requested_rewrite.target_true.str",
            "relation": "requested_rewrite.relation_id",
            "paraphrases[]": "paraphrase_prompts[]",
            "neighborhood[].prompt": "neighborhood_prompts[]",
            "neighborhood[].answer": "requested_rewrite.target_true.str",
        },
    ),
    RecordForm.ZSRE: _Reader(
        read=_read_zsre,
        names={
            "prompt": "src",
            "target_new": "answers[0]",
            "paraphrases[]": "rephrase",
            "neighborhood[].prompt": "loc",
            "neighborhood[].answer": "loc_ans",
        },
    ),
    RecordForm.EASYEDIT_COUNTERFACT: _Reader(
        read=_read_easyedit,
        names={
            "target_true": "ground_truth",
            "paraphrases[]": "rephrase_prompt",
            "neighborhood[].prompt": "locality_prompt",
            "neighborhood[].answer": "locality_ground_truth",
        },
    ),
    RecordForm.PLAIN: _Reader(read=_read_plain, names={}),
}
