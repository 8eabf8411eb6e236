"""The folder of an evaluation: a file for each record in MEMIT's form, and which evaluation they are of.

evaluation.json   the model, its weights, the records and metrics; written first
case_ID.json      one record's findings; ID is its place in the file of records where case_ids are no numbers
summary.json      what they come to; written last
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import collabsecure
from collabsecure.edits import EditRequest
from collabsecure.errors import BadFile
from collabsecure.files import complete_or_absent, unreadable

if TYPE_CHECKING:
    from collabsecure.evaluate.cases import MetricSet

Record = TypeVar("Record")

MARK = "collabsecure-evaluation"  # a file that says that a folder is an evaluation's own
_ABOUT, _SUMMARY = "evaluation.json", "summary.json"
_FORMAT = 1


class CaseFolder:
    """Case files of one evaluation; those of another count as not there."""

    def __init__(self, path: Path, *, model: str, weights: str, records: Path, metrics: str) -> None:
        """`weights` is a digest; `records` the file they come from.

        Raises:
            BadFile: the records cannot be read.
        """
        try:
            digest = hashlib.sha256(records.read_bytes()).hexdigest()
        except OSError as error:
            raise unreadable(records, error) from error
        self._path = path
        self._about = {"model": model, "records": records.name, "metrics": metrics}
        self._identity = {
            "format": _FORMAT,
            "version": collabsecure.__version__,
            "weights": weights,
            "records_sha256": digest,
            "metrics": metrics,
        }
        self._digest = hashlib.sha256(json.dumps(self._identity, sort_keys=True).encode()).hexdigest()

    def refuse_another(self) -> None:
        """Refuse a folder that holds another evaluation: its findings may have taken hours.

        Raises:
            BadFile: it does.
        """
        if (about := self._another()) is not None:
            raise BadFile(
                self._path,
                found=f"the evaluation of {_in_words(about)}, or of other weights, records or another version",
                expected=f"none, or that of {_in_words(self._about)}",
                remedy="Give another --out, or --force to replace it",
            )

    def start(self) -> None:
        """Say whose findings are kept here; those of another evaluation are taken away.

        Raises:
            BadFile: the disk would not take it.
        """
        if self._another() is not None:
            for path in (self._path / _SUMMARY, *self._path.glob("case_*.json")):
                path.unlink(missing_ok=True)
        self._write(_ABOUT, {**self._about, **self._identity, "evaluation": self._digest})

    def read(self, metrics: "MetricSet[Record]", names: Sequence[str]) -> tuple[Record, ...] | None:
        """What was found before on some records, if it was on all of them."""
        records: list[Record] = []
        for name in names:
            data = self._read(name)
            if data is None or data.get("evaluation") != self._digest:
                return None
            try:
                records.append(metrics.case_from_json(data))
            except ValueError:
                return None
        return tuple(records)

    def keep(
        self,
        metrics: "MetricSet[Record]",
        names: Sequence[str],
        requests: Sequence[EditRequest],
        records: Sequence[Record],
    ) -> None:
        """Write down what was found.

        Raises:
            BadFile: the disk would not take it.
        """
        for name, request, record in zip(names, requests, records, strict=True):
            self._write(name, {**metrics.case_to_json(request, record), "evaluation": self._digest})

    def finish(self, summary: Mapping[str, object]) -> None:
        """Write down what all came to.

        Raises:
            BadFile: the disk would not take it.
        """
        self._write(_SUMMARY, {**summary, "evaluation": self._digest})

    def _another(self) -> dict[str, object] | None:
        """What the folder says of another evaluation, if it holds one."""
        about = self._read(_ABOUT)
        return about if about is not None and about.get("evaluation") not in (None, self._digest) else None

    def _read(self, name: str) -> dict[str, object] | None:
        try:
            data = json.loads((self._path / name).read_bytes())
        except (OSError, ValueError, RecursionError):
            return None
        return data if isinstance(data, dict) else None

    def _write(self, name: str, data: Mapping[str, object]) -> None:
        with complete_or_absent(self._path / name, force=True) as path:
            path.write_text(json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def case_names(requests: Sequence[EditRequest]) -> list[str]:
    """What the files of requests are called; MEMIT's summary sorts them by a number at the end.

    >>> request = EditRequest(prompt="{} is", subject="Norland", target_new="cold", case_id="a1")
    >>> case_names([request])
    ['case_0.json']
    """
    ids = [str(request.case_id) for request in requests]
    if not all(text.isascii() and text.isdigit() for text in ids):
        ids = [str(place) for place in range(len(requests))]
    return [f"case_{text}.json" for text in ids]


def _in_words(about: Mapping[str, object]) -> str:
    return f"{about.get('model')} on {about.get('records')}, with {about.get('metrics')} metrics"
