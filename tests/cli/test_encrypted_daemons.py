"""Encrypted sessions whose clients are daemons behind a tunnel; the key holder connects to the aggregator itself."""

import json

import pytest
from crashes import AFTER, DURING, Crash
from encrypted import HOLDER, heard, running
from tunnels import shorten_pauses, tunnelling


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    shorten_pauses(monkeypatch)


@pytest.mark.parametrize("session", ["three-bfv", "three-one-shot-bfv"])
def test_clients_behind_a_tunnel_get_what_one_process_computes(encrypted_parties, socket_folder, tmp_path, session):
    with (
        running(encrypted_parties, session, tmp_path / "run", sockets=socket_folder) as run,
        tunnelling(run) as (ends, _),
    ):
        aggregator, holder, daemons = run.aggregate(), run.key_holder(), run.all_clients()
        said, _ = run.finish(aggregator, daemons)
        assert holder.wait() == 0, holder.stderr
        assert run.check(*daemons) == dict.fromkeys((0, 1), (1, 2, 3))
        assert heard(holder)["outcome"] == said["outcome"] == "finished"
        for folder, party in (("merged", "server"), (f"{HOLDER}.merged", HOLDER)):
            report = json.loads((run.folder / folder / "report.json").read_text())
            assert (report["written_by"], report["encryption"]) == (party, "bfv")
    assert [end.over for end in ends] == [(1, 2, 3)]


def test_daemons_killed_in_mid_upload_and_a_tunnel_that_died_change_nothing(encrypted_parties, socket_folder, tmp_path):
    with (
        running(encrypted_parties, "three-bfv", tmp_path / "run", sockets=socket_folder, wait_for_the_dead=True) as run,
        tunnelling(run, dies_at=(25,)) as (_, starts),
    ):
        aggregator, holder = run.aggregate(), run.key_holder()
        crashes = {"alice": Crash(call="settle", when=DURING), "bob": Crash(call="exchange", number=12, when=AFTER)}
        daemons = run.all_clients(**crashes)
        for name in crashes:
            assert daemons[name].wait() == -9
            daemons[name] = run.client(name, "--encryption-processes", "1")
        run.finish(aggregator, daemons)
        assert holder.wait() == 0, holder.stderr
        assert run.check(*run.names) == dict.fromkeys((0, 1), (1, 2, 3))
    assert len(starts) == 2
