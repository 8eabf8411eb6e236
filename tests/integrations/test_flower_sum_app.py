"""The example that sums in place of SecAgg+: both of its apps as they are shipped, over a grid in this process."""

import importlib
import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from flower_grid import InProcessGrid
from flwr.app import Context, RecordDict

from collabsecure.errors import SumAborted
from collabsecure.integrations import flower
from collabsecure.integrations.node import SumNode
from collabsecure.integrations.stores import MemoryStore
from collabsecure_cli.main import main
from collabsecure_cli.session import load_session
from collabsecure_protocols import Policy

EXAMPLE = Path(__file__).parents[2] / "examples" / "flower" / "sum"
NODES = (101, 1 << 63, 103)
ROUNDS = 3


@pytest.fixture
def apps(monkeypatch):
    """The example's modules; its package is nobody else's afterwards."""
    monkeypatch.syspath_prepend(str(EXAMPLE))
    yield tuple(importlib.import_module(name) for name in ("secure_fedavg.client_app", "secure_fedavg.server_app"))
    for name in [name for name in sys.modules if name.startswith("secure_fedavg")]:
        del sys.modules[name]


class Example:
    """Keys, a roster and a session made as the README says, and what a run is told."""

    def __init__(self, folder, run):
        names = ("sum-server", "alice", "bob", "carol")
        lines = [run("identity", "new", "--out", folder / f"{name}.key") for name in names]
        roster = folder / "roster.toml"
        roster.write_text(f"[server]\n{lines[0]}\n[clients]\n" + "\n".join(lines[1:]))
        sys.modules.pop("make_session", None)
        importlib.import_module("make_session").main(str(roster), str(folder / "session.json"))
        self.session = load_session(folder / "session.json")
        self.keys = [folder / f"{name}.key" for name in names[1:]]
        self.config = {
            "session": str(folder / "session.json"),
            "key": str(folder / "sum-server.key"),
            "rounds": ROUNDS,
            "out": str(folder / "model.npz"),
            "train-seconds": 10.0,
            "phase-seconds": 10.0,
            "upload-seconds": 10.0,
        }

    def context(self):
        return Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config=self.config)


@pytest.fixture
def example(tmp_path, apps, capsys):
    def run(*arguments):
        main([*map(str, arguments)], standalone_mode=False)
        return re.search(r'^\S+ = "ed25519:\w+"$', capsys.readouterr().out, re.M)[0]

    return Example(tmp_path, run)


def averaged(client_app, survivors_by_round):
    """What FedAvg in the clear gives."""
    model = np.zeros(8)
    for survivors in survivors_by_round:
        parts = [client_app.data(node) for node in survivors]
        trained = [client_app.descend(model, *part) * len(part[1]) for part in parts]
        model = np.sum(trained, axis=0) / sum(len(targets) for _, targets in parts)
    return model


def in_process(example, monkeypatch, client_app):
    """A grid whose nodes have a client each; each message meets a new one, made from what the last one kept."""
    stores = {node: MemoryStore() for node in NODES}
    identities = dict(zip(NODES, map(loaded, example.keys), strict=True))

    def side(context):
        node = context.node_id
        return SumNode(example.session, identities[node], policy=Policy(), store=stores[node], rng=os.urandom)

    monkeypatch.setattr(flower, "daemon", side)
    return InProcessGrid(lambda: client_app.app, NODES, {node: {"partition-id": i} for i, node in enumerate(NODES)})


def loaded(path):
    from collabsecure_cli.identity import load_identity

    return load_identity(path)


def test_the_average_is_that_of_fedavg_in_the_clear(example, apps, monkeypatch, capsys):
    client_app, server_app = apps
    grid = in_process(example, monkeypatch, client_app)
    server_app.app(grid, example.context())
    model = np.load(example.config["out"])["model"]
    np.testing.assert_allclose(model, averaged(client_app, [range(3)] * ROUNDS), rtol=0, atol=1e-9)
    np.testing.assert_allclose(model, np.arange(8.0), atol=0.1)
    assert "round 3 is summed over clients 1, 2, 3" in capsys.readouterr().out


def test_requests_that_are_lost_or_repeated_change_nothing(example, apps, monkeypatch):
    client_app, server_app = apps
    grid = in_process(example, monkeypatch, client_app)
    grid.fault = lambda node, number: ("error" if number % 9 == 8 else "repeated") if grid.is_ours else None
    server_app.app(grid, example.context())
    model = np.load(example.config["out"])["model"]
    np.testing.assert_allclose(model, averaged(client_app, [range(3)] * ROUNDS), rtol=0, atol=1e-9)


def test_direct_mode_gives_the_same_and_says_what_it_is(example, apps, tmp_path, caplog, monkeypatch):
    client_app, server_app = apps
    keys = dict(zip(NODES, example.keys, strict=True))
    direct = flower.Direct(
        example.session,
        lambda context: loaded(keys[context.node_id]),
        policy=Policy(),
        folder=lambda context: tmp_path / f"state-{context.node_id}",
    )
    monkeypatch.setattr(flower, "daemon", direct)
    grid = InProcessGrid(lambda: client_app.app, NODES, {node: {"partition-id": i} for i, node in enumerate(NODES)})
    server_app.app(grid, example.context())
    model = np.load(example.config["out"])["model"]
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
        server_app.app(grid, example.context())
    assert "V21" in capsys.readouterr().out
