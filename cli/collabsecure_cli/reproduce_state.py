"""What an interrupted reproduction leaves: the rows that were finished.

One file for each, whole or not there; one of another run (another seed, another model, another version) counts as not
there. Table 1 and Figure 1 have rows in common.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import collabsecure
from collabsecure.files import complete_or_absent, unwritable
from collabsecure.reproduction.methods import Method
from collabsecure.reproduction.results import Row

FORMAT = "collabsecure reproduction row 1"


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedRows:
    """A folder of rows, of runs that have all but their methods and numbers of edits in common."""

    folder: Path
    of: Sequence[str]  # what a run is of: what else may not be different

    def read(self, method: Method, *, clients: int, edits: int) -> Row | None:
        """A method's row, if it was finished."""
        key = self._key(method, clients, edits)
        try:
            data = json.loads(self._path(key).read_bytes())
            return Row.from_json(data["row"]) if data["format"] == FORMAT and data["key"] == key else None
        except (OSError, ValueError, TypeError, KeyError, RecursionError):
            return None

    def write(self, row: Row, method: Method, *, clients: int, edits: int) -> None:
        """Keep a finished row.

        Raises:
            BadFile: the disk would not take it.
        """
        key = self._key(method, clients, edits)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise unwritable(self.folder, error) from error
        with complete_or_absent(self._path(key), force=True) as path:
            path.write_text(json.dumps({"format": FORMAT, "key": key, "row": row.to_json()}), encoding="utf-8")

    def _key(self, method: Method, clients: int, edits: int) -> list[str]:
        settings = [f"{setting.name}={setting.value!r}" for setting in method.settings]
        return [collabsecure.__version__, *self.of, method.name, method.note, *settings, str(clients), str(edits)]

    def _path(self, key: Sequence[str]) -> Path:
        words = re.sub(r"\W+", "-", " ".join(key[-4:])).strip("-").lower()[-60:]
        digest = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:16]
        return self.folder / f"{words}-{digest}.json"
