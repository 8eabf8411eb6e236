"""Flower moves the bytes: a server app asks its nodes, and every node's client app hands the request to its side.

Whoever may start a run ships the code of both apps, so the client app holds nothing: keys, policy, model and edits are
with a daemon beside the node (`collabsecure client --daemon`). Requests and replies travel as arrays, which Flower cuts
into objects of a few megabytes; those that nobody has fetched yet are in its SuperLink's memory.
"""

import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Unpack

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from numpy.typing import NDArray

from collabsecure.errors import CollabsecureError, said
from collabsecure.integrations import sums, tunnel
from collabsecure.integrations.exchange import Refused, encode
from collabsecure.integrations.host import Answering, Arrived, Node, ValuesNeeded, respond
from collabsecure.integrations.node import SumNode
from collabsecure.integrations.relay import Daemon
from collabsecure.integrations.stores import FolderStore
from collabsecure_protocols import Identity, Policy, ProtocolError, Session, ValueRefused
from collabsecure_protocols.client_state import NO_LINK

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


class SecureSum(sums.SecureSum):
    """A session of sums over a grid, run from anywhere below `@app.main()`.

        sums = SecureSum(grid, session, server_key)
        total = sums.run("round 1").arrays["model"]

    `request_seconds` is how long Flower keeps a request that nobody answers, before it is sent again.
    """

    def __init__(
        self,
        grid: Grid,
        session: Session,
        identity: Identity,
        *,
        request_seconds: float = REQUEST_SECONDS,
        **options: Unpack[sums.SumOptions],
    ) -> None:
        super().__init__(GridHost(grid, seconds=request_seconds), session, identity, **options)


class Tunnel(tunnel.Tunnel):
    """Carries an editing session over a grid, to and from the aggregator at `url`; `tunnel.Tunnel` says the rest.

        Tunnel(grid, "https://127.0.0.1:8443", session=session, ca=Path("ca.pem")).run()

    It has no key, and needs none.
    """

    def __init__(
        self,
        grid: Grid,
        url: str,
        *,
        session: Session,
        ca: Path | None = None,
        patience: float = 600.0,
        at_once: int = 2,
        tell: Callable[[str], None] = lambda _: None,
        request_seconds: float = REQUEST_SECONDS,
    ) -> None:
        host = GridHost(grid, seconds=request_seconds)
        super().__init__(host, url, session=session, ca=ca, patience=patience, at_once=at_once, tell=tell)


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
            reply = _answer(request, context, side, values)
        return Message(_pack(reply), reply_to=message)


def _answer(request: bytes, context: Context, side: Side | None, values: NodeValues | None) -> bytes:
    """What fails here is this node's own matter: the server app is told that it did, and no more."""
    try:
        return respond(_answering(side, context), request, (lambda name: values(context, name)) if values else None)
    except ValuesNeeded as error:
        return _refusal(f"{error}, and this node's app has none to give")
    except ValueRefused as error:
        _log.error("Values refused: %s", error)
        return _refusal("this node's values are outside the session's ranges, or not as it says; its log has more")
    except (CollabsecureError, ProtocolError) as error:
        _log.error("%s", error)
        raise NotAnswered("nobody answers for this node; its log has more") from error


def give(
    context: Context,
    sum_name: str,
    values: Mapping[str, NDArray[np.generic]],
    *,
    link: bytes = NO_LINK,
    side: Side | None = None,
) -> None:
    """Hand a sum's arrays to this node's side as soon as the app has them, for instance in its train action.

    What is given before the message is answered outlasts this process, which Flower's context may not. `link` binds
    them to what they were computed on, such as the digest of a model (`host.Answering.give`).

    Raises:
        NotAnswered: they were refused, or nobody is there; why is in the node's log, as Flower sends the text of what
            an app raises to the server.
    """
    try:
        _answering(side, context).give(sum_name, values, link=link)
    except (CollabsecureError, ProtocolError) as error:
        _log.error("Values of %r not given: %s", sum_name, error)
        raise NotAnswered(f"the values of {sum_name!r} were not given; this node's log has more") from error


def _answering(side: Side | None, context: Context) -> Answering:
    if side is None:
        return daemon(context)
    return side(context) if callable(side) else side


def daemon(context: Context) -> Answering:
    """The daemon beside this node.

    Raises:
        NotAnswered: the node was not told where it listens.
    """
    path = context.node_config.get(SOCKET) or os.environ.get(ENVIRONMENT)
    if not path:
        raise NotAnswered(
            f"found no socket of a daemon; expected {SOCKET}=… in the SuperNode's --node-config or {ENVIRONMENT}=… in "
            "its environment, and there what `collabsecure client --daemon --socket …` was told"
        )
    return Daemon(str(path))


class Direct:
    """A side in the app's own process: **key and values are where whoever starts a run ships the code**.

    For trying out, or where all who may start runs are trusted with every node's key. `identity` gives this node's key
    and `folder` the place for what its client must remember, both by the node's own context. Flower's context is no
    such place: Flower hands over an answer before it keeps the context that the answer came from.

        register(app, Direct(session, identity, policy=Policy(), folder=folder), values=values)
    """

    def __init__(
        self,
        session: Session,
        identity: Callable[[Context], Identity],
        *,
        policy: Policy,
        folder: Callable[[Context], Path],
    ) -> None:
        self._session, self._identity, self._policy, self._folder = session, identity, policy, folder

    def __call__(self, context: Context) -> Answering:
        """This node's client."""
        _log.warning("Direct mode: this node's key and values are in the app's process; whoever ships the app has them")
        return _InProcess(self._session, self._identity(context), self._policy, self._folder(context))


class _InProcess:
    """A client that lives as long as a call; another process may make the next one."""

    def __init__(self, session: Session, identity: Identity, policy: Policy, folder: Path) -> None:
        self._session, self._identity, self._policy, self._folder = session, identity, policy, folder

    def answer(self, request: bytes) -> bytes:
        with closing(FolderStore(self._folder)) as store:
            return self._node(store).answer(request)

    def give(self, sum_name: str, values: Mapping[str, NDArray[np.generic]], *, link: bytes = NO_LINK) -> None:
        with closing(FolderStore(self._folder)) as store:
            self._node(store).give(sum_name, values, link=link)

    def _node(self, store: FolderStore) -> SumNode:
        return SumNode(self._session, self._identity, policy=self._policy, store=store, rng=os.urandom)


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
        _log.warning("Node %s: Flower's error %s: %s", node, message.error.code, said(message.error.reason))
        return None
    return _unpack(message.content)
