"""Requests to the aggregator's API without a socket: what comes in and goes out of the app, message by message."""

import json
from contextlib import contextmanager
from dataclasses import dataclass, field

from cohort import Cohort
from light_session import SERVER, engine_in, make_session

from collabsecure_cli.api import Api
from collabsecure_cli.authorization import authorization
from collabsecure_cli.metrics import Metrics
from collabsecure_cli.overview import describe
from collabsecure_cli.service import Durations, Service
from collabsecure_cli.uploads import boundaries
from collabsecure_protocols import ServerState

LIGHT = make_session()
BOUNDS = boundaries(LIGHT.session, 0)

OPERATORS_PATHS = ("/", "/status.json", "/metrics")


@dataclass(kw_only=True)
class Reply:
    status: int
    headers: dict[str, str]  # names in lower case
    content: bytes = field(repr=False)
    body_parts_read: int

    @property
    def error(self):
        return json.loads(self.content)["error"]


class Asker:
    """One API, and requests to it that are signed unless a test says otherwise."""

    def __init__(self, light, engine, *, poll_seconds=5.0, clock=None, durations=None):
        self.light, self.engine = light, engine
        clocked = {} if clock is None else {"clock": clock}
        self.told = []
        self.service = Service(engine, light.second_moment, durations or Durations(), tell=self.told.append, **clocked)
        self.api = Api(
            self.service,
            SERVER,
            lambda: describe(self.service, light.agreement),
            Metrics(),
            poll_seconds=poll_seconds,
        )

    def path(self, client, target):
        return f"/v1/{self.light.session.transcript.hex()}/clients/{client}/{target}"

    def signature(self, client, method, target, offset=0):
        return authorization(self.light.session, self.light.identity(client), method, target, offset)

    async def signed(self, client, method, target, *, offset=None, body=(), headers=None):
        """A client's request."""
        signed = {"authorization": self.signature(client, method, target, offset or 0)}
        if offset is not None:
            signed["upload-offset"] = str(offset)
        return await self.ask(method, self.path(client, target), headers=signed | (headers or {}), body=body)

    async def ask(self, method, path, *, headers=None, body=(), app=None):
        """Any request; its body is bytes or the parts in which it arrives."""
        parts = [body] if isinstance(body, bytes) else list(body)
        left, sent = list(parts), []
        path, _, query = path.partition("?")

        async def receive():
            if left:
                part = left.pop(0)
                return {"type": "http.request", "body": part, "more_body": bool(left)}
            if not parts and not sent:
                parts.append(b"")
                return {"type": "http.request", "body": b"", "more_body": False}
            return {"type": "http.disconnect"}

        async def send(message):
            sent.append(message)

        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "root_path": "",
            "headers": [(name.lower().encode(), value.encode("latin-1")) for name, value in (headers or {}).items()],
            "client": ("127.0.0.1", 5),
            "server": ("127.0.0.1", 80),
            "state": {},
        }
        count = len(parts)
        app = app or (self.api.operators if path in OPERATORS_PATHS else self.api.app)
        await app(scope, receive, send)
        start, *rest = sent
        return Reply(
            status=start["status"],
            headers={name.decode().lower(): value.decode() for name, value in start["headers"]},
            content=b"".join(part.get("body", b"") for part in rest),
            body_parts_read=count - len(left),
        )


@contextmanager
def asking(path, until=None, *, gone=(), light=LIGHT, **how):
    """An API on an engine that was played until something holds; then (asker, cohort)."""
    with engine_in(light, path / "server") as engine:
        cohort = Cohort(light)
        for client in gone:
            cohort.members[client].gone = True
        if until is not None:
            while not until(engine):
                actions = cohort.actions(engine) or [("close", 0)]
                cohort.do(engine, actions[0])
                cohort.done(engine, actions[0])
        asker = Asker(light, engine, **how)
        yield asker, cohort
        asker.service.close()


def in_upload(engine):
    return engine.state is ServerState.MASKED_INPUT


def is_over(engine):
    return engine.is_over
