import json
from statistics import fmean

import pytest

pytest.importorskip("torch")

import torch

from collabsecure.edits import EditRequest, load_requests
from collabsecure.evaluate import Figure, Interval
from collabsecure.evaluate.generation import GenerationRecord, GenerationScores, evaluate_generation
from collabsecure.fluency import n_gram_entropy, words
from collabsecure.generation import Opening, generate
from collabsecure.hyperparameters import Hyperparameters
from collabsecure.layers import EditableModel
from collabsecure.references import References
from collabsecure.simulation import Client, edit_globally
from collabsecure.statistics import SecondMoment, find_second_moments
from collabsecure.templates import ContextTemplates
from collabsecure.tfidf import TfIdf, cosine
from collabsecure.values import optimise_values
from collabsecure.world import load_world
from collabsecure.world.articles import snippets
from collabsecure.world.facts import Facts

WORLD = load_world()
DOCUMENTS = ("Ada plays the piano", "Bram plays the violin", "the capital of Norland is Ostrava")
REFERENCES = References(texts={0: DOCUMENTS[:2], "two": DOCUMENTS[2:], 2: ()}, tfidf=TfIdf.fit(DOCUMENTS))


def request(case_id: int | str, *prompts: str) -> EditRequest:
    return EditRequest(prompt="{} is", subject="Ada", target_new="x", case_id=case_id, generation_prompts=prompts)


REQUESTS = (
    request(0, "Ada plays the", "Ada", "Ada plays the"),
    request("two", "Ada", "The capital of Norland is Ostrava and the capital of Sudmark is"),
    request(2, "Bram"),
    request(3),
)


def test_scores_are_those_of_a_plain_loop_over_records(tiny_editable: EditableModel) -> None:
    scores = evaluate_generation(tiny_editable, REQUESTS, REFERENCES, seed=5, length=30, batch_size=2)
    assert [record.case_id for record in scores.records] == [0, "two", 2, 3]
    for request, record in zip(REQUESTS, scores.records, strict=True):
        seen: list[str] = []
        texts = []
        for prompt in request.generation_prompts:
            texts += generate(tiny_editable, [Opening(prompt=prompt, draw=seen.count(prompt))], seed=5, length=30)
            seen.append(prompt)
        assert record.texts == tuple(texts)
        assert record.ne == (fmean(n_gram_entropy(words(text)) for text in texts) if texts else None)
        if request.case_id in (0, "two"):
            vectors = [REFERENCES.tfidf.vector(" ".join(t)) for t in (texts, REFERENCES.texts[request.case_id])]
            assert record.rs == cosine(*vectors)
        else:
            assert record.rs is None
    assert scores.records[0].texts[0] != scores.records[0].texts[2]  # the same prompt, listed twice
    assert scores.ne == fmean(record.ne for record in scores.records[:3])
    assert scores.rs == fmean(record.rs for record in scores.records[:2])


def test_records_score_the_same_in_parts_and_without_references(tiny_editable: EditableModel) -> None:
    whole = evaluate_generation(tiny_editable, REQUESTS, REFERENCES, seed=5, length=20)
    for part in (slice(0, 1), slice(1, 4)):
        found = evaluate_generation(tiny_editable, REQUESTS[part], REFERENCES, seed=5, length=20)
        assert found.records == whole.records[part]
    without = evaluate_generation(tiny_editable, REQUESTS, None, seed=5, length=20)
    assert (without.ne, without.rs) == (whole.ne, None)
    assert evaluate_generation(tiny_editable, REQUESTS[3:], None, seed=5) == GenerationScores(
        records=(GenerationRecord(case_id=3, texts=(), ne=None, rs=None),)
    )


def test_progress_counts_each_different_text_once(tiny_editable: EditableModel) -> None:
    calls: list[tuple[int, int]] = []
    evaluate_generation(tiny_editable, REQUESTS, None, seed=5, length=10, progress=lambda *call: calls.append(call))
    assert calls == [(5, 5)]  # of six texts, "Ada" is two records' first


def test_figures_have_intervals_over_the_records() -> None:
    records = tuple(
        GenerationRecord(case_id=number, texts=("…",), ne=6.0 + number % 2, rs=0.25 if number < 50 else None)
        for number in range(100)
    )
    ne, rs = GenerationScores(records=records).figures(seed=1)
    assert (ne.name, ne.value) == ("NE", 6.5)
    # Five standard errors of the mean of a hundred numbers whose standard deviation is ½.
    assert 6.25 < ne.interval.low < 6.45 < 6.55 < ne.interval.high < 6.75
    assert rs == Figure(name="RS", value=0.25, interval=Interval(low=0.25, high=0.25))
    assert GenerationScores(records=()).figures() == tuple(
        Figure(name=n, value=None, interval=None) for n in ("NE", "RS")
    )


def test_editing_the_small_world_brings_texts_nearer_to_the_new_targets_articles() -> None:
    torch.set_num_threads(1)
    model = EditableModel.load(str(WORLD.model), device="cpu")
    requests = load_requests(WORLD.records)[:4]
    references = References.match(json.loads(WORLD.records.read_text()), snippets(Facts.make()))
    deltas = edited(model, requests)
    before = evaluate_generation(model, requests, references, seed=0, length=40)
    with model.apply(deltas):
        after = evaluate_generation(model, requests, references, seed=0, length=40)
    # Of 40 tokens some 30 words; if all n-grams were different, NE would be 4.8.
    assert before.ne == pytest.approx(after.ne, abs=0.3)
    assert 4.5 < after.ne < 5.5
    assert 0.05 < before.rs < after.rs - 0.04 < 0.5
    told = sum(request.target_new in " ".join(r.texts) for request, r in zip(requests, after.records, strict=True))
    assert told == 4


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
