import json
import math
from pathlib import Path

import numpy as np
import pytest

from collabsecure.errors import BadFile
from collabsecure.tfidf import TfIdf, cosine

DOCUMENTS = ("The red fox ran, the fox hid.", "A red hen!", "Émile saw the cow at 10 a.m.", "fox_1 and fox")
LEFT, RIGHT = "the fox and the hen", "the cow saw a RED fox; unknown words"


@pytest.fixture
def tfidf() -> TfIdf:
    return TfIdf.fit(DOCUMENTS)


def test_terms_weigh_by_how_few_documents_have_them(tfidf: TfIdf) -> None:
    one, two = math.log(5 / 2) + 1, math.log(5 / 3) + 1  # of four documents
    assert tfidf.idf == pytest.approx(
        dict.fromkeys(["ran", "hid", "hen", "émile", "saw", "cow", "at", "10", "fox_1", "and"], one)
        | dict.fromkeys(["the", "red", "fox"], two)
    )


def test_cosine_of_hand_computed_texts(tfidf: TfIdf) -> None:
    one, two = math.log(5 / 2) + 1, math.log(5 / 3) + 1
    # Left: the twice, fox, and, hen; right: the, cow, saw, red, fox. "the" and "fox" are in both.
    product = 2 * two**2 + two**2
    left, right = math.hypot(2 * two, two, one, one), math.hypot(two, one, one, two, two)
    found = cosine(tfidf.vector(LEFT), tfidf.vector(RIGHT))
    assert found == pytest.approx(product / left / right)
    assert found == pytest.approx(0.41970194004743283)  # what scikit-learn 1.9's TfidfVectorizer gives


def test_the_same_words_have_cosine_1_and_others_or_none_0(tfidf: TfIdf) -> None:
    vector = tfidf.vector(LEFT)
    assert cosine(vector, tfidf.vector(f"{LEFT.upper()} {LEFT}, nothing known")) == pytest.approx(1)
    assert cosine(vector, tfidf.vector("cow")) == 0
    assert cosine(vector, tfidf.vector("wholly unknown")) == cosine(tfidf.vector(""), vector) == 0


def test_romes_files_are_read(tfidf: TfIdf, tmp_path: Path) -> None:
    vocabulary, idf = written(tmp_path, {term: place for place, term in enumerate(tfidf.idf)}, [*tfidf.idf.values()])
    assert TfIdf.load(vocabulary, idf) == tfidf


@pytest.mark.parametrize(
    ("places", "weights", "message"),
    [
        ({"fox": 2}, [1.0, 2.0], "places beyond its end; expected those of the 2"),
        ({"fox": -1}, [1.0], "places beyond its end"),
        ({"fox": "0"}, [1.0], "other JSON; expected a JSON object of terms"),
        (["fox"], [1.0], "other JSON"),
        ({"fox": 0}, [[1.0]], "expected a NumPy file with a list of numbers"),
        ({"fox": 0}, ["1"], "expected a NumPy file"),
    ],
)
def test_files_of_another_form_are_refused(places: object, weights: list[object], message: str, tmp_path: Path) -> None:
    with pytest.raises(BadFile, match=message):
        TfIdf.load(*written(tmp_path, places, weights))


def test_files_that_are_none_are_refused(tmp_path: Path) -> None:
    vocabulary, idf = written(tmp_path, {"fox": 0}, [1.0])
    (tmp_path / "text").write_text("{")
    with pytest.raises(BadFile, match="no JSON"):
        TfIdf.load(tmp_path / "text", idf)
    with pytest.raises(BadFile, match="no array"):
        TfIdf.load(vocabulary, tmp_path / "text")
    for paths in ((tmp_path / "absent", idf), (vocabulary, tmp_path / "absent")):
        with pytest.raises(BadFile, match="absent: found no such file or directory"):
            TfIdf.load(*paths)


def written(folder: Path, places: object, weights: list[object]) -> tuple[Path, Path]:
    vocabulary, idf = folder / "tfidf_vocab.json", folder / "idf.npy"
    vocabulary.write_text(json.dumps(places))
    np.save(idf, np.array(weights))
    return vocabulary, idf
