"""Clients that are killed for good, in every phase of every sum: the exact sum over the others, or a clean end.

What a crash point is in the protocol's words is in `DROPS`. A client posts its keys, its shares, and in each sum its
confirmation and its shares of the others' secrets; in between it uploads three chunks.
"""

import json
import os

import pytest
from crashes import AFTER, Crash
from parties import running

PHASES = ("advertise-keys", "share-keys")
DROPS = {  # phase of a client that falls silent → where the process is killed
    "advertise-keys": Crash(call="post", number=1),
    "share-keys": Crash(call="post", number=2),
    "masked-input:0": Crash(call="upload", name="0"),
    "masked-input:0, in the middle": Crash(call="upload", name="0", number=2, when=AFTER),
    "consistency-check:0": Crash(call="post", number=3),
    "unmask:0": Crash(call="post", number=4),
    "masked-input:1": Crash(call="upload", name="1"),
    "masked-input:1, in the middle": Crash(call="upload", name="1", number=2, when=AFTER),
    "consistency-check:1": Crash(call="post", number=5),
    "unmask:1": Crash(call="post", number=6),
}


def drops(where, *numbers):
    return tuple(f"{number}@{where.partition(',')[0]}" for number in numbers)


@pytest.mark.parametrize("where", DROPS)
def test_two_of_seven_are_killed_and_the_others_get_the_exact_sum(parties, tmp_path, where):
    with running(parties, "seven", tmp_path / "run") as run:
        aggregator = run.aggregate()
        clients = run.all_clients(bob=DROPS[where], frank=DROPS[where])
        assert [clients.pop(name).wait() for name in ("bob", "frank")] == [-9, -9]
        said, heard = run.finish(aggregator, clients)
        survivors = run.check(*clients, drops=drops(where, 2, 6))
        assert said["survivors"] == {str(layer): list(members) for layer, members in survivors.items()}
        for name, answer in heard.items():
            assert set(answer["included"].values()) == {True}, name
        if any(len(members) < 7 for members in survivors.values()):
            assert "bob, frank" in (run.folder / "merged" / "report.md").read_text()
        assert not list(run.folder.glob("merged.state/upload-*"))


def test_one_of_five_is_killed_and_the_phase_ends_by_the_clock(parties, tmp_path):
    with running(parties, "five", tmp_path / "run", wait_for_the_dead=True) as run:
        aggregator = run.aggregate("--answer-time", "6s", "--linger", "1s")
        clients = run.all_clients(dave=DROPS["unmask:1"])
        assert clients.pop("dave").wait() == -9
        said, _ = run.finish(aggregator, clients)
        assert run.check(*clients, drops=drops("unmask:1", 4)) == dict.fromkeys((0, 1), (1, 2, 3, 4, 5))
        assert said["without_result"] == ["dave"]
        assert "The time of UNMASK is up; waited for clients 4" in aggregator.stderr


@pytest.mark.parametrize("where", [where for where in DROPS if ":1" not in where])
def test_two_of_five_are_killed_and_nobody_gets_anything(parties, tmp_path, where):
    with running(parties, "five", tmp_path / "run") as run:
        aggregator = run.aggregate()
        clients = run.all_clients(alice=DROPS[where], erin=DROPS[where])
        assert [clients.pop(name).wait() for name in ("alice", "erin")] == [-9, -9]
        why = parties.expected("five", *drops(where, 1, 5))
        assert "3 clients, needed 4" in why
        assert aggregator.wait() == 3
        assert f"No result: {why}" in aggregator.stderr
        for process in clients.values():
            assert process.wait() == 3, process.stderr
            told = "the set-up ended without" if where == "advertise-keys" else why
            assert told in process.stderr or why in process.stderr
            opened = "Layers 0 were opened with these edits" in process.stderr
            assert opened == (where == "unmask:0"), process.stderr
            assert process.stdout == ""
        assert aggregator.stdout == ""
        assert not any(os.path.lexists(run.folder / f"{name}merged") for name in ("", *(f"{n}." for n in run.names)))
        if where == "unmask:0":  # what was shown cannot be taken back: these edits are in no other sum from now on
            ledger = json.loads((run.state("bob") / "ledger.json").read_text())
            assert [entry["layers"] for entry in ledger["sessions"].values()] == [[0]]
