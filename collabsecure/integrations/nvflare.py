"""NVFlare moves the bytes: the server's main function calls each site, whose client object hands the call to its side.

Whoever may submit a job ships the code of both (BYOC), so the client object holds nothing: keys, policy, model and
edits are with a daemon beside the site (`collabsecure client --daemon`). Requests and replies travel as `bytes`, which
NVFlare streams in pieces of a megabyte; arrays it would copy, and keep for minutes after they were fetched.
"""

import logging
import os
import queue
import threading
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from nvflare.collab import CollabCallError, collab
from nvflare.collab.api.exceptions import RunAborted
from nvflare.collab.api.proxy import Proxy

from collabsecure.errors import CollabsecureError
from collabsecure.integrations.exchange import Refused, Wait, encode
from collabsecure.integrations.host import Answering, Arrived, Node, ValuesNeeded, respond
from collabsecure.integrations.relay import Daemon
from collabsecure_protocols import ValueRefused

ENVIRONMENT = "COLLABSECURE_SOCKET"  # of the site's process: where its daemon listens; the job has no say then
SOCKET = "collabsecure_socket"  # the same, in the job's per-site configuration, for sites that share a machine

REQUEST_SECONDS = 60.0  # without a byte of progress, until NVFlare gives up on a request; it may be sent again
_BUSY_SECONDS = 20.0  # before a site that is still at an earlier call says so

_log = logging.getLogger(__name__)


class NotSetUp(CollabsecureError):
    """This site has nobody to answer."""


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
            _log.warning("Site %s: %s", proxy.name, error)
        self._done.put(Arrived(node=str(proxy.name), reply=reply if isinstance(reply, bytes) else None))


class ClientActions:
    """What a site does in the job: hand each request to its side, and the reply back.

    By default that is the daemon whose socket the site's environment names (COLLABSECURE_SOCKET), in a process that the
    job's author has no say in. For a sum of what the job itself computes, subclass it in the job's own file:

        class Site(ClientActions):
            def values(self, sum_name):
                return {"weights": ..., "examples": ...}
    """

    def __init__(self) -> None:
        self._busy = threading.Lock()

    def side(self) -> Answering:
        """Who answers here.

        Raises:
            NotSetUp: no daemon's socket is named.
        """
        path = os.environ.get(ENVIRONMENT) or collab.get_app_prop(SOCKET)
        if not path:
            raise NotSetUp(
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

    @collab.publish  # type: ignore[untyped-decorator]
    def collabsecure(self, request: bytes) -> bytes:
        """Answer the coordinator. What fails here is this site's own matter: the server is told that it did.

        Raises:
            NotSetUp: it did. NVFlare sends the text and the traceback of what is raised to the server.
        """
        if not self._busy.acquire(timeout=_BUSY_SECONDS):  # NVFlare gave up on a call that is still being answered
            return encode(Wait())
        try:
            return respond(self.side(), request, self.values)
        except ValueRefused as error:
            _log.error("Values refused: %s", error)
            return _refusal("this site's values are outside the session's ranges, or not as it says; its log has more")
        except ValuesNeeded as error:
            return _refusal(f"{error}, and this site's job has none to give")
        except CollabsecureError as error:
            _log.error("No answer: %s", error)
            raise NotSetUp("this site's side does not answer; its log has more") from None
        finally:
            self._busy.release()


def _refusal(reason: str) -> bytes:
    return encode(Refused(check="", reason=reason))
