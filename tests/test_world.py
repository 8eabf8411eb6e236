"""The small world is what its script makes, its model knows its facts, and MEMIT works in it."""

import hashlib
import json

import pytest
import torch

from collabsecure.edits import EditRequest, load_requests, split_among_clients
from collabsecure.evaluate import evaluate_counterfact
from collabsecure.hyperparameters import Hyperparameters
from collabsecure.layers import EditableModel
from collabsecure.second_moment import compute_second_moments
from collabsecure.simulation import Client, PlainSummation, edit_globally, edit_together, relative_distance
from collabsecure.statistics import SecondMoment, find_second_moments
from collabsecure.templates import ContextTemplates
from collabsecure.values import optimise_values
from collabsecure.world import load_world
from collabsecure.world.__main__ import main
from collabsecure.world.build import WorldNotLearnt, build_world, make_facts_and_tokenizer, records_json
from collabsecure.world.facts import Facts
from collabsecure.world.relations import OPENERS, RELATIONS
from collabsecure.world.training import Recipe, recall

WORLD = load_world()
WEIGHTS_SHA256 = "4a45c9c739230ea55367c02a29466c45410c498e18a6d9f05ed30ec210ead9d6"
"""Of model.safetensors, made with one thread of torch 2.13.0 on a processor with AVX-512."""


@pytest.fixture(scope="module")
def made() -> Facts:
    return Facts.make()


@pytest.fixture(scope="module")
def model() -> EditableModel:
    torch.set_num_threads(1)
    return EditableModel.load(str(WORLD.model), device="cpu")


def subjects_of(facts, *, edited):
    return {fact.subject.name for fact in facts.facts if fact.subject.edited is edited}


def test_facts_texts_and_tokenizer_come_out_as_shipped():
    facts, tokenizer = make_facts_and_tokenizer()
    assert WORLD.records.read_text() == records_json(facts)
    assert WORLD.texts.read_text().splitlines() == list(facts.texts)
    shipped = json.loads((WORLD.model / "tokenizer.json").read_text())
    assert json.loads(tokenizer.backend_tokenizer.to_str()) == shipped


def test_another_seed_makes_another_world(made):
    assert Facts.make(seed=1) != made


def test_it_all_fits_in_eight_megabytes():
    assert sum(path.stat().st_size for path in WORLD.model.parent.rglob("*") if path.is_file()) <= 8_000_000


def test_names_and_records_are_as_unlike_as_they_should_be(made):
    names = subjects_of(made, edited=True) | subjects_of(made, edited=False)
    assert len({name.split()[-1] for name in names}) == len(names) == 600
    assert len(RELATIONS) == 12
    assert all(len(set(relation.objects)) == 12 for relation in RELATIONS)
    for record in made.records:
        assert record.target_new in set(record.fact.relation.objects) - {record.fact.object}
        edited = record.fact.relation.rewriting.format(record.fact.subject.name)
        assert not any(paraphrase.endswith(edited) for paraphrase in record.paraphrases)


def test_neighbours_share_relation_and_object_and_are_never_edited(made):
    told = {sentence for fact in made.facts for sentence in map(fact.sentence, fact.relation.templates)}
    edited = subjects_of(made, edited=True)
    for record in made.records:
        assert len(record.neighborhood) == len(set(record.neighborhood)) == 10
        for prompt in record.neighborhood:
            assert f"{prompt} {record.fact.object}." in told
            assert not any(name in prompt for name in edited)
        assert all(f"{prompt} {record.target_new}." in told for prompt in record.attribute)


def test_texts_tell_every_fact_in_every_template_once(made):
    everything = " ".join(made.texts)
    sentences = [fact.sentence(template) for fact in made.facts[::40] for template in fact.relation.templates]
    assert all(everything.count(sentence) == 1 for sentence in sentences)
    assert any(text.startswith(OPENERS[0]) for text in made.texts)


def test_records_load_as_edit_requests(made):
    requests = load_requests(WORLD.records)
    assert len(requests) == len(made.records) == 480
    assert {request.relation for request in requests} == {relation.id for relation in RELATIONS}
    assert all(len(request.paraphrases) == 2 and len(request.neighborhood) == 10 for request in requests)


def test_the_model_knows_more_than_95_percent_of_the_true_objects(model, made):
    assert recall(model.model, model.tokenizer, made.facts[::4]) > 0.95


def test_second_moments_are_those_of_the_texts(model, made):
    found = compute_second_moments(model, made.texts, [0])
    modules = [model.architecture.projection_of(layer) for layer in found]
    for layer, path in zip(found, find_second_moments(WORLD.second_moments, modules), strict=True):
        shipped = SecondMoment.load_npz(path)
        assert (shipped.count, shipped.sample_size) == (found[layer].count, len(made.texts))
        assert relative_distance(shipped.moment, found[layer].moment) < 1e-5


@pytest.fixture(scope="module")
def edits(model) -> "Edits":
    return Edits(model, load_requests(WORLD.records)[:40])


class Edits:
    """Forty requests of five clients, written by everybody together and in one place."""

    def __init__(self, model: EditableModel, requests: list[EditRequest]) -> None:
        settings = Hyperparameters.from_json(WORLD.hyperparameters)
        templates = ContextTemplates.from_json(WORLD.templates.read_text())
        values = optimise_values(model, requests, templates, settings)
        parts = split_among_clients(requests, 5)
        clients = {
            number: Client(requests=part, values=values[8 * number - 8 : 8 * number])
            for number, part in enumerate(parts, 1)
        }
        paths = find_second_moments(WORLD.second_moments, list(map(model.architecture.projection_of, settings.layers)))
        moments = {
            layer: SecondMoment.load_npz(path).weighted(4 * len(requests))  # the paper's ratio
            for layer, path in zip(settings.layers, paths, strict=True)
        }
        self.reference = edit_globally(model, clients, templates, moments)
        together = edit_together(model, clients, templates, moments, PlainSummation())
        self.distances = [relative_distance(together.deltas[layer], self.reference[layer]) for layer in settings.layers]
        self.before = evaluate_counterfact(model, requests)
        with model.apply(self.reference):
            self.globally = evaluate_counterfact(model, requests)
        with model.apply(together.deltas):
            self.together = evaluate_counterfact(model, requests)


def test_memit_works_well_in_it(edits):
    assert edits.globally.es >= 0.90
    assert edits.globally.ps >= 0.75
    assert edits.globally.ns >= 0.75


def test_efficacy_together_and_globally_is_the_same_and_far_above_before(edits):
    assert edits.before.es < 0.05
    assert abs(edits.together.es - edits.globally.es) <= 0.01
    assert min(edits.together.es, edits.globally.es) > edits.before.es + 0.8
    assert max(edits.distances) < 1e-4  # float32's rounding; the demo runs in float64


def test_too_little_training_is_refused(tmp_path):
    recipe = Recipe(num_layers=1, width=4, num_heads=1, batch_rows=64, row_length=16, epochs=0)
    with pytest.raises(WorldNotLearnt, match="of the true objects; expected 95%"):
        build_world(tmp_path / "new", recipe=recipe, progress=lambda *_: None)


def test_a_folder_with_things_in_it_is_left_alone(tmp_path, capsys):
    (tmp_path / "mine").touch()
    assert main(["--out", str(tmp_path)]) == 1
    assert capsys.readouterr().err.strip().splitlines()[-1].endswith("expected a new or empty one")
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


@pytest.mark.slow  # minutes
def test_the_script_makes_the_shipped_weights(tmp_path):
    torch.set_num_threads(1)
    built = build_world(tmp_path / "world", recipe=Recipe(), progress=lambda *_: None)
    assert built.recall > 0.95
    if torch.__version__.startswith("2.13.0") and torch.backends.cpu.get_cpu_capability() == "AVX512":
        assert hashlib.sha256((built.world.model / "model.safetensors").read_bytes()).hexdigest() == WEIGHTS_SHA256
    shipped = hashlib.sha256((WORLD.model / "model.safetensors").read_bytes()).hexdigest()
    assert shipped == WEIGHTS_SHA256
