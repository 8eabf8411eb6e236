"""Clients that leave at any phase of any sum: the sum over exactly the survivors, or an abort that says why.

What must come of a plan of drops is computed here from sets alone (`outcome`), without the code under test.
"""

import functools
import itertools
import random
from dataclasses import dataclass

import pytest
from harness import Network, identity, make_session

from collabsecure_protocols import Aborted, AbortReason, Client, Policy, Server, ServerState, SumFinished
from collabsecure_protocols.envelope import MessageType
from collabsecure_protocols.graph import all_neighbors

ADVERTISE, SHARE, INPUT, CHECK, UNMASK = (
    ServerState.ADVERTISE_KEYS,
    ServerState.SHARE_KEYS,
    ServerState.MASKED_INPUT,
    ServerState.CONSISTENCY_CHECK,
    ServerState.UNMASK,
)
PARTIAL = "partial"  # leaves in the middle of its upload: the first of two chunks arrives


class AnyGraph(Policy):
    """Small k-regular graphs protect nobody and no policy takes them; these tests are about who is in the sum."""

    def check(self, session):
        pass


@dataclass(frozen=True)
class Outcome:
    """Survivors of each finished sum, and how the session ended if it aborted: with one of several true counts."""

    survivors: tuple[tuple[int, ...], ...]
    reason: AbortReason | None = None
    phase: ServerState | None = None
    counts: frozenset[tuple[int, int]] = frozenset()  # (found, needed)


def outcome(session, plan):
    """What must come of `plan`: (phase, sum) → the clients that fall silent there. From sets, phase by phase."""
    t, finished = session.threshold, []
    graphs = [all_neighbors(session, number) for number in range(len(session.sums))]

    def short(reason, phase, floor, members, around, number=0):
        counts = {(len(members), floor)}
        counts |= {(len(members & {client, *graphs[number][client]}), t) for client in around}
        counts = {(found, needed) for found, needed in counts if found < needed}
        return Outcome(tuple(finished), reason, phase, frozenset(counts)) if counts else None

    def gone(phase, number=0):
        return set(plan.get((phase, number), ()))

    present = set(session.client_ids)
    for phase in (ADVERTISE, SHARE):
        present -= gone(phase)
        for number in range(len(session.sums)):
            ended = short(AbortReason.TOO_FEW, phase, session.min_survivors, present, present, number)
            if ended:
                return ended
    for number in range(len(session.sums)):
        partial = present & gone(PARTIAL, number)
        survivors = present - gone(INPUT, number) - partial
        if partial:
            counts = frozenset({(len(survivors), len(survivors) + len(partial))})
            return Outcome(tuple(finished), AbortReason.PARTIAL_UPLOAD, INPUT, counts)
        touched = {client for client in present if survivors & {client, *graphs[number][client]}}  # will be opened
        ended = short(AbortReason.TOO_FEW, INPUT, session.min_survivors, survivors, touched, number)
        answering = survivors
        for phase in (CHECK, UNMASK):
            answering = answering - gone(phase, number)
            ended = ended or short(AbortReason.TOO_FEW, phase, t, answering, touched, number)
        if ended:
            return ended
        finished.append(tuple(sorted(survivors)))
    return Outcome(tuple(finished))


@functools.cache
def saved_before(session, number):
    """Everybody's saved state before one sum, nobody having left before."""
    network = Network(session=session, policy=AnyGraph())
    network.from_clients({client_id: client.start() for client_id, client in network.clients.items()})
    for _ in range(number):
        network.run_sum()
    assert network.server.state is ServerState.READY
    return network.server.save(), {client_id: client.save() for client_id, client in network.clients.items()}


def run(session, plan):
    """The network under a plan of drops; what comes before the first of them is taken from saved state."""
    first = min((number for _, number in plan), default=0)
    network = Network(session=session, policy=AnyGraph(), drops={at: plan[at] for at in plan if at[0] is not PARTIAL})

    def cut(way, client, payload):
        is_second_chunk = way == "up" and payload[1] == MessageType.MASKED_INPUT and payload[41] > 0
        return None if is_second_chunk and client in plan.get((PARTIAL, len(network.totals)), ()) else payload

    network.tamper = cut
    if {phase for phase, _ in plan} & {ADVERTISE, SHARE}:
        return network.run()
    server, clients = saved_before(session, first)
    network.server = Server.restore(server, session, identity("server"))
    network.clients = {
        client_id: Client.restore(blob, session, identity(client_id), policy=AnyGraph())
        for client_id, blob in clients.items()
    }
    for number in range(first):
        network.totals.append(network.expected(number, session.client_ids))
        network.survivors.append(session.client_ids)
    while network.server.state is ServerState.READY:
        network.run_sum()
    return network


def assert_as_expected(session, plan):
    """secagg.md P2: exact or nothing."""
    network, expected = run(session, plan), outcome(session, plan)
    assert tuple(network.survivors[-len(network.totals) :] if network.totals else ()) == expected.survivors
    for number, survivors in enumerate(expected.survivors):
        assert network.totals[number] == network.expected(number, survivors)
    if expected.reason is None:
        assert network.aborted is None
        assert network.server.state is ServerState.FINISHED
        return network
    assert network.server.state is ServerState.ABORTED
    aborts = [event for _, event in network.events if isinstance(event, Aborted)]
    assert len(set(aborts)) == 1  # server and clients say the same
    found = aborts[0]
    assert (found.reason, found.phase, found.sum_index) == (expected.reason, expected.phase, len(expected.survivors))
    assert (found.found, found.needed) in expected.counts
    if expected.phase is not UNMASK:
        started = len(expected.survivors)
        shown = [payload for way, _, payload in network.transcript if way == "up" and payload[1] == MessageType.UNMASK]
        assert all(int.from_bytes(payload[36:38], "big") < started for payload in shown)
    return network


def subsets(clients):
    return itertools.chain.from_iterable(itertools.combinations(clients, size) for size in range(len(clients) + 1))


SMALL = {
    **{f"complete {n}": make_session(n) for n in (3, 4, 5, 6)},
    "complete 5, all must stay": make_session(5, min_survivors=5),
    "ring of 5": make_session(5, degree=2, threshold=2, min_survivors=3),
}
PHASES_AND_SUMS = [(ADVERTISE, 0), (SHARE, 0), *itertools.product([INPUT, PARTIAL, CHECK, UNMASK], [0, 1])]


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize(("phase", "number"), PHASES_AND_SUMS)
def test_any_subset_may_leave_at_any_phase_of_any_sum(name, phase, number):
    """Those who leave in the first sum are back in the second."""
    session = SMALL[name]
    for dropped in subsets(session.client_ids):
        assert_as_expected(session, {(phase, number): dropped})


@pytest.mark.parametrize(
    ("name", "phases"),
    [
        ("complete 4", (ADVERTISE, SHARE)),
        ("ring of 5", (ADVERTISE, SHARE)),
        ("complete 4", (INPUT, CHECK, UNMASK)),
    ],
)
def test_every_client_may_leave_at_a_phase_of_its_own(name, phases):
    """All plans for the set-up, and all for one sum."""
    session = SMALL[name]
    for when in itertools.product([None, *phases], repeat=session.num_clients):
        leaves = dict(zip(session.client_ids, when, strict=True))
        assert_as_expected(session, {(phase, 0): [c for c in leaves if leaves[c] is phase] for phase in phases})


@pytest.mark.parametrize("which", range(4))
def test_random_plans_over_all_phases_and_three_sums(which):
    session, endings = THREE_SUMS[which], set()
    for seed in range(15):
        rng = random.Random(seed)
        rate = rng.choice([0.02, 0.05, 0.1])
        phases = (INPUT, CHECK, UNMASK, *([PARTIAL] if rng.random() < 0.1 else []))
        plan = {
            (phase, number): [client for client in session.client_ids if rng.random() < rate]
            for phase, number in [(ADVERTISE, 0), (SHARE, 0), *itertools.product(phases, range(3))]
        }
        endings.add(assert_as_expected(session, plan).server.state)
    assert endings == {ServerState.FINISHED, ServerState.ABORTED}


THREE_SUMS = [
    make_session(4, 3),
    make_session(6, 3),
    make_session(8, 3, degree=4, threshold=3, min_survivors=4),
    make_session(9, 3, degree=2, threshold=2, min_survivors=4),
]


def test_a_client_that_missed_a_sum_takes_part_in_the_next():
    """secagg.md, "Coming back", from every place where a client can fall behind."""
    session = make_session(5, 3)
    for phase in (INPUT, CHECK, UNMASK):
        network = assert_as_expected(session, {(phase, 0): (2,), (phase, 1): (5,)})
        for number, absent in ((0, 2), (1, 5)):
            took_part = absent in network.survivors[number]
            assert took_part is (phase is not INPUT)
        assert network.survivors[2] == (1, 2, 3, 4, 5)
        finished = {(who, event.sum_index) for who, event in network.events if isinstance(event, SumFinished)}
        assert finished == {(who, number) for who in range(6) for number in range(3)} - {(2, 0), (5, 1)}


LARGE = {
    "complete 100": make_session(100, 1),
    "regular 101": make_session(101, 1),
}


@pytest.mark.parametrize("name", LARGE)
def test_a_hundred_clients_lose_some_at_every_phase(name):
    """Seeded: a few leave at each phase, as many in all as the session withstands."""
    session, rng = LARGE[name], random.Random(name)
    spare = session.num_clients - session.min_survivors
    leaving = rng.sample(session.client_ids, spare)
    phases = (ADVERTISE, SHARE, INPUT)
    plan = {(phase, 0): leaving[at :: len(phases)] for at, phase in enumerate(phases)}
    staying = [client for client in session.client_ids if client not in leaving]
    late = rng.sample(staying, 6) if not session.is_complete else []
    plan |= {(CHECK, 0): late[::2], (UNMASK, 0): late[1::2]}
    network = assert_as_expected(session, plan)
    assert network.survivors == [tuple(staying)]


@pytest.mark.parametrize("name", LARGE)
def test_one_client_too_few_of_a_hundred_is_an_abort(name):
    session = LARGE[name]
    gone = session.client_ids[: session.num_clients - session.min_survivors + 1]
    network = assert_as_expected(session, {(ADVERTISE, 0): gone})
    assert network.aborted.needed == session.min_survivors == network.aborted.found + 1
