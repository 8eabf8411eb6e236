"""What each node gives, made up where it is needed, a part at a time."""

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

PARTS = 8


def part(node: int, number: int, size: int) -> NDArray[np.float32]:
    """Uniform in [−1, 1), the same each time; the first values do not depend on `size`."""
    values = np.random.default_rng([node, number]).random(size, dtype=np.float32)
    values *= 2
    values -= 1
    return values


class Parts(Mapping[str, NDArray[np.generic]]):
    """All parts of a node by name, none of which is in memory before it is looked at."""

    def __init__(self, node: int, size: int) -> None:
        self._node, self._size = node, size

    def __getitem__(self, name: str) -> NDArray[np.generic]:
        return part(self._node, int(name), self._size)

    def __iter__(self) -> Iterator[str]:
        return map(str, range(PARTS))

    def __len__(self) -> int:
        return PARTS


def farthest(sums: Mapping[str, NDArray[np.generic]], nodes: int) -> float:
    """The largest distance of the first values of each part from their exact sum."""
    return max(
        float(np.abs(array[:1000] - sum(part(node, int(name), 1000).astype(float) for node in range(nodes))).max())
        for name, array in sums.items()
    )
