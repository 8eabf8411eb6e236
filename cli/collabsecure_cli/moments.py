"""The second moments that a session names by their digests, found in a folder of `.npz` files without the model."""

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from collabsecure.agreement import Agreement, second_moment_digest
from collabsecure.errors import BadFile
from collabsecure.statistics import SecondMoment


class SessionMoments(Mapping[int, np.ndarray]):
    """C of each of a session's layers, read when it is asked for: one alone can take hundreds of megabytes."""

    def __init__(self, folder: Path, agreement: Agreement) -> None:
        self._folder, self._agreement = folder, agreement
        self._paths: dict[int, Path] = {}

    def check(self, tell: Callable[[str], None]) -> None:
        """Find all layers' files, so that what is missing is known before the work and not after.

        Raises:
            BadFile: there is none for some layer, or none with the session's digest.
        """
        for layer in self._agreement.layers:
            tell(f"Checking the second moment of layer {layer}…")
            _ = self[layer]

    def __iter__(self) -> Iterator[int]:
        return iter(self._agreement.layers)

    def __len__(self) -> int:
        return len(self._agreement.layers)

    def __getitem__(self, layer: int) -> Float64[np.ndarray, "d_in d_in"]:
        """A layer's C, weighted by λ.

        Raises:
            BadFile: as `check`.
        """
        expected = self._agreement.second_moments[layer]
        found = []
        for path in [self._paths[layer]] if layer in self._paths else self._candidates(layer):
            matrix = self._load(path)
            digest = second_moment_digest(matrix)
            if digest == expected:
                self._paths[layer] = path
                return matrix
            found.append(f"{path.name} with digest {digest}")
        raise BadFile(
            self._folder,
            found="; ".join(found) or f"no second moment of layer {layer} (*_mom2_*.npz)",
            expected=f"the session's second moment of layer {layer}, digest {expected}",
            remedy="Give the folder of those that the session was made with (--second-moment)",
        )

    def _candidates(self, layer: int) -> list[Path]:
        """Files named as MEMIT does, after a module with the layer's number in its path."""
        named = re.compile(rf"(.*\.)?{layer}\..*mom2.*\.npz")
        return sorted(path for path in self._folder.glob("*mom2*.npz") if named.fullmatch(path.name))

    def _load(self, path: Path) -> Float64[np.ndarray, "d_in d_in"]:
        return SecondMoment.load_npz(path).weighted(self._agreement.hyperparameters.second_moment_weight)
