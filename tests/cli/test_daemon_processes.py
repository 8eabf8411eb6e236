"""Daemons, an aggregator and a tunnel as processes: the update of one process, bit for bit, whoever is killed."""

import json
import signal
import stat
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import pytest
from crashes import AFTER, BEFORE, DURING, Crash, Hooks, every_call
from memory_host import exact_sum, identity, made_session, made_values
from parties import running
from safetensors.numpy import save_file
from tunnels import Engine, shorten_pauses, tunnelling

from collabsecure.integrations.sessions import Summand
from collabsecure.integrations.sums import SecureSum
from collabsecure_cli.identity import write_identity

ALL = {0: (1, 2, 3), 1: (1, 2, 3)}


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    shorten_pauses(monkeypatch)


def at(when, call, name="", number=1):
    return Crash(call=call, name=name, number=number, when=when)


def test_three_daemons_get_what_one_process_computes(parties, socket_folder, tmp_path):
    with running(parties, "three", tmp_path / "run", sockets=socket_folder) as run, tunnelling(run) as (ends, _):
        aggregator, daemons = run.aggregate(), run.all_clients()
        daemons["alice"].says("Listening on")
        assert stat.S_IMODE(run.socket("alice").stat().st_mode) == 0o600
        said, heard = run.finish(aggregator, daemons)
        assert run.check(*daemons) == ALL
        assert said["without_result"] == []
        assert all(answer["outcome"] == "finished" for answer in heard.values())
    assert [end.over for end in ends] == [(1, 2, 3)]
    assert list(socket_folder.iterdir()) == []


def test_the_tunnel_may_die_and_begin_anew(parties, socket_folder, tmp_path):
    with (
        running(parties, "three", tmp_path / "run", sockets=socket_folder) as run,
        tunnelling(run, dies_at=(20,)) as (_, starts),
    ):
        run.finish(run.aggregate(), run.all_clients())
        assert run.check(*run.names) == ALL
    assert len(starts) == 2


ROWS = {  # alice, bob and the aggregator are killed once each
    "mid upload": (at(DURING, "settle"), at(AFTER, "settle"), at(AFTER, "stage", "upload-0-3", 2)),
    "exchanges": (at(BEFORE, "exchange", "", 9), at(AFTER, "exchange", "", 14), at(AFTER, "append", "message", 5)),
    "the end": (at(BEFORE, "merged"), at(AFTER, "merged"), at(AFTER, "write", "sum-1.json")),
}


@pytest.mark.parametrize("where", ROWS)
def test_killed_and_started_again_the_session_ends_with_the_same_bytes(parties, socket_folder, tmp_path, where):
    alice, bob, aggregator = ROWS[where]
    with (
        running(parties, "three", tmp_path / "run", sockets=socket_folder, wait_for_the_dead=True) as run,
        tunnelling(run),
    ):
        assert not run.to_the_end(aggregator=aggregator, alice=alice, bob=bob), "never came to its crash point"
        assert run.check(*run.names) == ALL


@pytest.mark.slow
@pytest.mark.parametrize("when", [BEFORE, DURING, AFTER])
def test_killed_at_each_and_every_call(parties, socket_folder, tmp_path, when):
    trace = tmp_path / "alice.trace"
    with running(parties, "three", tmp_path / "trace", sockets=socket_folder) as run, tunnelling(run):
        aggregator = run.aggregate()
        run.finish(aggregator, {name: run.client(name, trace=trace if name == "alice" else "") for name in run.names})
    points = [at(when, *found) for found in every_call(trace) if when != DURING or found[0] in ("write", "settle")]
    assert len(points) > 10
    for number, point in enumerate(points):
        with (
            running(parties, "three", tmp_path / str(number), sockets=socket_folder, wait_for_the_dead=True) as run,
            tunnelling(run),
        ):
            run.to_the_end(alice=point)  # how many exchanges there are, is up to the clock
            assert run.check(*run.names) == ALL, point


# Sums

SUMS = made_session(3, {name: {"weights": Summand(shape=(200, 700), bound=4.0)} for name in ("one", "two")})
CLIENTS = {f"client-{number}": number for number in (1, 2, 3)}


class SumRun:
    """Daemons of a session of sums, one of which a test may kill."""

    def __init__(self, zygote, folder, sockets):
        self.zygote, self.folder, self.sockets = zygote, folder, sockets
        self.processes = {}
        (folder / "session.json").write_text(SUMS.to_json())
        for name, number in CLIENTS.items():
            write_identity(folder / f"{name}.key", identity(number))

    def start(self, name, hooks=None, options=()):
        arguments = ("client", "--session", "session.json", "--key", f"{name}.key", "--daemon")
        self.processes[name] = self.zygote.start(
            name, (*arguments, "--socket", self.sockets / name, *options, "--json"), folder=self.folder, hooks=hooks
        )
        return self.processes[name]

    def engine(self):
        sockets = {name: self.sockets / name for name in CLIENTS}
        return Engine(sockets, lambda name, sum_name: made_values(SUMS, CLIENTS[name], sum_name))

    def sums(self):
        """Both sums, and the arrays of each."""
        summing = SecureSum(self.engine(), SUMS, identity(0))
        return [(name, summing.run(name)) for name in ("one", "two")]


@contextmanager
def sum_daemons(zygote, folder, sockets, **hooks):
    run = SumRun(zygote, folder, sockets)
    try:
        for name in CLIENTS:
            run.start(name, hooks.get(name))
        for process in run.processes.values():
            process.says("Listening on")
        yield run
    finally:
        for process in run.processes.values():
            process.kill().gone()


def exact(results):
    for name, result in results:
        assert result.survivors == (1, 2, 3)
        assert np.array_equal(result.arrays["weights"], exact_sum(SUMS, (1, 2, 3), name)["weights"])


KILLS = [at(when, "exchange", "", number) for when in (BEFORE, AFTER) for number in (2, 4, 6, 9)]


@pytest.mark.parametrize("point", KILLS[::3], ids=str)
def test_a_daemon_of_sums_that_is_killed_goes_on(zygote, socket_folder, tmp_path, point):
    killed_once(zygote, socket_folder, tmp_path, point)


@pytest.mark.slow
def test_a_daemon_of_sums_is_killed_at_each_and_every_call(zygote, socket_folder, tmp_path):
    trace = tmp_path / "trace"
    (tmp_path / "traced").mkdir()
    with sum_daemons(zygote, tmp_path / "traced", socket_folder, **{"client-1": Hooks(trace=str(trace))}) as run:
        exact(run.sums())
    points = [at(when, *found) for found in every_call(trace) for when in (BEFORE, AFTER)]
    assert len(points) > 30
    for number, point in enumerate(points):
        (folder := tmp_path / str(number)).mkdir()
        killed_once(zygote, socket_folder, folder, point)


def killed_once(zygote, sockets, folder, point):
    with sum_daemons(zygote, folder, sockets, **{"client-1": Hooks(crash=point)}) as run, ThreadPoolExecutor(1) as pool:
        running = pool.submit(run.sums)
        assert run.processes["client-1"].wait() == -9
        run.start("client-1")
        exact(running.result())


def test_values_that_owners_put_into_folders_are_summed_and_the_app_gives_none(zygote, socket_folder, tmp_path):
    """One of them while its daemon waits for it; another daemon is killed once it has begun to upload."""
    run = SumRun(zygote, tmp_path, socket_folder)

    def put(client, sum_name):
        folder = tmp_path / f"values-{client}"
        save_file(made_values(SUMS, CLIENTS[client], sum_name), folder / "part")
        (folder / "part").rename(folder / f"{sum_name}.safetensors")

    for client in CLIENTS:
        (tmp_path / f"values-{client}").mkdir(mode=0o700)
        put(client, "one")
    try:
        for client in CLIENTS:
            hooks = Hooks(crash=at(AFTER, "exchange", "", 5)) if client == "client-2" else None
            run.start(client, hooks, options=("--values", f"values-{client}"))
        engine = Engine({name: socket_folder / name for name in CLIENTS})
        with ThreadPoolExecutor(1) as pool:
            summing = SecureSum(engine, SUMS, identity(0))
            running = pool.submit(lambda: [(name, summing.run(name)) for name in ("one", "two")])
            assert run.processes["client-2"].wait() == -9
            run.start("client-2", options=("--values", "values-client-2"))
            for client in CLIENTS:
                run.processes[client].says("Sum two wants values; waiting for")
                put(client, "two")
            exact(running.result())
    finally:
        for process in run.processes.values():
            process.kill().gone()


def test_daemons_of_sums_end_with_their_session(zygote, socket_folder, tmp_path):
    with sum_daemons(zygote, tmp_path, socket_folder) as run:
        exact(run.sums())
        for process in run.processes.values():
            process.says("The session is over")
        ends = [process.kill(signal.SIGTERM).wait() for process in run.processes.values()]
        assert ends == [0, 0, 0]
        said = [json.loads(process.stdout) for process in run.processes.values()]
    assert said == [{"outcome": "finished", "session": SUMS.transcript.hex(), "sums": ["one", "two"]}] * 3


# How a daemon ends


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_says_how_to_go_on_and_leaves_no_socket(zygote, parties, socket_folder, tmp_path, number):
    with running(parties, "three", tmp_path / "run", sockets=socket_folder) as run:
        editing = run.client("alice")
        editing.says("waiting for the others")
        (tmp_path / "sums").mkdir()
        with sum_daemons(zygote, tmp_path / "sums", socket_folder) as sums:
            for process, state in ((editing, "alice.state"), (sums.processes["client-1"], "client-1.state")):
                assert process.kill(number).wait() == 130
                assert state in process.stderr
                assert "the same command goes on" in process.stderr
            assert {path.name for path in socket_folder.iterdir()} == {"client-2", "client-3"}


def test_a_second_daemon_is_refused_by_state_and_by_socket(parties, socket_folder, tmp_path):
    with running(parties, "three", tmp_path / "run", sockets=socket_folder) as run:
        run.client("alice").says("waiting for the others")
        same_state = run.client("alice")
        assert same_state.wait() == 1
        assert "another process" in same_state.stderr
        same_socket = run.client("bob", "--socket", run.socket("alice"))
        assert same_socket.wait() == 1
        assert "another process that listens there" in same_socket.stderr
        assert stat.S_ISSOCK(run.socket("alice").stat().st_mode)


def test_nobody_who_asks_is_waited_for_as_long_as_was_said(zygote, parties, socket_folder, tmp_path):
    with running(parties, "three", tmp_path / "run", sockets=socket_folder) as run:
        editing = run.client("alice", "--patience", "1s")
        sums = SumRun(zygote, tmp_path, socket_folder).start("client-1", options=("--patience", "1s"))
        for process in (editing, sums):
            assert process.wait() == 4
            assert "The same command goes on." in process.stderr


def test_a_session_that_fails_ends_a_daemon_and_its_tunnel(parties, socket_folder, tmp_path):
    with running(parties, "three", tmp_path / "run", sockets=socket_folder) as run, tunnelling(run) as (ends, _):
        run.aggregate("--join-time", "2s")
        daemons = [run.client(name) for name in ("alice", "bob")]
        for process in daemons:
            assert process.wait() == 3
            assert "No result: " in process.stderr
    assert [end.over for end in ends] == [(1, 2)]
