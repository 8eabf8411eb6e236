"""What an engine that moves bytes must be able to do, and what its two ends hand to it.

The coordinating end sends each node a request and gets a reply; a node never speaks first. Engines lose, repeat and
delay messages, and start a new process for each: a request may come any number of times and gets the same answer.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from collabsecure.errors import CollabsecureError
from collabsecure_protocols.client_state import NO_LINK

Node = Hashable  # what the engine calls a machine: a number, a name
Values = Callable[[str], Mapping[str, NDArray[np.generic]]]  # a sum's name → its arrays by tensor name


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrived:
    """What became of a request to a node."""

    node: Node
    reply: bytes | None = field(repr=False)  # None: the engine gave up on this request; it may be sent again


@runtime_checkable
class Host(Protocol):
    """The coordinating end's view of an engine. Nothing here is trusted with more than to deliver."""

    def nodes(self) -> Sequence[Node]:
        """The machines that can be reached now; some may not run collabsecure at all."""

    def send(self, node: Node, request: bytes) -> None:
        """Hand over a request and return at once. A node has at most one that is unanswered."""

    def receive(self, seconds: float) -> Sequence[Arrived]:
        """What has come meanwhile; if nothing has, wait for it, at most so long."""


class ValuesNeeded(CollabsecureError):
    """A node is asked for input to a sum of which it has not been given the values."""

    def __init__(self, sum_name: str) -> None:
        super().__init__(f"the values of sum {sum_name!r} are needed first")
        self.sum_name = sum_name


@runtime_checkable
class Answering(Protocol):
    """A node's end: the daemon beside it (`relay.Daemon`), or a client in the app's own process (`node.SumNode`)."""

    def answer(self, request: bytes) -> bytes:
        """The reply to a request; the same one whenever the request is repeated.

        Raises:
            ValuesNeeded: give these first, then ask again.
        """

    def give(self, sum_name: str, values: Mapping[str, NDArray[np.generic]], *, link: bytes = NO_LINK) -> None:
        """Hand over a sum's arrays, by tensor name, in the shapes that the session says.

        `link` is what this node knows the sum to follow, 32 bytes, such as the digest of the model that the values were
        computed on: a coordinator that names another gets nothing, so it cannot show each node another model.

        Raises:
            ValueRefused: they are not finite, or outside the session's ranges.
        """


def respond(side: Answering, request: bytes, values: Values | None = None) -> bytes:
    """Answer a request, asking `values` for a sum's arrays when they are needed.

    Raises:
        ValuesNeeded: they are, and there is nobody to ask.
        TypeError: `values` returns no mapping.
    """
    try:
        return side.answer(request)
    except ValuesNeeded as error:
        if values is None:
            raise
        needed = error.sum_name
    given: object = values(needed)
    if not isinstance(given, Mapping):
        what = type(given).__name__
        raise TypeError(f"values of sum {needed!r}: found {what}; expected a mapping of array names to NumPy arrays")
    side.give(needed, given)
    return side.answer(request)
