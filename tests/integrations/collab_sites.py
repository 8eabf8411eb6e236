"""A Collab job's sites in one process: NVFlare's own proxies, client apps, dispatch and FOBS; no cells between."""

import logging
import queue
import threading

from nvflare.apis.signal import Signal
from nvflare.collab import CollabCallError, collab
from nvflare.collab.api._invocation import _InvocationDispatcher
from nvflare.collab.api.app import ClientApp, ServerApp
from nvflare.collab.api.proxy import Proxy
from nvflare.collab.runtime.defs import CallHeaderKey, CallReplyKey, ObjectCallKey
from nvflare.collab.runtime.dispatch import _call_app_method
from nvflare.fuel.f3.cellnet.defs import MessageHeaderKey, ReturnCode
from nvflare.fuel.f3.message import Message
from nvflare.fuel.utils import fobs

_log = logging.getLogger(__name__)


class _Main:
    @collab.main
    def main(self):
        """NVFlare wants one."""


class Lost(Exception):
    """Raised by a fault: nothing comes back."""


class Sites:
    """`proxies` is what a main function has as `collab.clients`; `fault(site, number of the call)` may raise Lost."""

    def __init__(self, make_client, names, props=None):
        self.abort = Signal()
        self.fault = lambda site, number: None
        self._server = ServerApp(_Main())
        self._server._abort_signal = self.abort
        self.apps, self.proxies = {}, []
        for name in names:
            app = ClientApp(make_client(name))
            app.name = name
            app.update_props((props or {}).get(name, {}))
            self.apps[name] = app
            self.proxies.append(self._proxy(name, app))

    def _proxy(self, name, app):
        backend = _Dispatcher(self, app)
        interface = app.get_collab_interface()
        proxy = Proxy(self._server, name, name, backend, interface.pop(""))
        for child, methods in interface.items():
            proxy.add_child(child, Proxy(self._server, f"{name}.{child}", "", backend, methods))
        return proxy


class _Dispatcher(_InvocationDispatcher):
    def __init__(self, sites, app):
        super().__init__(sites.abort)
        self._sites, self._app, self._calls = sites, app, 0

    def call_target_in_group(self, gcc, func_name, *args, **kwargs):
        self._calls += 1
        threading.Thread(
            target=self._run, args=(gcc, func_name, args, kwargs, self._calls - 1), daemon=True, name="site"
        ).start()

    def _run(self, gcc, func_name, args, kwargs, number):
        try:
            replies = queue.SimpleQueue()
            remote = threading.Thread(
                target=self._remote, args=(gcc.target_name, func_name, args, kwargs, number, replies), daemon=True
            )
            remote.start()
            gcc.set_result(self._result(gcc, func_name, replies.get(timeout=gcc.call_opt.timeout)))
        except queue.Empty:
            gcc.set_exception(CollabCallError(gcc.target_name, func_name, TimeoutError("timed out")))
        except CollabCallError as error:
            gcc.set_exception(error)
        finally:
            gcc.call_completed()

    def _remote(self, target, func_name, args, kwargs, number, replies):
        """The site's own thread."""
        try:
            self._sites.fault(self._app.name, number)
        except Lost:
            return
        headers = {
            CallHeaderKey.AUTHENTICATED_CALLER: "server",
            CallHeaderKey.TARGET_NAME: target,
            CallHeaderKey.METHOD_NAME: func_name,
        }
        payload = _travelled({ObjectCallKey.ARGS: args, ObjectCallKey.KWARGS: kwargs})
        reply = _call_app_method(Message(headers, payload), self._app, _log)
        reply.payload = _travelled(reply.payload)
        replies.put(reply)

    def _result(self, gcc, func_name, reply):
        if reply.get_header(MessageHeaderKey.RETURN_CODE) != ReturnCode.OK:
            raise CollabCallError(gcc.target_name, func_name, reply.payload[CallReplyKey.ERROR])
        return reply.payload[CallReplyKey.RESULT]


def _travelled(payload):
    return fobs.loads(fobs.dumps(payload, buffer_list=True))
