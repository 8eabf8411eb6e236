"""Every party is killed at every kind of write and send, and started again: the same update, bit for bit."""

import pytest
from crashes import AFTER, BEFORE, DURING, Crash, every_call
from parties import running


def at(when, call, name="", number=1):
    return Crash(call=call, name=name, number=number, when=when)


ROWS = {  # alice, bob and the aggregator are killed once each, at about the same place of the session
    "keys": (at(BEFORE, "write", "client"), at(AFTER, "post"), at(DURING, "append", "message", 2)),
    "directory": (at(DURING, "write", "client", 2), at(BEFORE, "post", "", 2), at(AFTER, "append", "message", 3)),
    "shares": (at(AFTER, "write", "client", 3), at(AFTER, "post", "", 2), at(BEFORE, "append", "started")),
    "start": (at(AFTER, "message", "2"), at(BEFORE, "write", "complete"), at(AFTER, "append", "started")),
    "first chunks": (at(BEFORE, "upload", "0"), at(AFTER, "upload", "0", 2), at(DURING, "stage", "upload-0-3", 2)),
    "last chunk": (at(AFTER, "upload", "0", 3), at(BEFORE, "upload", "0", 3), at(AFTER, "stage", "upload-0-3", 3)),
    "uploads folded": (
        at(AFTER, "write", "complete"),
        at(AFTER, "upload", "0", 1),
        at(BEFORE, "append", "uploaded", 2),
    ),
    "snapshot": (at(AFTER, "message", "3"), at(BEFORE, "post", "", 3), at(DURING, "write", "snapshot-1")),
    "confirmations": (at(AFTER, "post", "", 3), at(AFTER, "message", "4"), at(AFTER, "append", "message", 8)),
    "ledger": (
        at(BEFORE, "write", "ledger.json", 2),
        at(AFTER, "write", "ledger.json", 2),
        at(AFTER, "write", "snapshot-1"),
    ),
    "unmask": (at(BEFORE, "post", "", 4), at(AFTER, "post", "", 4), at(DURING, "append", "message", 12)),
    "merge": (at(AFTER, "message", "5"), at(BEFORE, "write", "layer-0.f64"), at(AFTER, "write", "layer-0.f64")),
    "result": (at(AFTER, "result", "0"), at(BEFORE, "write", "sum-0.json"), at(DURING, "write", "sum-0.json")),
    "last sum": (at(AFTER, "upload", "1"), at(AFTER, "write", "sum-0.json"), at(AFTER, "append", "uploaded", 4)),
    "the end": (at(BEFORE, "end"), at(BEFORE, "merged"), at(BEFORE, "merged")),
    "after the end": (at(AFTER, "merged"), at(AFTER, "end"), at(AFTER, "write", "sum-1.json")),
}


@pytest.mark.parametrize("where", ROWS)
def test_killed_and_started_again_the_session_ends_with_the_same_bytes(parties, tmp_path, where):
    alice, bob, aggregator = ROWS[where]
    with running(parties, "three", tmp_path / "run", wait_for_the_dead=True) as run:
        assert not run.to_the_end(aggregator=aggregator, alice=alice, bob=bob), "never came to its crash point"
        assert run.check("alice", "bob", "carol") == {0: (1, 2, 3), 1: (1, 2, 3)}
        left = {path.name for path in (run.folder / "merged.state").iterdir()}
        assert not [name for name in left if name.startswith((".", "upload-"))], left
        assert len([name for name in left if name.startswith("snapshot-")]) == 1, left


def test_one_shot_session_survives_kills_as_well(parties, tmp_path):
    with running(parties, "three-one-shot", tmp_path / "run", wait_for_the_dead=True) as run:
        never = run.to_the_end(
            aggregator=at(AFTER, "append", "uploaded", 1),
            alice=at(AFTER, "upload", "0", 4),
            bob=at(AFTER, "write", "layer-0.f64"),
            carol=at(DURING, "write", "complete"),
        )
        assert not never
        run.check("alice", "bob", "carol")


def test_a_client_that_comes_back_late_is_told_in_which_sum_it_can_join_and_joins(parties, tmp_path):
    with running(parties, "seven", tmp_path / "run") as run:
        aggregator = run.aggregate()
        # Grace misses the first sum; frank, who did not share his keys, misses them all.
        grace, frank = Crash(call="upload", name="0", until=0), Crash(call="post", number=2, until=-1)
        clients = run.all_clients(grace=grace, frank=frank)
        assert [clients.pop(name).wait() for name in ("grace", "frank")] == [-9, -9]
        aggregator.says("READY")
        frank = run.client("frank")
        assert frank.wait() == 3
        assert "the set-up ended without this client; it takes part in no sum" in frank.stderr
        aggregator.says("MASKED_INPUT of layer 1")
        clients["grace"] = run.client("grace")
        said, heard = run.finish(aggregator, clients)
        for told in ("Too late to upload more to layer 0", "not in layer 0", "It can join again in layer 1"):
            assert told in clients["grace"].stderr
        assert heard.pop("grace")["included"] == {"0": False, "1": True}
        assert {tuple(answer["included"].values()) for answer in heard.values()} == {(True, True)}
        assert said["survivors"] == {"0": [1, 2, 3, 4, 5], "1": [1, 2, 3, 4, 5, 7]}
        run.check(*clients, drops=("6@share-keys", "7@masked-input:0!"))


@pytest.mark.slow
@pytest.mark.parametrize("when", [BEFORE, DURING, AFTER])
def test_killed_at_each_and_every_call(parties, tmp_path, when):
    traces = {name: tmp_path / f"{name}.trace" for name in ("aggregator", "alice")}
    with running(parties, "three", tmp_path / "trace", wait_for_the_dead=True) as run:
        aggregator = run.aggregate(trace=traces["aggregator"])
        clients = {name: run.client(name, trace=traces.get(name, "")) for name in run.names}
        run.finish(aggregator, clients)
    halves = ("write", "append", "stage")
    points = {
        name: [at(when, *found) for found in every_call(trace) if when != DURING or found[0] in halves]
        for name, trace in traces.items()
    }
    for number in range(max(map(len, points.values()))):
        alice, aggregator = (points[name][number % len(points[name])] for name in ("alice", "aggregator"))
        with running(parties, "three", tmp_path / str(number), wait_for_the_dead=True) as run:
            run.to_the_end(aggregator=aggregator, alice=alice)
            run.check("alice", "bob", "carol")
