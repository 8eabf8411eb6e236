"""Flower moves the bytes: a server app asks its nodes, and every node's client app hands the request to its side.

Whoever may start a run ships the code of both apps, so the client app holds nothing: keys, policy, model and edits are
with a daemon beside the node (`collabsecure client --daemon`). Requests and replies travel as arrays, which Flower cuts
into objects of a few megabytes; those that nobody has fetched yet are in its SuperLink's memory.
"""

import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from numpy.typing import NDArray

from collabsecure.errors import CollabsecureError
from collabsecure.integrations.exchange import Refused, encode
from collabsecure.integrations.host import Answering, Arrived, Node, ValuesNeeded, respond
from collabsecure.integrations.relay import Daemon
from collabsecure_protocols import ValueRefused

ACTION = "collabsecure"  # messages are of type query.collabsecure, and hold one record and array of that name
SOCKET = "collabsecure-socket"  # in a SuperNode's --node-config: where its daemon listens
ENVIRONMENT = "COLLABSECURE_SOCKET"  # the same, for all SuperNodes of a machine's user

REQUEST_SECONDS = 600.0  # until a request counts as lost, and is sent again by whoever sent it
_STYPE = "collabsecure.bytes"  # no NumPy array: the bytes as they are
_LONGEST_PAUSE = 1.0  # seconds between two looks at what has come

_log = logging.getLogger(__name__)

Side = Answering | Callable[[Context], Answering]
NodeValues = Callable[[Context, str], Mapping[str, NDArray[np.generic]]]  # a node's context, a sum's name → its arrays


class GridHost:
    """`host.Host` over a Flower grid."""

    def __init__(self, grid: Grid, *, seconds: float = REQUEST_SECONDS) -> None:
        self._grid = grid
        self._seconds = seconds
        self._waiting: dict[str, tuple[int, float]] = {}  # message id → node, when it counts as lost
        self._lost: list[Arrived] = []

    def nodes(self) -> Sequence[Node]:
        """The SuperNodes that are connected now."""
        return list(self._grid.get_node_ids())

    def send(self, node: Node, request: bytes) -> None:
        """Hand a request to Flower, which gives up on it after so many seconds."""
        if not isinstance(node, int):
            raise TypeError(f"found node {node!r}; expected one of nodes()")
        message = Message(_pack(request), node, f"query.{ACTION}", ttl=self._seconds)
        for message_id in self._grid.push_messages([message]):
            if message_id:  # None: the SuperLink would not take it
                self._waiting[message_id] = (node, time.monotonic() + self._seconds)
                return
        self._lost.append(Arrived(node=node, reply=None))

    def receive(self, seconds: float) -> Sequence[Arrived]:
        """The replies that are there; Flower is asked again and again, at least once a second."""
        ends, pause = time.monotonic() + seconds, 0.05
        while True:
            arrived = self._arrived()
            left = ends - time.monotonic()
            if arrived or left <= 0:
                return arrived
            time.sleep(min(pause, left))
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _arrived(self) -> list[Arrived]:
        arrived, self._lost = self._lost, []
        if self._waiting:
            for message in self._grid.pull_messages(list(self._waiting)):
                waited = self._waiting.pop(message.metadata.reply_to_message_id, None)
                if waited is not None:
                    arrived.append(Arrived(node=waited[0], reply=_reply(message, waited[0])))
        now = time.monotonic()
        for message_id, (node, lost) in list(self._waiting.items()):
            if now > lost:
                del self._waiting[message_id]
                arrived.append(Arrived(node=node, reply=None))
        return arrived


def register(app: ClientApp, side: Side | None = None, *, values: NodeValues | None = None) -> None:
    """Add the action to a client app; whatever else the app does, it goes on doing.

    `side` answers: by default the daemon whose socket the SuperNode names (`--node-config 'collabsecure-socket="…"'`,
    or COLLABSECURE_SOCKET in its environment), a process in which the app's author has no say. `values` is asked for
    this node's arrays when a sum needs them; it may take its time, and is asked once for each sum, or again if the
    process ends meanwhile.
    """

    @app.query(ACTION)
    def answer(message: Message, context: Context) -> Message:
        request = _unpack(message.content)
        if request is None:
            reply = _refusal("found a message without a request; expected one sent by collabsecure")
        else:
            reply = _answer(request, context, side or _daemon, values)
        return Message(_pack(reply), reply_to=message)


def _answer(request: bytes, context: Context, side: Side, values: NodeValues | None) -> bytes:
    """What fails here is this node's own matter: the server app is told that it did, and no more."""
    try:
        answering = side(context) if callable(side) else side
        return respond(answering, request, (lambda name: values(context, name)) if values else None)
    except ValuesNeeded as error:
        return _refusal(f"{error}, and this node's app has none to give")
    except ValueRefused as error:
        _log.error("Values refused: %s", error)
        return _refusal("this node's values are outside the session's ranges, or not as it says; its log has more")
    except CollabsecureError as error:
        _log.error("%s", error)
        raise NotAnswered("nobody answers for this node; its log has more") from error


def _daemon(context: Context) -> Answering:
    path = context.node_config.get(SOCKET) or os.environ.get(ENVIRONMENT)
    if not path:
        raise NotAnswered(
            f"found no socket of a daemon; expected {SOCKET}=… in the SuperNode's --node-config or {ENVIRONMENT}=… in "
            "its environment, and there what `collabsecure client --daemon --socket …` was told"
        )
    return Daemon(str(path))


class NotAnswered(CollabsecureError):
    """Nobody does, now; Flower makes an error of it, and the request is sent again."""


def _refusal(reason: str) -> bytes:
    return encode(Refused(check="", reason=reason))


def _pack(data: bytes) -> RecordDict:
    array = Array("uint8", (len(data),), _STYPE, data)
    return RecordDict({ACTION: ArrayRecord({ACTION: array})})


def _unpack(content: RecordDict) -> bytes | None:
    record = content.array_records.get(ACTION)
    array = None if record is None else record.get(ACTION)
    return array.data if array is not None and array.stype == _STYPE else None


def _reply(message: Message, node: int) -> bytes | None:
    if message.has_error():
        _log.warning("Node %s: Flower's error %s: %s", node, message.error.code, message.error.reason)
        return None
    return _unpack(message.content)
