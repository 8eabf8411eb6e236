"""Sessions without a model: statistics of made-up keys and residuals, an aggregator on loopback and its participants.

light = make_session(num_clients=4, layers=(1, 2))
with aggregating(light, folder / "server") as server:
    outcomes = take_part(light, server.url, folder)
assert outcomes[1].deltas.keys() == {1, 2}
"""

import asyncio
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from collabsecure.agreement import Agreement, Flow, second_moment_digest
from collabsecure.hyperparameters import Hyperparameters
from collabsecure.merge import merge_delta
from collabsecure.sessions import Encryption, Ranges, cross_name, editing_session, gram_name
from collabsecure_cli.aggregator import Aggregator
from collabsecure_cli.api import Api
from collabsecure_cli.folder import StateFolder
from collabsecure_cli.ledger import EditLedger
from collabsecure_cli.metrics import Metrics
from collabsecure_cli.overview import describe
from collabsecure_cli.results import Results
from collabsecure_cli.service import Durations, Service
from collabsecure_cli.serving import Limits, Tls, serve
from collabsecure_protocols import Identity, KeyPair, Policy, Session

LAMBDA = 50.0
SERVER = Identity(b"\x00" * 31 + b"\x01")
HOLDER = Identity(b"\x00" * 31 + b"\x02")


@dataclass(frozen=True, slots=True, kw_only=True)
class LightSession:
    """A session with everybody's keys, and what each client would contribute."""

    session: Session
    agreement: Agreement
    identities: Mapping[int, Identity] = field(repr=False)  # client → its identity
    moments: Mapping[int, np.ndarray] = field(repr=False)  # layer → C, weighted
    seed: int

    def identity(self, party: int) -> Identity:
        """A client's, or the key holder's behind the last client."""
        return HOLDER if party > self.session.num_clients else self.identities[party]

    def second_moment(self, layer: int) -> np.ndarray:
        return self.moments[layer]

    def part(self, client: int, layer: int) -> tuple[np.ndarray, np.ndarray]:
        """A client's Gram matrix and cross term of a layer: made anew at each call, always the same."""
        rng = np.random.default_rng((self.seed, client, layer))
        d_in, edits = len(self.moments[layer]), self.agreement.max_edits
        d_out = next(t.shape[0] for spec in self.session.sums for t in spec.tensors if t.name == cross_name(layer))
        keys = rng.standard_normal((d_in, edits)) * np.sqrt(self.moments[layer].diagonal() / LAMBDA)[:, np.newaxis]
        residuals = rng.standard_normal((d_out, edits))
        return keys @ keys.T, residuals @ keys.T

    def expected(self, layer: int, survivors: Sequence[int]) -> np.ndarray:
        """Δ of a layer but for the fixed point's rounding."""
        parts = [self.part(client, layer) for client in survivors]
        return merge_delta(self.moments[layer], sum(gram for gram, _ in parts), sum(cross for _, cross in parts))


def make_session(
    *,
    num_clients: int = 4,
    layers: tuple[int, ...] = (1, 2),
    d_in: int = 12,
    d_out: int = 5,
    max_edits: int = 3,
    flow: Flow = "layer-synchronous",
    seed: int = 7,
    key_pair: KeyPair | None = None,
) -> LightSession:
    """A session of random second moments, encrypted if there is a key pair; the same arguments give the same one."""
    encryption = None
    if key_pair is not None:
        encryption = Encryption(scheme=key_pair.public.scheme, holder=HOLDER.public, key=key_pair.public.encode())
    rng = np.random.default_rng(seed)
    moments = {layer: _second_moment(rng, d_in) for layer in layers}
    identities = {client: Identity(bytes([client]) * 32) for client in range(1, num_clients + 1)}
    agreement = Agreement(
        model="made-up",
        revision=None,
        weights_digest="ab" * 32,
        weights_dtype="float32",
        layers=layers,
        flow=flow,
        hyperparameters=Hyperparameters(layers=layers, second_moment_weight=LAMBDA),
        templates='[["{}"]]',
        second_moments={layer: second_moment_digest(moment) for layer, moment in moments.items()},
        max_edits=max_edits,
        client_names=tuple(f"client-{client}" for client in identities),
        server_name="sum-server",
        key_holder_name=None if key_pair is None else "key-holder",
    )
    session = editing_session(
        session_id=rng.bytes(32),
        task="a session without a model",
        roster=[identity.public for identity in identities.values()],
        server_key=SERVER.public,
        second_moments=moments,
        weight=LAMBDA,
        d_out=d_out,
        ranges=Ranges(max_edits=max_edits, residual=100.0),
        one_shot=flow == "one-shot",
        parameters=agreement.parameters(),
        encryption=encryption,
    )
    return LightSession(session=session, agreement=agreement, identities=identities, moments=moments, seed=seed)


def _second_moment(rng: np.random.Generator, d_in: int) -> np.ndarray:
    """λ·E[kkᵀ] of features of different sizes, a little correlated."""
    scales = np.exp(rng.standard_normal(d_in))
    noise = rng.standard_normal((d_in, 16)) / 16
    return LAMBDA * (np.diag(scales**2) + scales[:, np.newaxis] * scales * (noise @ noise.T))


class GivenArrays:
    """A `Contribution` of a light session: its arrays instead of a model's; remembers the updates in `deltas`."""

    def __init__(self, light: LightSession, client: int, *, keep: bool = True) -> None:
        self._light, self._client, self._keep = light, client, keep
        self.edits: Sequence[bytes] = [bytes([client, number]) * 16 for number in range(light.agreement.max_edits)]
        self.deltas: dict[int, np.ndarray] = {}
        self.computed: list[int] = []  # sums whose statistics were asked for

    def statistics(self, sum_index: int) -> Iterator[tuple[str, np.ndarray]]:
        self.computed.append(sum_index)
        layers = self._light.agreement.layers
        for layer in layers if self._light.agreement.flow == "one-shot" else (layers[sum_index],):
            gram, cross = self._light.part(self._client, layer)
            yield gram_name(layer), gram
            yield cross_name(layer), cross

    def apply(self, deltas: Mapping[int, np.ndarray]) -> None:
        self.deltas.update(deltas if self._keep else dict.fromkeys(deltas, np.empty((0, 0))))


# The aggregator


@contextmanager
def engine_in(light: LightSession, path: Path) -> Iterator[Aggregator]:
    """The aggregator's engine on a state folder."""
    with StateFolder.opened(path) as folder:
        results = Results(light.session, light.agreement, folder.folder("results"))
        with closing(Aggregator(light.session, SERVER, folder, results)) as engine:
            yield engine


@dataclass(kw_only=True)
class Serving:
    """An aggregator at work in a thread of its own."""

    url: str
    service: Service
    loop: asyncio.AbstractEventLoop = field(repr=False)
    _stop: asyncio.Event = field(repr=False)
    thread: threading.Thread = field(repr=False)

    def stop(self) -> None:
        """Stop as on SIGTERM; what is on the disk is all that stays."""
        if self.thread.is_alive():
            self.loop.call_soon_threadsafe(self._stop.set)
        self.thread.join(20)
        assert not self.thread.is_alive(), "the aggregator does not end"


@contextmanager
def aggregating(
    light: LightSession,
    path: Path,
    *,
    port: int = 0,
    tls: Tls | None = None,
    limits: Limits | None = None,
    durations: Durations | None = None,
    poll_seconds: float = 2.0,
    tell: Callable[[str], None] = lambda _: None,
) -> Iterator[Serving]:
    """An aggregator on loopback, on a state folder, until the block ends; what broke it is raised there."""
    found: dict[str, object] = {}
    listening = threading.Event()

    async def run() -> None:
        with engine_in(light, path) as engine:
            service = Service(engine, light.second_moment, durations or Durations(), tell=tell)
            api = Api(service, SERVER, lambda: describe(service, light.agreement), Metrics(), poll_seconds=poll_seconds)
            stop = asyncio.Event()
            found.update(service=service, loop=asyncio.get_running_loop(), _stop=stop)

            def on_listening(url: str) -> None:
                found["url"] = url
                listening.set()

            serving = asyncio.create_task(
                serve(
                    api.app,
                    host="127.0.0.1",
                    port=port,
                    tls=tls,
                    limits=limits or Limits(refusals_per_minute=1_000_000),
                    on_listening=on_listening,
                    stop=stop,
                )
            )
            working, stopping = asyncio.create_task(service.run()), asyncio.create_task(stop.wait())
            try:
                await asyncio.wait((working, stopping, serving), return_when=asyncio.FIRST_COMPLETED)
                if working.done() and working.exception() is None:
                    await asyncio.wait((stopping, serving), return_when=asyncio.FIRST_COMPLETED)
            finally:
                service.stop()
                await asyncio.sleep(0)
                stop.set()
                working.cancel()
                ends = await asyncio.gather(serving, working, stopping, return_exceptions=True)
                service.close()
            found["error"] = next(
                (e for e in ends if isinstance(e, BaseException) and not isinstance(e, asyncio.CancelledError)), None
            )

    def thread_main() -> None:
        try:
            asyncio.run(run())
        except Exception as error:  # noqa: BLE001 - raised again in the test's own thread
            found["error"] = error
        finally:
            listening.set()

    thread = threading.Thread(target=thread_main)
    thread.start()
    listening.wait()
    if "url" not in found:
        thread.join()
        raise found["error"]
    serving = Serving(thread=thread, **{name: found[name] for name in ("url", "service", "loop", "_stop")})
    try:
        yield serving
    finally:
        serving.stop()
    if found.get("error") is not None:
        raise found["error"]


# The clients; what they import is of the extra [edit], though none of it is torch


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a participant ended with."""

    deltas: Mapping[int, np.ndarray] = field(repr=False)
    survivors: Mapping[int, tuple[int, ...]]
    bytes_sent: int
    said: Sequence[str] = field(repr=False)


def take_part_as(
    light: LightSession,
    client: int,
    url: str,
    path: Path,
    *,
    ca: Path | None = None,
    patience: float = 30.0,
    contribution: GivenArrays | None = None,
    rng: Callable[[int], bytes] = os.urandom,
    connect: Callable | None = None,
) -> Outcome:
    """One client's part, to the end; `path` is its state folder. Raises what `Participant.run` raises.

    `connect(tell)` makes a connection of another kind than to `url`.
    """
    from collabsecure_cli.connection import Connection
    from collabsecure_cli.lines import Endpoint
    from collabsecure_cli.participant import Participant, Progress

    said: list[str] = []
    given = contribution or GivenArrays(light, client)

    def connect_to_url(tell: Callable[[str], None]) -> Connection:
        endpoint = Endpoint(url=url, ca=ca, insecure=url.startswith("http:"))
        return Connection(endpoint, light.session, light.identities[client], patience=patience, tell=tell)

    with ExitStack() as stack:
        folder = stack.enter_context(StateFolder.opened(path))
        inside = folder.folder(light.session.transcript.hex()[:32])
        connection = stack.enter_context(closing((connect or connect_to_url)(said.append)))
        participant = Participant(
            Results(light.session, light.agreement, inside.folder("results")),
            light.identities[client],
            given,
            connection,
            ledger=EditLedger(folder),
            folder=inside,
            policy=Policy(),
            rng=rng,
            progress=Progress(say=said.append, uploaded=lambda _done, _of: None),
        )
        participant.run()
        return Outcome(
            deltas=given.deltas,
            survivors=participant.results.survivors,
            bytes_sent=connection.bytes_sent,
            said=said,
        )


def take_part(
    light: LightSession, url: str, path: Path, *, clients: Sequence[int] | None = None, **how: object
) -> dict[int, Outcome]:
    """Several clients at once, each in a thread, with state in `path`/client-I."""
    members = [int(client) for client in clients or light.session.client_ids]
    with ThreadPoolExecutor(len(members)) as pool:
        futures = {
            client: pool.submit(take_part_as, light, client, url, path / f"client-{client}", **how)
            for client in members
        }
        return {client: future.result() for client, future in futures.items()}
