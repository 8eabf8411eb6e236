"""The aggregator's HTTP API. Thin: it knows who asks, how much may come, and which refusal is which status.

    POST        /v1/{transcript}/clients/{i}/messages        one signed message, none of masked input
    GET         /v1/{transcript}/clients/{i}/messages/{k}    the k-th message to the client; waits for it (204: not yet)
    HEAD, PATCH /v1/{transcript}/clients/{i}/sums/{s}        masked input, from Upload-Offset on; 409 has the true one
    GET         /v1/{transcript}/clients/{i}/results/{s}     what sum s gave: digests; waits for them (204: not yet)
    GET         /v1/{transcript}/clients/{i}/layers/{l}      a layer's Δ; ranges
    GET         /healthz                                     whether it works

For operators there is a second application, to be served where strangers don't get: /, /status.json, /metrics and
/healthz again. It is read-only, and says who takes part.

Everything below /v1 carries a signature (`authorization`), which is looked at before any body is read. Statuses: 400 a
check of the protocol failed, 401 no such signature, 409 another state or offset, 410 this is over for the client, 413
too long, 503 the disk failed here.
"""

import functools
from collections.abc import AsyncIterator, Awaitable, Callable

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, HTMLResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from collabsecure.errors import CollabsecureError
from collabsecure_cli.aggregator import TooLate
from collabsecure_cli.authorization import is_authentic
from collabsecure_cli.key_holder_api import KeyHolderApi
from collabsecure_cli.metrics import Metrics
from collabsecure_cli.requests import BINARY, Handler, TooLong, as_json, number_in, problem, whole_body
from collabsecure_cli.results import sign_result
from collabsecure_cli.service import Service
from collabsecure_cli.status import Status, page
from collabsecure_cli.uploads import OFFSET_HEADER, WrongOffset
from collabsecure_protocols import Identity, RemoteProtocolError
from collabsecure_protocols.envelope import HEADER_BYTES, MessageType, max_body
from collabsecure_protocols.keys import SIGNATURE_BYTES

_FROM_CLIENTS = (
    MessageType.ADVERTISE_KEYS,
    MessageType.SHARE_KEYS,
    MessageType.CONSISTENCY_CHECK,
    MessageType.UNMASK,
)
POLL_SECONDS = 25.0  # below the 30 to 60 after which proxies give up on a silent request


class Api:
    """Answers requests about one service."""

    def __init__(
        self,
        service: Service,
        identity: Identity,
        describe: Callable[[], Status],
        metrics: Metrics,
        *,
        poll_seconds: float = POLL_SECONDS,
    ) -> None:
        self._service, self._identity, self._describe, self._metrics = service, identity, describe, metrics
        self._poll_seconds = poll_seconds
        session = service.session
        around = HEADER_BYTES + SIGNATURE_BYTES
        self._longest_message = around + max(max_body(session, kind) for kind in _FROM_CLIENTS)
        self._longest_chunk = around + max_body(session, MessageType.MASKED_INPUT)
        base = "/v1/{transcript}/clients/{client}"
        holder = KeyHolderApi(service, self._waiting).routes(base, functools.partial(self._signed, by_key_holder=True))
        routes = Starlette(
            routes=[
                *(holder if session.is_encrypted else ()),
                Route(f"{base}/messages", self._signed(self._post_message), methods=["POST"]),
                Route(f"{base}/messages/{{number}}", self._signed(self._get_message), methods=["GET"]),
                Route(f"{base}/sums/{{number}}", self._signed(self._get_offset), methods=["HEAD"]),
                Route(f"{base}/sums/{{number}}", self._signed(self._patch_upload), methods=["PATCH"]),
                Route(f"{base}/results/{{number}}", self._signed(self._get_result), methods=["GET"]),
                Route(f"{base}/layers/{{number}}", self._signed(self._get_layer), methods=["GET"]),
                Route("/healthz", self._get_health, methods=["GET"]),
            ]
        )
        self.app = _measured(routes, metrics, service.clock)
        self.operators = Starlette(
            routes=[
                Route("/", self._get_page, methods=["GET"]),
                Route("/status.json", self._get_status, methods=["GET"]),
                Route("/healthz", self._get_health, methods=["GET"]),
                Route("/metrics", self._get_metrics, methods=["GET"]),
            ]
        )

    def _signed(self, handler: Handler, *, by_key_holder: bool = False) -> Callable[[Request], Awaitable[Response]]:
        """Let only a client, or the key holder, through that has signed the request."""

        @functools.wraps(handler)
        async def guarded(request: Request) -> Response:
            session = self._service.session
            client, offset = (
                number_in(request.path_params["client"]),
                number_in(request.headers.get(OFFSET_HEADER, "0")),
            )
            if request.path_params["transcript"] != session.transcript.hex():
                return problem(404, f"this aggregator runs session {session.transcript.hex()[:16]}… alone")
            target = request.scope["path"].split("/", 5)[-1]
            header = request.headers.get("Authorization", "")
            if client is None or offset is None or len(target) > 100:
                return problem(400, "a number in the request is none")
            right_party = (client > session.num_clients) is by_key_holder
            if not right_party or not is_authentic(session, client, header, request.method, target, offset):
                who = "the key holder" if by_key_holder else "a client"
                return problem(401, f"the request is not signed by {who} of this session")
            self._service.seen[client] = self._service.clock()
            try:
                return await handler(request, client)
            except RemoteProtocolError as error:
                self._metrics.refused(error.check)
                late = error.check in ("V04", "V08")
                return problem(409 if late else 400, str(error), check=error.check)
            except TooLate as error:
                return problem(410, str(error))
            except TooLong as error:
                return problem(413, str(error))
            except ClientDisconnect:
                return Response(status_code=400)
            except CollabsecureError as error:
                return problem(503, f"the aggregator had to stop: {type(error).__name__}")

        return guarded

    async def _post_message(self, request: Request, client: int) -> Response:
        payload = await whole_body(request, self._longest_message)
        self._service.bytes_of[client] += len(payload)
        if self._service.picture.is_over or (client in self._service.picture.out):
            raise TooLate("the session is over for this client")
        await self._service.call(self._service.aggregator.receive, client, payload)
        return Response(status_code=204)

    async def _get_message(self, request: Request, client: int) -> Response:
        number = number_in(request.path_params["number"])
        if number is None:
            return problem(400, "a message has a number")
        service = self._service
        async for _ in self._waiting():
            if (message := service.message(client, number)) is not None:
                return Response(message, media_type=BINARY)
            if service.picture.is_over:
                await service.note_end(client, number)
                return problem(410, service.picture.failure or "the session has finished; there are no more messages")
            if client in service.picture.out:
                await service.note_told(client)
                raise TooLate("the set-up ended without this client; it takes part in no sum of this session")
        return Response(status_code=204)

    async def _get_offset(self, request: Request, client: int) -> Response:
        number = number_in(request.path_params["number"])
        if number is None:
            return problem(400, "a sum has a number")
        offset = await self._service.call(self._service.aggregator.offset, client, number)
        return Response(status_code=204, headers={OFFSET_HEADER: str(offset)})

    async def _patch_upload(self, request: Request, client: int) -> Response:
        number, offset = number_in(request.path_params["number"]), number_in(request.headers.get(OFFSET_HEADER, ""))
        if number is None or offset is None:
            return problem(400, f"a sum has a number, and an upload goes on at {OFFSET_HEADER}")
        chunk = await whole_body(request, self._longest_chunk)
        self._service.bytes_of[client] += len(chunk)
        try:
            end = await self._service.call(self._service.aggregator.upload, client, number, offset, chunk)
        except WrongOffset as error:
            return problem(409, str(error), headers={OFFSET_HEADER: str(error.offset)})
        return Response(status_code=204, headers={OFFSET_HEADER: str(end)})

    async def _get_result(self, request: Request, client: int) -> Response:
        number = number_in(request.path_params["number"])
        service, results = self._service, self._service.aggregator.results
        if number is None or number >= len(service.session.sums):
            return problem(400, "a sum has a number")
        async for _ in self._waiting():
            if client in service.picture.out:
                raise TooLate("the set-up ended without this client; the result is not for it")
            if results.has(number):
                layers = {
                    str(layer): {
                        "digest": results.digests[layer].hex(),
                        "signature": self._signature(layer).hex(),
                    }
                    for layer in results.layers_of(number)
                }
                return as_json({"layers": layers, "survivors": results.survivors[results.layers_of(number)[0]]})
            if service.picture.is_over:
                raise TooLate(service.picture.failure or "there is no such result")
        return Response(status_code=204)

    def _signature(self, layer: int) -> bytes:
        """Under a layer's Δ: the key holder's, where there is one, else this server's."""
        results = self._service.aggregator.results
        if layer in results.signatures:
            return results.signatures[layer]
        return sign_result(self._service.session, self._identity, layer, results.digests[layer])

    async def _get_layer(self, request: Request, client: int) -> Response:
        layer, results = number_in(request.path_params["number"]), self._service.aggregator.results
        if client in self._service.picture.out:
            raise TooLate("the set-up ended without this client; the result is not for it")
        if layer is None or layer not in results.digests:
            return problem(404, "there is no update of that layer")
        if not results.path(layer).exists():
            return problem(503, "the update of that layer is gone from the aggregator's disk")
        return _LargeFile(results.path(layer), media_type=BINARY)

    async def _get_page(self, _: Request) -> Response:
        html, headers = page(self._describe())
        return HTMLResponse(html, headers=headers)

    async def _get_status(self, _: Request) -> Response:
        return as_json(self._describe().to_json())

    async def _get_health(self, _: Request) -> Response:
        return as_json({"healthy": True}) if self._service.broken is None else problem(503, "the disk failed")

    async def _get_metrics(self, _: Request) -> Response:
        body, kind = self._metrics.render(self._describe())
        return Response(body, media_type=kind)

    async def _waiting(self) -> AsyncIterator[None]:
        """At once, then whenever something has happened, until the poll's time is up or the aggregator stops."""
        ends = self._service.clock() + self._poll_seconds
        yield
        while (left := ends - self._service.clock()) > 0 and not self._service.is_stopping:
            await self._service.change(left)
            yield


def _measured(app: ASGIApp, metrics: Metrics, clock: Callable[[], float]) -> ASGIApp:
    """Count every answer, with its time."""

    async def measured(scope: Scope, receive: Receive, send: Send) -> None:
        started, status = clock(), 0

        async def noting(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            await app(scope, receive, noting)
        finally:
            if scope["type"] == "http" and status:
                metrics.request(scope["method"], status, clock() - started)

    return measured


class _LargeFile(FileResponse):
    """A file read in larger pieces: each goes through a thread, which costs more than to read Starlette's 64 KiB."""

    chunk_size = 1 << 18  # bytes
