"""`collabsecure evaluate --generation`: NE and RS beside CounterFact's other figures, in MEMIT's files, resumable."""

import json

import numpy as np
import pytest
from click.testing import CliRunner

from collabsecure.edits import load_requests
from collabsecure.references import References, read_snippets
from collabsecure.tfidf import TfIdf
from collabsecure_cli.case_folder import MARK
from collabsecure_cli.main import main

SEED = 3
CONTEXT = 32  # tokens: how long texts get, so that writing them takes no time
RECORDS = [
    {
        "case_id": number,
        "requested_rewrite": {
            "prompt": "{} plays the",
            "subject": subject,
            "relation_id": "P1",
            "target_new": {"str": "violin", "id": ("Q1", "Q2")[number % 2]},
            "target_true": {"str": "piano", "id": "Q3"},
        },
        "paraphrase_prompts": [f"The instrument of {subject} is the"],
        "neighborhood_prompts": ["Mira Voss plays the"],
        "generation_prompts": [f"{subject} plays", f"{subject} was born", f"{subject} plays"][: 3 * (number != 9)],
    }
    for number, subject in enumerate(("Ada Quill", "Bram Stone", "Norland", "Émile Zürn", "Lindau"), start=7)
]
SNIPPETS = [
    {
        "relation_id": "P1",
        "target_id": "Q2",
        "samples": [
            {"name": "Bram Stone", "text": "Bram Stone plays the violin and the piano"},
            {"text": "The capital"},
        ],
    },
    {"relation_id": "P2", "target_id": "Q2", "samples": [{"name": "Norland", "text": "Norland is the capital"}]},
]


@pytest.fixture
def folder(tiny_editable, tmp_path):
    positions = tiny_editable.model.transformer.wpe.weight
    positions.data = positions.data[:CONTEXT].clone()
    tiny_editable.model.config.n_positions = CONTEXT
    tiny_editable.save(tmp_path / "model")
    (tmp_path / "records.json").write_text(json.dumps(RECORDS))
    (tmp_path / "records.jsonl").write_text(
        "\n\n".join(json.dumps(record, ensure_ascii=False) for record in RECORDS), encoding="utf-8"
    )
    (tmp_path / "snippets.json").write_text(json.dumps(SNIPPETS))
    return tmp_path


def evaluate(folder, *more, records="records.json"):
    options = ["--model", str(folder / "model"), "--records", str(folder / records), "--device", "cpu"]
    return CliRunner().invoke(main, ["evaluate", *options, *more])


def with_texts(folder, *more, records="records.json", seed=SEED):
    snippets = ("--snippets", str(folder / "snippets.json"))
    return evaluate(folder, "--generation", *snippets, "--seed", str(seed), *more, records=records)


def expected(folder, tfidf=None):
    """What the library says, called as a program would."""
    from collabsecure.evaluate.generation import evaluate_generation
    from collabsecure.layers import EditableModel

    model = EditableModel.load(str(folder / "model"), device="cpu")
    references = References.match(RECORDS, read_snippets(folder / "snippets.json"), tfidf=tfidf)
    return evaluate_generation(model, load_requests(folder / "records.json"), references, seed=SEED)


def kept(out):
    return {path.name: path.read_bytes() for path in out.iterdir() if path.name != MARK}


def test_ne_and_rs_are_the_librarys_and_stand_beside_the_other_figures(folder):
    scores = expected(folder)
    result = with_texts(folder, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert (found["ne"], found["rs"], found["seed"]) == (scores.ne, scores.rs, SEED)
    assert 0 < found["rs"] < 1
    plain = json.loads(evaluate(folder, "--json").stdout)
    assert all(found[name] == value for name, value in plain.items() if name != "intervals")
    assert [*found["intervals"]] == ["es", "ps", "ns", "score", "ne", "rs"]
    assert all(found["intervals"][name] == interval for name, interval in plain["intervals"].items())
    rows = with_texts(folder).stdout.splitlines()
    for figure in scores.figures():
        low, high = found["intervals"][figure.name.lower()]
        assert (low, high) == (figure.interval.low, figure.interval.high)
        assert f"{figure.name:<6}{100 * figure.value:>6.1f}   {100 * low:.1f} – {100 * high:.1f}" in rows


def test_files_have_memits_keys_and_its_summary_of_them_is_ours(folder):
    assert with_texts(folder, "--out", str(folder / "run")).exit_code == 0
    posts = {path.name: json.loads(path.read_text())["post"] for path in (folder / "run").glob("case_*.json")}
    scores = expected(folder)
    for record in scores.records:
        post = posts[f"case_{record.case_id}.json"]
        assert tuple(post.get("text", ())) == record.texts
        assert (post.get("ngram_entropy"), post.get("reference_score")) == (record.ne, record.rs)
        assert "rewrite_prompts_probs" in post
    # No prompts for texts; and prompts, but no snippets about the new target.
    assert posts["case_9.json"].keys() & {"text", "ngram_entropy", "reference_score"} == set()
    assert posts["case_8.json"].keys() & {"text", "ngram_entropy", "reference_score"} == {"text", "ngram_entropy"}
    summary = json.loads((folder / "run" / "summary.json").read_text())
    for ours, theirs in (("ne", "ngram_entropy"), ("rs", "reference_score")):
        assert summary[ours] == pytest.approx(np.mean([post[theirs] for post in posts.values() if theirs in post]))


def test_without_snippets_there_is_ne_alone(folder):
    result = evaluate(folder, "--generation")
    assert result.exit_code == 0, result.output
    assert "RS         –" in result.stdout
    found = json.loads(evaluate(folder, "--generation", "--json").stdout)
    assert (found["rs"], found["seed"]) == (None, 0)
    assert found["ne"] > 0


def test_records_in_json_lines_have_the_same_references(folder):
    found = [
        json.loads(with_texts(folder, "--json", records=name).stdout) for name in ("records.json", "records.jsonl")
    ]
    assert found[0] == found[1]
    assert found[0]["rs"] is not None


def test_words_are_weighed_as_a_folder_of_romes_says(folder):
    tfidf = folder / "tfidf"
    tfidf.mkdir()
    (tfidf / "tfidf_vocab.json").write_text(json.dumps({"violin": 1, "the": 0, "plays": 2, "ada": 3}))
    np.save(tfidf / "idf.npy", np.array([1.0, 3.5, 2.0, 4.0]))
    result = with_texts(folder, "--tfidf", str(tfidf), "--json")
    assert result.exit_code == 0, result.output
    weights = TfIdf(idf={"the": 1.0, "violin": 3.5, "plays": 2.0, "ada": 4.0})
    assert json.loads(result.stdout)["rs"] == expected(folder, weights).rs != expected(folder).rs


def test_interrupted_while_it_writes_it_goes_on_and_ends_with_the_same_bytes(folder, monkeypatch):
    import collabsecure.evaluate.generation as generation

    monkeypatch.setattr("collabsecure_cli.evaluate.AT_ONCE", 2)
    assert with_texts(folder, "--out", str(folder / "whole")).exit_code == 0
    generate, calls = generation.generate, []

    def interrupted(*args, **kwargs):
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return generate(*args, **kwargs)

    monkeypatch.setattr(generation, "generate", interrupted)
    result = with_texts(folder, "--out", str(folder / "run"))
    assert result.exit_code == 130
    assert {path.name for path in (folder / "run").glob("case_*.json")} == {"case_7.json", "case_8.json"}
    result = with_texts(folder, "--out", str(folder / "run"))
    assert result.exit_code == 0, result.output
    assert kept(folder / "run") == kept(folder / "whole")
    assert len(calls) == 4  # records 7 and 8; interrupted; 9 and 10; 11
    damaged = json.loads((folder / "run" / "case_8.json").read_text())
    damaged["post"]["text"] = [1]
    (folder / "run" / "case_8.json").write_text(json.dumps(damaged))
    assert with_texts(folder, "--out", str(folder / "run")).exit_code == 0
    assert kept(folder / "run") == kept(folder / "whole")


def test_other_texts_are_another_evaluation(folder):
    out = ("--out", str(folder / "run"))
    assert with_texts(folder, *out).exit_code == 0
    before = kept(folder / "run")
    other_seed, no_snippets, no_texts = (
        with_texts(folder, *out, seed=SEED + 1),
        evaluate(folder, "--generation", "--seed", str(SEED), *out),
        evaluate(folder, *out),
    )
    (folder / "snippets.json").write_text(json.dumps(SNIPPETS[:1]))
    for result in (other_seed, no_snippets, no_texts, with_texts(folder, *out)):
        assert result.exit_code == 1
        assert f"with counterfact and text (seed {SEED}, snippets " in result.output
    assert kept(folder / "run") == before
    assert evaluate(folder, *out, "--force").exit_code == 0
    assert "text" not in json.loads((folder / "run" / "case_7.json").read_text())["post"]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--seed", "1"], "--snippets and --seed belong to --generation"),
        (["--snippets", "{folder}/snippets.json"], "--snippets and --seed belong to --generation"),
        (["--generation", "--tfidf", "{folder}"], "--tfidf belongs to --snippets"),
        (["--generation", "--metrics", "zsre"], "--generation belongs to CounterFact's metrics"),
    ],
)
def test_options_that_have_no_use_are_slips(folder, options, reason):
    result = evaluate(folder, *(option.format(folder=folder) for option in options))
    assert result.exit_code == 2
    assert reason in " ".join(result.output.split())


def test_files_that_do_not_belong_together_are_refused(folder):
    result = with_texts(folder, "--tfidf", str(folder))
    assert result.exit_code == 1
    assert "tfidf_vocab.json: found no such file" in result.output
    (folder / "snippets.json").write_text(json.dumps(SNIPPETS[1:]))
    result = with_texts(folder)
    assert result.exit_code == 1
    assert "snippets.json: found nothing about the new targets in" in result.output
    (folder / "records.csv").write_text("prompt,subject,target_new,target_true\n{} is,Ada,hot,cold\n")
    assert "found nothing about the new targets in" in with_texts(folder, records="records.csv").output
