"""Networks that cut, delay, damage and repeat, and peers that dawdle: every session ends with the exact update."""

import pytest
from parties import free_port, running
from proxy import Cuts, Damage, DamagedBodies, Delays, Repeats, proxy, slow_lorises


@pytest.mark.parametrize("faults", [Cuts(), Damage(), Delays()], ids=lambda faults: type(faults).__name__)
def test_over_tls(parties, tmp_path, faults):
    port = free_port()
    with proxy(port, faults) as between, running(parties, "three", tmp_path / "run", port=port, through=between) as run:
        aggregator, clients = run.aggregate("--linger", "10s"), run.all_clients()
        run.finish(aggregator, clients)
        assert faults.count >= 8, "the faults never happened"
        assert run.check("alice", "bob", "carol") == {0: (1, 2, 3), 1: (1, 2, 3)}


@pytest.mark.parametrize("faults", [Cuts, DamagedBodies])
def test_over_plain_http(parties, tmp_path, faults):
    port, faults = free_port(), faults(seed=1)
    with (
        proxy(port, faults) as between,
        running(parties, "three", tmp_path / "run", port=port, through=between, tls=False) as run,
    ):
        aggregator, clients = run.aggregate("--linger", "10s"), run.all_clients()
        run.finish(aggregator, clients)
        assert faults.count >= 8, "the faults never happened"
        assert run.check("alice", "bob", "carol") == {0: (1, 2, 3), 1: (1, 2, 3)}


def test_repeated_requests_old_and_new_change_nothing_and_slow_peers_keep_nobody_out(parties, tmp_path):
    port = free_port()
    faults = Repeats(port=port)
    with (
        proxy(port, faults) as between,
        running(parties, "five", tmp_path / "run", port=port, through=between, tls=False) as run,
        slow_lorises(port, 20),
    ):
        aggregator, clients = run.aggregate("--linger", "10s"), run.all_clients()
        run.finish(aggregator, clients)
        for thread in faults.threads:
            thread.join(10)
        assert faults.count > 60
        assert set(faults.statuses) <= {"204", "400", "409", "410", "429"}, faults.statuses
        assert "204" in faults.statuses
        assert run.check(*clients) == dict.fromkeys((0, 1), (1, 2, 3, 4, 5))
