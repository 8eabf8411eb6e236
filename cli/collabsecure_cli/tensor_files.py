"""A sum's statistics on the client's disk until the sum is over: what is masked after a crash is what was before.

Arrays are read back as memory maps, so hundreds of megabytes of them take no memory while they are uploaded.
"""

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from collabsecure.errors import BadFile
from collabsecure.files import flush, unwritable
from collabsecure_cli.folder import StateFolder

_COMPLETE = "complete"  # lists the tensors' names, one a line; written last


class TensorFiles:
    """The statistics of a session's sums, in a client's state folder."""

    def __init__(self, folder: StateFolder) -> None:
        self._folder = folder

    def has(self, sum_index: int) -> bool:
        """Whether all of a sum's tensors are here."""
        return (self._path(sum_index) / _COMPLETE).exists()

    def keep(self, sum_index: int, tensors: Iterable[tuple[str, Float64[np.ndarray, "rows columns"]]]) -> None:
        """Write down a sum's tensors, one after the other.

        Raises:
            BadFile: the disk would not take them.
        """
        folder = self._folder.folder(self._path(sum_index).name)
        names: list[str] = []
        for name, values in tensors:
            path = folder.path / f"{len(names)}.npy"
            try:
                np.save(path, values, allow_pickle=False)
                flush(path)
            except OSError as error:
                raise unwritable(path, error) from error
            names.append(name)
        folder.write(_COMPLETE, ["\n".join(names).encode()])

    def open(self, sum_index: int) -> Mapping[str, Float64[np.ndarray, "rows columns"]]:
        """A sum's tensors by name, mapped from the disk.

        Raises:
            BadFile: they are not what was written.
        """
        path = self._path(sum_index)
        try:
            names = (path / _COMPLETE).read_text(encoding="utf-8").split("\n")
            return {
                # np.memmap is a subclass in Python, which each of a matrix's thousands of rows would go through.
                name: np.asarray(np.load(path / f"{number}.npy", mmap_mode="r", allow_pickle=False))
                for number, name in enumerate(names)
            }
        except (OSError, ValueError) as error:
            raise BadFile(path, found=f"damaged statistics ({error})", expected="what was written") from error

    def forget(self, sum_index: int) -> None:
        """The sum is over."""
        shutil.rmtree(self._path(sum_index), ignore_errors=True)

    def _path(self, sum_index: int) -> Path:
        return self._folder.path / f"statistics-{sum_index}"
