"""Encrypted sessions as processes, TLS between them: the update is that of one process, bit for bit."""

import json
import re
import time
from pathlib import Path

import numpy as np
import pytest
from crashes import AFTER, BEFORE, DURING, Crash, every_call
from encrypted import HOLDER, Secret, heard, running

from collabsecure_cli.encryption_keys import find_secret
from collabsecure_cli.folder import StateFolder
from collabsecure_cli.session import load_session
from collabsecure_protocols import CiphertextRefused, KeyPair
from collabsecure_protocols.ckks import Decryptor
from collabsecure_protocols.envelope import CHUNK_HEADER_BYTES, HEADER_BYTES
from collabsecure_protocols.errors import StateRefused
from collabsecure_protocols.keys import SIGNATURE_BYTES


def at(when, call, name="", number=1):
    return Crash(call=call, name=name, number=number, when=when)


def around(call, name="", number=1):
    return [at(BEFORE, call, name, number), at(AFTER, call, name, number)]


def during(call, name):
    return [at(BEFORE, call, name), at(DURING, call, name), at(AFTER, call, name)]


@pytest.mark.parametrize("session", ["five-bfv", "five-ckks"])
def test_one_of_five_is_killed_and_the_others_get_what_one_process_computes(encrypted_parties, tmp_path, session):
    scheme = session.removeprefix("five-")
    with running(encrypted_parties, session, tmp_path / "run") as run:
        aggregator, holder = run.aggregate(), run.key_holder()
        clients = run.all_clients(dave=Crash(call="upload", name="0"))
        assert clients.pop("dave").wait() == -9
        said, _ = run.finish(aggregator, clients)
        assert holder.wait() == 0, holder.stderr
        survivors = run.check(*clients, drops=("4@masked-input:0",))
        assert survivors == dict.fromkeys((0, 1), (1, 2, 3, 5))
        assert heard(holder)["outcome"] == said["outcome"] == "finished"
        assert "Waiting for the key holder to open the sum" in aggregator.stderr
        assert not list(run.folder.glob("merged.state/update-*"))
        for process in (aggregator, holder, *clients.values()):  # and so the workers, whose streams are the client's
            assert all(re.match(r"\d\d:\d\d:\d\d \S", line) for line in process.stderr.splitlines()), process.stderr
        for folder, party in (("merged", "server"), (f"{HOLDER}.merged", HOLDER)):
            report = json.loads((run.folder / folder / "report.json").read_text())
            assert (report["written_by"], report["encryption"]) == (party, scheme)


def test_the_bfv_session_gives_what_the_masked_one_gives_bit_for_bit(encrypted_parties, parties):
    drops = ("4@masked-input:0",)
    encrypted, who = encrypted_parties.expected("five-bfv", *drops)
    masked, _ = parties.expected("five", *drops)
    assert who == dict.fromkeys((0, 1), (1, 2, 3, 5))
    assert all(np.array_equal(encrypted[layer], masked[layer]) for layer in masked)
    coarser, _ = encrypted_parties.expected("five-ckks", *drops)
    for layer, delta in masked.items():
        assert not np.array_equal(coarser[layer], delta)  # 38 bits
        assert np.linalg.norm(coarser[layer] - delta) <= 1e-5 * np.linalg.norm(delta)


MOMENTS = {  # in the order of one session: a run dies at the first, the next at the second, and so on
    "holder": [
        *around("encrypted sum", "0"),
        *around("write", number=1),  # which session the key pair serves
        *during("write", "key-holder"),
        *around("encrypted chunk", "0"),
        at(AFTER, "encrypted chunk", "0", 2),
        *during("write", "layer-0.f64"),
        *during("write", "sum-0.json"),
        *around("update", "0"),
        *around("hand back", "0"),
        *during("write", "handed-back"),
        at(AFTER, "encrypted sum", "1"),
        at(BEFORE, "hand back", "1"),
        at(BEFORE, "merged"),
        at(AFTER, "merged"),
    ],
    "aggregator": [
        *during("stage", "update-0"),
        at(BEFORE, "write", "layer-0.f64"),
        *during("write", "sum-0.json"),
        at(AFTER, "write", "sum-1.json"),
    ],
}


@pytest.mark.parametrize("who", MOMENTS)
def test_killed_around_every_write_and_send_of_a_sums_opening(encrypted_parties, tmp_path, who):
    with running(encrypted_parties, "three-bfv", tmp_path / "run", wait_for_the_dead=True) as run:
        run.to_the_end("--linger", "30s", **{who: MOMENTS[who]})
        assert run.check("alice", "bob", "carol") == {0: (1, 2, 3), 1: (1, 2, 3)}
        for state in ("merged.state", f"{HOLDER}.state"):
            left = [path.name for path in (run.folder / state).rglob("*")]
            assert not [name for name in left if name.startswith((".", "upload-", "update-"))], left


def children(process):
    return [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


def until(condition):
    ends = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.05)


def workers(process):
    """The processes that encrypt for a client."""
    found = {pid: Path(f"/proc/{pid}/cmdline").read_bytes() for pid in children(process)}
    return [pid for pid, line in found.items() if b"spawn_main" in line]


@pytest.fixture(scope="module")
def late(encrypted_parties, tmp_path_factory):
    """A session whose key holder comes late; a worker, a client and the aggregator are killed while it is waited for.

    What was in the folders of those who wait, and what is in them at the end.
    """
    folder = tmp_path_factory.mktemp("late")
    with running(encrypted_parties, "three-bfv", folder / "run", wait_for_the_dead=True) as run:
        aggregator = run.aggregate(crash=at(BEFORE, "append", "uploaded", 2))
        clients = run.all_clients()
        aggregator.gone()
        uploading = contents(run)
        aggregator = run.aggregate()
        aggregator.says("Waiting for the key holder")
        waiting = contents(run)
        (worker,), (orphan,) = workers(clients["alice"]), workers(clients["bob"])
        run.kill(worker)
        clients["bob"].kill().gone()
        until(lambda: not Path(f"/proc/{orphan}").exists())
        clients["bob"] = run.client("bob")
        aggregator.kill().gone()
        aggregator = run.aggregate()
        holder = run.key_holder()
        assert clients["alice"].wait() == 1
        said = clients["alice"].stderr.strip().splitlines()[-1]
        assert said.startswith("Error: A process that encrypts was killed"), said
        clients["alice"] = run.client("alice")
        run.finish(aggregator, clients)
        assert holder.wait() == 0
        yield run, uploading, waiting


def contents(run):
    """All that is in the run's folder, by path."""
    paths = [path for path in run.folder.rglob("*") if path.is_file() and not path.is_symlink()]
    return {path.relative_to(run.folder): path.read_bytes() for path in paths if path.exists()}


def test_a_key_holder_may_come_late_whoever_is_killed_meanwhile(late):
    run, *_ = late
    assert run.check("alice", "bob", "carol") == {0: (1, 2, 3), 1: (1, 2, 3)}


@pytest.fixture(scope="module")
def pair(encrypted_parties):
    key = load_session(encrypted_parties.session("three-bfv")).encryption_key
    return find_secret(StateFolder(encrypted_parties.secrets), key)


def test_nothing_of_the_secret_is_in_any_file_or_output_but_in_the_key_holders_folder(late, pair):
    run, *moments = late
    secret, own = Secret(pair), Path(f"{HOLDER}.state")
    for files in (*moments, contents(run)):
        for path, data in files.items():
            if not path.is_relative_to(own):
                assert not secret.is_in(data), path
    kept = [path for path, data in contents(run).items() if secret.is_in(data)]
    assert [path.parent for path in kept] == [own], "only there, and there it would be found"
    assert not secret.is_in(f"{pair!r} {pair.public!r}".encode())


def test_one_clients_and_the_aggregators_whole_state_decrypt_no_upload_and_the_key_holders_does(late, pair):
    """One client's whole state cannot decrypt another's upload; the aggregator's whole state decrypts nothing."""
    run, uploading, waiting = late
    session = load_session(run.parties.session("three-bfv"))
    uploads = {path: data for path, data in uploading.items() if path.name.startswith("upload-0-")}
    assert uploads
    upload = next(iter(uploads.values()))
    spec = session.sums[0]
    chunk = spec.chunk(0)
    form = session.form(spec.tensors[chunk.tensor])
    start = HEADER_BYTES + CHUNK_HEADER_BYTES
    ciphertexts = upload[start : start + form.payload_bytes(chunk.length)]
    assert len(upload) >= start + len(ciphertexts) + SIGNATURE_BYTES

    def opened(key_pair):
        return Decryptor(key_pair, form.encryption).decrypt(ciphertexts, chunk.length, num_summands=1)

    def key_pairs(files):
        for data in files.values():
            try:
                yield KeyPair.restore(data)
            except StateRefused:
                continue

    for who in ("merged.state", "alice.state", "bob.state"):
        files = {
            (number, path): data
            for number, moment in enumerate((uploading, waiting, contents(run)))
            for path, data in moment.items()
            if path.is_relative_to(who)
        }
        assert len(files) > 5
        assert not list(key_pairs(files)), who
    with pytest.raises(CiphertextRefused, match="of a unit from an integer"):
        opened(KeyPair.generate("bfv"))  # a key pair of their own is of no use
    own = {path: data for path, data in contents(run).items() if path.is_relative_to(f"{HOLDER}.state")}
    found = [key_pair for key_pair in key_pairs(own) if key_pair.public.digest == pair.public.digest]
    assert len(found) == 1
    masked = opened(found[0])  # and what even the key holder sees of one client is noise
    high = np.bincount((masked >> np.uint64(40)).astype(np.int64), minlength=256)
    expected = len(masked) / 256
    assert float(((high - expected) ** 2 / expected).sum()) < 255 + 6 * (2 * 255) ** 0.5


def test_a_key_holder_that_does_not_come_in_its_time_ends_the_session_for_all(encrypted_parties, tmp_path):
    with running(encrypted_parties, "three-bfv", tmp_path / "run", wait_for_the_dead=True) as run:
        aggregator = run.aggregate("--open-time", "1s", "--linger", "30s")
        clients = run.all_clients()
        why = "the key holder has not opened layer 0 within 1 s"
        for process in (aggregator, *clients.values()):
            assert process.wait() == 3
            assert why in process.stderr
        assert "were opened with these edits" in clients["alice"].stderr


@pytest.mark.slow
@pytest.mark.parametrize("session", ["three-bfv", "three-one-shot-bfv"])
@pytest.mark.parametrize("when", [BEFORE, DURING, AFTER])
def test_key_holder_is_killed_at_each_and_every_call(encrypted_parties, tmp_path, when, session):
    trace = tmp_path / "holder.trace"
    with running(encrypted_parties, session, tmp_path / "trace", wait_for_the_dead=True) as run:
        aggregator, clients = run.aggregate(), run.all_clients()
        holder = run.key_holder(trace=trace)
        run.finish(aggregator, clients)
        assert holder.wait() == 0
    # A later run repeats the chunks of its sum alone, and has no calls of sums that are handed back.
    points = [at(when, call, name, min(number, 1)) for call, name, number in every_call(trace) if number == 1]
    points = [point for point in points if when != DURING or point.call == "write"]
    with running(encrypted_parties, session, tmp_path / "run", wait_for_the_dead=True) as run:
        run.to_the_end("--linger", "30s", holder=[point for point in points if point.call != "end of opening"])
        run.check(*run.names)
