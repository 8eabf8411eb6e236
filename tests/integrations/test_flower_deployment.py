"""Sums in Flower as it is deployed: SuperLink, SuperNodes, daemons and apps are processes of their own.

Slow: `make test-integration`. Each test's time is in docs/embedding.md.
"""

import importlib
import sys
import time

import numpy as np
import pytest
from flower_processes import SETTLE_SECONDS, Deployment
from flower_sums import ATTACKS, EXAMPLE, MALICIOUS, ROUNDS, Example, averaged, told

pytestmark = pytest.mark.slow

NODES = 4
RUN_SECONDS = 400.0  # on two busy cores


@pytest.fixture(scope="module")
def deployment(tmp_path_factory):
    """Four nodes, each with the place of its data and of its daemon's socket."""
    folder = tmp_path_factory.mktemp("f")
    configs = [
        {"partition-id": str(node), "collabsecure-socket": str(folder / f"{node}.sock")} for node in range(NODES)
    ]
    with Deployment(folder / "flower", configs) as deployment:
        yield deployment


@pytest.fixture
def client_app(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLE))
    yield importlib.import_module("secure_fedavg.client_app")
    for name in [name for name in sys.modules if name.startswith("secure_fedavg") or name == "make_session"]:
        del sys.modules[name]


class Daemons:
    """Those of an example, each at its node's socket."""

    def __init__(self, example, deployment):
        self.example = example
        sockets = [config["collabsecure-socket"] for config in deployment.node_configs]
        self.processes = [example.start_daemon(name, sockets[node]) for node, name in enumerate(example.names)]

    def __enter__(self):
        ends = time.monotonic() + SETTLE_SECONDS
        while self.said().count("Listening on") < len(self.processes):
            assert time.monotonic() < ends, self.said()
            time.sleep(0.2)
        return self

    def __exit__(self, *_):
        for process in self.processes:
            process.kill()
            process.wait()

    def wait(self):
        """They end by themselves, and well."""
        assert [process.wait(60) for process in self.processes] == [0] * len(self.processes), self.said()

    def said(self):
        return "".join((self.example.folder / f"{name}.daemon.log").read_text() for name in self.example.names)


def test_the_example_averages_what_three_daemons_were_given(deployment, client_app, tmp_path):
    example = Example(tmp_path / "e")
    with Daemons(example, deployment) as daemons:
        run = deployment.run(EXAMPLE, example.config)
        status, log = deployment.wait(run, RUN_SECONDS)
        assert status == "finished:completed", log
        daemons.wait()
    np.testing.assert_allclose(example.model, averaged(client_app, [range(3)] * ROUNDS), rtol=0, atol=1e-9)


def test_a_supernode_killed_in_mid_run_may_come_back(deployment, client_app, tmp_path):
    example = Example(tmp_path / "e", clients=4, rounds=2)
    with Daemons(example, deployment) as daemons:
        run = deployment.run(EXAMPLE, example.config)
        deployment.says(run, "says that it is client 4", RUN_SECONDS)
        deployment.kill_node(3)
        deployment.bring_back(3)
        status, log = deployment.wait(run, RUN_SECONDS)
        assert status == "finished:completed", log
        daemons.wait()
    np.testing.assert_allclose(example.model, averaged(client_app, [range(4)] * 2), rtol=0, atol=1e-9, err_msg=log)


def test_a_supernode_killed_in_mid_run_is_gone_on_without(deployment, client_app, tmp_path):
    seconds = {"train-seconds": 90.0, "phase-seconds": 60.0, "upload-seconds": 60.0, "request-seconds": 20.0}
    example = Example(tmp_path / "e", clients=4, rounds=2, **seconds)
    with Daemons(example, deployment):
        run = deployment.run(EXAMPLE, example.config)
        deployment.says(run, "round 1 is summed", RUN_SECONDS)
        deployment.kill_node(3)
        status, log = deployment.wait(run, RUN_SECONDS)
        assert status == "finished:completed", log
    deployment.bring_back(3)
    assert "round 2 is summed over clients 1, 2, 3\n" in log
    np.testing.assert_allclose(
        example.model, averaged(client_app, [range(4), range(3)]), rtol=0, atol=1e-9, err_msg=log
    )


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_malicious_server_app_is_refused_by_the_daemons(deployment, client_app, tmp_path, attack):
    example = Example(tmp_path / "e", clients=4, rounds=1, attack=attack)
    with Daemons(example, deployment):
        status, log = deployment.wait(deployment.run(MALICIOUS, example.config), RUN_SECONDS)
    assert status == "finished:completed", log
    assert told(log) == ATTACKS[attack], log
