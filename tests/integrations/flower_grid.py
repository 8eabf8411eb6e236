"""A Flower grid in one process: every message goes through Flower's own objects, to a client app made for it alone."""

import itertools
from collections.abc import Callable, Iterable

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

RAISED, UNAVAILABLE = 2, 3  # Flower's ErrorCode


class InProcessGrid(Grid):
    """Delivers when it is asked for replies; `fault(node, number of the message)` may lose or repeat one."""

    def __init__(self, make_app: Callable[[], ClientApp], nodes: Iterable[int], node_config=None):
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 1  # the server app's
        self._make_app = make_app
        self.contexts = {
            node: Context(
                run_id=1, node_id=node, node_config=(node_config or {}).get(node, {}), state=RecordDict(), run_config={}
            )
            for node in nodes
        }
        self.fault = lambda node, number: None
        self.is_ours = False  # whether the message at hand is
        self.largest = 0  # bytes of one object
        self._numbers = itertools.count()
        self._pushed: dict[str, tuple[int, dict[str, bytes]]] = {}

    def get_node_ids(self):
        return list(self.contexts)

    def push_messages(self, messages):
        ids = []
        for message in messages:
            message_id, objects = self._deflated(message)
            self._pushed[message_id] = (message.metadata.dst_node_id, objects)
            ids.append(message_id)
        return ids

    def pull_messages(self, message_ids):
        replies = []
        for message_id in [each for each in message_ids if each in self._pushed]:
            node, objects = self._pushed.pop(message_id)
            message = inflate_object_from_contents(message_id, dict(objects))
            message.metadata.__dict__["_message_id"] = message_id
            self.is_ours = message.metadata.message_type == "query.collabsecure"
            if (fault := self.fault(node, next(self._numbers))) == "lost":
                continue
            reply = self._handled(message, node)
            if fault == "repeated":
                reply = self._handled(message, node)
            if fault == "error":
                reply = Message(Error(code=UNAVAILABLE, reason="Node Unavailable"), reply_to=message)
            reply_id, objects = self._deflated(reply)
            replies.append(inflate_object_from_contents(reply_id, objects))
        return replies

    def _handled(self, message, node):
        try:
            return self._make_app()(message, self.contexts[node])
        except Exception as error:  # noqa: BLE001 (as Flower does)
            return Message(Error(code=RAISED, reason=f"{type(error)}:<{error!r}>"), reply_to=message)

    def _deflated(self, message):
        objects = {name: part.deflate() for name, part in get_all_nested_objects(message).items()}
        self.largest = max(self.largest, *map(len, objects.values()))
        message.metadata.__dict__["_message_id"] = message.object_id
        return message.object_id, objects

    def send_and_receive(self, messages, *, timeout=None):
        return self.pull_messages(self.push_messages(messages))

    def create_message(self, *_, **__):
        raise NotImplementedError

    def set_run(self, run):
        raise NotImplementedError

    @property
    def run(self):
        return Run.create_empty(1)
