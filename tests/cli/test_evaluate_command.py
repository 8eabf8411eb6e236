"""`collabsecure evaluate`: the library's scores, and of how many records they are."""

import json

import pytest
from click.testing import CliRunner

from collabsecure.edits import load_requests
from collabsecure_cli.main import main

RECORDS = [
    {
        "case_id": number,
        "requested_rewrite": {
            "prompt": "{} plays the",
            "subject": subject,
            "target_new": {"str": "violin"},
            "target_true": {"str": "piano"},
            "relation_id": "P1",
        },
        "paraphrase_prompts": [f"The instrument of {subject} is the"],
        "neighborhood_prompts": ["Mira Voss plays the"],
        "attribute_prompts": [],
        "generation_prompts": [],
    }
    for number, subject in enumerate(("Ada Quill", "Bram Stone"))
]


@pytest.fixture
def folder(tiny_editable, tmp_path):
    tiny_editable.save(tmp_path / "model")
    return tmp_path


def evaluate(folder, *more):
    (folder / "records.json").write_text(json.dumps(RECORDS))
    options = ["--model", str(folder / "model"), "--records", str(folder / "records.json"), "--device", "cpu"]
    return CliRunner().invoke(main, ["evaluate", *options, *more])


def test_evaluation_prints_the_scores_and_how_many_records_they_are_of(folder, tiny_editable):
    from collabsecure.evaluate import evaluate_counterfact

    result = evaluate(folder)
    assert result.exit_code == 0, result.output
    assert "on 2 records" in result.stdout
    assert "Next: " in result.stdout
    expected = evaluate_counterfact(tiny_editable, load_requests(folder / "records.json"))
    found = json.loads(evaluate(folder, "--json").stdout)
    assert (found["es"], found["ps"], found["ns"], found["score"]) == (
        expected.es,
        expected.ps,
        expected.ns,
        expected.score,
    )
    assert f"ES    {100 * expected.es:>6.1f}" in result.stdout
    assert json.loads(evaluate(folder, "--json", "--limit", "1").stdout)["records"] == 1


def test_scores_that_records_cannot_have_are_a_dash(folder):
    (folder / "plain.jsonl").write_text('{"prompt": "{} plays the", "subject": "Ada Quill", "target_new": "violin"}\n')
    result = evaluate(folder, "--records", str(folder / "plain.jsonl"))
    assert result.exit_code == 0, result.output
    assert "Score      –" in result.stdout
