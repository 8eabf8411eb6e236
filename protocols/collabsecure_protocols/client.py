"""A client: bytes in, events out. Order of use:

1. `Client(…)`, then `start()`; send what it returns.
2. For each message from the server: `receive(payload)`, write `save()` to disk, then act on the events.
3. On `NeedInput`: send every chunk of `masked_input(…)`, writing `save()` before each.

After a crash, `Client.restore(…)` continues with identical bytes; `pending` is what may not have been sent.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

from . import client_steps as steps
from . import dealing
from .client_state import NO_LINK, ClientData
from .encrypting import encrypting_here
from .envelope import MessageType, open_envelope
from .errors import SERVER, ClientId, LocalProtocolError, PolicyRefusal
from .events import ClientEvent, SendToServer
from .fixedpoint import Real, encoders
from .graph import neighbors_of
from .keys import Identity, Rng, Secret
from .policy import Ledger, Policy
from .session import Session
from .states import CLIENT_TRANSITIONS, ClientState
from .upload import Encrypt, Upload
from .wire import Malformed

_HANDLERS: dict[
    MessageType, Callable[[steps.Party, ClientData, memoryview], tuple[ClientData, tuple[ClientEvent, ...]]]
] = {
    MessageType.KEY_DIRECTORY: steps.on_key_directory,
    MessageType.DELIVER_SHARES: steps.on_deliver_shares,
    MessageType.START_SUM: steps.on_start_sum,
    MessageType.SURVIVORS: steps.on_survivors,
    MessageType.CONFIRMATIONS: steps.on_confirmations,
    MessageType.FINISH_SUM: steps.on_finish_sum,
    MessageType.ABORT: steps.on_abort,
}


class Client:
    """One client's side of one session.

    `contribution` names what is contributed, by default the task; with a sum's name it is contributed once (V34).

    Raises:
        PolicyRefusal: the session asks for less than `policy` insists on, or has begun before (V36): `restore` then.
        InvalidSession: `identity` is not on the roster.

    """

    def __init__(
        self,
        session: Session,
        identity: Identity,
        *,
        policy: Policy,
        rng: Rng,
        ledger: Ledger | None = None,
        contribution: bytes | None = None,
    ) -> None:
        policy.check(session)
        ledger = ledger or Ledger()
        if session.transcript in ledger.begun:
            raise PolicyRefusal("V36: this session was begun before; go on from its saved state or use a new id")
        secrets = [Secret(rng(32)) for _ in range(len(session.sums) + 1)]
        data = ClientData(
            state=ClientState.NEW,
            contribution=session.task.encode() if contribution is None else contribution,
            channel=secrets[0],
            sum_secrets=tuple(secrets[1:]),
            ledger=ledger,
        )
        self._set_up(session, identity, data)

    @classmethod
    def restore(
        cls, blob: bytes, session: Session, identity: Identity, *, policy: Policy, ledger: Ledger | None = None
    ) -> "Client":
        """The client whose `save()` gave these bytes; `ledger` is what other sessions have added meanwhile.

        Raises:
            StateRefused: the bytes are damaged or of another session or identity.

        """
        policy.check(session)
        client = cls.__new__(cls)
        client._set_up(session, identity, ClientData.decode(blob, session, identity.public))
        client.learn(ledger or Ledger())
        return client

    def _set_up(self, session: Session, identity: Identity, data: ClientData) -> None:
        client_id = session.id_of(identity.public)
        self._me = steps.Party(
            session=session,
            identity=identity,
            client_id=client_id,
            neighbors=tuple(neighbors_of(session, number, client_id) for number in range(len(session.sums))),
        )
        self._data = data

    def __repr__(self) -> str:
        return f"Client({self.client_id} of {self.session.num_clients}, {self.state})"

    @property
    def session(self) -> Session:
        """The session that this client takes part in."""
        return self._me.session

    @property
    def client_id(self) -> ClientId:
        """This client's roster position."""
        return self._me.client_id

    @property
    def state(self) -> ClientState:
        """Where this client stands."""
        return self._data.state

    @property
    def ledger(self) -> Ledger:
        """What this client has contributed so far; keep it for later sessions."""
        return self._data.ledger

    def learn(self, ledger: Ledger) -> None:
        """Take over what clients of other sessions have contributed since this one was made (V34)."""
        self._data = replace(self._data, ledger=self._data.ledger | ledger)

    @property
    def contribution(self) -> bytes:
        """What is contributed, as the ledger calls it."""
        return self._data.contribution

    @property
    def sum_index(self) -> int:
        """The sum that started last, −1 before the first."""
        return self._data.sum_index

    @property
    def chunks_sent(self) -> int:
        """How many chunks of the current sum have left `masked_input`."""
        return len(self._data.chunk_digests)

    @property
    def pending(self) -> tuple[SendToServer, ...]:
        """The answer to the last message, to be sent again after a crash; chunks come from `masked_input` again."""
        return tuple(SendToServer(payload=payload) for payload in self._data.outbox)

    def save(self) -> bytes:
        """The whole state, secrets included, but for the identity key."""
        return self._data.encode(self.session, self._me.identity.public)

    def start(self) -> tuple[SendToServer, ...]:
        """Advertise keys."""
        if self.state is not ClientState.NEW:
            raise LocalProtocolError(f"start() in state {self.state}; expected NEW")
        channel, secrets = steps.channel_of(self._data), steps.secrets_of(self._data)
        advert = dealing.advertise(self.session, self.client_id, channel, secrets)
        payload = steps.seal_from(self._me, MessageType.ADVERTISE_KEYS, advert.encode())
        ledger = self._data.ledger.beginning(self.session.transcript)
        self._data = replace(self._data, state=ClientState.KEYS_ADVERTISED, ledger=ledger, outbox=(payload,))
        return self.pending

    def receive(self, payload: bytes | bytearray | memoryview) -> tuple[ClientEvent, ...]:
        """Take one message from the server. The last accepted message, repeated, gives no event.

        Raises:
            RemoteProtocolError: a check failed; the state is as it was.
            PolicyRefusal: the message asks for what this client has sworn off; the state is as it was.

        """
        envelope = open_envelope(self.session, payload, SERVER)
        fingerprint = envelope.fingerprint
        if fingerprint == self._data.last_received:
            return ()
        targets = CLIENT_TRANSITIONS.get((self.state, envelope.type))
        if targets is None:
            raise steps.refuse("V04", f"{envelope.type.name} from the server in state {self.state}")
        envelope.verify(self.session)
        try:
            data, events = _HANDLERS[envelope.type](self._me, self._data, envelope.body)
        except Malformed as error:
            raise steps.refuse("V07", f"{envelope.type.name}: {error}") from error
        if data.state not in targets:
            raise LocalProtocolError(f"{envelope.type.name} led from {self.state} to {data.state}, not in the table")
        outbox = tuple(event.payload for event in events if isinstance(event, SendToServer))
        self._data = replace(data, last_received=fingerprint, outbox=outbox)
        return events

    def has_received(self, payload: bytes | bytearray | memoryview) -> bool:
        """Whether this is the last accepted message, for which `receive` gives no event when it is repeated.

        Raises:
            RemoteProtocolError: it is no message of this session.

        """
        return open_envelope(self.session, payload, SERVER).fingerprint == self._data.last_received

    def masked_input(
        self,
        values: Mapping[str, Real],
        *,
        link: bytes = NO_LINK,
        first: int = 0,
        threads: int = 1,
        encrypt: Encrypt | None = None,
    ) -> Iterator[bytearray]:
        """The current sum's messages, chunk by chunk, in order; each value is read twice and never copied whole.

        `values` maps each of the sum's tensors to its array, in the session's units; `link` is what this client knows
        that the sum follows, such as the digest of the previous layer's Δ. Called again, after a crash say, it yields
        the same bytes or refuses; `first` is then the chunk to go on with. In an encrypted session it yields the same
        masked integers, freshly encrypted: by `encrypt`, such as a pool of processes that gets `threads` chunks at a
        time, else one after the other in this thread.

        Raises:
            ValueRefused: before the first chunk, if any value is out of range.
            RemoteProtocolError: the server bound the sum to another link (V21).
            LocalProtocolError: other data was already sent under these masks (V33), or no input is wanted.

        """
        if self.state is not ClientState.CONTRIBUTING:
            raise LocalProtocolError(f"masked_input() in state {self.state}; expected CONTRIBUTING")
        if link != self._data.link:
            raise steps.refuse(
                "V21",
                f"sum {self.sum_index} follows {self._data.link.hex()[:16]}…, this client knows {link.hex()[:16]}…",
            )
        spec = self.session.sums[self.sum_index]
        upload = Upload(
            session=self.session,
            identity=self._me.identity,
            client_id=self.client_id,
            sum_index=self.sum_index,
            link=link,
            sources=encoders(spec, values),
            masks=steps.masks(self._me, self._data),
            encrypt=(encrypt or encrypting_here(self.session)) if self.session.is_encrypted else None,
        )
        if not 0 <= first <= self.chunks_sent:
            raise LocalProtocolError(f"chunk {first} cannot be next; {self.chunks_sent} were made so far")
        if threads < 1:
            raise LocalProtocolError(f"{threads} threads make no chunk; at least 1 is needed")
        upload.check()
        return self._recorded(upload.payloads(first, threads), self.sum_index)

    def _recorded(self, payloads: Iterator[tuple[int, bytearray, bytes]], sum_index: int) -> Iterator[bytearray]:
        """Remember what each chunk was before it leaves; never another under the same mask (V33, P10)."""
        for index, payload, fingerprint in payloads:
            if (self.state, self.sum_index) != (ClientState.CONTRIBUTING, sum_index):
                raise LocalProtocolError(f"sum {sum_index} takes no more input in state {self.state}")
            known = self._data.chunk_digests
            if index < len(known) and known[index] != fingerprint:
                raise LocalProtocolError(f"V33: chunk {index} of sum {sum_index} was sent before with other values")
            if index == len(known):
                self._data = replace(self._data, chunk_digests=(*known, fingerprint))
            yield payload
