"""Aggregator and clients as processes, TLS between them: their update is that of one process, bit for bit."""

import json

import numpy as np
from parties import running
from safetensors.numpy import load_file

from collabsecure.world import load_world

LAYERS = (0, 1)


def test_five_clients_get_what_one_process_computes_and_can_apply_it(parties, tmp_path):
    with running(parties, "five", tmp_path / "run") as run:
        aggregator, clients = run.aggregate(), run.all_clients()
        said, heard = run.finish(aggregator, clients)
        survivors = run.check(*clients)
        assert survivors == {0: (1, 2, 3, 4, 5), 1: (1, 2, 3, 4, 5)}
        assert said["outcome"] == "finished"
        assert said["survivors"] == {"0": [1, 2, 3, 4, 5], "1": [1, 2, 3, 4, 5]}
        assert said["without_result"] == []
        for name, answer in heard.items():
            assert answer["included"] == {"0": True, "1": True}
            assert answer["session"] == said["session"]
            assert answer["out"] == f"{name}.merged"
        check_reports(run, said["session"])
        check_applied(parties, run)


def check_reports(run, session):
    for folder, party in (("merged", "server"), ("carol.merged", "carol")):
        report = json.loads((run.folder / folder / "report.json").read_text())
        assert report["session"] == session
        assert (report["written_by"], report["flow"], report["threshold"]) == (party, "layer-synchronous", 4)
        for layer in LAYERS:
            found = report["layers"][str(layer)]
            assert found["survivors"] == list(run.names)
            assert np.isclose(found["delta_norm"], np.linalg.norm(run.delta().layers[layer]), rtol=1e-12)
        for_people = (run.folder / folder / "report.md").read_text()
        for said in ("# try five", "| 1 | 5 of 5 | – |", session, "collabsecure hides who edited"):
            assert said in for_people, said
        assert {path.name for path in (run.folder / folder).iterdir()} == {
            *("delta.safetensors", "report.json", "report.md")
        }


def check_applied(parties, run):
    base = load_world().model
    arguments = ("apply", "--model", base, "--delta", "merged/delta.safetensors", "--out", "edited", "--device", "cpu")
    parties.zygote.run("apply", arguments, folder=run.folder)
    before, after = (load_file(folder / "model.safetensors") for folder in (base, run.folder / "edited"))
    for layer, delta in run.delta().layers.items():
        name = f"transformer.h.{layer}.mlp.c_proj.weight"
        change = after[name].astype(np.float64) - before[name]
        assert np.allclose(change.T, delta, rtol=0, atol=1e-6 * np.abs(after[name]).max())


def test_clients_with_certificates_over_mutual_tls_and_nobody_else(parties, tmp_path):
    with running(parties, "three", tmp_path / "run", mutual=True, wait_for_the_dead=True) as run:
        aggregator = run.aggregate()
        stranger = run.client("carol", "--patience", "2s", certified=False)
        assert stranger.wait() == 4
        assert f"no answer from 127.0.0.1:{run.port} for 2 s" in stranger.stderr
        assert "The same command goes on" in stranger.stderr
        run.finish(aggregator, run.all_clients())
        run.check("alice", "bob", "carol")


def test_one_shot_session_gives_what_one_shot_in_one_process_gives(parties, tmp_path):
    with running(parties, "five-one-shot", tmp_path / "run") as run:
        aggregator, clients = run.aggregate(), run.all_clients()
        run.finish(aggregator, clients)
        run.check(*clients)
        layered, _ = parties.expected("five")
        assert not np.array_equal(run.delta().layers[1], layered[1])
        assert run.delta().provenance.flow == "one-shot"
