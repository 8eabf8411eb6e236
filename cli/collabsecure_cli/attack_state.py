"""What an interrupted run of the attack suite leaves: the findings of each experiment that was done.

One file for each, whole or not there; one of another run (another seed, another model, another version) counts as not
there.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import collabsecure
from collabsecure.attacks.attack import Finding
from collabsecure.attacks.record import finding_from_json, finding_to_json
from collabsecure.files import complete_or_absent, unwritable

FORMAT = "collabsecure attack findings 1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """An experiment that was done."""

    findings: tuple[Finding, ...]
    seconds: float


class AttackState:
    """A folder of findings, of runs that have all but their experiments in common."""

    def __init__(self, folder: Path, *, of: Sequence[str]) -> None:
        """`of` says what a run is of: what else may not be different."""
        self._folder = folder
        self._of = [collabsecure.__version__, *of]

    def read(self, experiment: str) -> Done | None:
        """What was found before, if it was."""
        try:
            data = json.loads(self._path(experiment).read_bytes())
            if data["format"] != FORMAT or data["of"] != self._of or data["experiment"] != experiment:
                return None
            return Done(findings=tuple(map(finding_from_json, data["findings"])), seconds=float(data["seconds"]))
        except (OSError, ValueError, TypeError, KeyError, RecursionError):
            return None

    def write(self, experiment: str, done: Done) -> None:
        """Keep what was found.

        Raises:
            BadFile: the disk would not take it.
        """
        data = {
            "format": FORMAT,
            "of": self._of,
            "experiment": experiment,
            "seconds": done.seconds,
            "findings": [finding_to_json(finding) for finding in done.findings],
        }
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise unwritable(self._folder, error) from error
        with complete_or_absent(self._path(experiment), force=True) as path:
            path.write_text(json.dumps(data, allow_nan=False), encoding="utf-8")

    def _path(self, experiment: str) -> Path:
        words = re.sub(r"\W+", "-", experiment).strip("-").lower()[:60]
        return self._folder / f"{words}-{hashlib.sha256(experiment.encode()).hexdigest()[:8]}.json"
