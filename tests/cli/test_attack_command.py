"""`collabsecure attack` as a user meets it: what it writes, going on after an interruption, and how it ends."""

import itertools
import json
import os
import subprocess
import sys
from dataclasses import replace
from functools import partial

import pytest
from click.testing import CliRunner
from made_up_findings import findings, game

from collabsecure.attacks.record import finding_to_json
from collabsecure.attacks.suite import SUITES, Experiment, Plan
from collabsecure.second_moment import compute_second_moments
from collabsecure.statistics import second_moment_filename
from collabsecure_cli.attack_target import Target
from collabsecure_cli.main import main

FIRST_NAMES = "Ada Bram Mira Danelle Émile Sol Ines Kuno Yara Otto".split()
LAST_NAMES = "Quill Stone Voss Derrivaux Zürn Norland Lindau Harbour Piano".split()


def attack(*arguments):
    return CliRunner().invoke(main, ["attack", *arguments])


class MadeUpPlan:
    """In place of the real plan: experiments that give made-up findings at once, and tell which were done."""

    def __init__(self):
        self.done, self.asked, self.broken_off = [], {}, None
        self.found = {f"experiment {number}": findings()[number::3] for number in range(3)}

    def __call__(self, suite, **asked):
        self.asked = {"suite": suite.name, **asked}
        experiments = [Experiment(name=name, seconds=40.0, run=partial(self.run, name)) for name in self.found]
        return Plan(experiments=tuple(experiments), left_out=("10 × 100 edits: too many",))

    def run(self, name):
        if name == self.broken_off:
            raise KeyboardInterrupt
        self.done.append(name)
        yield from self.found[name]


@pytest.fixture
def plan(monkeypatch):
    made_up = MadeUpPlan()
    monkeypatch.setattr("collabsecure.attacks.plan.plan", made_up)
    return made_up


def test_it_says_how_long_it_takes_writes_both_reports_and_ends_with_the_verdict(plan, tmp_path):
    result = attack("--out", str(tmp_path / "out"))
    assert result.exit_code == 0, result.output
    assert "3 experiments of 3 to do, about 2 min" in result.stderr
    assert "Left out: 10 × 100 edits: too many" in result.stderr
    assert result.stdout.startswith("[holds] Secure summation hides who edited, not what was edited")
    assert "report.html" in result.stdout
    data = json.loads((tmp_path / "out" / "report.json").read_text())
    assert len(data["findings"]) == len(findings())
    assert data["command"].startswith(
        "collabsecure attack --suite quick --views plain,masked,ckks-aggregator,sum,delta"
    )
    assert "Holds in this run" in (tmp_path / "out" / "report.html").read_text()


def test_interrupted_it_goes_on_with_what_is_left(plan, tmp_path):
    plan.broken_off = "experiment 1"
    first = attack("--out", str(tmp_path / "out"))
    assert first.exit_code == 130
    assert first.stderr.splitlines()[-1].endswith("the same command goes on.")
    assert not (tmp_path / "out" / "report.json").exists()
    plan.broken_off = None
    second = attack("--out", str(tmp_path / "out"))
    assert second.exit_code == 0, second.output
    assert "Going on with what an interrupted run left" in second.stderr
    assert "2 experiments of 3 to do" in second.stderr
    assert plan.done == ["experiment 0", "experiment 1", "experiment 2"]
    data = json.loads((tmp_path / "out" / "report.json").read_text())
    expected = [finding_to_json(finding) for found in plan.found.values() for finding in found]
    assert data["findings"] == json.loads(json.dumps(expected))


@pytest.mark.parametrize("other", [("--seed", "1"), ("--views", "plain,sum"), ("--clients", "1,2")])
def test_another_seed_other_views_and_other_sizes_start_anew(plan, tmp_path, other):
    """An experiment's name does not say what is tried in it: what was not looked at once would never be."""
    attack("--out", str(tmp_path / "out"))
    attack("--out", str(tmp_path / "out"), *other)
    assert plan.done == ["experiment 0", "experiment 1", "experiment 2"] * 2


def test_another_model_in_the_same_folder_is_another_target(tmp_path):
    records, model, moments = tmp_path / "records.json", tmp_path / "model", tmp_path / "moments"
    records.write_text("[]")
    for folder in (model, moments):
        folder.mkdir()
        (folder / "file").write_text("before")

    def identity():
        return Target.of(str(model), records, records, moments, device=None, seed=0).identity

    assert identity() == identity()
    for folder in (model, moments):
        before, old = identity(), (folder / "file").stat()
        (folder / "file").write_text("behind")  # as long, and as old
        os.utime(folder / "file", ns=(old.st_atime_ns, old.st_mtime_ns))
        assert identity() != before


def test_more_edits_of_each_client_go_on_from_what_there_is(plan, tmp_path):
    attack("--out", str(tmp_path / "out"))
    attack("--out", str(tmp_path / "out"), "--edits-per-client", "5")
    assert plan.done == ["experiment 0", "experiment 1", "experiment 2"]


def test_json_is_the_verdict_on_one_line(plan, tmp_path):
    result = attack("--out", str(tmp_path / "out"), "--json")
    data = json.loads(result.stdout)
    assert data["verdict"]["sentence"]["holds"] is True
    assert data["out"] == str(tmp_path / "out")
    assert "findings" not in data


def test_a_control_that_stays_silent_is_exit_code_1_after_the_report(plan, tmp_path):
    plan.found["silent"] = [game("masked", "no mask", value=0.5, must=True)]
    result = attack("--out", str(tmp_path / "out"))
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1].startswith("Error: controls failed")
    assert (tmp_path / "out" / "report.html").exists()


def test_a_promise_that_does_not_hold_is_exit_code_1(plan, tmp_path):
    plan.found["broken"] = [game("masked", "as it is", value=0.9, must=False)]
    result = attack("--out", str(tmp_path / "out"))
    assert result.exit_code == 1
    assert (
        "gave something away" in result.stdout + result.stderr or "what should give nothing away did" in result.stderr
    )


def test_a_folder_with_other_things_is_left_alone(plan, tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    result = attack("--out", str(tmp_path))
    assert result.exit_code == 1
    assert "a folder with other things in it" in result.stderr
    assert plan.done == []
    assert attack("--out", str(tmp_path), "--force").exit_code == 0
    assert (tmp_path / "thesis.txt").read_text() == "mine"


def test_what_is_asked_for_reaches_the_plan(plan, tmp_path):
    attack("--out", str(tmp_path), "--views", "delta, sum", "--clients", "5,2", "--edits-per-client", "20,100,20")
    assert plan.asked["views"] == ("sum", "delta")
    assert plan.asked["grid"].clients == (2, 5)
    assert plan.asked["grid"].edits_per_client == (20, 100)
    assert plan.asked["num_requests"] == 480


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--views", "plain,server"), "found 'server'; expected some of plain,masked,ckks-aggregator,sum,delta"),
        (("--clients", "0"), "expected numbers such as 1,2,5"),
        (("--edits-per-client", "5,²"), "expected numbers such as 1,2,5"),
        (("--model", "gpt2"), "With --model, also give --records, --hparams and --second-moment."),
        (("--suite", "huge"), "'quick', 'full'"),
        (("--seed", "-1"), "'--seed': -1 is not in the range x>=0"),
    ],
)
def test_what_cannot_be_meant_is_a_usage_error(arguments, said):
    result = attack(*arguments)
    assert result.exit_code == 2
    assert said in result.stderr


def test_help_says_whose_eyes_there_are():
    result = attack("--help")
    for words in ("plain            K Kᵀ", "delta            the update", "--suite [quick|full]", "exit code 1"):
        assert words in result.stdout


def test_no_other_command_pays_for_it():
    code = "import sys, collabsecure_cli.main; sys.exit('scipy.stats' in sys.modules or 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.fixture
def own_model(tiny_editable, tmp_path):
    """A model directory, records about 90 subjects, hyper-parameters and second moments, as for any real model."""
    tiny_editable.save(tmp_path / "model")
    names = [f"{first} {last}" for first in FIRST_NAMES for last in LAST_NAMES]
    records = [
        {"prompt": "{} plays the", "subject": name, "target_new": "violin", "target_true": "piano"} for name in names
    ]
    (tmp_path / "records.jsonl").write_text("\n".join(map(json.dumps, records)))
    (tmp_path / "hparams.json").write_text(
        json.dumps({"layers": [0, 1], "mom2_update_weight": 10, "v_num_grad_steps": 3, "v_lr": 0.5})
    )
    (tmp_path / "stats").mkdir()
    texts = [f"{name} was born in Köln, and {other} in Lindau." for name, other in itertools.pairwise(names)]
    for layer, moment in compute_second_moments(tiny_editable, texts, [0, 1]).items():
        name = second_moment_filename(tiny_editable.architecture.projection_of(layer), moment.sample_size)
        moment.save_npz(tmp_path / "stats" / name)
    chosen = {"model": "model", "records": "records.jsonl", "hparams": "hparams.json", "second-moment": "stats"}
    return [argument for option, name in chosen.items() for argument in (f"--{option}", str(tmp_path / name))]


def test_a_model_of_ones_own_is_attacked_and_what_its_records_do_not_suffice_for_is_said(
    own_model, tmp_path, monkeypatch
):
    """The real attacks, one client with 10 edits of 60 subjects, and 51 × 10 synthetic edits in place of a crowd."""
    small = replace(SUITES["quick"], reconstructed=(), crowds=(2.0,))
    monkeypatch.setitem(SUITES, "quick", small)
    grid = ("--clients", "1", "--edits-per-client", "10,50", "--views", "plain,delta")
    result = attack(*own_model, *grid, "--device", "cpu", "--out", str(tmp_path / "out"))
    assert result.exit_code == 0, result.output
    assert "needs 150 subjects (edits, null, others), there are 60" in result.stderr
    data = json.loads((tmp_path / "out" / "report.json").read_text())
    assert data["target"] == str(tmp_path / "model")
    found = {(each["attack"], each["setting"]["keys"]): each["score"]["figures"][0] for each in data["findings"]}
    of_model = {name: figure for (name, keys), figure in found.items() if keys != "synthetic"}
    assert of_model.keys() == {
        *("rank", "ambiguity", "fastica", "reconstruction", "membership", "value recovery"),
        *("published delta", "behaviour"),
    }
    assert of_model["rank"]["value"] == 10
    assert of_model["membership"]["value"] == 1.0
    assert found["published delta", "synthetic"]["chance"] == 0.5


@pytest.mark.slow
def test_the_quick_suite_proves_the_sentence_and_all_its_controls_fire(tmp_path):
    """Everything as a user gets it, seed 0; two or three minutes where nothing else is done."""
    result = attack("--out", str(tmp_path / "out"), "--json")
    assert result.exit_code == 0, result.output
    verdict = json.loads(result.stdout)["verdict"]
    assert verdict["controls_failed"] == verdict["promises_broken"] == []
    assert verdict["sentence"]["holds"] is True
    assert [claim["claim"] for claim in verdict["claims"] if claim["holds"] is None] == []
    data = json.loads((tmp_path / "out" / "report.json").read_text())
    nulls = [
        figure
        for each in data["findings"]
        if each["null"] is not None
        for figure in each["null"]["figures"]
        if figure["is_chance"] is not None
    ]
    assert len(nulls) > 20
    assert all(figure["is_chance"] for figure in nulls)
    assert data["seconds"] < 900
