"""How much two texts speak of the same: cosine of their TF-IDF vectors (RS; ROME's `tfidf_similarity`).

The vectors are scikit-learn's `TfidfVectorizer`'s with its defaults: words of two letters or more in lower case, and
idf(t) = ln((1 + n) / (1 + df(t))) + 1 over n documents. A word that no document has counts for nothing.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from collabsecure.errors import BadFile
from collabsecure.files import unreadable

_TERM = re.compile(r"\b\w\w+\b")

Vector = Mapping[str, float]  # by term; of length 1, or empty


@dataclass(frozen=True, slots=True, kw_only=True)
class TfIdf:
    """What each term weighs.

    >>> tfidf = TfIdf.fit(["the red fox", "the red hen", "the cow"])
    >>> tfidf.idf["the"], tfidf.idf["red"]  # ln(4/4) + 1, ln(4/3) + 1
    (1.0, 1.287...)
    """

    idf: Mapping[str, float]  # by term, at least 1

    @classmethod
    def fit(cls, documents: Iterable[str]) -> "TfIdf":
        """Weigh the terms of some documents by the number of those that they are in."""
        num_documents = 0
        found: Counter[str] = Counter()
        for document in documents:
            num_documents += 1
            found.update(set(_terms(document)))
        return cls(idf={term: math.log((1 + num_documents) / (1 + df)) + 1 for term, df in found.items()})

    @classmethod
    def load(cls, vocabulary: Path, idf: Path) -> "TfIdf":
        """Read ROME's files: `tfidf_vocab.json`, which says where in `idf.npy` a term's weight stands.

        Raises:
            BadFile: one of them cannot be read, or they do not belong together.
        """
        places, weights = _read_vocabulary(vocabulary), _read_weights(idf)
        if any(not 0 <= place < len(weights) for place in places.values()):
            raise BadFile(vocabulary, found="places beyond its end", expected=f"those of the {len(weights)} in {idf}")
        return cls(idf={term: weights[place] for term, place in places.items()})

    def vector(self, text: str) -> Vector:
        """A text's terms, each times its weight for as often as it occurs, brought to length 1."""
        counts = Counter(term for term in _terms(text) if term in self.idf)
        weighed = {term: count * self.idf[term] for term, count in counts.items()}
        norm = math.hypot(*weighed.values())
        return {term: weight / norm for term, weight in weighed.items()}


def cosine(a: Vector, b: Vector) -> float:
    """Cosine of two texts' vectors, in [0, 1] but for rounding; 0 where one of them has no known term."""
    return math.fsum(weight * b[term] for term, weight in a.items() if term in b)


def _terms(text: str) -> list[str]:
    return _TERM.findall(text.lower())


def _read_vocabulary(path: Path) -> dict[str, int]:
    expected = "a JSON object of terms and their places"
    try:
        places = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise unreadable(path, error) from error
    except (ValueError, RecursionError) as error:
        raise BadFile(path, found=f"no JSON ({error})", expected=expected) from error
    if not isinstance(places, dict) or not all(type(place) is int for place in places.values()):
        raise BadFile(path, found="other JSON", expected=expected)
    return places


def _read_weights(path: Path) -> list[float]:
    expected = "a NumPy file with a list of numbers"
    try:
        weights = np.load(path, allow_pickle=False)
    except OSError as error:
        raise unreadable(path, error) from error
    except (ValueError, EOFError) as error:
        raise BadFile(path, found=f"no array ({error})", expected=expected) from error
    if not isinstance(weights, np.ndarray) or weights.ndim != 1 or weights.dtype.kind != "f":
        raise BadFile(path, found="something else", expected=expected)
    return [float(weight) for weight in weights]
