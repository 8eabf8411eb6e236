"""NVFlare moves the bytes: the server's main function calls each site, whose client object hands the call to its side.

Whoever may submit a job ships the code of both (BYOC), so the client object holds nothing: keys, policy, model and
edits are with a daemon beside the site (`collabsecure client --daemon`). Requests and replies travel as `bytes`, which
NVFlare streams in pieces of a megabyte; arrays it would copy, and keep for minutes after they were fetched.
"""

import logging
import os
import queue
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Unpack

import numpy as np
from numpy.typing import NDArray
from nvflare.collab import CollabCallError, collab
from nvflare.collab.api.exceptions import RunAborted
from nvflare.collab.api.proxy import Proxy

from collabsecure.errors import CollabsecureError, said
from collabsecure.integrations import sums, tunnel
from collabsecure.integrations.exchange import Refused, Wait, encode
from collabsecure.integrations.host import Answering, Arrived, Node, ValuesNeeded, respond
from collabsecure.integrations.node import SumNode
from collabsecure.integrations.relay import Daemon
from collabsecure.integrations.stores import FolderStore
from collabsecure_protocols import Identity, Policy, ProtocolError, Session, ValueRefused
from collabsecure_protocols.client_state import NO_LINK

ENVIRONMENT = "COLLABSECURE_SOCKET"  # of the site's process: where its daemon listens; the job has no say then
SOCKET = "collabsecure_socket"  # the same, in the job's per-site configuration, for sites that share a machine

REQUEST_SECONDS = 60.0  # without a byte of progress, until NVFlare gives up on a request; it may be sent again
_BUSY_SECONDS = 20.0  # before a site that is still at an earlier call says so

_log = logging.getLogger(__name__)


class NotAnswered(CollabsecureError):
    """Nobody answers for this site now; NVFlare makes a failed call of it, and the request is sent again."""


class CollabHost:
    """`host.Host` over the proxies of a Collab job's sites (`collab.clients`).

    A site that NVFlare gives up on, or that raises, has lost that request, no more. Each request waits in a thread of
    its own; NVFlare has 100 for them unless the recipe says otherwise (`max_outbound_call_threads_for_server`).
    """

    def __init__(self, clients: Iterable[Proxy], *, seconds: float = REQUEST_SECONDS) -> None:
        self._proxies = {str(proxy.name): proxy for proxy in clients}
        self._seconds = seconds
        self._done: queue.SimpleQueue[Arrived | RunAborted] = queue.SimpleQueue()

    def nodes(self) -> Sequence[Node]:
        """The names of the job's sites. NVFlare adds none while it runs."""
        return tuple(self._proxies)

    def send(self, node: Node, request: bytes) -> None:
        """Hand a request to NVFlare."""
        proxy = self._proxies[str(node)]
        threading.Thread(target=self._call, args=(proxy, request), name=f"collabsecure {node}", daemon=True).start()

    def receive(self, seconds: float) -> Sequence[Arrived]:
        """What has come; the first is waited for.

        Raises:
            RunAborted: somebody ended the job.
        """
        arrived: list[Arrived] = []
        try:
            item = self._done.get(timeout=seconds) if seconds > 0 else self._done.get_nowait()
            while True:
                if isinstance(item, RunAborted):
                    raise item
                arrived.append(item)
                item = self._done.get_nowait()
        except queue.Empty:
            return arrived

    def _call(self, proxy: Proxy, request: bytes) -> None:
        reply: object = None
        try:
            reply = proxy(timeout=self._seconds).collabsecure(request=request)
        except RunAborted as aborted:
            self._done.put(aborted)
            return
        except CollabCallError as error:
            _log.warning("Site %s: %s", proxy.name, said(error))
        self._done.put(Arrived(node=str(proxy.name), reply=reply if isinstance(reply, bytes) else None))


class SecureSum(sums.SecureSum):
    """A session of sums over a job's sites, run from anywhere below `@collab.main`.

        sums = SecureSum(collab.clients, session, server_key)
        total = sums.run("round 1").arrays["model"]

    `request_seconds` is how long NVFlare waits for any progress with a request before it is sent again. What happens
    goes to the job's log unless `tell` says where.
    """

    def __init__(
        self,
        clients: Iterable[Proxy],
        session: Session,
        identity: Identity,
        *,
        request_seconds: float = REQUEST_SECONDS,
        **options: Unpack[sums.SumOptions],
    ) -> None:
        options.setdefault("tell", _tell)
        super().__init__(CollabHost(clients, seconds=request_seconds), session, identity, **options)


class Tunnel(tunnel.Tunnel):
    """Carries an editing session between a job's sites and the aggregator at `url`; `tunnel.Tunnel` says how.

    Tunnel(collab.clients, "https://127.0.0.1:8443", session=session, ca=Path("ca.pem")).run()
    """

    def __init__(
        self,
        clients: Iterable[Proxy],
        url: str,
        *,
        session: Session,
        ca: Path | None = None,
        patience: float = 600.0,
        at_once: int = 2,
        tell: Callable[[str], None] | None = None,
        request_seconds: float = REQUEST_SECONDS,
    ) -> None:
        host = CollabHost(clients, seconds=request_seconds)
        super().__init__(host, url, session=session, ca=ca, patience=patience, at_once=at_once, tell=tell or _tell)


def _tell(line: str) -> None:
    _log.info("%s", line)


class ClientActions:
    """What a site does in the job: hand each request to its side, and the reply back.

    By default that is the daemon whose socket the site's environment names (COLLABSECURE_SOCKET), in a process that the
    job's author has no say in. For a sum of what the job itself computes, subclass it in the job's own file, and either
    `give` a sum's arrays when they are there, or compute them when `values` is asked for them:

        class Site(ClientActions):
            @collab.publish
            def train(self, model, number):
                self.give(f"round {number}", {"model": ..., "examples": ...})
    """

    def __init__(self) -> None:
        self._busy, self._lock = threading.Lock(), threading.Lock()
        self._side: Answering | None = None

    def side(self) -> Answering:
        """Who answers here; asked for once, when it is needed.

        Raises:
            NotAnswered: no daemon's socket is named.
        """
        path = os.environ.get(ENVIRONMENT) or collab.get_app_prop(SOCKET)
        if not path:
            raise NotAnswered(
                f"found no socket of a daemon; expected {ENVIRONMENT} in the environment of this site's process, or "
                f"{SOCKET} in the recipe's set_per_site_config: what `collabsecure client --daemon --socket` was told"
            )
        return Daemon(str(path))

    def values(self, sum_name: str) -> Mapping[str, NDArray[np.generic]]:
        """This site's arrays for a sum, by tensor name, asked for once unless the side lost them; it may take its time.

        Raises:
            ValuesNeeded: the job has none to give.
        """
        raise ValuesNeeded(sum_name)

    def give(self, sum_name: str, values: Mapping[str, NDArray[np.generic]], *, link: bytes = NO_LINK) -> None:
        """Hand a sum's arrays to this site's side. `link` binds them to what they were computed on (`Answering.give`).

        Raises:
            NotAnswered: they were refused, or nobody is there; why is in the site's log, as NVFlare sends the text of
                what is raised to the server.
        """
        try:
            self._answering().give(sum_name, values, link=link)
        except (CollabsecureError, ProtocolError) as error:
            _say(error)
            raise NotAnswered(f"the values of {sum_name!r} were not given; this site's log has more") from None

    @collab.publish  # type: ignore[untyped-decorator]
    def collabsecure(self, request: bytes) -> bytes:
        """Answer the coordinator, who is told that something failed here, and no more.

        Raises:
            NotAnswered: nobody is there now; why is in the site's log.
        """
        if not self._busy.acquire(timeout=_BUSY_SECONDS):  # NVFlare gave up on a call that is still being answered
            return encode(Wait())
        try:
            return respond(self._answering(), request, self.values)
        except ValuesNeeded as error:
            return _refusal(f"{error}, and this site's job has none to give")
        except ValueRefused as error:
            _say(error)
            return _refusal("this site's values are outside the session's ranges, or not as it says; its log has more")
        except (CollabsecureError, ProtocolError) as error:
            _say(error)
            raise NotAnswered("nobody answers for this site; its log has more") from None
        finally:
            self._busy.release()

    def _answering(self) -> Answering:
        with self._lock:
            if self._side is None:
                self._side = self.side()
            return self._side


def direct(session: Session, identity: Identity, *, policy: Policy, folder: Path) -> Answering:
    """A side in the job's own process: **the site's key and values are where whoever submits a job ships the code**.

    For trying out, or where all who may submit jobs are trusted with every site's key. `folder` keeps what the site's
    client must remember.

        class Site(ClientActions):
            def side(self):
                return direct(session, identity, policy=Policy(), folder=Path("…"))
    """
    _log.warning("Direct mode: this site's key and values are in the job's process; whoever submits a job has them")
    return SumNode(session, identity, policy=policy, store=FolderStore(folder), rng=os.urandom)


def _say(error: Exception) -> None:
    """Into the site's log: which NVFlare streams to the server unless the site forbids it, so without any value."""
    if isinstance(error, ValueRefused):
        _log.error("Values of tensor %r are refused", error.tensor)
        _log.debug("%s", error)
    else:
        _log.error("%s", error)


def _refusal(reason: str) -> bytes:
    return encode(Refused(check="", reason=reason))
