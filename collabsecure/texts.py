"""Ordinary text for second moments: from a local file or a Hugging Face data set, one text at a time.

Neither is ever in memory as a whole. Needs no torch; `datasets` only for data sets, and only when one is read.
"""

import json
from collections.abc import Iterator
from pathlib import Path

from collabsecure.errors import BadFile, MissingExtra
from collabsecure.files import unreadable

_JSON_LINES = frozenset({".json", ".jsonl", ".ndjson"})
_SHUFFLE_SEED = 1
_SHUFFLE_BUFFER = 10_000  # texts


def read_texts(path: Path, *, field: str = "text") -> Iterator[str]:
    """The texts of a UTF-8 file: of JSON lines the given field, of any other file each line that is not blank.

    Raises:
        BadFile: while reading, where the file cannot be read or a line is not of this form.
    """
    is_json = path.suffix.lower() in _JSON_LINES
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield _field_of(path, number, line, field) if is_json else line.rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise BadFile(path, found=f"bytes that are no text ({error.reason})", expected="UTF-8") from error
    except OSError as error:
        raise unreadable(path, error) from error


def dataset_texts(name: str, *, config: str | None, split: str, field: str = "text") -> Iterator[str]:
    """The texts of a Hugging Face data set, by its name on the hub or a local folder of data files, streamed.

    They come shuffled, always in the same way: the first texts of an encyclopedia are not a sample of it. (Shards are
    shuffled, and 10 000 texts at a time; MEMIT draws from an index of the whole, so its sample is another one.)

    Raises:
        BadFile: while reading, where there is no such data set, split or field, or it cannot be fetched.
        MissingExtra: the package `datasets` is not installed.
    """
    try:
        import datasets
    except ModuleNotFoundError as error:
        raise MissingExtra(f"reading the data set {name}", package="datasets", extra="edit") from error
    datasets.disable_progress_bars()
    where = f"data set {name}" + (f" ({config})" if config else "") + f", split {split}"
    try:
        rows = datasets.load_dataset(name, config, split=split, streaming=True)
        for row in rows.shuffle(seed=_SHUFFLE_SEED, buffer_size=_SHUFFLE_BUFFER):
            text = row.get(field)
            if not isinstance(text, str):
                raise BadFile(where, found=f"fields {', '.join(row)}", expected=f"text in a field {field!r}")
            yield text
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        lines = str(error).splitlines() or [type(error).__name__]
        raise BadFile(where, found=lines[0], expected="a data set that can be read") from error


def _field_of(path: Path, number: int, line: str, field: str) -> str:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise BadFile(path, found=f"no JSON in line {number} ({error})", expected="JSON lines") from error
    text = record.get(field) if isinstance(record, dict) else None
    if not isinstance(text, str):
        raise BadFile(path, found=f"line {number} without text in {field!r}", expected=f'{{"{field}": "…"}}')
    return text
