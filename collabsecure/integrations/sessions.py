"""The session of secure sums of any named arrays: what goes into each, and within which range.

The file that every party must hold is its `to_json()`; `Session.from_json` reads it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from collabsecure_protocols import Session, Sum, Tensor, best_fraction_bits, choose, survivor_floor


@dataclass(frozen=True, slots=True, kw_only=True)
class Summand:
    """One array that each client gives: its shape, the largest |entry| of any client's, and the bits it travels in.

    A client whose entries leave the range is refused by its own encoder. Of n clients' entries, what is summed is
    rounded to a step of about n · bound / 2^(bits − 1).
    """

    shape: tuple[int, ...]
    bound: float
    bits: int = 48  # 32, 40, 48 or 64


def sum_session(
    *,
    session_id: bytes,
    task: str,
    roster: Sequence[bytes],
    server_key: bytes,
    sums: Mapping[str, Mapping[str, Summand]],
    parameters: Mapping[str, str] | None = None,
) -> Session:
    """The descriptor of some sums, in order; by name, and in each its arrays by name.

    Graph and thresholds are the protocol's own choice for so many clients. `session_id` is 32 random bytes.

    >>> keys = [bytes([number]) * 32 for number in range(1, 5)]
    >>> arrays = {"weights": Summand(shape=(2, 3), bound=8.0), "examples": Summand(shape=(1,), bound=1e6, bits=32)}
    >>> rounds = {f"round {number}": arrays for number in (1, 2, 3)}
    >>> session = sum_session(session_id=bytes(32), task="averages", roster=keys[1:], server_key=keys[0], sums=rounds)
    >>> session.threshold, session.min_survivors, [spec.name for spec in session.sums]
    (3, 3, ['round 1', 'round 2', 'round 3'])

    Raises:
        InvalidSession: a range does not fit into its bits, or the session contradicts itself.
    """
    num_clients = len(roster)
    graph = choose(num_clients, num_sums=len(sums))
    floor = graph.threshold if graph.degree == num_clients - 1 else survivor_floor(num_clients, graph.degree)
    return Session(
        session_id=session_id,
        task=task,
        roster=tuple(roster),
        server_key=server_key,
        threshold=graph.threshold,
        min_survivors=max(floor, 3),
        degree=graph.degree,
        sums=tuple(
            Sum(name=name, tensors=tuple(_tensor(array, what, num_clients) for array, what in arrays.items()))
            for name, arrays in sums.items()
        ),
        parameters=tuple(sorted((parameters or {}).items())),
    )


def _tensor(name: str, what: Summand, num_clients: int) -> Tensor:
    step = best_fraction_bits(what.bound, num_clients=num_clients, bits=what.bits)
    return Tensor(name=name, shape=what.shape, bound=what.bound, fraction_bits=step, bits=what.bits)
