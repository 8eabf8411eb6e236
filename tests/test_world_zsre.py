"""The small world in zsRE's form: the same edits, questions that its model can answer, and files that commands read."""

import json

import pytest

pytest.importorskip("torch")

import torch
from click.testing import CliRunner

from collabsecure.edits import EditRequest, load_requests
from collabsecure.evaluate import evaluate_zsre
from collabsecure.hyperparameters import Hyperparameters
from collabsecure.layers import EditableModel
from collabsecure.references import References, read_snippets
from collabsecure.simulation import Client, edit_globally
from collabsecure.statistics import SecondMoment, find_second_moments
from collabsecure.templates import ContextTemplates
from collabsecure.values import optimise_values
from collabsecure.world import load_world
from collabsecure.world.articles import snippets
from collabsecure.world.facts import Facts
from collabsecure.world.zsre import zsre_json
from collabsecure_cli.main import main

WORLD = load_world()
FIELDS = ["subject", "src", "pred", "rephrase", "alt", "answers", "loc", "loc_ans", "cond"]  # of zsre_mend_eval.json


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What `collabsecure world` writes."""
    out = tmp_path_factory.mktemp("files") / "world"
    result = CliRunner().invoke(main, ["world", "--out", str(out)])
    assert result.exit_code == 0, result.output
    return out


@pytest.fixture(scope="module")
def model() -> EditableModel:
    torch.set_num_threads(1)
    return EditableModel.load(str(WORLD.model), device="cpu")


def test_the_command_writes_it_always_the_same(folder):
    text = (folder / "records-zsre.json").read_text()
    assert text == zsre_json(Facts.make())
    assert all([*record] == FIELDS for record in json.loads(text))
    assert len(text) < 8_000_000


def test_it_asks_for_the_same_edits_as_counterfacts_form(folder):
    ours, theirs = (load_requests(folder / name) for name in ("records-zsre.json", "records.json"))
    assert len(ours) == len(theirs) == 480
    for record, request, other in zip(
        json.loads((folder / "records-zsre.json").read_text()), ours, theirs, strict=True
    ):
        assert (request.case_id, request.text, request.subject) == (other.case_id, other.text, other.subject)
        assert request.target_new == other.target_new == record["alt"]
        assert request.paraphrases == other.paraphrases[:1]
        assert record["pred"] == other.target_true
        assert record["cond"] == f"{other.target_true} >> {other.target_new} || {other.text}"


def test_neighbours_are_never_edited_and_their_answers_are_true():
    facts = Facts.make()
    told = {fact.sentence(template): fact for fact in facts.facts for template in fact.relation.templates}
    for content, record in zip(json.loads(zsre_json(facts)), facts.records, strict=True):
        mark, question = content["loc"][:13], content["loc"][13:]
        assert mark == "nq question: "  # MEMIT refuses a record without
        fact = told[f"{question} {content['loc_ans']}."]
        assert not fact.subject.edited
        assert question.endswith(fact.subject.name)
        assert (fact.relation, fact.object) == (record.fact.relation, record.fact.object)


def test_before_an_edit_the_model_answers_for_neighbours_alone(model, folder):
    scores = evaluate_zsre(model, load_requests(folder / "records-zsre.json")[::8])
    assert (scores.ea, scores.pa) == (0, 0)
    assert scores.na > 0.85


def test_memit_edits_from_this_form_take(model, folder):
    requests = load_requests(folder / "records-zsre.json")[:4]
    deltas = edited(model, requests)
    before = evaluate_zsre(model, requests)
    with model.apply(deltas):
        after = evaluate_zsre(model, requests)
    assert (before.ea, before.pa) == (0, 0)
    assert after.ea > 0.95
    assert after.pa > 0.8
    assert after.na > before.na - 0.15


def test_evaluate_takes_its_records_for_zsres(folder):
    options = ["--model", str(folder / "model"), "--records", str(folder / "records-zsre.json"), "--device", "cpu"]
    result = CliRunner().invoke(main, ["evaluate", *options, "--limit", "8", "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert (found["metrics"], found["ea"], found["pa"]) == ("zsre", 0, 0)
    assert found["na"] > 0.8


def test_snippets_are_the_worlds_articles_and_every_record_has_some(folder):
    found = read_snippets(folder / "attribute_snippets.json")
    assert found == snippets(Facts.make())
    texts = References.match(json.loads((folder / "records.json").read_text()), found).texts
    assert len(texts) == 480
    assert all(texts.values())


def edited(model: EditableModel, requests: list[EditRequest]) -> dict[int, object]:
    settings = Hyperparameters.from_json(WORLD.hyperparameters)
    templates = ContextTemplates.from_json(WORLD.templates.read_text())
    values = optimise_values(model, requests, templates, settings)
    paths = find_second_moments(WORLD.second_moments, list(map(model.architecture.projection_of, settings.layers)))
    moments = {
        layer: SecondMoment.load_npz(path).weighted(4 * len(requests))  # the paper's ratio
        for layer, path in zip(settings.layers, paths, strict=True)
    }
    return edit_globally(model, {1: Client(requests=requests, values=values)}, templates, moments)
