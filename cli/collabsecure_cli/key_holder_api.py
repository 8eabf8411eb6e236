"""What the aggregator's API has for the key holder of an encrypted session: sums out, updates in.

GET         …/clients/{n + 1}/encrypted/{s}       sum s: EncryptedSum; waits for it (204: not yet); 410 after the last
GET         …/clients/{n + 1}/encrypted/{s}/{c}   its chunk c of ciphertexts
HEAD, PATCH …/clients/{n + 1}/layers/{l}          a layer's Δ, from Upload-Offset on
POST        …/clients/{n + 1}/results/{s}         that all Δ of sum s are here: digests, signed
"""

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from collabsecure_cli.aggregator import TooLate
from collabsecure_cli.answers import MOST_JSON_BYTES, Refused, json_in, signed_digest
from collabsecure_cli.requests import BINARY, Signed, Waiting, number_in, problem, whole_body
from collabsecure_cli.service import Service
from collabsecure_cli.uploads import DELTA_CHUNK_BYTES, OFFSET_HEADER, WrongOffset


class KeyHolderApi:
    """Answers the key holder."""

    def __init__(self, service: Service, waiting: Waiting) -> None:
        self._service, self._waiting = service, waiting

    def routes(self, base: str, signed: Signed) -> list[Route]:
        """Where it answers; `signed` lets nobody else through."""
        return [
            Route(f"{base}/encrypted/{{number}}", signed(self._get_sum), methods=["GET"]),
            Route(f"{base}/encrypted/{{number}}/{{chunk}}", signed(self._get_chunk), methods=["GET"]),
            Route(f"{base}/layers/{{number}}", signed(self._get_offset), methods=["HEAD"]),
            Route(f"{base}/layers/{{number}}", signed(self._patch_delta), methods=["PATCH"]),
            Route(f"{base}/results/{{number}}", signed(self._post_results), methods=["POST"]),
        ]

    async def _get_sum(self, request: Request, party: int) -> Response:
        number = number_in(request.path_params["number"])
        service, engine = self._service, self._service.aggregator
        last = len(service.session.sums)
        if number is None or number > last:
            return problem(400, "a sum has a number")
        async for _ in self._waiting():
            if service.picture.failure is not None or (number == last and service.picture.is_over):
                await service.note_told(party)
                raise TooLate(service.picture.failure or "all sums are merged")
            if number == last or engine.results.has(number):
                raise TooLate("this sum is merged, or never will be")
            if service.picture.is_merging and service.picture.sum_index == number:
                return Response(await service.call(engine.encrypted_sum, number), media_type=BINARY)
        return Response(status_code=204)

    async def _get_chunk(self, request: Request, _: int) -> Response:
        number, chunk = number_in(request.path_params["number"]), number_in(request.path_params["chunk"])
        service, engine = self._service, self._service.aggregator
        sums = service.session.sums
        if number is None or number >= len(sums) or chunk is None or chunk >= sums[number].num_chunks:
            return problem(400, "a sum and its chunks have numbers")
        return Response(await service.call(engine.encrypted_chunk, number, chunk), media_type=BINARY)

    async def _get_offset(self, request: Request, _: int) -> Response:
        layer = self._layer(request)
        offset = await self._service.call(self._service.aggregator.updates.offset, layer)
        return Response(status_code=204, headers={OFFSET_HEADER: str(offset)})

    async def _patch_delta(self, request: Request, _: int) -> Response:
        layer, offset = self._layer(request), number_in(request.headers.get(OFFSET_HEADER, ""))
        if offset is None:
            return problem(400, f"an upload goes on at {OFFSET_HEADER}")
        piece = await whole_body(request, DELTA_CHUNK_BYTES)
        try:
            end = await self._service.call(self._service.aggregator.updates.upload, layer, offset, piece)
        except WrongOffset as error:
            return problem(409, str(error), headers={OFFSET_HEADER: str(error.offset)})
        return Response(status_code=204, headers={OFFSET_HEADER: str(end)})

    async def _post_results(self, request: Request, _: int) -> Response:
        number = number_in(request.path_params["number"])
        content = json_in(await whole_body(request, MOST_JSON_BYTES))
        engine = self._service.aggregator
        if number is None or number >= len(self._service.session.sums) or content is None:
            return problem(400, "results are a JSON object, of a sum with a number")
        if engine.results.has(number):
            return Response(status_code=204)
        try:
            signed = {layer: signed_digest(layer, content) for layer in engine.results.layers_of(number)}
        except Refused as error:
            return problem(400, str(error))
        await self._service.call(engine.take_results, number, signed)
        return Response(status_code=204)

    def _layer(self, request: Request) -> int:
        """The layer that a request is about, one of those that the key holder is at."""
        layer, picture = number_in(request.path_params["number"]), self._service.picture
        if not picture.is_merging or layer not in self._service.aggregator.results.layers_of(picture.sum_index):
            raise TooLate(picture.failure or "no update of that layer is waited for")
        return layer
