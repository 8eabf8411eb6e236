"""The example that sums in place of SecAgg+: both of its apps as they are shipped, over a grid in this process."""

import importlib
import os
import sys

import numpy as np
import pytest
from flower_grid import InProcessGrid
from flower_sums import ATTACKS, EXAMPLE, MALICIOUS, ROUNDS, Example, averaged, told
from flwr.app import Context, RecordDict

from collabsecure.errors import SumAborted
from collabsecure.integrations import flower
from collabsecure.integrations.node import SumNode
from collabsecure.integrations.stores import MemoryStore
from collabsecure_cli.identity import load_identity
from collabsecure_protocols import Policy

NODES = (101, 1 << 63, 103)
FOUR = (*NODES, 104)


@pytest.fixture
def apps(monkeypatch):
    """The example's modules; its package is nobody else's afterwards."""
    monkeypatch.syspath_prepend(str(EXAMPLE))
    yield tuple(importlib.import_module(name) for name in ("secure_fedavg.client_app", "secure_fedavg.server_app"))
    for name in [name for name in sys.modules if name.startswith("secure_fedavg")]:
        del sys.modules[name]


@pytest.fixture
def example(tmp_path, apps):
    sys.modules.pop("make_session", None)
    seconds = {"train-seconds": 10.0, "phase-seconds": 10.0, "upload-seconds": 10.0, "request-seconds": 10.0}
    return Example(tmp_path / "example", **seconds)


def context_of(example):
    return Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config=example.config)


def in_process(example, monkeypatch, client_app, nodes=NODES):
    """A grid whose nodes have a client each; each message meets a new one, made from what the last one kept."""
    stores = {node: MemoryStore() for node in nodes}
    identities = dict(zip(nodes, (load_identity(example.key(name)) for name in example.names), strict=True))

    def side(context):
        node = context.node_id
        return SumNode(example.session, identities[node], policy=Policy(), store=stores[node], rng=os.urandom)

    monkeypatch.setattr(flower, "daemon", side)
    return InProcessGrid(lambda: client_app.app, nodes, {node: {"partition-id": i} for i, node in enumerate(nodes)})


def test_the_average_is_that_of_fedavg_in_the_clear(example, apps, monkeypatch, capsys):
    client_app, server_app = apps
    grid = in_process(example, monkeypatch, client_app)
    server_app.app(grid, context_of(example))
    model = example.model
    np.testing.assert_allclose(model, averaged(client_app, [range(3)] * ROUNDS), rtol=0, atol=1e-9)
    np.testing.assert_allclose(model, np.arange(8.0), atol=0.1)
    assert "round 3 is summed over clients 1, 2, 3" in capsys.readouterr().out


def test_requests_that_are_lost_or_repeated_change_nothing(example, apps, monkeypatch):
    client_app, server_app = apps
    grid = in_process(example, monkeypatch, client_app)
    grid.fault = lambda node, number: ("error" if number % 9 == 8 else "repeated") if grid.is_ours else None
    server_app.app(grid, context_of(example))
    model = example.model
    np.testing.assert_allclose(model, averaged(client_app, [range(3)] * ROUNDS), rtol=0, atol=1e-9)


def test_direct_mode_gives_the_same_and_says_what_it_is(example, apps, tmp_path, caplog, monkeypatch):
    client_app, server_app = apps
    keys = dict(zip(NODES, map(example.key, example.names), strict=True))
    direct = flower.Direct(
        example.session,
        lambda context: load_identity(keys[context.node_id]),
        policy=Policy(),
        folder=lambda context: tmp_path / f"state-{context.node_id}",
    )
    monkeypatch.setattr(flower, "daemon", direct)
    grid = InProcessGrid(lambda: client_app.app, NODES, {node: {"partition-id": i} for i, node in enumerate(NODES)})
    server_app.app(grid, context_of(example))
    model = example.model
    np.testing.assert_allclose(model, averaged(client_app, [range(3)] * ROUNDS), rtol=0, atol=1e-9)
    assert "whoever ships the app has them" in caplog.text


def test_a_server_app_that_shows_one_node_another_model_gets_no_sum_with_its_part(example, apps, monkeypatch, capsys):
    client_app, server_app = apps
    grid = in_process(example, monkeypatch, client_app)
    configure = server_app.SecureFedAvg.configure_train

    def another_for_one(self, *arguments):
        messages = list(configure(self, *arguments))
        model = messages[0].content.array_records["arrays"]["model"].numpy()
        changed = server_app.ArrayRecord({"model": server_app.Array(model + 1.0)})
        messages[0].content = RecordDict({**messages[0].content, "arrays": changed})
        return messages

    monkeypatch.setattr(server_app.SecureFedAvg, "configure_train", another_for_one)
    with pytest.raises(SumAborted, match="2 clients"):
        server_app.app(grid, context_of(example))
    assert "V21" in capsys.readouterr().out


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_malicious_server_app_is_refused_by_the_nodes(apps, tmp_path, monkeypatch, capsys, attack):
    sys.modules.pop("make_session", None)
    monkeypatch.syspath_prepend(str(MALICIOUS))
    client_app, server_app = (importlib.import_module(f"malicious_sums.{name}_app") for name in ("client", "server"))
    example = Example(tmp_path / "example", clients=4, rounds=1, attack=attack)
    grid = in_process(example, monkeypatch, client_app, FOUR)
    server_app.app(grid, context_of(example))
    assert told(capsys.readouterr().out) == ATTACKS[attack]
