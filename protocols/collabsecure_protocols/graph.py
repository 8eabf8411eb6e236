"""Who masks with whom: the complete graph, or a Harary graph on a per-sum random order (Bell et al. 2020).

The complete graph is for a malicious server. The k-regular graph is for an honest-but-curious server that fixes its
corrupt clients before the session id is drawn: whoever could try many session ids could surround a client.
"""

import hashlib
import math
from dataclasses import dataclass

from .errors import ClientId, InvalidSession
from .keys import Label, context
from .session import Session

COMPLETE_UP_TO = 100  # clients
SECURITY_BITS = 40  # σ, for one sum; a session of T sums asks for σ + log₂ T
CORRECTNESS_BITS = 20  # η


def order(session: Session, sum_index: int) -> tuple[ClientId, ...]:
    """The clients on the ring of sum `sum_index`: Fisher–Yates driven by SHAKE-256 of the transcript."""
    clients = list(session.client_ids)
    seed = context(Label.GRAPH, session.transcript, sum_index)
    stream = hashlib.shake_256(seed).digest(16 * len(clients))  # 128 bits a draw: bias below 2^-114
    for last in range(len(clients) - 1, 0, -1):
        pick = int.from_bytes(stream[16 * last : 16 * last + 16], "big") % (last + 1)
        clients[last], clients[pick] = clients[pick], clients[last]
    return tuple(clients)


def neighbors_of(session: Session, sum_index: int, client_id: int) -> tuple[int, ...]:
    """One client's neighbours in one sum, ascending, itself not among them."""
    if session.is_complete:
        return tuple(other for other in session.client_ids if other != client_id)
    ring = order(session, sum_index)
    return _around(ring, ring.index(ClientId(client_id)), session.degree)


def all_neighbors(session: Session, sum_index: int) -> dict[int, tuple[int, ...]]:
    """Every client's neighbours in one sum."""
    if session.is_complete:
        return {client: neighbors_of(session, sum_index, client) for client in session.client_ids}
    ring = order(session, sum_index)
    return {client: _around(ring, at, session.degree) for at, client in enumerate(ring)}


def _around(ring: tuple[int, ...], at: int, degree: int) -> tuple[int, ...]:
    half = degree // 2
    return tuple(sorted(ring[(at + step) % len(ring)] for step in range(-half, half + 1) if step))


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphParameters:
    """A degree and a threshold that meet Bell et al.'s bounds."""

    degree: int
    threshold: int


def choose(
    num_clients: int, *, num_sums: int = 1, corrupt_fraction: float = 0.2, dropout_fraction: float = 0.2
) -> GraphParameters:
    """Degree and threshold for a session: the complete graph up to 100 clients, else the smallest sufficient degree.

    >>> choose(5)
    GraphParameters(degree=4, threshold=4)
    """
    if num_clients <= COMPLETE_UP_TO:
        return GraphParameters(degree=num_clients - 1, threshold=2 * num_clients // 3 + 1)
    for degree in range(2, num_clients - 1, 2):
        for threshold in range(degree // 2 + 1, degree + 1):
            if not is_correct(num_clients, degree, threshold, dropout_fraction=dropout_fraction):
                break  # a higher threshold starves sooner
            if is_secure(
                num_clients,
                degree,
                threshold,
                num_sums=num_sums,
                corrupt_fraction=corrupt_fraction,
                dropout_fraction=dropout_fraction,
            ):
                return GraphParameters(degree=degree, threshold=threshold)
    raise InvalidSession(
        f"V30: no graph on {num_clients} clients withstands {corrupt_fraction:.0%} corrupt and {dropout_fraction:.0%} "
        "dropped clients; use the complete graph"
    )


def is_secure(
    num_clients: int, degree: int, threshold: int, *, num_sums: int, corrupt_fraction: float, dropout_fraction: float
) -> bool:
    """Whether Bell et al.'s two security events together stay below 2^-(σ + log₂ T).

    Captured: some client has `threshold` corrupt neighbours. Disconnected: half a degree of consecutive clients on the
    ring are corrupt or gone. And two disjoint quorums of one neighbourhood must not exist.
    """
    n, corrupt, gone = num_clients, math.floor(corrupt_fraction * num_clients), corrupt_fraction + dropout_fraction
    disconnected = math.log2(n) + degree / 2 * math.log2(gone) if gone else -math.inf
    captured = math.log2(n) + _log2_hypergeometric(n - 1, corrupt, degree, range(threshold, degree + 1))
    security = SECURITY_BITS + math.log2(num_sums)
    return 2 * threshold > degree + 1 and _log2_sum(disconnected, captured) <= -security


def is_correct(num_clients: int, degree: int, threshold: int, *, dropout_fraction: float) -> bool:
    """Whether all clients keep `threshold` surviving neighbours but for 2^-η."""
    n, survivors = num_clients, num_clients - 1 - math.floor(dropout_fraction * num_clients)
    starved = math.log2(n) + _log2_hypergeometric(n - 1, survivors, degree, range(threshold))
    return starved <= -CORRECTNESS_BITS


def _log2_hypergeometric(population: int, marked: int, draws: int, hits: range) -> float:
    """log₂ P[the number of marked in `draws` from `population` is in `hits`], from exact integers."""
    ways = sum(math.comb(marked, hit) * math.comb(population - marked, draws - hit) for hit in hits)
    return math.log2(ways) - math.log2(math.comb(population, draws)) if ways else -math.inf


def _log2_sum(left: float, right: float) -> float:
    high = max(left, right)
    return high if high == -math.inf else high + math.log2(2 ** (left - high) + 2 ** (right - high))
