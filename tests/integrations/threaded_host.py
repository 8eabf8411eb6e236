"""An engine in real time: each node answers in a thread of its own."""

import queue
import threading
from collections.abc import Callable, Mapping, Sequence

from collabsecure.integrations.host import Arrived, Node

Answers = Callable[[bytes], bytes | None]


class ThreadedHost:
    """`host.Host` over functions that answer, one request at a time for each node."""

    def __init__(self, nodes: Mapping[Node, Answers]) -> None:
        self.answers = dict(nodes)
        self.requests: list[tuple[Node, bytes]] = []
        self._arrived: queue.Queue[Arrived] = queue.Queue()
        self._busy: set[Node] = set()

    def nodes(self) -> Sequence[Node]:
        return tuple(self.answers)

    def send(self, node: Node, request: bytes) -> None:
        assert node not in self._busy, f"two requests to {node} at once"
        self._busy.add(node)
        self.requests.append((node, request))

        def work() -> None:
            self._arrived.put(Arrived(node=node, reply=self.answers[node](request)))

        threading.Thread(target=work, daemon=True).start()

    def receive(self, seconds: float) -> Sequence[Arrived]:
        try:
            arrived = self._arrived.get(timeout=seconds)
        except queue.Empty:
            return ()
        self._busy.discard(arrived.node)
        return (arrived,)
