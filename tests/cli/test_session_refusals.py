"""What a party is refused before anything is computed, sent or overwritten; its session goes on all the same."""

import json
import shutil
import signal

from crashes import Crash
from parties import MAX_CHANGE, running
from safetensors.numpy import load_file, save_file

from collabsecure.agreement import Agreement
from collabsecure.world import load_world
from collabsecure_cli.session import load_session


def refused(process, *told):
    assert process.wait() == 1, process.stderr
    assert process.stdout == ""
    for text in told:
        assert text in process.stderr, process.stderr
    assert process.stderr.count("Error:") == 1


def test_state_folders_admit_one_process_and_one_set_of_edits(parties, tmp_path):
    with running(parties, "three", tmp_path / "run") as run:
        aggregator = run.aggregate()
        aggregator.says("Listening")
        alice = run.client("alice")
        alice.says("Advertising keys")
        refused(run.aggregate(), "merged.state: found another process at work in this state folder")
        refused(run.client("alice"), "alice.state: found another process at work in this state folder")
        alice.kill().gone()
        fewer = tmp_path / "fewer.json"
        fewer.write_text(json.dumps(json.loads(parties.edits("alice").read_text())[:-1]))
        refused(run.client("alice", edits=fewer), "found a session that was begun with other edits")
        run.finish(aggregator, run.all_clients())
        run.check("alice", "bob", "carol")
        check_repeats(parties, run)
        check_same_again(run)
        check_force(run)


def check_repeats(parties, run):
    """Edits that were summed are in no other session of these layers."""
    digest = load_session(parties.session("three")).transcript.hex()[:16]
    told = f"session {digest}… has summed in layers 0, 1; expected new ones"
    refused(run.client("alice", "--out", "again", session="three-again"), "found 3 of 3 edits (records 1, 2, 3)", told)
    refused(run.client("bob", "--out", "again", session="three-one-shot"), "found 2 of 2 edits", told)
    mixed = run.folder / "mixed.json"
    records = [json.loads(parties.edits(name).read_text()) for name in ("dave", "carol")]
    mixed.write_text(json.dumps([*records[0], records[1][2]]))
    carol = run.client("carol", "--out", "again", session="three-again", edits=mixed)
    refused(carol, "found 1 of 3 edits (records 3)", told)
    assert "Loading" not in carol.stderr
    assert not (run.folder / "again").exists()


def check_same_again(run):
    """The same command lines once more find everything done, the client's without a server."""
    before = {path: path.stat().st_mtime_ns for path in run.folder.glob("*merged/*")}
    alice = run.client("alice")
    assert alice.wait() == 0
    assert json.loads(alice.stdout)["included"] == {"0": True, "1": True}
    assert run.aggregate("--linger", "1s").wait() == 0
    assert {path: path.stat().st_mtime_ns for path in run.folder.glob("*merged/*")} == before


def check_force(run):
    """What is at --out stays, unless it is a session's result and --force is given."""
    merged = run.folder / "merged"
    (merged / "report.json").write_text('{"session": "another"}')
    refused(run.aggregate(), "merged: found something there already", "--force")
    assert run.aggregate("--force", "--linger", "1s").wait() == 0
    run.check()
    (run.folder / "alice.merged" / "diary.txt").write_text("mine")
    (run.folder / "alice.merged" / "report.json").unlink()
    refused(run.client("alice", "--force"), "found something that no session has left there", "Give another --out")
    assert (run.folder / "alice.merged" / "diary.txt").read_text() == "mine"


def test_aggregator_that_is_killed_before_it_writes_the_result_writes_it_afterwards(parties, tmp_path):
    with running(parties, "three", tmp_path / "run") as run:
        aggregator = run.aggregate(crash=Crash(call="merged"))
        clients = run.all_clients()
        assert aggregator.wait() == -9
        assert not (run.folder / "merged").exists()
        (run.folder / "merged").mkdir()
        refused(run.aggregate(), "merged: found something there already")
        (run.folder / "merged").rmdir()
        aggregator = run.aggregate()
        assert [process.wait() for process in clients.values()] == [0, 0, 0]
        assert aggregator.kill(signal.SIGTERM).wait() == 0
        run.check("alice", "bob", "carol")


def test_other_weights_are_refused_before_anything_is_computed_and_too_large_an_update_is_not_taken(parties, tmp_path):
    base, other = load_world().model, tmp_path / "other"
    shutil.copytree(base, other)
    weights = load_file(other / "model.safetensors")
    weights["transformer.h.1.mlp.c_proj.weight"][0, 0] += 1e-3
    save_file(weights, other / "model.safetensors", {"format": "pt"})
    with running(parties, "three", tmp_path / "run") as run:
        alice = run.client("alice", "--model", other)
        agreed = Agreement.of(load_session(parties.session("three"))).weights_digest
        refused(alice, f"{other}: found weights with digest ", f"expected {agreed}", "Nothing was computed or sent")
        found = alice.stderr.partition("with digest ")[2][:64]
        assert len(bytes.fromhex(found)) == 32
        assert found != agreed
        assert {path.name for path in run.state("alice").iterdir()} == {"lock", "values"}
        run.folder.joinpath("dead", "1").unlink(missing_ok=True)

        aggregator = run.aggregate("--linger", "20s")
        clients = {"alice": run.client("alice", "--max-change", "0.001"), "bob": run.client("bob")}
        clients["carol"] = run.client("carol")
        refused(clients["alice"], "layer 0: found ‖Δ‖/‖W‖ = ", "expected at most 0.001", "--max-change")
        clients["alice"] = run.client("alice", *MAX_CHANGE)  # has looked at it, and goes on
        run.finish(aggregator, clients)
        run.check("alice", "bob", "carol")


def test_sessions_that_are_not_as_agreed_are_refused(parties, tmp_path):
    with running(parties, "three", tmp_path / "run") as run:
        wrong = "0" * 64
        refused(run.client("alice", "--digest", wrong), "descriptor is not the one this client pinned")
        refused(run.client("alice", "--min-clients", "4"), "3 clients", "4")
        stranger = run.client("alice", "--key", parties.key("dave"))
        refused(stranger, "roster")
        many = tmp_path / "many.json"
        records = json.loads(load_world().records.read_text())[:11]
        many.write_text(json.dumps(records))
        refused(run.client("alice", edits=many), "found 11 edits; expected at most 10")
