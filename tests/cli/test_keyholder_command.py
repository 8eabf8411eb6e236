"""`collabsecure keyholder`, and `session` with a key holder: what it makes, shows, opens and refuses."""

import hashlib
import json
import subprocess
import sys
import textwrap
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import test_session_command
from click.testing import CliRunner
from cohort import Cohort
from encrypted import Secret
from light_session import HOLDER, SERVER, aggregating, engine_in, make_session
from test_session_command import IDENTITIES, NAMES, write_roster

from collabsecure.deltas import load_delta
from collabsecure_cli import keyholder as command
from collabsecure_cli.encryption_keys import begin_session, find_secret, keep_secret, write_public
from collabsecure_cli.folder import StateFolder
from collabsecure_cli.identity import write_identity
from collabsecure_cli.main import main
from collabsecure_cli.roster import roster_line
from collabsecure_cli.session import load_session
from collabsecure_protocols import KeyPair, RemoteProtocolError
from collabsecure_protocols.ckks import PublicKey
from collabsecure_protocols.envelope import HEADER_BYTES, MessageType, seal
from collabsecure_protocols.keys import SIGNATURE_BYTES
from collabsecure_protocols.messages import EncryptedSum

pytest.importorskip("tenseal", reason="encryption is of the extra ckks")

PAIR = KeyPair.generate("bfv")
LIGHT = make_session(layers=(1,), key_pair=PAIR)
SESSION = LIGHT.session
EXTRA = "pip install 'collabsecure[ckks]'"
moments, new_session = test_session_command.moments, test_session_command.new  # fixtures


def invoke(*arguments):
    return CliRunner().invoke(main, list(map(str, arguments)))


def refused(result, *words, code=1):
    """One line on stderr that says why."""
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("Error: ")
    for word in words:
        assert word in last, last
    assert "Traceback" not in result.stderr
    return last


# keyholder new and explain


@pytest.mark.parametrize("scheme", ["bfv", "ckks"])
def test_new_makes_a_file_for_the_organiser_and_keeps_the_secret(tmp_path, scheme):
    write_identity(tmp_path / "dora.key", HOLDER)
    out, state = tmp_path / "holder.json", tmp_path / "dora.state"
    made = invoke("keyholder", "new", "--key", tmp_path / "dora.key", "--scheme", scheme, "--out", out)
    assert (made.exit_code, made.stderr) == (0, "")
    assert f"a key for {scheme}; the secret is in {state} and stays there. For one session." in made.stdout
    content = json.loads(out.read_text())
    assert (content["scheme"], content["holder"]) == (scheme, HOLDER.public.hex())
    assert state.stat().st_mode & 0o777 == 0o700
    (key,) = state.glob("*.key")
    pair = KeyPair.restore(key.read_bytes())
    secret = Secret(pair)
    assert secret.is_in(key.read_bytes()), "the control: there it is"
    assert not secret.is_in(out.read_bytes())
    assert not secret.is_in(made.output.encode())
    before = out.read_bytes()
    refused(invoke("keyholder", "new", "--key", tmp_path / "dora.key", "--out", out), "holder.json")
    assert out.read_bytes() == before
    assert len(list(state.glob("*.key"))) == 1, "nor is a secret made that nobody needs"
    again = invoke("keyholder", "new", "--key", tmp_path / "dora.key", "--out", out, "--force", "--json")
    assert json.loads(again.stdout).keys() == {"file", "scheme", "digest"}
    assert len(list(state.glob("*.key"))) == 2


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--clients", 10), ("bytes per value", "16.0", "48", "128-bit security", "2.464 GB", "2464 MB")),
        (("--scheme", "ckks", "--clients", 30), ("32.0", "38", "2^18")),
        (("--scheme", "ckks", "--clients", 30, "--bits", 48), ("64.0", "2")),
    ],
)
def test_explain_says_the_parameters_bytes_and_times(monkeypatch, options, said):
    monkeypatch.setattr("collabsecure_cli.encryption_costs._SECONDS", 0.02)
    shown = invoke("keyholder", "explain", *options)
    assert shown.exit_code == 0, shown.output
    assert any(word in shown.stdout for word in said[-2:])
    for word in said[:-2]:
        assert word in shown.stdout
    for row in ("encryption, a value", "decryption, the key holder", "noise, in steps of the modulus"):
        assert row in shown.stdout
    as_json = json.loads(invoke("keyholder", "explain", *options, "--json").stdout)
    assert as_json["modulus bits"] == 77


def test_explain_refuses_what_cannot_be_exact_with_the_numbers():
    refused(invoke("keyholder", "explain", "--scheme", "ckks", "--clients", 10_001), "1 to 10000 clients", "10001")


# session new and show


@pytest.fixture
def holder_file(tmp_path):
    write_public(tmp_path / "holder.json", PAIR.public, HOLDER, force=False)
    return tmp_path / "holder.json"


def add_holder(roster, line=None):
    roster.write_text(roster.read_text() + f"\n[key_holder]\n{line or roster_line('dora', HOLDER.public)}\n")


def test_a_session_with_a_key_holder_says_so_in_words(new_session, tmp_path, holder_file):
    add_holder(tmp_path / "roster.toml")
    made = new_session("--layers", "0", "--encryption", holder_file)
    assert made.exit_code == 0, made.output
    session = load_session(tmp_path / "session.json")
    assert (session.encryption, session.key_holder) == ("bfv", HOLDER.public)
    assert PublicKey.decode(session.encryption_key).digest == PAIR.public.digest
    shown = invoke("session", "show", tmp_path / "session.json")
    assert shown.exit_code == 0
    words = " ".join(shown.stdout.split())
    for said in (
        f"holder dora {'ed25519:' + HOLDER.public.hex()}",
        "masked and encrypted (bfv) for the key holder, 48 bits a number",
        "no sum: only the update Δ that the key holder hands back",
        "The key holder learns the sums",
        "both together learn no more",
    ):
        assert said in words, said
    as_json = json.loads(invoke("session", "show", tmp_path / "session.json", "--json").stdout)
    assert as_json["key_holder"]["name"] == "dora"
    assert as_json["encryption"] == "bfv"


def test_the_organiser_needs_both_the_roster_line_and_the_file(new_session, tmp_path, holder_file):
    refused(new_session("--layers", "0", "--encryption", holder_file), "no [key_holder], though there is an encryption")
    add_holder(tmp_path / "roster.toml")
    refused(new_session("--layers", "0"), "found a [key_holder]", "--encryption FILE")
    assert not (tmp_path / "session.json").exists()


def test_the_file_must_be_the_rosters_key_holders(new_session, tmp_path, holder_file):
    add_holder(tmp_path / "roster.toml", roster_line("dora", SERVER.public))
    refused(new_session("--layers", "0", "--encryption", holder_file), "the key of another key holder", "'dora'")


def test_a_key_holder_is_nobody_else(new_session, tmp_path, holder_file):
    for line in (roster_line("dora", IDENTITIES[1].public), roster_line(NAMES[0], HOLDER.public)):
        write_roster(tmp_path / "roster.toml")
        add_holder(tmp_path / "roster.toml", line)
        refused(new_session("--layers", "0", "--encryption", holder_file), "of its own for each")


@pytest.mark.parametrize(
    ("spoil", "found"),
    [
        (lambda c: c | {"signature": "00" * 64}, "not signed"),
        (lambda c: c | {"holder": SERVER.public.hex()}, "not signed"),
        (lambda c: c | {"scheme": "ckks"}, "a key for bfv that says it is for ckks"),
        (lambda c: c | {"key": c["key"][:-8]}, "something else|not signed"),
        (lambda c: {k: v for k, v in c.items() if k != "signature"}, "something else"),
        (lambda c: c | {"format": "collabsecure encryption key 2"}, "something else"),
        (lambda c: [c], "something else"),
    ],
)
def test_an_unsigned_or_damaged_file_is_refused(new_session, tmp_path, holder_file, spoil, found):
    add_holder(tmp_path / "roster.toml")
    holder_file.write_text(json.dumps(spoil(json.loads(holder_file.read_text()))))
    last = refused(new_session("--layers", "0", "--encryption", holder_file), "keyholder new")
    assert any(one in last for one in found.split("|"))
    assert not (tmp_path / "session.json").exists()


@pytest.mark.parametrize(
    ("scheme", "bits", "found"),
    [("bfv", None, 48), ("ckks", None, 38), ("bfv", "64", 64), ("bfv", "34", 34), ("ckks", "40", 40)],
)
def test_bits_are_what_fits_unless_given(new_session, tmp_path, scheme, bits, found):
    write_public(tmp_path / "key.json", KeyPair.generate(scheme).public, HOLDER, force=False)
    add_holder(tmp_path / "roster.toml")
    given = ("--bits", bits) if bits else ()
    made = new_session("--layers", "0", "--max-edits", "2", "--encryption", tmp_path / "key.json", *given)
    assert made.exit_code == 0, made.output
    assert {t.bits for spec in load_session(tmp_path / "session.json").sums for t in spec.tensors} == {found}


def test_bits_for_encryption_alone_are_refused_without(new_session):
    refused(new_session("--layers", "0", "--bits", "38"), "38", "only encrypted sessions take them")
    assert new_session("--layers", "0", "--bits", "39").exit_code == 2


# keyholder run


@pytest.fixture
def holder(tmp_path, monkeypatch):
    """A key holder's files; the command with them, against an aggregator whose sum waits to be opened."""
    write_identity(tmp_path / "dora.key", HOLDER)
    (tmp_path / "session.json").write_text(SESSION.to_json())
    with StateFolder.opened(tmp_path / "dora.state") as folder:
        keep_secret(folder, PAIR)
    monkeypatch.setattr(command, "SessionMoments", lambda *_: GivenMoments())

    def run(url="http://127.0.0.1:9", *options, key="dora.key"):
        return invoke(
            *("keyholder", "run", "--session", tmp_path / "session.json", "--key", tmp_path / key),
            *("--server", url, "--insecure", "--patience", "1s", "--out", tmp_path / "merged", *options),
        )

    return run


class GivenMoments:
    def check(self, tell):
        pass

    def __getitem__(self, layer):
        return LIGHT.moments[layer]


@contextmanager
def waiting(path, light=LIGHT):
    """An aggregator whose first sum is finished; what it is asked for is in `asked`."""
    with engine_in(light, path) as engine:
        Cohort(light).play(engine, until=lambda engine: engine.wants_merge)
    with aggregating(light, path) as server:
        app, server.asked = server.service, []
        whole = app.call

        async def call(step, *arguments, **options):
            server.asked.append(step.__name__)
            return await whole(step, *arguments, **options)

        app.call = call
        yield server


def test_it_opens_the_sum_and_hands_the_update_back(holder, tmp_path):
    with waiting(tmp_path / "aggregator") as server:
        done = holder(server.url, "--json")
        assert done.exit_code == 0, done.output
        assert json.loads(done.stdout)["outcome"] == "finished"
        results = server.service.aggregator.results
        found = load_delta(tmp_path / "merged" / "delta.safetensors").layers[1]
        assert np.array_equal(found, results.load(1))
        expected = LIGHT.expected(1, (1, 2, 3, 4))
        assert np.linalg.norm(found - expected) <= 1e-8 * np.linalg.norm(expected)
        report = json.loads((tmp_path / "merged" / "report.json").read_text())
        assert report["written_by"] == "key-holder"
    again = holder()  # nobody is asked for what is done
    assert again.exit_code == 0, again.output
    secret = Secret(PAIR)
    for path in tmp_path.rglob("*"):
        if path.is_file() and not path.is_relative_to(tmp_path / "dora.state"):
            assert not secret.is_in(path.read_bytes()), path
    assert not secret.is_in(done.output.encode() + again.output.encode())


def test_another_identity_is_refused(holder, tmp_path):
    write_identity(tmp_path / "mallory.key", LIGHT.identities[1])
    refused(holder(key="mallory.key"), "not the session's key holder's", HOLDER.public.hex())


def test_a_session_without_encryption_has_no_key_holder(holder, tmp_path):
    (tmp_path / "session.json").write_text(make_session(layers=(1,)).session.to_json())
    refused(holder(), "not the session's key holder's")


def secret_file(tmp_path):
    return next((tmp_path / "dora.state").glob("*.key"))


def test_without_the_secret_or_with_another_ones_nothing_begins(holder, tmp_path):
    path = secret_file(tmp_path)
    path.rename(tmp_path / "elsewhere")
    refused(holder(), "no such key pair", "keyholder new")
    with StateFolder.opened(tmp_path / "dora.state") as folder:
        keep_secret(folder, KeyPair.generate("bfv"))
    refused(holder(), "no such key pair")
    secret_file(tmp_path).rename(path)  # another session's secret under this one's name
    refused(holder(), "not the session's key holder's")
    damaged = bytearray((tmp_path / "elsewhere").read_bytes())
    damaged[1000] ^= 1
    path.write_bytes(damaged)
    refused(holder(), "the saved encryption key pair is damaged")


def test_a_key_pair_that_has_opened_sums_of_another_session_opens_none_of_this_one(holder, tmp_path):
    other = hashlib.sha256(b"another session").digest()
    with StateFolder.opened(tmp_path / "dora.state") as folder:
        begin_session(folder, PAIR.public, other)
    with waiting(tmp_path / "aggregator") as server:
        refused(holder(server.url), "has opened sums of another one", other.hex()[:16], "keyholder new")
        assert server.asked == []
    assert not list((tmp_path / "dora.state").glob("*/key-holder"))


def test_which_session_a_key_pair_serves_is_written_before_a_chunk_is_decrypted(holder, tmp_path, monkeypatch):
    (served,) = [path.with_suffix(".session") for path in [secret_file(tmp_path)]]
    seen = []

    def decrypt(self, index, payload):
        seen.append(served.read_text())
        raise RemoteProtocolError("enough", check="V43")

    monkeypatch.setattr("collabsecure_protocols.key_holder.KeyHolder.decrypt", decrypt)
    with waiting(tmp_path / "aggregator") as server:
        refused(holder(server.url), "V43")
    assert seen == [SESSION.transcript.hex()]


def too_few(engine):
    """V41: a sum over two clients."""
    digests = (bytes(32),) * SESSION.sums[0].num_chunks
    body = EncryptedSum(sum_index=0, link=bytes(32), survivors=(1, 2), masks=((), ()), digests=digests).encode(SESSION)
    engine.encrypted_sum = named("encrypted_sum", lambda _: seal(SESSION, SERVER, MessageType.ENCRYPTED_SUM, 0, body))


def another_link(engine):
    """V21: a sum that does not follow the updates that the key holder has made."""
    honest = engine.encrypted_sum

    def encrypted_sum(index):
        found = EncryptedSum.decode(memoryview(honest(index))[HEADER_BYTES:-SIGNATURE_BYTES], SESSION)
        body = replace(found, link=bytes([1] * 32)).encode(SESSION)
        return seal(SESSION, SERVER, MessageType.ENCRYPTED_SUM, 0, body)

    engine.encrypted_sum = encrypted_sum


def another_chunk(engine):
    """V42: not the one that was signed."""
    whole = engine.encrypted_chunk
    engine.encrypted_chunk = named("encrypted_chunk", lambda index, chunk: bytes(8) + whole(index, chunk)[8:])


def noise(engine):
    """V43: signed, and decrypts to no integers."""
    for total in engine._server._data.running.totals:
        total[:] = np.random.default_rng(1).integers(0, 2**59, len(total), np.uint64)


def named(name, function):
    function.__name__ = name
    return function


@pytest.mark.parametrize(
    ("attack", "check"), [(too_few, "V41"), (another_link, "V21"), (another_chunk, "V42"), (noise, "V43")]
)
def test_what_is_no_sum_ends_the_run_and_the_aggregator_hears_nothing_of_it(holder, tmp_path, attack, check):
    with waiting(tmp_path / "aggregator") as server:
        attack(server.service.aggregator)
        refused(holder(server.url), check)
        asked = list(server.asked)
        assert set(asked) <= {"encrypted_sum", "encrypted_chunk"}
        assert asked.count("encrypted_chunk") <= 2
        assert server.service.picture.is_merging
        assert server.service.picture.failure is None
    assert not (tmp_path / "merged").exists()


def test_another_sum_than_was_asked_for_is_not_opened(holder, tmp_path):
    """V20: it would be decrypted under the wrong name, and no sum before it could be opened any more."""
    light = make_session(layers=(1, 2), key_pair=PAIR)
    (tmp_path / "session.json").write_text(light.session.to_json())
    masks, digests = ((), ()), (bytes(32),) * light.session.sums[1].num_chunks
    body = EncryptedSum(sum_index=1, link=bytes(32), survivors=(1, 2, 3, 4), masks=masks, digests=digests)
    later = seal(light.session, SERVER, MessageType.ENCRYPTED_SUM, 0, body.encode(light.session))
    with waiting(tmp_path / "aggregator", light) as server:
        server.service.aggregator.encrypted_sum = named("encrypted_sum", lambda _: later)
        refused(holder(server.url), "V20", "sum 1 in the place of sum 0")
        assert server.asked == ["encrypted_sum"]
    assert not list((tmp_path / "dora.state").glob("*/key-holder"))


def test_a_session_that_was_given_up_ends_with_exit_code_3(holder, tmp_path):
    with engine_in(LIGHT, tmp_path / "aggregator") as engine:
        Cohort(LIGHT).play(engine, until=lambda engine: engine.wants_merge)
        engine.close_opening(0, "6 h")
    with aggregating(LIGHT, tmp_path / "aggregator") as server:
        refused(holder(server.url), "No result", "the key holder has not opened layer 1 within 6 h", code=3)


def test_a_session_that_is_given_up_during_the_opening_ends_with_exit_code_3(holder, tmp_path, monkeypatch):
    with waiting(tmp_path / "aggregator") as server:
        engine = server.service.aggregator
        whole = engine.updates.upload

        def upload(*arguments):
            engine.close_opening(0, "6 h")
            return whole(*arguments)

        engine.updates.upload = upload
        refused(holder(server.url), "No result", "the key holder has not opened layer 1 within 6 h", code=3)


def test_an_aggregator_that_is_not_there_is_waited_for_as_long_as_told(holder):
    refused(holder(), "no answer from 127.0.0.1:9 for 1 s", "The same command goes on", code=4)


def test_an_update_that_a_power_cut_has_damaged_is_sent_again(holder, tmp_path):
    with waiting(tmp_path / "aggregator") as server:
        updates = server.service.aggregator.updates
        whole, spoilt = updates.upload, []

        def upload(layer, offset, piece):
            end = whole(layer, offset, piece)
            if not spoilt:
                spoilt.append(layer)
                path = updates._staged(layer).path
                path.write_bytes(bytes(8) + path.read_bytes()[8:])
            return end

        updates.upload = upload
        done = holder(server.url)
        assert done.exit_code == 0, done.output
        assert "arrived damaged; uploading it again" in done.stderr
        assert spoilt == [1]


# In processes of their own: what TenSEAL writes, and what happens without it


def python(program, *arguments, folder):
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), *map(str, arguments)],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


BLOCKED = """
    import importlib.abc, sys
    class Missing(importlib.abc.MetaPathFinder):
        def find_spec(self, name, path=None, target=None):
            if name.partition(".")[0] in {missing!r}:
                raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
    sys.meta_path.insert(0, Missing())
    from collabsecure_cli.main import main
    main(prog_name="collabsecure")
"""
PLAIN = 'from collabsecure_cli.main import main; main(prog_name="collabsecure")'


def test_tenseal_writes_nothing_to_either_stream(tmp_path):
    write_identity(tmp_path / "dora.key", HOLDER)
    for scheme in ("bfv", "ckks"):
        made = python(
            PLAIN,
            *("keyholder", "new", "--key", "dora.key", "--scheme", scheme, "--out", f"{scheme}.json", "--json"),
            folder=tmp_path,
        )
        assert (made.returncode, made.stderr) == (0, "")
        assert set(json.loads(made.stdout)) == {"file", "scheme", "digest"}
        shown = python(
            PLAIN, "keyholder", "explain", "--scheme", scheme, "--clients", 5, "--json", folder=tmp_path
        )  # encrypts and decrypts
        assert (shown.returncode, shown.stderr) == (0, "")
        assert json.loads(shown.stdout)["scheme"] == scheme


@pytest.mark.parametrize("missing", ["tenseal", "httpx2"])
def test_without_the_extra_one_line_names_it(tmp_path, missing):
    write_identity(tmp_path / "dora.key", HOLDER)
    (tmp_path / "session.json").write_text(SESSION.to_json())
    with StateFolder.opened(tmp_path / "dora.state") as folder:
        keep_secret(folder, PAIR)
    program = textwrap.dedent(BLOCKED).format(missing={missing})
    run = ("keyholder", "run", "--session", "session.json", "--key", "dora.key", "--server", "https://127.0.0.1:9")
    commands = {
        "tenseal": [
            ("keyholder", "new", "--key", "dora.key", "--out", "holder.json"),
            ("keyholder", "explain", "--clients", 5),
            run,
        ],
        "httpx2": [run],
    }[missing]
    for arguments in commands:
        said = python(program, *arguments, folder=tmp_path)
        assert (said.returncode, said.stdout) == (1, ""), said.stderr
        assert len(said.stderr.strip().splitlines()) == 1, said.stderr
        assert "collabsecure[ckks]" in said.stderr
    # Who adds and who looks needs none of it.
    shown = python(program, "session", "show", "session.json", folder=tmp_path)
    assert shown.returncode == 0, shown.stderr


def test_a_secret_is_found_by_its_public_key_and_cannot_be_printed(tmp_path):
    with StateFolder.opened(tmp_path / "state") as folder:
        keep_secret(folder, PAIR)
        found = find_secret(folder, PAIR.public.encode())
    assert found.public.digest == PAIR.public.digest
    secret = Secret(PAIR)
    for shown in (repr(found), str(found), repr(found.public), repr(SESSION), SESSION.to_json()):
        assert not secret.is_in(shown.encode())
    assert Path(tmp_path / "state").stat().st_mode & 0o077 == 0
