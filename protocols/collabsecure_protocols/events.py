"""What `Client.receive` and `Server.receive` tell the application."""

from dataclasses import dataclass, field

from .errors import ClientId
from .messages import AbortReason
from .states import ServerState


@dataclass(frozen=True, slots=True, kw_only=True)
class SendToServer:
    """Save the client's state, then send these bytes to the server."""

    payload: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class NeedInput:
    """Call `masked_input` for this sum; `link` is what the server says that it is bound to."""

    sum_index: int
    link: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Excluded:
    """This client's input is not in the sum; it can take part in the next one."""

    sum_index: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SumFinished:
    """The sum is known, over exactly these clients."""

    sum_index: int
    survivors: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerMisbehaved:
    """Other clients broke a check, or the server tampered with what they sent; the session goes on without it."""

    culprits: tuple[ClientId, ...]
    check: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Aborted:
    """The session is over; start another with a new session id. The sum in progress has no result.

    It may be run again by clients that have sent no unmask shares for it (V34).
    """

    reason: AbortReason
    phase: ServerState
    sum_index: int
    found: int
    needed: int
    culprits: tuple[int, ...]

    def __str__(self) -> str:
        text = f"{self.reason.name} in {self.phase} of sum {self.sum_index}: {self.found} clients, needed {self.needed}"
        return text + (f"; clients {', '.join(map(str, self.culprits))} at fault" if self.culprits else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class SendToClient:
    """Save the server's state, then send these bytes to the client."""

    client_id: ClientId
    payload: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class SetupFinished:
    """All keys are shared among these clients; `start_sum` may be called."""

    participants: tuple[int, ...]


ClientEvent = SendToServer | NeedInput | Excluded | SumFinished | PeerMisbehaved | Aborted
ServerEvent = SendToClient | SetupFinished | SumFinished | Aborted
