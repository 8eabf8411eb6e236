"""The Flower adapter over a grid in this process; the real processes are in test_flower_deployment.py."""

import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

import click
import numpy as np
import pytest
from flower_grid import InProcessGrid
from flwr.app import Message, RecordDict
from flwr.clientapp import ClientApp

from collabsecure.integrations import flower
from collabsecure.integrations.exchange import Hello, Refused, decode_reply, encode
from collabsecure.integrations.host import Arrived, Host, ValuesNeeded
from collabsecure_cli.main import main
from collabsecure_protocols import ValueRefused

READMES = sorted((Path(__file__).parents[2] / "examples" / "flower").glob("*/README.md"))
NODES = (7, 1 << 63, 11)  # Flower's ids are of 64 bits
HELLO = encode(Hello(transcript=bytes(32)))


class Echo:
    """A side that says back what it was told, and which node it is."""

    def __init__(self, node):
        self.node = node

    def answer(self, request):
        return b"%d: " % self.node + request

    def give(self, sum_name, values, **_):
        raise AssertionError


class Asking:
    """A side that needs values once."""

    def __init__(self, values=None, error=None):
        self.values, self.error = values, error

    def answer(self, request):
        if self.values is None:
            raise ValuesNeeded("round 1")
        return b"thanks"

    def give(self, sum_name, values, **_):
        if self.error:
            raise self.error
        self.values = values


class EchoOf(Echo):
    """A class is a way to make a side, too."""

    def __init__(self, context):
        super().__init__(context.node_id)


def echoing():
    app = ClientApp()
    flower.register(app, EchoOf)
    return app


def with_side(side, values=None):
    def make():
        app = ClientApp()
        flower.register(app, side, values=values)
        return app

    return make


def asked(host, request=HELLO, nodes=NODES):
    for node in nodes:
        host.send(node, request)
    arrived = {}
    while len(arrived) < len(nodes):
        found = host.receive(5.0)
        assert found
        arrived.update({each.node: each.reply for each in found})
    return arrived


def test_the_package_does_not_import_flower():
    code = "import sys, collabsecure.integrations.host, collabsecure_protocols; sys.exit('flwr' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_node_gets_its_request_and_its_reply_comes_back():
    host = flower.GridHost(InProcessGrid(echoing, NODES))
    assert isinstance(host, Host)
    assert list(host.nodes()) == list(NODES)
    assert asked(host, b"\x00request\xff") == {node: b"%d: \x00request\xff" % node for node in NODES}


def test_an_empty_request_and_one_of_many_megabytes_arrive_whole():
    grid = InProcessGrid(echoing, NODES)
    host = flower.GridHost(grid)
    for request in (b"", np.random.default_rng(0).bytes((16 << 20) + 1)):
        assert asked(host, request)[7] == b"7: " + request
    assert grid.largest < 6 << 20  # in objects of 5 MiB, so that nobody holds more than a few beside the whole


@pytest.mark.parametrize("fault", ["error", "lost"])
def test_a_request_that_flower_gives_up_on_may_be_sent_again(fault):
    grid = InProcessGrid(echoing, NODES)
    host = flower.GridHost(grid, seconds=0.2)
    grid.fault = lambda node, number: fault if number == 0 else None
    host.send(7, HELLO)
    assert list(host.receive(5.0)) == [Arrived(node=7, reply=None)]
    assert asked(host)[7] == b"7: " + HELLO


def test_what_a_node_s_app_says_when_it_fails_is_told_cut_and_printable(caplog):
    class Rude(Exception):
        __repr__ = lambda self: "\x1b[2J all is well" + 1000 * "."  # noqa: E731

    def rude():
        app = ClientApp()

        @app.query(flower.ACTION)
        def answer(message, context):
            raise Rude

        return app

    assert asked(flower.GridHost(InProcessGrid(rude, (7,))), nodes=(7,)) == {7: None}
    assert "all is well" in caplog.text
    assert all(line.isprintable() and len(line) < 500 for line in caplog.text.splitlines())


def test_a_reply_that_comes_too_late_is_nobodys():
    grid = InProcessGrid(echoing, NODES)
    host = flower.GridHost(grid, seconds=0.05)
    pull, grid.pull_messages = grid.pull_messages, lambda ids: []
    host.send(7, b"first")
    assert list(host.receive(5.0)) == [Arrived(node=7, reply=None)]
    grid.pull_messages = lambda ids: pull(list(grid._pushed))  # whatever there is, asked for or not
    host.send(11, b"second")
    assert list(host.receive(5.0)) == [Arrived(node=11, reply=b"11: second")]


def test_a_message_that_the_superlink_would_not_take_is_lost():
    grid = InProcessGrid(echoing, NODES)
    host = flower.GridHost(grid)
    for refused in ([None], []):
        grid.push_messages = lambda messages, refused=refused: refused
        host.send(7, HELLO)
        assert list(host.receive(0.0)) == [Arrived(node=7, reply=None)]


def test_receive_waits_no_longer_than_it_was_told():
    host = flower.GridHost(InProcessGrid(echoing, NODES))
    start = time.monotonic()
    assert list(host.receive(0.2)) == []
    assert 0.2 <= time.monotonic() - start < 2


def test_an_app_of_other_peoples_does_not_answer():
    for app in (ClientApp, foreign_app):
        host = flower.GridHost(InProcessGrid(app, [7]))
        assert asked(host, nodes=[7]) == {7: None}


def foreign_app():
    app = ClientApp()

    @app.query(flower.ACTION)
    def answer(message, context):
        return Message(RecordDict(), reply_to=message)

    return app


def test_the_apps_other_actions_stay():
    app = echoing()

    @app.train()
    def train(message, context):
        return Message(RecordDict(), reply_to=message)

    grid = InProcessGrid(lambda: app, [7])
    (reply,) = grid.send_and_receive([Message(RecordDict(), 7, "train")])
    assert reply.has_content()


def test_a_message_without_a_request_is_refused():
    grid = InProcessGrid(echoing, [7])
    (reply,) = grid.send_and_receive([Message(RecordDict(), 7, f"query.{flower.ACTION}")])
    assert "expected one sent by collabsecure" in decode_reply(flower._unpack(reply.content)).reason


def test_values_are_asked_for_once_and_by_the_nodes_own_context():
    side, calls = Asking(), []

    def values(context, name):
        calls.append((context.node_id, name))
        return {"x": np.ones(3)}

    host = flower.GridHost(InProcessGrid(with_side(side, values), [7]))
    assert asked(host, nodes=[7]) == asked(host, nodes=[7]) == {7: b"thanks"}
    assert calls == [(7, "round 1")]
    np.testing.assert_array_equal(side.values["x"], np.ones(3))


def test_an_app_without_values_says_so():
    host = flower.GridHost(InProcessGrid(with_side(Asking()), [7]))
    reply = decode_reply(asked(host, nodes=[7])[7])
    assert reply == Refused(
        check="", reason="the values of sum 'round 1' are needed first, and this node's app has none to give"
    )


def test_refused_values_stay_at_home(caplog):
    side = Asking(error=ValueRefused("x", "found 1234.5; expected at most 100"))
    host = flower.GridHost(InProcessGrid(with_side(side, lambda context, name: {"x": np.ones(1)}), [7]))
    reply = asked(host, nodes=[7])[7]
    assert b"1234.5" not in reply
    assert "outside the session's ranges" in decode_reply(reply).reason
    assert "1234.5" in caplog.text


def test_a_node_without_a_daemon_answers_nothing_and_its_log_says_what_to_do(caplog, monkeypatch, tmp_path):
    monkeypatch.delenv(flower.ENVIRONMENT, raising=False)
    grid = InProcessGrid(with_side(None), [7, 8], {8: {flower.SOCKET: str(tmp_path / "daemon.sock")}})
    assert asked(flower.GridHost(grid), nodes=[7, 8]) == {7: None, 8: None}
    assert "--node-config" in caplog.text
    assert "collabsecure client --daemon" in caplog.text
    told = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert not any(str(tmp_path) in line for line in told)  # what Flower brought to the server app


def test_values_that_are_given_early_reach_the_side():
    side = Asking()
    grid = InProcessGrid(echoing, [7])
    flower.give(grid.contexts[7], "round 1", {"x": np.ones(3)}, side=lambda context: side)
    np.testing.assert_array_equal(side.values["x"], np.ones(3))


def test_what_is_wrong_with_values_that_were_given_is_not_in_the_error_that_flower_sends(caplog):
    grid = InProcessGrid(echoing, [7])
    side = Asking(error=ValueRefused("x", "found 1234.5; expected at most 100"))
    with pytest.raises(flower.NotAnswered) as raised:
        flower.give(grid.contexts[7], "round 1", {"x": np.ones(1)}, side=side)
    assert "1234.5" not in str(raised.value)
    assert "1234.5" in caplog.text


def test_the_daemon_is_the_one_that_the_nodes_owner_names(monkeypatch):
    monkeypatch.setenv(flower.ENVIRONMENT, "/of/the/environment")
    contexts = InProcessGrid(echoing, [7, 8], {8: {flower.SOCKET: "/of/the/node"}}).contexts
    assert str(flower.daemon(contexts[7]).path) == "/of/the/environment"
    assert str(flower.daemon(contexts[8]).path) == "/of/the/node"
    contexts[8].run_config[flower.SOCKET] = "/of/the/run"  # of which whoever starts it has a say
    assert str(flower.daemon(contexts[8]).path) == "/of/the/node"


@pytest.mark.parametrize("page", READMES, ids=lambda page: page.parent.name)
def test_every_command_link_and_setting_of_an_examples_readme_exists(page):
    text = page.read_text(encoding="utf-8")
    settings = (page.parent / "pyproject.toml").read_text(encoding="utf-8")
    for command in re.findall(r"^\$ (collabsecure .+)$", text, re.M):
        found, arguments = main, shlex.split(command)[1:]
        while isinstance(found, click.Group):
            found = found.commands[arguments.pop(0)]
        known = {option for parameter in found.params for option in parameter.opts}
        assert {argument for argument in arguments if argument.startswith("--")} <= known
    for name in re.findall(r"([a-z-]+)=\"", "".join(re.findall(r"--run-config '(.*?)'", text))):
        assert re.search(rf"^{name} = ", settings, re.M)
    assert all((page.parent / link).exists() for link in re.findall(r"\]\(([^)]+)\)", text))
    assert len(READMES) == 2
