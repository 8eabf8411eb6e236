"""Sums in NVFlare as it is deployed: server, sites, daemons and jobs are processes of their own.

Slow: `make test-integration`. Each test's time is in docs/embedding.md.
"""

import importlib.util
import time
from pathlib import Path

import numpy as np
import pytest
from flare_processes import Flare, simulate
from flower_sums import ROUNDS, Example, averaged

pytestmark = pytest.mark.slow

SUM = Path(__file__).parents[2] / "examples" / "nvflare" / "sum"
SITES = 4
RUN_SECONDS = 400.0  # on two busy cores


def module(path):
    """An example's file, under a name of its own."""
    spec = importlib.util.spec_from_file_location(f"nvflare_{path.stem}", path)
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


@pytest.fixture(scope="module")
def flare(tmp_path_factory):
    with Flare(tmp_path_factory.mktemp("f") / "flare", SITES) as flare:
        yield flare


@pytest.fixture
def secure_fedavg():
    return module(SUM / "secure_fedavg.py")


class Sum:
    """A run of the example: its session, and its clients' daemons, which listen."""

    def __init__(self, folder, clients):
        self.example = Example(folder / "e", clients, module(SUM / "make_session.py").main)
        self.sockets = folder / "s"
        self.sockets.mkdir(mode=0o700)
        self.daemons = [
            self.example.start_daemon(name, self.sockets / f"site-{number}.sock")
            for number, name in enumerate(self.example.names, 1)
        ]

    def __enter__(self):
        ends = time.monotonic() + 120
        while self.said().count("Listening on ") < len(self.daemons):
            assert time.monotonic() < ends, self.said()
            assert all(daemon.poll() is None for daemon in self.daemons), self.said()
            time.sleep(0.2)
        return self

    def __exit__(self, *_):
        for daemon in self.daemons:
            daemon.kill()
            daemon.wait()

    @property
    def arguments(self):
        config = self.example.config
        return (
            "--session",
            config["session"],
            "--key",
            config["key"],
            "--out",
            config["out"],
            "--sockets",
            self.sockets,
        )

    def wait(self, sites):
        """Their daemons end by themselves, and well."""
        assert [self.daemons[site].wait(60) for site in sites] == [0] * len(sites), self.said()

    def said(self):
        return "".join((self.example.folder / f"{name}.daemon.log").read_text() for name in self.example.names)


def test_the_example_averages_in_the_simulator(secure_fedavg, tmp_path):
    with Sum(tmp_path, 3) as sum_:
        log = simulate(tmp_path / "n", SUM / "secure_fedavg.py", *sum_.arguments, seconds=RUN_SECONDS)
        sum_.wait(range(3))
    expected = averaged(secure_fedavg, [range(3)] * ROUNDS)
    np.testing.assert_allclose(sum_.example.model, expected, rtol=0, atol=1e-9, err_msg=log)


def test_the_example_averages_what_four_sites_daemons_were_given(flare, secure_fedavg, tmp_path):
    with Sum(tmp_path, SITES) as sum_:
        script = flare.start(SUM / "secure_fedavg.py", *sum_.arguments)
        assert script.wait(RUN_SECONDS) == 0
        sum_.wait(range(SITES))
    expected = averaged(secure_fedavg, [range(SITES)] * ROUNDS)
    np.testing.assert_allclose(sum_.example.model, expected, rtol=0, atol=1e-9)
    assert flare.ended() == "FINISHED:COMPLETED"


def test_a_site_killed_in_mid_run_is_gone_on_without(flare, secure_fedavg, tmp_path):
    """NVFlare goes on as well, if all of the site's processes are gone; it calls the job running for minutes after."""
    with Sum(tmp_path, SITES) as sum_:
        flare.start(SUM / "secure_fedavg.py", *sum_.arguments, "--patience", 20)
        flare.says("Round 1: ", RUN_SECONDS)
        flare.kill_site("site-4")
        flare.says("Round 3: ", RUN_SECONDS)
        sum_.wait(range(3))
    expected = [averaged(secure_fedavg, [range(4), range(second), range(3)]) for second in (3, 4)]
    found = sum_.example.model  # the site may have uploaded to the second round before its end
    assert any(np.allclose(found, one, rtol=0, atol=1e-9) for one in expected), (found, expected)
