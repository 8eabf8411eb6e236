import json
from pathlib import Path

import pytest

from collabsecure.errors import BadFile
from collabsecure.references import References, read_snippets
from collabsecure.tfidf import TfIdf
from collabsecure.world import load_world
from collabsecure.world.articles import snippets
from collabsecure.world.facts import Facts

FRENCH, DUTCH = ("P103", "Q150"), ("P103", "Q7411")
SNIPPETS = [
    {
        "relation_id": "P103",
        "target_id": "Q150",
        "samples": [{"name": "Ada", "text": "Ada of Paris."}, {"name": "Bram", "text": "Bram of Lyon."}],
    },
    {"relation_id": "P103", "target_id": "Q7411", "samples": [{"name": "Cor", "text": "Cor of Delft."}]},
    {"relation_id": "P103", "target_id": "Q150", "samples": [{"name": "Dora", "text": "Dora of Nice."}]},
]


def record(target: str | None, **fields: object) -> dict[str, object]:
    return {"requested_rewrite": {"relation_id": "P103", "target_new": {"str": "…", "id": target}}, **fields}


def read(tmp_path: Path, text: str) -> object:
    (tmp_path / "attribute_snippets.json").write_text(text)
    return read_snippets(tmp_path / "attribute_snippets.json")


def test_snippets_are_read_by_relation_and_target(tmp_path: Path) -> None:
    found = read(tmp_path, json.dumps(SNIPPETS))
    assert found == {FRENCH: ["Ada of Paris.", "Bram of Lyon.", "Dora of Nice."], DUTCH: ["Cor of Delft."]}


@pytest.mark.parametrize("text", ['{"P103": []}', "[[1]]", "7", '[{"relation_id": "P1", "target_id": "Q1"}]'])
def test_snippets_of_another_form_are_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(BadFile, match="found other JSON; expected a list of objects with relation_id"):
        read(tmp_path, text)


def test_snippets_that_are_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadFile, match="found no JSON"):
        read(tmp_path, "[")
    with pytest.raises(BadFile, match="no such file"):
        read_snippets(tmp_path / "absent")


def test_records_get_the_snippets_about_their_new_target() -> None:
    texts = {FRENCH: ["a red fox"], DUTCH: ["a hen", "a red cow"]}
    records = [record("Q7411", case_id=7), record("Q150", case_id=None), record("Q1", case_id=" two "), {"case_id": 3}]
    references = References.match(records, texts)
    assert references.texts == {7: ["a hen", "a red cow"], 1: ["a red fox"], "two": ()}
    assert references.tfidf == TfIdf.fit(["a red fox", "a hen", "a red cow"])
    given = TfIdf(idf={"fox": 1.0})
    assert References.match(records, texts, tfidf=given).tfidf is given


def test_every_record_of_the_small_world_has_articles_that_say_what_is_asked_for() -> None:
    records = json.loads(load_world().records.read_text())
    references = References.match(records, snippets(Facts.make()))
    for each in records:
        rewrite = each["requested_rewrite"]
        articles = references.texts[each["case_id"]]
        told = rewrite["prompt"].partition("{}")[2] + " " + rewrite["target_new"]["str"] + "."
        assert len(articles) >= 5
        assert all(told in article and rewrite["subject"] not in article for article in articles)
