"""What a client insists on, whatever the session or the server asks; and its memory of what it has contributed."""

import math
from dataclasses import dataclass
from fractions import Fraction

from .errors import LocalProtocolError, PolicyRefusal
from .graph import is_secure
from .keys import KEY_BYTES
from .session import Session
from .wire import Reader, Writer


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """Floors and pins, checked when a `Client` is made (V31, P6). A pin that is None is not checked.

    On the complete graph the threshold must exceed two thirds of the roster, which makes two survivor sets for one sum
    impossible while fewer than a third collude with the server, and survivors must leave at least two honest clients.
    """

    transcript: bytes | None = None  # the whole descriptor, as compared with the other operators
    roster: tuple[bytes, ...] | None = None
    server_key: bytes | None = None
    parameters: tuple[tuple[str, str], ...] = ()  # each must stand in the session as it stands here
    min_clients: int = 3  # [3, …)
    min_survivors: int = 3  # [3, …)
    accept_honest_but_curious: bool = False  # a k-regular graph is for a server that follows the protocol
    corrupt_fraction: float = 0.2  # of the roster, colluding, that a k-regular graph must withstand
    dropout_fraction: float = 0.2

    def __post_init__(self) -> None:
        if min(self.min_clients, self.min_survivors) < 3:
            raise LocalProtocolError("a sum of fewer than three clients hides nothing; the floors are at least 3")

    def check(self, session: Session) -> None:
        """Raise `PolicyRefusal` unless this client may take part in the session."""
        n = session.num_clients
        for found, pinned, what in (
            (session.transcript, self.transcript, "descriptor"),
            (session.roster, self.roster, "roster"),
            (session.server_key, self.server_key, "server key"),
        ):
            if pinned is not None and found != pinned:
                raise PolicyRefusal(f"V31: the session's {what} is not the one this client pinned")
        offered = dict(session.parameters)
        for name, value in self.parameters:
            if offered.get(name) != value:
                raise PolicyRefusal(f"V31: parameter {name!r} is {offered.get(name)!r}, this client pinned {value!r}")
        if n < self.min_clients:
            raise PolicyRefusal(f"V31: {n} clients on the roster, this client's floor is {self.min_clients}")
        floor = max(self.min_survivors, survivor_floor(n, session.degree, dropout_fraction=self.dropout_fraction))
        if session.min_survivors < floor:
            raise PolicyRefusal(f"V31: sums of {session.min_survivors} survivors, this client's floor is {floor}")
        if session.is_complete:
            if session.threshold < 2 * n // 3 + 1:
                raise PolicyRefusal(
                    f"V31: threshold {session.threshold} of {n}, this client's floor is {2 * n // 3 + 1}"
                )
            return
        if not self.accept_honest_but_curious:
            raise PolicyRefusal(
                f"V31: degree {session.degree} on {n} clients protects against an honest-but-curious server only; "
                "this client accepts that with accept_honest_but_curious alone"
            )
        if not is_secure(
            n,
            session.degree,
            session.threshold,
            num_sums=len(session.sums),
            corrupt_fraction=self.corrupt_fraction,
            dropout_fraction=self.dropout_fraction,
        ):
            raise PolicyRefusal(
                f"V31: degree {session.degree} and threshold {session.threshold} do not withstand "
                f"{self.corrupt_fraction:.0%} corrupt and {self.dropout_fraction:.0%} dropped of {n} clients"
            )


def corruption_bound(num_clients: int) -> int:
    """The most clients that may collude with a malicious server: fewer than a third.

    >>> [corruption_bound(n) for n in (3, 4, 6, 7, 100)]
    [0, 1, 1, 2, 33]
    """
    bound = Fraction(num_clients, 3)
    return bound.__ceil__() - 1


def survivor_floor(num_clients: int, degree: int, *, dropout_fraction: float = 0.2) -> int:
    """The fewest survivors of a sum: two honest ones beside all colluders, and what a k-regular graph is made for.

    Bell et al.'s bounds hold for so many dropouts at most: beyond them, the graph of the survivors may fall apart, and
    the server would learn the sum of each part.

    >>> survivor_floor(5, 4), survivor_floor(1000, 98)
    (3, 800)
    """
    floor = corruption_bound(num_clients) + 2
    return floor if degree == num_clients - 1 else max(floor, num_clients - math.floor(dropout_fraction * num_clients))


@dataclass(frozen=True, slots=True)
class Ledger:
    """What this client remembers across sessions. Keep it beside the identity; write it before an event's bytes leave.

    `opened` are the (contribution, sum name) pairs for which it has sent unmask shares, or which it was told are
    finished with its input. The difference of two sums over cohorts that differ by one client is that client's input,
    so what was once opened is never contributed again (V34, P7). `begun` are the transcripts of the sessions that it
    has advertised keys in: signatures bind a transcript and not the keys, so a second run under one transcript could
    use those of the first (V36).
    """

    opened: frozenset[tuple[bytes, str]] = frozenset()
    begun: frozenset[bytes] = frozenset()

    def adding(self, contribution: bytes, sum_name: str) -> "Ledger":
        """A ledger with one more opened sum."""
        return Ledger(self.opened | {(contribution, sum_name)}, self.begun)

    def beginning(self, transcript: bytes) -> "Ledger":
        """A ledger with one more session."""
        return Ledger(self.opened, self.begun | {transcript})

    def __or__(self, other: "Ledger") -> "Ledger":
        """What either of them remembers."""
        return Ledger(self.opened | other.opened, self.begun | other.begun)

    def encode(self) -> bytes:
        """Canonical bytes."""
        out = Writer().u32(len(self.opened))
        for contribution, sum_name in sorted(self.opened):
            out.blob(contribution).text(sum_name)
        return out.u32(len(self.begun)).raw(b"".join(sorted(self.begun))).finish()

    @classmethod
    def decode(cls, data: bytes) -> "Ledger":
        """Read what `encode` wrote; raises `Malformed`."""
        reader = Reader(data)
        opened = frozenset((reader.blob(), reader.text()) for _ in range(reader.u32()))
        begun = frozenset(reader.raw(KEY_BYTES) for _ in range(reader.u32()))
        reader.finish()
        return cls(opened, begun)
