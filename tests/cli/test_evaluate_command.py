"""`collabsecure evaluate`: the library's scores, and of how many records they are; files of each record with --out."""

import json

import numpy as np
import pytest
from click.testing import CliRunner

from collabsecure.edits import load_requests
from collabsecure_cli.case_folder import MARK
from collabsecure_cli.main import main

RECORDS = [
    {
        "case_id": number,
        "requested_rewrite": {
            "prompt": "{} plays the",
            "subject": subject,
            "target_new": {"str": ("violin", "piano")[number % 2]},
            "target_true": {"str": ("piano", "violin")[number % 2]},
            "relation_id": "P1",
        },
        "paraphrase_prompts": [f"The instrument of {subject} is the", f"{subject} is a master of the"],
        "neighborhood_prompts": ["Mira Voss plays the", "Danelle Derrivaux plays the"][: 1 + number % 2],
        "attribute_prompts": [],
        "generation_prompts": [],
    }
    for number, subject in enumerate(("Ada Quill", "Bram Stone", "Norland", "Émile Zürn", "Lindau"), start=7)
]
ZSRE = [
    {
        "subject": subject,
        "src": f"What does {subject} play?",
        "rephrase": f"Which instrument is {subject}'s?",
        "answers": [answer],
        "loc": "nq question: who wrote The Silent Harbour",
        "loc_ans": "Mira Voss",
    }
    for subject, answer in (("Ada Quill", "the violin"), ("Bram Stone", "piano"), ("Mira Voss", "the piano, the"))
]


@pytest.fixture
def folder(tiny_editable, tmp_path):
    # Says "the" more than anything, so that some of zsRE's tokens are right.
    (token,) = tiny_editable.tokenizer(" the")["input_ids"]
    tiny_editable.model.transformer.ln_f.bias.data[0] = 4.0
    tiny_editable.model.lm_head.weight.data[token, 0] += 1.0
    tiny_editable.save(tmp_path / "model")
    (tmp_path / "records.json").write_text(json.dumps(RECORDS))
    (tmp_path / "zsre.json").write_text(json.dumps(ZSRE))
    return tmp_path


def evaluate(folder, *more, records="records.json"):
    options = ["--model", str(folder / "model"), "--records", str(folder / records), "--device", "cpu"]
    return CliRunner().invoke(main, ["evaluate", *options, *more])


def kept(out):
    """All that an evaluation left, but for the mark of the folder."""
    return {path.name: path.read_bytes() for path in out.iterdir() if path.name != MARK}


def as_memit_summarises(run_dir):
    """experiments/summarize.py, of the figures that stand in the papers: in per cent, to two digits."""
    found = {}
    files = sorted(run_dir.glob("*case_*.json"), key=lambda path: int(str(path).split("_")[-1].split(".")[0]))
    for data in (json.loads(path.read_text())["post"] for path in files):
        for key in ("rewrite", "paraphrase"):
            if f"{key}_prompts_probs" in data:
                right = [one["target_true"] > one["target_new"] for one in data[f"{key}_prompts_probs"]]
                found.setdefault(f"{key}_success", []).append(np.mean(right))
        if "neighborhood_prompts_probs" in data:
            right = [one["target_true"] < one["target_new"] for one in data["neighborhood_prompts_probs"]]
            found.setdefault("neighborhood_success", []).append(np.mean(right))
        for key in ("rewrite", "paraphrase", "neighborhood"):
            if f"{key}_prompts_correct" in data:
                found.setdefault(f"{key}_acc", []).append(np.mean(data[f"{key}_prompts_correct"]))
    return {name: np.around(100 * np.mean(shares), 2) for name, shares in found.items()}


def test_evaluation_prints_the_scores_and_how_many_records_they_are_of(folder):
    from collabsecure.evaluate import evaluate_counterfact
    from collabsecure.layers import EditableModel

    result = evaluate(folder)
    assert result.exit_code == 0, result.output
    assert "on 5 records, by CounterFact's metrics" in result.stdout
    assert "Next: " in result.stdout
    model = EditableModel.load(str(folder / "model"), device="cpu")
    expected = evaluate_counterfact(model, load_requests(folder / "records.json"))
    found = json.loads(evaluate(folder, "--json").stdout)
    assert (found["es"], found["ps"], found["ns"], found["score"]) == (
        expected.es,
        expected.ps,
        expected.ns,
        expected.score,
    )
    for figure in expected.figures():
        low, high = found["intervals"][figure.name.lower()]
        assert (low, high) == (figure.interval.low, figure.interval.high)
        row = f"{figure.name:<6}{100 * figure.value:>6.1f}   {100 * low:.1f} – {100 * high:.1f}"
        assert row in result.stdout.splitlines()
    assert json.loads(evaluate(folder, "--json", "--limit", "1").stdout)["records"] == 1


def test_records_without_a_true_target_get_zsres_metrics(folder):
    result = evaluate(folder, "--json", records="zsre.json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert (found["metrics"], found["records"]) == ("zsre", 3)
    assert [*found["intervals"]] == ["ea", "pa", "na", "score"]
    assert "by zsRE's metrics" in evaluate(folder, records="zsre.json").stdout
    assert json.loads(evaluate(folder, "--json", "--metrics", "zsre").stdout)["metrics"] == "zsre"


def test_scores_that_records_cannot_have_are_a_dash(folder):
    (folder / "plain.jsonl").write_text('{"prompt": "{} plays the", "subject": "Ada Quill", "target_new": "violin"}\n')
    result = evaluate(folder, records="plain.jsonl")
    assert result.exit_code == 0, result.output
    assert "Score      –" in result.stdout
    result = evaluate(folder, "--metrics", "counterfact", records="plain.jsonl")
    assert "ES         –" in result.stdout


def test_memits_summary_of_the_files_is_ours_for_counterfact(folder):
    assert evaluate(folder, "--out", str(folder / "run")).exit_code == 0
    ours, theirs = json.loads((folder / "run" / "summary.json").read_text()), as_memit_summarises(folder / "run")
    for ours_name, name in (("es", "rewrite_success"), ("ps", "paraphrase_success"), ("ns", "neighborhood_success")):
        assert round(100 * ours[ours_name], 2) == theirs[name]
        assert 0 < theirs[name] < 100
    case = json.loads((folder / "run" / "case_7.json").read_text())
    assert case["case_id"] == 7
    assert case["requested_rewrite"] == RECORDS[0]["requested_rewrite"]
    groups = [f"{group}_prompts" for group in ("rewrite", "paraphrase", "neighborhood")]
    assert {*case["post"]} == {f"{group}_{what}" for group in groups for what in ("probs", "correct")}


def test_memits_summary_of_the_files_is_ours_for_zsre(folder):
    assert evaluate(folder, "--out", str(folder / "run"), records="zsre.json").exit_code == 0
    ours, theirs = json.loads((folder / "run" / "summary.json").read_text()), as_memit_summarises(folder / "run")
    assert {*theirs} == {"rewrite_acc", "paraphrase_acc", "neighborhood_acc"}
    for ours_name, name in (("ea", "rewrite_acc"), ("pa", "paraphrase_acc"), ("na", "neighborhood_acc")):
        assert round(100 * ours[ours_name], 2) == theirs[name]
    assert 0 < theirs["rewrite_acc"] < 100
    case = json.loads((folder / "run" / "case_2.json").read_text())
    assert len(case["post"]["rewrite_prompts_correct"]) > 1  # one for each token
    assert case["requested_rewrite"]["target_true"] == {"str": "<|endoftext|>"}


def test_files_are_numbered_where_case_ids_are_not_numbers(folder):
    lines = [{"prompt": "{} is", "subject": "Ada", "target_new": "the", "case_id": name} for name in ("a/b", "c")]
    (folder / "named.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert evaluate(folder, "--out", str(folder / "run"), records="named.jsonl").exit_code == 0
    found = {path.name: json.loads(path.read_text())["case_id"] for path in (folder / "run").glob("case_*")}
    assert found == {"case_0.json": "a/b", "case_1.json": "c"}


@pytest.mark.parametrize("records", ["records.json", "zsre.json"])
def test_interrupted_it_goes_on_and_ends_with_the_same_bytes(folder, monkeypatch, records):
    import collabsecure.evaluate.continuations as continuations

    monkeypatch.setattr("collabsecure_cli.evaluate.AT_ONCE", 2)
    assert evaluate(folder, "--out", str(folder / "whole"), records=records).exit_code == 0
    read, batches = continuations._read, []

    def interrupted(model, texts):
        batches.append(len(texts))
        if len(batches) == 2:
            raise KeyboardInterrupt
        return read(model, texts)

    monkeypatch.setattr(continuations, "_read", interrupted)
    result = evaluate(folder, "--out", str(folder / "run"), records=records)
    assert result.exit_code == 130
    assert "the same command goes on" in result.output
    assert len([*(folder / "run").glob("case_*.json")]) == 2
    assert not (folder / "run" / "summary.json").exists()

    result = evaluate(folder, "--out", str(folder / "run"), records=records)
    assert result.exit_code == 0, result.output
    assert "Going on with what an interrupted run left" in result.stderr
    assert kept(folder / "run") == kept(folder / "whole")
    done = len(batches)
    again = evaluate(folder, "--out", str(folder / "run"), records=records)
    assert again.stdout == result.stdout
    assert len(batches) == done  # nothing is read twice


def test_a_limit_is_only_a_beginning(folder):
    assert evaluate(folder, "--out", str(folder / "run"), "--limit", "2").exit_code == 0
    assert evaluate(folder, "--out", str(folder / "run")).exit_code == 0
    assert json.loads((folder / "run" / "summary.json").read_text())["records"] == 5


def test_a_damaged_file_is_made_anew(folder):
    out = folder / "run"
    assert evaluate(folder, "--out", str(out)).exit_code == 0
    whole = kept(out)
    case = json.loads(whole["case_8.json"])
    case["post"]["rewrite_prompts_probs"] = [{"target_new": "low"}]
    for damage in ("{", "[]", '{"evaluation": 1}', json.dumps(case)):
        (out / "case_8.json").write_text(damage)
        assert evaluate(folder, "--out", str(out)).exit_code == 0
        assert kept(out) == whole


def test_a_folder_with_something_else_is_left_alone(folder):
    out = folder / "mine"
    out.mkdir()
    (out / "case_7.json").write_text('{"case_id": 7, "post": {}}')
    result = evaluate(folder, "--out", str(out))
    assert result.exit_code == 1
    assert "found a folder with other things in it" in result.output
    assert [path.name for path in out.iterdir()] == ["case_7.json"]
    assert evaluate(folder, "--out", str(out), "--force").exit_code == 0
    assert json.loads((out / "case_7.json").read_text())["post"]  # not taken for ours


def test_another_evaluation_is_not_replaced_without_force(folder):
    out = folder / "run"
    assert evaluate(folder, "--out", str(out)).exit_code == 0
    before = kept(out)
    result = evaluate(folder, "--out", str(out), records="zsre.json")
    assert result.exit_code == 1
    assert "model on records.json, with counterfact metrics" in result.output
    assert kept(out) == before
    assert evaluate(folder, "--out", str(out), "--force", records="zsre.json").exit_code == 0
    assert {path.name for path in out.glob("case_*")} == {"case_0.json", "case_1.json", "case_2.json"}


def test_force_without_a_folder_is_a_slip(folder):
    assert "--force belongs to --out" in evaluate(folder, "--force").output
