"""A client's line to the aggregator: signed requests over HTTPS, tried again for as long as it makes sense.

What is asked for is the same however often it is asked, so a request whose answer was lost is simply made again.
"""

import json
import random
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from http import HTTPStatus

import httpx2

from collabsecure_cli.answers import (
    MOST_JSON_BYTES,
    Answer,
    NoAnswer,
    OtherOffset,
    Refused,
    expected,
    json_in,
    offset_in,
    refusal,
    seconds_to_wait,
)
from collabsecure_cli.authorization import authorization, party_of
from collabsecure_cli.lines import Line
from collabsecure_cli.uploads import OFFSET_HEADER
from collabsecure_protocols import Identity, Session
from collabsecure_protocols.envelope import HEADER_BYTES, MessageType, max_body
from collabsecure_protocols.keys import SIGNATURE_BYTES

_FIRST_PAUSE, _LONGEST_PAUSE = 0.25, 30.0  # seconds between tries; doubled each time
# What a request gets whose bytes were changed on the way, which TLS makes unlikely and plain HTTP does not.
_MAY_BE_DAMAGED = (HTTPStatus.BAD_REQUEST, HTTPStatus.UNAUTHORIZED, HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
_TRIES_WHEN_DAMAGED = 5


class Connection:
    """Asks one aggregator about one session, in one client's name."""

    _end_seconds = 5.0  # to say that all has arrived; whoever has all need not wait for an answer

    def __init__(
        self,
        line: Line,
        session: Session,
        identity: Identity,
        *,
        patience: float,  # seconds without any answer before giving up
        tell: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._session, self._identity = session, identity
        self._client = party_of(session, identity.public)
        self._patience, self._tell, self._clock, self._sleep = patience, tell, clock, sleep
        self._host = line.host
        self._longest = HEADER_BYTES + SIGNATURE_BYTES + max(max_body(session, kind) for kind in MessageType)
        self.bytes_sent = 0
        self._base = f"/v1/{session.transcript.hex()}/clients/{self._client}/"
        self._http = line.open(self._base, patience=patience)

    def close(self) -> None:
        """Hang up."""
        self._http.close()

    def post(self, payload: bytes) -> None:
        """Send a message.

        Raises:
            Refused: it was not taken.
            NoAnswer: nobody was there.
        """
        self._request("POST", "messages", body=payload)

    def message(self, number: int) -> bytes:
        """The message of that number to this client; waits for it.

        Raises:
            Refused: there will be no more, or the session goes on without this client.
            NoAnswer: nobody was there.
        """
        return self._poll(f"messages/{number}").content

    def end(self, number: int) -> str:
        """Say that everything up to this message has arrived; what is said of the end, if an answer comes soon."""
        return self._say_end(f"messages/{number}")

    def _say_end(self, target: str) -> str:
        headers = self._headers("GET", target, 0)
        with (
            suppress(httpx2.TransportError, Refused),
            self._http.stream("GET", target, headers=headers, timeout=self._end_seconds) as response,
        ):
            if response.status_code == HTTPStatus.GONE:
                answer = self._read(response)
                return refusal(answer).reason if json_in(answer.content) else ""
        return ""

    def offset(self, sum_index: int) -> int:
        """The byte from which on a sum's masked input is wanted.

        Raises:
            Refused: it is not wanted any more.
            NoAnswer: nobody was there.
        """
        try:
            return offset_in(self._request("HEAD", f"sums/{sum_index}"))
        except Refused as error:
            if not error.is_late:
                raise
            text = "it takes no input of that sum now"  # an answer to HEAD has none
            raise Refused(error.status, text, error.check) from error

    def upload(self, sum_index: int, offset: int, chunk: bytes | bytearray) -> None:
        """Send the chunk that stands at `offset` of a sum's masked input.

        Raises:
            OtherOffset: another chunk is wanted.
            Refused: none is wanted any more.
            NoAnswer: nobody was there.
        """
        self._request("PATCH", f"sums/{sum_index}", offset=offset, body=bytes(chunk))

    def settle(self) -> None:
        """Wait until all chunks have been sent; a line that sends several together only now says what became of them.

        Raises:
            OtherOffset, Refused, NoAnswer: as `upload` does.
        """

    def result(self, sum_index: int) -> Mapping[str, object]:
        """What a sum gave: digests and signatures by layer, and the survivors; waits for it.

        Raises:
            Refused: there will be none.
            NoAnswer: nobody was there.
        """
        content = json_in(self._poll(f"results/{sum_index}").content)
        if content is None:
            raise Refused(HTTPStatus.OK, f"{self._host} answers with something else than results", "")
        return content

    def layer(self, layer: int, num_bytes: int) -> bytearray:
        """A layer's Δ as bytes, fetched on from where a lost connection left it.

        Raises:
            Refused: there is none.
            NoAnswer: nobody was there.
        """
        target, data = f"layers/{layer}", bytearray()
        for pause in self._tries():
            before = len(data)
            headers = self._headers("GET", target, 0) | {"Range": f"bytes={len(data)}-"}
            with self._lost_is_tried_again(pause), self._http.stream("GET", target, headers=headers) as response:
                if response.status_code >= HTTPStatus.MULTIPLE_CHOICES:
                    self._is_to_be_tried_again(self._read(response), pause)
                    continue
                if response.status_code == HTTPStatus.OK:
                    data.clear()  # a proxy that does not know ranges
                for part in response.iter_raw():
                    data += part
                    if len(data) > num_bytes:
                        raise Refused(response.status_code, f"layer {layer} has more than {num_bytes} bytes", "")
                if len(data) == num_bytes:
                    return data
                if len(data) <= before:
                    pause("it sends too little of an update", None)
        raise AssertionError("tries end by raising")

    # What the key holder of an encrypted session asks

    def encrypted_sum(self, sum_index: int) -> bytes:
        """A finished sum's EncryptedSum; waits for it.

        Raises:
            Refused: there will be none.
            NoAnswer: nobody was there.
        """
        return self._poll(f"encrypted/{sum_index}").content

    def encrypted_chunk(self, sum_index: int, chunk: int) -> bytes:
        """One chunk of its ciphertexts."""
        return self._request("GET", f"encrypted/{sum_index}/{chunk}").content

    def delta_offset(self, layer: int) -> int:
        """The byte from which on a layer's Δ is wanted."""
        return offset_in(self._request("HEAD", f"layers/{layer}"))

    def upload_delta(self, layer: int, offset: int, piece: bytes) -> None:
        """Send the piece of a layer's Δ that stands at `offset`."""
        self._request("PATCH", f"layers/{layer}", offset=offset, body=piece)

    def post_results(self, sum_index: int, results: Mapping[str, object]) -> None:
        """Say that all of a sum's updates are uploaded: their digests, signed."""
        self._request("POST", f"results/{sum_index}", body=json.dumps(results).encode())

    def end_opening(self, num_sums: int) -> None:
        """Say that all sums are opened and handed back; nobody waits for an answer."""
        self._say_end(f"encrypted/{num_sums}")

    def _poll(self, target: str) -> Answer:
        while True:
            asked = self._clock()
            answer = self._request("GET", target)
            if answer.status != HTTPStatus.NO_CONTENT:
                return answer
            if self._clock() - asked < _FIRST_PAUSE:
                self._sleep(_FIRST_PAUSE)  # whoever answers so soon does not wait for us

    def _request(self, method: str, target: str, *, offset: int = 0, body: bytes | None = None) -> Answer:
        headers, refusals = self._headers(method, target, offset), list[Refused]()
        for pause in self._tries():
            with self._lost_is_tried_again(pause):
                self.bytes_sent += len(body or b"")
                with self._http.stream(method, target, content=body, headers=headers) as response:
                    answer = self._read(response)
                if self._is_done(method, answer, pause, refusals):
                    return answer
        raise AssertionError("tries end by raising")

    def _is_done(self, method: str, answer: Answer, pause: "_Pause", refusals: list[Refused]) -> bool:
        """Whether an answer says so; False after a pause, to ask again. Notes what refused bytes that may be damaged.

        Raises:
            OtherOffset, Refused, NoAnswer: asking again would change nothing.
        """
        try:
            if self._is_to_be_tried_again(answer, pause):
                return False
            expected(method, answer)
        except Refused as error:
            refusals.append(error)
            # An update that is not the signed one must come again before its results do.
            final = error.status not in _MAY_BE_DAMAGED or error.check == "RESULT"
            if final or len(refusals) == _TRIES_WHEN_DAMAGED:
                raise
            pause(f"a message arrived damaged ({error})", None)
            return False
        return True

    def _read(self, response: httpx2.Response) -> Answer:
        """An answer of bounded length: whoever answers may be anybody until its signature is checked."""
        content = bytearray()
        for part in response.iter_raw():
            content += part
            if len(content) > max(self._longest, MOST_JSON_BYTES):
                raise Refused(response.status_code, "the answer is longer than any in this session", "")
        return Answer(status=response.status_code, headers=response.headers, content=bytes(content))

    def _headers(self, method: str, target: str, offset: int) -> dict[str, str]:
        signed = authorization(self._session, self._identity, method, target, offset)
        return {"Authorization": signed, OFFSET_HEADER: str(offset), "Accept-Encoding": "identity"}

    def _is_to_be_tried_again(self, answer: Answer, pause: "_Pause") -> bool:
        """Whether the trouble may pass; raises what will not."""
        if answer.status < HTTPStatus.MULTIPLE_CHOICES:
            return False
        if answer.status == HTTPStatus.CONFLICT and OFFSET_HEADER in answer.headers:
            raise OtherOffset(offset_in(answer))
        if answer.status >= HTTPStatus.INTERNAL_SERVER_ERROR or answer.status == HTTPStatus.TOO_MANY_REQUESTS:
            pause(f"it answers with {answer.status}", seconds_to_wait(answer))
            return True
        raise refusal(answer)

    @contextmanager
    def _lost_is_tried_again(self, pause: "_Pause") -> Iterator[None]:
        try:
            yield
        except httpx2.TransportError as error:
            if (untrusted := _untrusted(error)) is not None:
                raise NoAnswer(
                    f"{self._host} shows a certificate that is not trusted here ({untrusted}); if it is the right one, "
                    "give its authority: --ca FILE"
                ) from error
            pause(type(error).__name__, None)

    def _tries(self) -> Iterator["_Pause"]:
        """Again and again, with pauses that grow; patience ends them."""
        started, length, told = self._clock(), _FIRST_PAUSE, False

        def pause(reason: str, seconds: float | None) -> None:
            nonlocal length, told
            left = started + self._patience - self._clock()
            if left <= 0:
                raise NoAnswer(f"no answer from {self._host} for {self._patience:.0f} s; last: {reason}")
            if not told and self._clock() - started > 2:
                self._tell(f"No answer from {self._host} ({reason}); trying again…")
                told = True
            self._sleep(min(left, max(seconds or 0, length * random.uniform(0.5, 1))))  # noqa: S311 (no secret)
            length = min(2 * length, _LONGEST_PAUSE)

        while True:
            yield pause


_Pause = Callable[[str, float | None], None]  # why, and for how long if that was said


def _untrusted(error: BaseException) -> str | None:
    """Whether a certificate is behind an error, and what is wrong with it."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return cause.verify_message
        cause = cause.__cause__ or cause.__context__
    return None
