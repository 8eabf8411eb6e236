"""The adapter for NVFlare, against its own proxies and client apps in this process."""

import json
import logging
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from collab_sites import Lost, Sites
from memory_host import exact_sum, identity, made_session, made_values
from nvflare.collab import CollabCallError, collab
from nvflare.collab.api.exceptions import RunAborted

from collabsecure.integrations.exchange import SHARD_BYTES, Refused, Wait, decode_reply, encode
from collabsecure.integrations.host import Answering, Host, ValuesNeeded
from collabsecure.integrations.nvflare import (
    ENVIRONMENT,
    SOCKET,
    ClientActions,
    CollabHost,
    NotAnswered,
    SecureSum,
    direct,
)
from collabsecure.integrations.relay import Daemon
from collabsecure_protocols import Policy, ValueRefused

NAMES = ("site-1", "site-2", "site-3")


class Echo:
    """Answers with what it was asked, and wants values before it answers b"values"."""

    def __init__(self, name):
        self.name, self.given, self.asked = name, {}, []

    def answer(self, request):
        self.asked.append(request)
        if request.startswith(b"values") and not self.given:
            raise ValuesNeeded("round 1")
        if request == b"large":
            return bytes(SHARD_BYTES // 8)
        return self.name.encode() + b":" + request

    def give(self, sum_name, values, *, link=bytes(32)):
        if any(not np.isfinite(array).all() for array in values.values()):
            raise ValueRefused("weights", "expected finite values, found 1.25 beside NaN")
        self.given[sum_name] = values


class Site(ClientActions):
    def __init__(self, name):
        super().__init__()
        self.echo = Echo(name)

    def side(self):
        return self.echo


class Training(Site):
    def values(self, sum_name):
        return {"weights": np.arange(3.0)}


def received(host, number, seconds=20.0):
    arrived, ends = [], time.monotonic() + seconds
    while len(arrived) < number and time.monotonic() < ends:
        arrived += host.receive(1.0)
    return {item.node: item.reply for item in arrived}


def asked(sites, request, number=None):
    host = CollabHost(sites.proxies, seconds=5.0)
    for node in host.nodes()[:number]:
        host.send(node, request)
    return received(host, number or len(host.nodes()))


def test_every_site_gets_its_request_and_its_reply_comes_back():
    sites = Sites(Site, NAMES)
    host = CollabHost(sites.proxies)
    assert isinstance(host, Host)
    assert host.nodes() == NAMES
    assert asked(sites, b"hello") == {name: name.encode() + b":hello" for name in NAMES}


def test_a_shard_travels_as_bytes():
    reply = asked(Sites(Site, NAMES[:1]), b"large")["site-1"]
    assert isinstance(reply, bytes)
    assert reply == bytes(SHARD_BYTES // 8)


def test_receive_waits_no_longer_than_it_is_told():
    host = CollabHost(Sites(Site, NAMES).proxies)
    began = time.monotonic()
    assert host.receive(0.0) == []
    assert host.receive(0.2) == []
    assert 0.2 <= time.monotonic() - began < 2.0


def test_what_nvflare_loses_or_a_site_raises_is_a_lost_request_and_no_more():
    sites = Sites(Site, NAMES)

    def fault(site, number):
        if site == "site-1" and number == 0:
            raise Lost

    sites.fault = fault
    sites.apps["site-2"].client.echo.answer = None  # whatever is wrong there
    host = CollabHost(sites.proxies, seconds=0.5)
    for node in NAMES:
        host.send(node, b"x")
    assert received(host, 3) == {"site-1": None, "site-2": None, "site-3": b"site-3:x"}
    host.send("site-1", b"x")
    assert received(host, 1) == {"site-1": b"site-1:x"}


def test_a_site_of_other_software_is_a_lost_request():
    sites = Sites(lambda name: object() if name == "site-1" else Site(name), NAMES)
    assert asked(sites, b"x")["site-1"] is None


def test_the_end_of_a_job_ends_the_wait():
    sites = Sites(Site, NAMES)
    never = threading.Event()
    sites.fault = lambda site, number: never.wait(20)
    host = CollabHost(sites.proxies, seconds=20.0)
    host.send("site-1", b"x")
    sites.abort.trigger("somebody ended it")
    with pytest.raises(RunAborted):
        host.receive(10.0)
    never.set()


def test_values_are_asked_for_when_the_side_needs_them():
    sites = Sites(Training, NAMES[:2])
    assert asked(sites, b"values")["site-2"] == b"site-2:values"
    np.testing.assert_array_equal(sites.apps["site-1"].client.echo.given["round 1"]["weights"], np.arange(3.0))
    assert sites.apps["site-1"].client.echo.asked == [b"values", b"values"]


def test_a_job_without_values_says_so():
    reply = decode_reply(asked(Sites(Site, NAMES[:1]), b"values")["site-1"])
    assert isinstance(reply, Refused)
    assert "this site's job has none to give" in reply.reason


def test_refused_values_stay_at_the_site(caplog):
    """And out of its log, which NVFlare may stream to the server."""

    class Broken(Site):
        def values(self, sum_name):
            return {"weights": np.array([1.25, np.nan])}

        @collab.publish
        def train(self):
            self.give("round 1", self.values("round 1"))

    caplog.set_level(logging.INFO)
    sites = Sites(Broken, NAMES[:1])
    reply = decode_reply(asked(sites, b"values")["site-1"])
    assert isinstance(reply, Refused)
    with pytest.raises(CollabCallError) as told:
        sites.proxies[0].train()
    assert "1.25" not in reply.reason + str(told.value) + caplog.text
    assert "Values of tensor 'weights' are refused" in caplog.text


def test_a_call_that_nvflare_gave_up_on_is_not_answered_twice_at_once(monkeypatch):
    """Training takes longer than NVFlare waits: it is not begun again, and the coordinator hears to ask again."""
    monkeypatch.setattr("collabsecure.integrations.nvflare._BUSY_SECONDS", 0.2)
    trained, finished = [], threading.Event()

    class Slow(Site):
        def values(self, sum_name):
            trained.append(sum_name)
            assert finished.wait(20)
            return {"weights": np.zeros(3)}

    host = CollabHost(Sites(Slow, NAMES[:1]).proxies, seconds=0.5)
    host.send("site-1", b"values")
    assert received(host, 1) == {"site-1": None}
    host.send("site-1", b"values")
    assert received(host, 1) == {"site-1": encode(Wait())}
    finished.set()
    host.send("site-1", b"values")
    assert received(host, 1) == {"site-1": b"site-1:values"}
    assert trained == ["round 1"]


class TestTheSide:
    """Where the default side, the daemon, is looked for."""

    def side(self, props, monkeypatch, environment=None):
        if environment is None:
            monkeypatch.delenv(ENVIRONMENT, raising=False)
        else:
            monkeypatch.setenv(ENVIRONMENT, environment)
        sites = Sites(lambda name: ClientActions(), ("site-1",), {"site-1": props})
        with sites.apps["site-1"].new_context("server", "site-1"):
            return sites.apps["site-1"].client.side()

    def test_is_the_one_that_the_environment_names_whatever_the_job_says(self, monkeypatch):
        side = self.side({SOCKET: "/var/run/docker.sock"}, monkeypatch, "/run/ours/socket")
        assert isinstance(side, Daemon)
        assert isinstance(side, Answering)
        assert str(side.path) == "/run/ours/socket"

    def test_is_the_job_s_where_the_environment_names_none(self, monkeypatch):
        assert str(self.side({SOCKET: "/run/one.socket"}, monkeypatch).path) == "/run/one.socket"

    def test_is_nobody_otherwise(self, monkeypatch):
        with pytest.raises(NotAnswered, match="COLLABSECURE_SOCKET in the environment"):
            self.side({}, monkeypatch)

    def test_that_is_missing_is_a_lost_request_and_why_stays_at_the_site(self, monkeypatch, tmp_path, caplog):
        monkeypatch.setenv(ENVIRONMENT, str(tmp_path / "socket"))
        sites = Sites(lambda name: ClientActions(), ("site-1",))
        assert asked(sites, b"x") == {"site-1": None}
        assert "ERROR    collabsecure.integrations.nvflare:nvflare.py:" in caplog.text
        assert "collabsecure client --daemon" in caplog.text
        told = [record.getMessage() for record in caplog.records if record.getMessage().startswith("Site ")]
        assert len(told) == 1
        assert "its log has more" in told[0]
        assert str(tmp_path) not in told[0]


def test_what_a_site_s_code_says_when_it_fails_is_told_cut_and_printable(caplog):
    class Rude(ClientActions):
        @collab.publish
        def collabsecure(self, request):
            raise ValueError("\x1b[2J all is well" + 1000 * ".")

    assert asked(Sites(lambda name: Rude(), ("site-1",)), b"x") == {"site-1": None}
    told = [record.getMessage() for record in caplog.records if record.getMessage().startswith("Site ")]
    assert len(told) == 1
    assert told[0].isprintable()
    assert len(told[0]) < 500


def test_the_package_does_not_import_nvflare():
    code = (
        "import sys, collabsecure.integrations.sums, collabsecure.integrations.node; sys.exit('nvflare' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


class TestASum:
    """Of four clients, each in the job's own process: what comes is the oracle's sum, bit for bit."""

    @pytest.fixture
    def sites(self, tmp_path):
        session = made_session(4)

        class Direct(ClientActions):
            def __init__(self, name):
                super().__init__()
                self.number, self.folder = int(name[-1]), tmp_path / name

            def side(self):
                return direct(session, identity(self.number), policy=Policy(), folder=self.folder)

            def values(self, sum_name):
                return made_values(session, self.number, sum_name)

            @collab.publish
            def train(self, sum_name, link):
                self.give(sum_name, self.values(sum_name), link=link)

        sites = Sites(Direct, [f"site-{number}" for number in (3, 1, 4, 2)])
        sites.session = session
        yield sites
        for app in sites.apps.values():
            app.client._side._store.close()

    def sums(self, sites, **options):
        return SecureSum(sites.proxies, sites.session, identity(0), request_seconds=5.0, **options)

    def check(self, sites, result, clients):
        assert result.survivors == clients
        for name, array in exact_sum(sites.session, clients, result.name).items():
            np.testing.assert_array_equal(result.arrays[name], array)

    def test_of_all_sites(self, sites, caplog):
        caplog.set_level(logging.INFO, "collabsecure")
        sums = self.sums(sites)
        self.check(sites, sums.run("round 1"), (1, 2, 3, 4))
        self.check(sites, sums.run("round 2"), (1, 2, 3, 4))
        assert "round 2 is summed over clients 1, 2, 3, 4" in caplog.text
        assert "Direct mode: this site's key and values are in the job's process" in caplog.text

    def test_of_values_that_the_sites_gave_before_and_bound_to_a_model(self, sites):
        link = bytes(range(32))
        for proxy in sites.proxies:
            proxy.train("round 1", link)
        self.check(sites, self.sums(sites).run("round 1", link=link), (1, 2, 3, 4))

    def test_while_a_site_stops_to_answer(self, sites):
        def fault(site, number):
            if site == "site-2" and number >= 4:  # keys are shared by then
                raise Lost

        sites.fault = fault
        sums = SecureSum(sites.proxies, sites.session, identity(0), request_seconds=0.3, upload_seconds=1.5)
        self.check(sites, sums.run("round 1"), (1, 3, 4))

    def test_while_some_requests_are_lost(self, sites):
        def fault(site, number):
            if number in (0, 2, 5):
                raise Lost

        sites.fault = fault
        sums = SecureSum(sites.proxies, sites.session, identity(0), request_seconds=0.2)
        self.check(sites, sums.run("round 1"), (1, 2, 3, 4))


def test_the_editing_example_writes_a_job_without_code_for_the_sites(tmp_path):
    """What it names instead is what the page on embedding lets a site allow."""
    root = Path(__file__).parents[2]
    (tmp_path / "session.json").write_text(made_session(3).to_json())
    script = root / "examples" / "nvflare" / "edit" / "secure_editing.py"
    options = ["--session", "session.json", "--sites", "alice", "bob", "carol", "--write", "jobs"]
    subprocess.run([sys.executable, script, *options], cwd=tmp_path, check=True)
    job = tmp_path / "jobs" / "secure-editing"
    files = {str(path.relative_to(job)) for path in job.rglob("*") if path.is_file()}
    sites = {f"app_{name}/config/config_fed_client.json" for name in ("alice", "bob", "carol")}
    server = {"app_server/config/config_fed_server.json", "app_server/custom/secure_editing.py"}
    assert files == {"meta.json", *sites, *server}
    config = json.loads((job / "app_bob" / "config" / "config_fed_client.json").read_text())
    named = {config["executors"][0]["executor"]["path"], *(component["path"] for component in config["components"])}
    page = (root / "docs" / "embedding.md").read_text()
    assert all(f'"{path}"' in page for path in named)
