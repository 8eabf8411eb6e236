"""The graphs and Bell et al.'s bounds, against exact fractions and against what can be observed."""

import math
from fractions import Fraction

import numpy as np
import pytest
from harness import make_session
from scipy.stats import hypergeom

from collabsecure_protocols import GraphParameters, InvalidSession, choose
from collabsecure_protocols.graph import (
    COMPLETE_UP_TO,
    CORRECTNESS_BITS,
    SECURITY_BITS,
    _log2_hypergeometric,
    all_neighbors,
    is_correct,
    is_secure,
    neighbors_of,
    order,
)

FRACTIONS = {"corrupt_fraction": 0.2, "dropout_fraction": 0.2}


def connected(graph, alive):
    """Whether the graph's part on `alive` is connected."""
    alive = set(alive)
    seen, frontier = set(), {next(iter(alive))}
    while frontier:
        seen |= frontier
        frontier = {peer for client in frontier for peer in graph[client] if peer in alive} - seen
    return seen == alive


@pytest.mark.parametrize(("n", "changes"), [(2, {"threshold": 2, "min_survivors": 2}), (3, {}), (7, {}), (100, {})])
def test_on_the_complete_graph_everybody_is_everybody_elses_neighbour(n, changes):
    session = make_session(n, 1, **changes)
    assert all_neighbors(session, 0) == {
        client: tuple(other for other in range(1, n + 1) if other != client) for client in range(1, n + 1)
    }


@pytest.mark.parametrize(("n", "degree", "threshold"), [(5, 2, 2), (12, 6, 4), (101, 72, 37), (250, 80, 45)])
def test_a_regular_graph_is_symmetric_regular_and_connected(n, degree, threshold):
    session = make_session(n, 3, degree=degree, threshold=threshold)
    for number in range(3):
        graph = all_neighbors(session, number)
        assert sorted(graph) == list(range(1, n + 1))
        for client, peers in graph.items():
            assert len(peers) == len(set(peers)) == degree
            assert client not in peers
            assert list(peers) == sorted(peers)
            assert all(client in graph[peer] for peer in peers)
            assert peers == neighbors_of(session, number, client)
        assert connected(graph, graph)


def test_the_order_differs_by_sum_and_by_session_and_is_the_same_for_everybody():
    """secagg.md, "The k-regular graph": drawn from the transcript alone."""
    session = make_session(101, 3)
    orders = [order(session, number) for number in range(3)]
    assert len(set(orders)) == 3
    assert all(sorted(each) == list(session.client_ids) for each in orders)
    assert [order(make_session(101, 3), number) for number in range(3)] == orders
    assert order(make_session(101, 3, session_id=b"another session!"), 0) not in orders


def test_every_client_is_equally_likely_in_every_place():
    """χ² over 600 orders of 6 clients, 36 cells: 25 degrees of freedom, below the 1 − 1e-6 quantile."""
    places = np.zeros((6, 6))
    for number in range(200):
        session = make_session(6, 3, degree=4, threshold=4, session_id=number.to_bytes(16, "big"))
        for index in range(3):
            for place, client in enumerate(order(session, index)):
                places[place, client - 1] += 1
    assert ((places - 100) ** 2 / 100).sum() < 74.9  # scipy.stats.chi2.isf(1e-6, 25)


@pytest.mark.parametrize("n", [2, 3, 4, 5, 6, 10, 99, COMPLETE_UP_TO])
def test_small_sessions_get_the_complete_graph_and_more_than_two_thirds(n):
    assert choose(n) == GraphParameters(degree=n - 1, threshold=math.floor(Fraction(2 * n, 3)) + 1)


def tail(population, marked, draws, hits):
    """P[Hyp ∈ hits], term by term in exact fractions."""
    total = Fraction(0)
    for hit in hits:
        if hit <= marked and draws - hit <= population - marked:
            term = Fraction(math.comb(draws, hit))
            for at in range(hit):
                term *= Fraction(marked - at, population - at)
            for at in range(draws - hit):
                term *= Fraction(population - marked - at, population - hit - at)
            total += term
    return total


@pytest.mark.parametrize("hits", [range(20, 41), range(15), range(1), range(40, 41)])
def test_the_hypergeometric_tail_is_that_of_fractions_and_of_scipy(hits):
    ours = _log2_hypergeometric(300, 90, 40, hits)
    exact = tail(300, 90, 40, hits)
    assert ours == pytest.approx(math.log2(exact.numerator) - math.log2(exact.denominator), abs=1e-9)
    assert ours == pytest.approx(np.log2(hypergeom.pmf(list(hits), 300, 90, 40).sum()), abs=1e-6)


def failure(n, degree, threshold):
    """Bell et al.'s three events in exact fractions: insecure, incorrect."""
    corrupt, gone = math.floor(0.2 * n), Fraction(2, 5)
    captured = n * tail(n - 1, corrupt, degree, range(threshold, degree + 1))
    disconnected = n * gone ** (degree // 2)
    starved = n * tail(n - 1, n - 1 - math.floor(0.2 * n), degree, range(threshold))
    return captured + disconnected, starved


@pytest.mark.parametrize(("n", "num_sums"), [(101, 1), (101, 5), (150, 5), (300, 1), (1000, 5)])
def test_the_chosen_graph_meets_the_bounds_and_nothing_smaller_does(n, num_sums):
    chosen = choose(n, num_sums=num_sums)
    limit = Fraction(1, num_sums * 2**SECURITY_BITS), Fraction(1, 2**CORRECTNESS_BITS)
    insecure, starved = failure(n, chosen.degree, chosen.threshold)
    assert insecure <= limit[0]
    assert starved <= limit[1]
    assert 2 * chosen.threshold > chosen.degree + 1
    smaller = [(chosen.degree, threshold) for threshold in range(chosen.degree // 2 + 1, chosen.threshold)]
    smaller += [(chosen.degree - 2, threshold) for threshold in range(chosen.degree // 2, chosen.degree - 1)]
    for degree, threshold in smaller:
        insecure, starved = failure(n, degree, threshold)
        assert insecure > limit[0] or starved > limit[1]


def test_the_bounds_are_monotone():
    """More corruption, more sums or a lower threshold never help; fewer neighbours neither."""

    def secure(n=1000, degree=100, threshold=56, num_sums=1, **changes):
        return is_secure(n, degree, threshold, num_sums=num_sums, **{**FRACTIONS, **changes})

    assert secure()
    for weaker in (
        {"threshold": 50},
        {"degree": 40, "threshold": 22},
        {"corrupt_fraction": 0.45},
        {"dropout_fraction": 0.6},
        {"num_sums": 2**60},
    ):
        assert not secure(**weaker)
    by_threshold = [secure(threshold=threshold) for threshold in range(40, 101)]
    by_corruption = [secure(corrupt_fraction=percent / 100) for percent in range(50)]
    lowest = 40 + by_threshold.index(True)
    by_sums = [secure(threshold=lowest, num_sums=2**power) for power in range(40)]
    assert by_threshold == sorted(by_threshold)
    assert by_corruption == sorted(by_corruption, reverse=True)
    assert by_sums == sorted(by_sums, reverse=True)
    correct = [is_correct(1000, 100, threshold, dropout_fraction=0.2) for threshold in range(40, 101)]
    assert correct == sorted(correct, reverse=True)
    assert set(by_threshold) == set(by_corruption) == set(by_sums) == set(correct) == {True, False}


def test_two_quorums_never_fit_one_neighbourhood():
    assert not is_secure(10_000, 200, 100, num_sums=1, corrupt_fraction=0.0, dropout_fraction=0.0)
    assert is_secure(10_000, 200, 101, num_sums=1, corrupt_fraction=0.0, dropout_fraction=0.0)


def test_no_graph_is_an_error_and_not_a_weak_graph():
    with pytest.raises(InvalidSession, match=r"no graph on 101 clients withstands 40% corrupt and 40% dropped"):
        choose(101, corrupt_fraction=0.4, dropout_fraction=0.4)


@pytest.mark.parametrize(("n", "degree", "threshold"), [(30, 6, 4), (60, 10, 5)])
def test_weak_graphs_fail_no_more_often_than_the_bounds_say(n, degree, threshold):
    """Capture, starvation and disconnection in 1000 seeded draws: seen, and no more often than bounded.

    The bounds are unions over clients. The mean number of clients concerned is known exactly for capture and
    starvation, so the terms of the union are held from both sides, within four standard errors.
    """
    runs, rng = 1000, np.random.default_rng(2020)
    corrupt = gone = math.floor(0.2 * n)
    captured, starved, disconnected = np.zeros(runs), np.zeros(runs), np.zeros(runs)
    for run in range(runs):
        session = make_session(
            n, 1, degree=degree, threshold=threshold, session_id=run.to_bytes(16, "big"), min_survivors=3
        )
        graph = all_neighbors(session, 0)
        shuffled = rng.permutation(n) + 1
        bad, dropped = set(shuffled[:corrupt].tolist()), set(shuffled[corrupt : corrupt + gone].tolist())
        captured[run] = sum(len(bad & set(peers)) >= threshold for client, peers in graph.items() if client not in bad)
        starved[run] = sum(len(set(peers) - dropped) < threshold for peers in graph.values())
        disconnected[run] = not connected(graph, set(graph) - bad - dropped)

    def error(found):
        return 4 * found.std() / math.sqrt(runs)

    expected_captured = (n - corrupt) * float(tail(n - 1, corrupt, degree, range(threshold, degree + 1)))
    assert 0 < captured.mean() == pytest.approx(expected_captured, abs=error(captured))
    assert captured.astype(bool).mean() <= n * float(tail(n - 1, corrupt, degree, range(threshold, degree + 1)))
    expected_starved = (n - gone) * float(tail(n - 1, gone, degree, range(degree - threshold + 1, degree + 1)))
    expected_starved += gone * float(tail(n - 1, gone - 1, degree, range(degree - threshold + 1, degree + 1)))
    assert 0 < starved.mean() == pytest.approx(expected_starved, abs=error(starved))
    bound = n * float(tail(n - 1, n - 1 - gone, degree, range(threshold)))
    assert starved.astype(bool).mean() <= bound
    assert 0 < disconnected.mean() <= n * 0.4 ** (degree // 2)
