"""What an interrupted reproduction leaves: the rows that were finished, and edits that were repeated some times.

One file for each row, whole or not there; one of another run (another seed, another model, another version) counts as
not there. Table 1 and Figure 1 have rows in common.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

import collabsecure
from collabsecure.files import complete_or_absent, unwritable
from collabsecure.reproduction.experiments import Repeated
from collabsecure.reproduction.methods import Method
from collabsecure.reproduction.results import Row

FORMAT = "collabsecure reproduction row 2"
REPEATED_FORMAT = "collabsecure repeated edits 1"


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedRows:
    """A folder of rows, of runs that have all but their methods, evaluations and numbers of edits in common."""

    folder: Path
    of: Sequence[str]  # what a run is of: what else may not be different

    def read(self, method: Method, evaluation: str, *, clients: int, edits: int) -> Row | None:
        """A method's row by one evaluation, if it was finished."""
        key = self._key(method, evaluation, clients, edits)
        try:
            data = json.loads(self._path(key).read_bytes())
            return Row.from_json(data["row"]) if data["format"] == FORMAT and data["key"] == key else None
        except (OSError, ValueError, TypeError, KeyError, RecursionError):
            return None

    def write(self, row: Row, method: Method, evaluation: str, *, clients: int, edits: int) -> None:
        """Keep a finished row.

        Raises:
            BadFile: the disk would not take it.
        """
        key = self._key(method, evaluation, clients, edits)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise unwritable(self.folder, error) from error
        with complete_or_absent(self._path(key), force=True) as path:
            path.write_text(json.dumps({"format": FORMAT, "key": key, "row": row.to_json()}), encoding="utf-8")

    def _key(self, method: Method, evaluation: str, clients: int, edits: int) -> list[str]:
        settings = [f"{setting.name}={setting.value!r}" for setting in method.settings]
        sizes = str(clients), str(edits)
        return [collabsecure.__version__, *self.of, evaluation, method.name, method.note, *settings, *sizes]

    def _path(self, key: Sequence[str]) -> Path:
        words = re.sub(r"\W+", "-", " ".join(key[-4:])).strip("-").lower()[-60:]
        digest = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:16]
        return self.folder / f"{words}-{digest}.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class RepeatedEdits:
    """One file: how far Figure 3's edits were repeated, with what they have written; as large as the update is."""

    path: Path
    of: Sequence[str]  # what a run is of: what else may not be different

    def read(self, layers: Iterable[int]) -> Repeated | None:
        """What is there of this run."""
        try:
            with safe_open(self.path, "numpy") as file:
                if file.metadata() != self._metadata:
                    return None
                return Repeated(
                    norms={layer: tuple(file.get_tensor(f"norms.{layer}").tolist()) for layer in layers},
                    written={layer: file.get_tensor(f"written.{layer}") for layer in layers},
                )
        except (OSError, SafetensorError):
            return None

    def write(self, repeated: Repeated) -> None:
        """Keep it.

        Raises:
            BadFile: the disk would not take it.
        """
        arrays = {f"norms.{layer}": np.array(norms) for layer, norms in repeated.norms.items()}
        arrays |= {f"written.{layer}": np.ascontiguousarray(delta) for layer, delta in repeated.written.items()}
        with complete_or_absent(self.path, force=True) as path:
            save_file(arrays, path, metadata=self._metadata)

    def forget(self) -> None:
        """Remove it: the figure is drawn."""
        self.path.unlink(missing_ok=True)

    @property
    def _metadata(self) -> dict[str, str]:
        return {"format": REPEATED_FORMAT, "key": json.dumps([collabsecure.__version__, *self.of])}
