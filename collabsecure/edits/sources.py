"""Where edit requests are read from: files of JSON, JSON lines or CSV, and Hugging Face data sets.

All of a source's faulty records are listed in one error; none is left out in silence.
"""

import csv
import io
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from collabsecure.edits.forms import RecordForm, describe, parse_record, recognise
from collabsecure.edits.request import EditRequest
from collabsecure.errors import BadFile, BadRecords, BadRequest, FieldFault, MissingExtra, RecordProblem

EXPECTED = (
    "records in one of the forms "
    "multi_counterfact (requested_rewrite, …), zsre (src, answers, subject, …), "
    "easyedit_counterfact (prompt, subject, target_new, ground_truth, …) or plain (prompt, subject, target_new, …)"
)


def load_requests(path: str | Path, *, form: RecordForm | None = None) -> list[EditRequest]:
    """Read a file of edit requests: a JSON list, JSON lines, or CSV with a header, in UTF-8.

    What the file is, is told from its content, and so is the records' `form` unless it is given. CSV holds plain
    records without lists (prompt, subject, target_new, target_true, relation, case_id); an empty cell counts as absent.

    Raises:
        BadFile: it cannot be read, or holds no records of a known form.
        BadRecords: lists every faulty record; case_ids that occur twice are faults too.
    """
    path = Path(path)
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise BadFile(path, found=error.strerror or type(error).__name__, expected="a file of edit requests") from error
    except UnicodeDecodeError as error:
        raise BadFile(path, found=f"no UTF-8 at byte {error.start}", expected="a text file in UTF-8") from error
    return _requests(_entries(path, text), source=str(path), form=form)


def load_requests_from_hub(
    name: str, *, split: str, config: str | None = None, form: RecordForm | None = None
) -> list[EditRequest]:
    """Read edit requests from one split of a Hugging Face data set: its name on the hub, or a local directory.

    Raises:
        MissingExtra: the package `datasets` is not installed.
        BadFile: there is no such data set, configuration or split, or it holds no records of a known form.
        BadRecords: lists every faulty record.
    """
    try:
        import datasets
    except ImportError as error:
        raise MissingExtra(f"reading the data set {name}", package="datasets", extra="edit") from error
    try:
        rows = list(datasets.load_dataset(name, config, split=split))
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise BadFile(name, found=reason, expected=f"a data set with the split {split!r}") from error
    entries = [_Entry(index=index, value=row) for index, row in enumerate(rows)]
    return _requests(entries, source=f"{name}[{split}]", form=form)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    """Something in the place of a record, as it was found."""

    index: int
    value: object = None
    line: int | None = None
    fault: str = ""  # why there is no value


def _requests(entries: Sequence[_Entry], *, source: str, form: RecordForm | None) -> list[EditRequest]:
    if not entries:
        raise BadFile(source, found="no records", expected="at least one")
    form = form or _most_frequent_form(entries, source)
    requests: list[EditRequest] = []
    problems: list[RecordProblem] = []
    seen: dict[str, int] = {}  # index by case_id, whose text names the record in results: 5 and "5" are one
    for entry in entries:
        try:
            request = _request(entry, form)
            if (first := seen.setdefault(str(request.case_id), entry.index)) != entry.index:
                reason = f"{request.case_id!r} names record {first} already"
                raise BadRequest([FieldFault(field="case_id", reason=reason)])  # noqa: TRY301 (a fault like the others)
            requests.append(request)
        except BadRequest as error:
            problems += [
                RecordProblem(source=source, index=entry.index, line=entry.line, field=fault.field, reason=fault.reason)
                for fault in error.faults
            ]
    if problems:
        raise BadRecords(problems, num_records=len(entries))
    return requests


def _request(entry: _Entry, form: RecordForm) -> EditRequest:
    if entry.fault:
        raise BadRequest([FieldFault(field="", reason=entry.fault)])
    if not isinstance(entry.value, Mapping):
        raise BadRequest([FieldFault(field="", reason=f"is {describe(entry.value)}; expected an object")])
    return parse_record(entry.value, form=form, index=entry.index)


def _most_frequent_form(entries: Sequence[_Entry], source: str) -> RecordForm:
    records = [entry.value for entry in entries if isinstance(entry.value, Mapping)]
    forms = Counter(form for record in records if (form := recognise(record)) is not None)
    if forms:
        return forms.most_common(1)[0][0]
    faults = [entry.fault for entry in entries if entry.fault]
    if records:
        names = ", ".join(map(str, records[0]))
        found = f"records with the fields {names if len(names) <= 200 else names[:200] + '…'}"
    else:
        found = (
            f"a first record that {faults[0]}" if faults else f"a list that begins with {describe(entries[0].value)}"
        )
    raise BadFile(source, found=found, expected=EXPECTED)


def _entries(path: Path, text: str) -> list[_Entry]:
    start = text.lstrip()[:1]
    if start == "[":
        return _json_list(path, text)
    return list(_json_lines(path, text)) if start == "{" else list(_csv_rows(path, text))


def _json_list(path: Path, text: str) -> list[_Entry]:
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:  # nesting deeper than Python's stack is no record file
        raise BadFile(path, found=_no_json(error), expected="a JSON list of records") from error
    return [_Entry(index=index, value=value) for index, value in enumerate(values)]


def _json_lines(path: Path, text: str) -> Iterator[_Entry]:
    if text.lstrip().partition("\n")[0].strip() == "{":
        raise BadFile(path, found="one JSON object over several lines", expected="a JSON list, or one record on a line")
    index = 0
    for number, line in enumerate(text.split("\n"), start=1):  # not splitlines: a text may hold U+2028
        if not line.strip():
            continue
        try:
            yield _Entry(index=index, line=number, value=json.loads(line))
        except (ValueError, RecursionError) as error:
            yield _Entry(index=index, line=number, fault=f"is {_no_json(error)}; expected one JSON object on the line")
        index += 1


def _no_json(error: ValueError | RecursionError) -> str:
    return f"no JSON ({error})"


def _csv_rows(path: Path, text: str) -> Iterator[_Entry]:
    rows = csv.reader(io.StringIO(text, newline=""), strict=True)
    header: list[str] | None = None
    index, line = 0, 1
    try:
        for row in rows:
            if not any(row):  # a blank line, or a spreadsheet's row of empty cells
                pass
            elif header is None:
                header = [name.strip() for name in row]
                if repeated := [name for name, count in Counter(header).items() if count > 1]:
                    raise BadFile(path, found=f"the column {repeated[0]!r} twice", expected="each column once")
            elif len(row) != len(header):
                fault = f"has {len(row)} cells; the header has {len(header)}"
                yield _Entry(index=index, line=line, fault=fault)
                index += 1
            else:
                cells = {name: cell for name, cell in zip(header, row, strict=True) if cell}
                yield _Entry(index=index, line=line, value=cells)
                index += 1
            line = rows.line_num + 1
    except csv.Error as error:
        raise BadFile(path, found=f"no CSV at line {rows.line_num} ({error})", expected="a CSV table") from error
