"""`collabsecure session`: made once by the organiser, shown to everybody in words, refused when it is not in order."""

import json
import re
import sys
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner

from collabsecure.agreement import Agreement, second_moment_digest
from collabsecure.errors import BadFile
from collabsecure.statistics import SecondMoment, second_moment_filename
from collabsecure_cli.main import main
from collabsecure_cli.roster import roster_line
from collabsecure_cli.session import load_session
from collabsecure_cli.session_words import in_words, upload_bytes
from collabsecure_protocols import Identity, InvalidSession

NAMES = ("alice", "bob", "carol", "dave")
IDENTITIES = [Identity(bytes([number]) * 32) for number in range(5)]


def write_roster(path, names=NAMES):
    lines = [roster_line(name, identity.public) for name, identity in zip(names, IDENTITIES[1:], strict=False)]
    path.write_text("\n".join(["[server]", roster_line("sum-server", IDENTITIES[0].public), "[clients]", *lines]))


@pytest.fixture
def moments():
    rng = np.random.default_rng(0)
    keys = rng.standard_normal((128, 300))
    return {layer: SecondMoment(total=(layer + 1) * (keys @ keys.T), count=300, sample_size=10) for layer in (0, 1)}


@pytest.fixture
def new(tiny_editable, moments, tmp_path):
    tiny_editable.save(tmp_path / "model")
    (tmp_path / "stats").mkdir()
    for layer, moment in moments.items():
        name = second_moment_filename(tiny_editable.architecture.projection_of(layer), 10)
        moment.save_npz(tmp_path / "stats" / name)
    write_roster(tmp_path / "roster.toml")

    def run(*arguments):
        options = {"model": "model", "second-moment": "stats", "roster": "roster.toml", "out": "session.json"}
        paths = [text for option, name in options.items() for text in (f"--{option}", str(tmp_path / name))]
        return CliRunner().invoke(main, ["session", "new", *paths, "--device", "cpu", *map(str, arguments)])

    return run


def show(path, *arguments):
    return CliRunner().invoke(main, ["session", "show", str(path), *arguments])


def test_a_new_session_holds_what_was_chosen_and_memits_published_values(new, tmp_path, tiny_editable, moments):
    result = new("--layers", "0-1")
    assert result.exit_code == 0, result.output
    session = load_session(tmp_path / "session.json")
    agreement = Agreement.of(session)
    assert agreement.layers == (0, 1)
    assert agreement.weights_digest == tiny_editable.weights_digest([0, 1])
    assert agreement.weights_dtype == "float32"
    assert agreement.hyperparameters.second_moment_weight == 20_000
    assert agreement.second_moments == {
        layer: second_moment_digest(moment.weighted(20_000)) for layer, moment in moments.items()
    }
    assert (agreement.client_names, agreement.server_name) == (NAMES, "sum-server")
    assert session.roster == tuple(identity.public for identity in IDENTITIES[1:])
    assert session.server_key == IDENTITIES[0].public
    assert [spec.name for spec in session.sums] == ["layer 0", "layer 1"]
    for said in ("Loading", "Sampling contexts", "Reading the second moment of layer 1", "Digesting"):
        assert said in result.stderr
    first = " ".join(re.findall("....", session.transcript.hex())[:8])
    assert first in result.stdout
    assert "compares the digest with the others\nby phone" in result.stdout


def test_every_choice_gets_into_the_session(new, tmp_path):
    (tmp_path / "hparams.json").write_text(json.dumps({"layers": [1], "mom2_update_weight": 30, "v_lr": 0.25}))
    (tmp_path / "templates.json").write_text('[["{}"], ["You see. {}"]]')
    result = new(
        *("--hparams", tmp_path / "hparams.json", "--templates", tmp_path / "templates.json", "--bits", "40"),
        *("--max-edits", "7", "--task", "names of mayors", "--one-shot", "--json"),
    )
    assert result.exit_code == 0, result.output
    session = load_session(tmp_path / "session.json")
    assert json.loads(result.stdout) == {
        "file": str(tmp_path / "session.json"),
        "transcript": session.transcript.hex(),
    }
    agreement = Agreement.of(session)
    assert (agreement.layers, agreement.hyperparameters.v_lr, agreement.max_edits) == ((1,), 0.25, 7)
    assert agreement.contexts == (("{}",), ("You see. {}",))
    assert (agreement.flow, session.task) == ("one-shot", "names of mayors")
    assert [spec.name for spec in session.sums] == ["all layers"]
    assert {tensor.bits for tensor in session.sums[0].tensors} == {40}
    assert new("--hparams", tmp_path / "hparams.json", "--layers", "0", "--force").exit_code == 0
    assert Agreement.of(load_session(tmp_path / "session.json")).layers == (0,)


def test_gptj_gets_its_own_published_values(new, tmp_path, monkeypatch, tiny_editable):
    from collabsecure_cli.session import _hyperparameters

    monkeypatch.setattr(tiny_editable.model.config, "model_type", "gptj")
    found = _hyperparameters(tiny_editable, None, (3, 4))
    assert (found.layers, found.second_moment_weight, found.v_num_grad_steps) == ((3, 4), 15_000, 25)


def test_a_session_is_shown_in_plain_words_without_torch(new, tmp_path, monkeypatch):
    assert new("--layers", "0-1", "--task", "names of mayors").exit_code == 0
    session = load_session(tmp_path / "session.json")
    monkeypatch.setitem(sys.modules, "torch", None)
    result = show(tmp_path / "session.json")
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    groups = re.findall("....", session.transcript.hex())
    assert " ".join(groups[:8]) + "\n" in result.stdout
    assert " ".join(groups[8:]) + "\n" in result.stdout
    agreement = Agreement.of(session)
    for said in (
        "'names of mayors'",
        *(f"{name:<10}  ed25519:{key.hex()}" for name, key in zip(NAMES, session.roster, strict=True)),
        f"sum-server  ed25519:{session.server_key.hex()}",
        "3 of the 4 clients must stay",
        "At most 1 client may collude with the server",
        agreement.weights_digest,
        *agreement.second_moments.values(),
        "λ = 20000",
        "at most 1000 edits of any one client",
        "layer-synchronous",
        *map(json.dumps, agreement.contexts[1]),
        f"layer 0: {(128 * 129 // 2 + 32 * 128) * 6} bytes",
        "48 bits a number",
        "Never one client's own matrices",
        "hides who edited; it does not hide what was edited",
    ):
        assert said in result.stdout, said


def test_a_session_is_shown_as_json(new, tmp_path):
    assert new("--layers", "0-1").exit_code == 0
    session = load_session(tmp_path / "session.json")
    found = json.loads(show(tmp_path / "session.json", "--json").stdout)
    assert found["transcript"] == session.transcript.hex()
    assert found["clients"][1] == {"number": 2, "name": "bob", "key": f"ed25519:{session.roster[1].hex()}"}
    assert (found["min_survivors"], found["max_colluding_clients"]) == (3, 1)
    assert found["upload_bytes_total"] == sum(upload_bytes(session).values())


def test_a_regular_graph_is_said_to_need_a_server_that_follows_the_protocol(new, tmp_path):
    assert new("--layers", "0-1").exit_code == 0
    session = load_session(tmp_path / "session.json")
    agreement = Agreement.of(session)
    keys = tuple(bytes([number]) * 32 for number in range(1, 101))
    coarse = [
        replace(spec, tensors=tuple(replace(tensor, fraction_bits=tensor.fraction_bits - 5) for tensor in spec.tensors))
        for spec in session.sums
    ]
    many = replace(session, roster=keys, sums=tuple(coarse), degree=40, threshold=21, min_survivors=80)
    words = in_words(many, replace(agreement, client_names=tuple(f"client {number}" for number in range(1, 101))))
    assert "80 of the 100 clients must stay" in words
    assert "At most 20 clients may collude" in words
    assert "not from one that does not" in " ".join(words.split())


def test_nothing_is_overwritten_and_no_work_done_in_vain(new, tmp_path):
    (tmp_path / "session.json").write_text("precious")
    result = new("--layers", "0-1")
    assert result.exit_code == 1
    assert "something there already" in result.stderr
    assert "Loading" not in result.stderr
    assert (tmp_path / "session.json").read_text() == "precious"
    assert new("--layers", "0-1", "--force").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ((), 2, "Give --layers"),
        (("--layers", "0-2"), 1, "no second moment for transformer.h.2.mlp.c_proj"),
        (("--layers", "7"), 1, "found layer 7"),
        (("--layers", "0", "--bits", "16"), 2, "'16' is not one of"),
        (("--layers", "0", "--max-edits", "0"), 2, "0 is not in the range"),
        (("--layers", "0", "--task", "x" * 2000), 1, "a task has 0 to 1000 characters"),
        (("--layers", "0", "--roster", "{}/few.toml"), 1, "found 2 clients"),
        (("--layers", "0", "--templates", "{}/roster.toml"), 1, "is no JSON"),
        (("--layers", "0", "--hparams", "{}/roster.toml"), 1, "no JSON"),
        (("--layers", "0", "--second-moment", "{}/narrow"), 1, "width 5; expected the model's keys' 128"),
    ],
)
def test_what_cannot_be_agreed_on_is_one_line_and_no_file(new, tmp_path, arguments, code, said):
    write_roster(tmp_path / "few.toml", NAMES[:2])
    (tmp_path / "narrow").mkdir()
    narrow = SecondMoment(total=np.eye(5), count=1, sample_size=1)
    narrow.save_npz(tmp_path / "narrow" / "transformer.h.0.mlp.c_proj_float64_mom2_1.npz")
    result = new(*(argument.replace("{}", str(tmp_path)) for argument in arguments))
    assert result.exit_code == code, result.output
    assert said in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.output
    assert not (tmp_path / "session.json").exists()


def test_files_that_are_no_session_are_refused(new, tmp_path):
    assert new("--layers", "0").exit_code == 0
    path = tmp_path / "session.json"
    (tmp_path / "latin.json").write_bytes("Köln".encode("latin-1"))
    (tmp_path / "forged.json").write_text(path.read_text().replace('"alice', '"mallo', 1))
    (tmp_path / "other.json").write_text(replace(load_session(path), parameters=(("format", "another"),)).to_json())
    for name, error in (("latin.json", BadFile), ("absent.json", BadFile), (".", BadFile), ("forged.json", None)):
        with pytest.raises(error or InvalidSession, match=re.escape(str(tmp_path / name))):
            load_session(tmp_path / name)
        assert show(tmp_path / name).exit_code == 1
    result = show(tmp_path / "other.json")
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: The session's format: found 'another'; expected 'collabsecure editing 1'")
