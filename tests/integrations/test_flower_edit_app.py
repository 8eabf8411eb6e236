"""The editing example: both of its apps as they are shipped, over a grid in this process, to a real aggregator."""

import importlib
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from carrying import carried, mailbox_of
from flower_grid import InProcessGrid
from flwr.app import Context, RecordDict
from light_session import aggregating, make_session, take_part

from collabsecure.integrations import flower

EXAMPLE = Path(__file__).parents[2] / "examples" / "flower" / "edit"
NODES = {101: 1, 1 << 63: 2, 103: 3}  # to which client each belongs


class Side:
    """What `relay.Daemon` is to an app, without a socket."""

    def __init__(self, mailbox):
        self.answer = mailbox.answer

    def give(self, sum_name, values, *, link=b""):
        raise AssertionError("no sum is edited")


@pytest.fixture
def apps(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLE))
    yield tuple(importlib.import_module(f"secure_editing.{name}_app") for name in ("client", "server"))
    for name in [name for name in sys.modules if name.startswith("secure_editing")]:
        del sys.modules[name]


def test_the_updates_are_the_networks_bit_for_bit_though_requests_are_lost_and_repeated(
    apps, tmp_path, monkeypatch, capsys
):
    client_app, server_app = apps
    light = make_session(num_clients=3)
    with aggregating(light, tmp_path / "network") as server:
        network = take_part(light, server.url, tmp_path / "by-network")
    mailboxes = {client: mailbox_of(light, client) for client in NODES.values()}
    monkeypatch.setattr(flower, "daemon", lambda context: Side(mailboxes[NODES[context.node_id]]))
    (tmp_path / "session.json").write_text(light.session.to_json())
    grid = InProcessGrid(lambda: client_app.app, NODES)
    grid.fault = lambda node, number: "error" if number % 11 == 10 else "repeated" if number % 3 == 0 else None
    with aggregating(light, tmp_path / "server") as server, ThreadPoolExecutor(3) as pool:
        parts = {
            client: pool.submit(carried, light, client, tmp_path / f"client-{client}", mailbox)
            for client, mailbox in mailboxes.items()
        }
        config = {
            "session": str(tmp_path / "session.json"),
            "aggregator": server.url,
            "ca": "",
            "patience": 30.0,
            "request-seconds": 30.0,
        }
        server_app.app(grid, Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config=config))
        found = {client: part.result() for client, part in parts.items()}
    assert "Done with clients 1, 2, 3" in capsys.readouterr().out
    for client, outcome in found.items():
        assert outcome.deltas.keys() == network[client].deltas.keys()
        for layer, delta in outcome.deltas.items():
            assert np.array_equal(delta, network[client].deltas[layer])
