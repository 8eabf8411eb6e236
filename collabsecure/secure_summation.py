"""The secure sum inside one process: the protocol's real clients, server and bytes, and dropouts on request."""

import os
import re
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from collabsecure.errors import BadRequest, FieldFault, SumAborted
from collabsecure.sessions import cross_name, gram_name
from collabsecure.statistics import Statistics, Summed
from collabsecure_protocols import (
    Aborted,
    Client,
    Identity,
    KeyHolder,
    Ledger,
    NeedInput,
    Policy,
    SendToClient,
    SendToServer,
    Server,
    ServerState,
    Session,
)
from collabsecure_protocols.events import ClientEvent, ServerEvent
from collabsecure_protocols.keys import Rng

PHASES: Mapping[str, ServerState] = {
    state.value.lower().replace("_", "-"): state
    for state in (
        ServerState.ADVERTISE_KEYS,
        ServerState.SHARE_KEYS,
        ServerState.MASKED_INPUT,
        ServerState.CONSISTENCY_CHECK,
        ServerState.UNMASK,
    )
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Drop:
    """A client that falls silent, for good, from a phase of a sum on (set-up phases come before every sum).

    >>> Drop.parse("2@masked-input")
    Drop(client=2, phase=<ServerState.MASKED_INPUT: 'MASKED_INPUT'>, sum_index=0)
    >>> Drop.parse("2@unmask:1").sum_index
    1
    """

    client: int
    phase: ServerState
    sum_index: int = 0

    @classmethod
    def parse(cls, text: str) -> "Drop":
        """Read CLIENT@PHASE or CLIENT@PHASE:SUM, clients from 1 and sums from 0.

        Raises:
            BadRequest: it is neither.
        """
        match = re.fullmatch(r"(\d{1,5})@([a-z-]+)(?::(\d{1,4}))?", text)
        if match is None or match[2] not in PHASES:
            expected = f"CLIENT@PHASE or CLIENT@PHASE:SUM, PHASE one of {', '.join(PHASES)}"
            raise BadRequest([FieldFault(field="drop", reason=f"is {text!r}; expected {expected}")])
        return cls(client=int(match[1]), phase=PHASES[match[2]], sum_index=int(match[3] or 0))


class SecureSummation:
    """Runs one session's set-up, then its sums in order; `simulation.Summation`.

    Keys are new for every instance. Clients that dropped are gone for good; the others go on. The sums of an encrypted
    session are opened by its key holder. Clients remember what `ledgers` says of sums before this session; `seen` is
    shown each masked input message on its way to the server: (client, message).
    """

    def __init__(
        self,
        session: Session,
        identities: Sequence[Identity],
        server_identity: Identity,
        *,
        policy: Policy,
        drops: Sequence[Drop] = (),
        key_holder: KeyHolder | None = None,
        ledgers: Mapping[int, Ledger] | None = None,
        seen: Callable[[int, bytearray], None] | None = None,
        rng: Rng = os.urandom,
    ) -> None:
        self.session = session
        self._seen = seen
        self.bytes_up = 0  # of all clients together
        self._drops = drops
        self._key_holder = key_holder
        self._server = Server(session, server_identity)
        self._clients = {
            number: Client(session, identity, policy=policy, rng=rng, ledger=(ledgers or {}).get(number))
            for number, identity in enumerate(identities, 1)
        }
        self._uploads: Mapping[int, Mapping[int, Statistics]] = {}
        self._link = b""
        self._silent: set[int] = set()
        self._set_up = False

    @property
    def ledgers(self) -> Mapping[int, Ledger]:
        """What each client has contributed so far, this session's sums among it."""
        return {number: client.ledger for number, client in self._clients.items()}

    def saved(self, client: int) -> bytes:
        """A client's state as it stands, secrets included: what it could tell somebody."""
        return self._clients[client].save()

    def sum(self, index: int, uploads: Mapping[int, Mapping[int, Statistics]], *, link: bytes) -> Summed:
        """Sum number `index` of the session over the clients that stay.

        Raises:
            SumAborted: too few stayed; no sum was opened.
            ValueRefused: a client's statistics are outside the session's ranges.
        """
        self._uploads, self._link = uploads, link
        if not self._set_up:
            self._set_up = True
            self._drop(index)
            self._exchange(
                self._from_clients((number, client.start()) for number, client in self._clients.items()), index
            )
        self._exchange(self._server.start_sum(link=link), index)
        layers, opened = next(iter(uploads.values())), self._opened()
        statistics = {
            layer: Statistics(gram=opened.decode(gram_name(layer)), cross=opened.decode(cross_name(layer)))
            for layer in layers
        }
        return Summed(layers=statistics, survivors=self._server.survivors)

    def _opened(self) -> Server | KeyHolder:
        """Whoever knows the sum that has just finished."""
        if self._key_holder is None:
            return self._server
        self._key_holder.begin(self._server.encrypted_sum())
        for chunk in self._key_holder.missing:
            self._key_holder.decrypt(chunk, self._server.encrypted_chunk(chunk))
        return self._key_holder

    def _drop(self, index: int) -> None:
        state = self._server.state
        self._silent |= {
            drop.client
            for drop in self._drops
            if drop.phase is state
            and (drop.sum_index == index or state in (ServerState.ADVERTISE_KEYS, ServerState.SHARE_KEYS))
        }

    def _exchange(self, events: Iterable[ServerEvent], index: int) -> None:
        """Deliver messages both ways until the phase that nobody answers, which is the end of set-up or of the sum."""
        queue = deque(events)
        while True:
            while queue:
                self._drop(index)
                event = queue.popleft()
                if isinstance(event, Aborted):
                    raise SumAborted(str(event))
                if isinstance(event, SendToClient) and event.client_id not in self._silent:
                    answer = self._clients[event.client_id].receive(event.payload)
                    queue.extend(self._from_clients([(event.client_id, answer)]))
            if not self._server.missing:
                return
            queue.extend(self._server.close_phase())  # whoever is missing has dropped

    def _from_clients(self, batches: Iterable[tuple[int, Sequence[ClientEvent]]]) -> list[ServerEvent]:
        replies: list[ServerEvent] = []
        for number, events in batches:
            if number in self._silent:
                continue
            for event in events:
                if isinstance(event, SendToServer):
                    self.bytes_up += len(event.payload)
                    replies += self._server.receive(number, event.payload)
                if isinstance(event, NeedInput):
                    values: dict[str, NDArray[np.float64]] = {}
                    for layer, statistics in self._uploads[number].items():
                        values |= {gram_name(layer): statistics.gram, cross_name(layer): statistics.cross}
                    for chunk in self._clients[number].masked_input(values, link=self._link):
                        self.bytes_up += len(chunk)
                        if self._seen is not None:
                            self._seen(number, chunk)
                        replies += self._server.receive(number, chunk)
        return replies
