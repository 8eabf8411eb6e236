"""What texts that a model is to write depend on, and what they are held against: for NE and RS."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from collabsecure.errors import BadFile
from collabsecure.files import unreadable
from collabsecure.references import References, read_snippets
from collabsecure.tfidf import TfIdf
from collabsecure.world import load_world
from collabsecure.world.articles import snippets as articles
from collabsecure.world.facts import Facts


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenTexts:
    """Texts of one seed, with one set of references."""

    references: References | None
    seed: int
    digest: str  # SHA-256 in hexadecimal of what references are from; "" without

    @classmethod
    def read(cls, records: Path, snippets: Path | None, tfidf: Path | None, *, seed: int) -> WrittenTexts:
        """Find the records' references.

        Raises:
            BadFile: a file cannot be read, or no record has a reference.
        """
        if snippets is None:
            return cls(references=None, seed=seed, digest="")
        files = [snippets, *([] if tfidf is None else [tfidf / "tfidf_vocab.json", tfidf / "idf.npy"])]
        weights = None if tfidf is None else TfIdf.load(*files[1:])
        references = References.match(_objects(records), read_snippets(snippets), tfidf=weights)
        if not any(references.texts.values()):
            raise BadFile(
                snippets,
                found=f"nothing about the new targets in {records}",
                expected="snippets by their relation_id and target_new.id",
            )
        return cls(references=references, seed=seed, digest=_digest(files))

    @classmethod
    def of_small_world(cls, *, seed: int) -> WrittenTexts:
        """The small world's own articles."""
        found = articles(Facts.make())
        digest = hashlib.sha256(json.dumps([*found.items()]).encode()).hexdigest()
        return cls(references=References.match(_objects(load_world().records), found), seed=seed, digest=digest)

    @property
    def name(self) -> str:
        """What tells these texts' scores from others'."""
        return f"text (seed {self.seed}{self.digest and f', snippets {self.digest[:16]}'})"


def _objects(records: Path) -> list[dict[str, object]]:
    """What `load_requests` has read, with the ids that it leaves out; CSV has none."""
    text = records.read_bytes().decode("utf-8-sig").lstrip()
    if text.startswith("["):
        found: list[dict[str, object]] = json.loads(text)
        return found
    lines = text.split("\n") if text.startswith("{") else []  # not splitlines: a text may hold U+2028
    return [json.loads(line) for line in lines if line.strip()]


def _digest(files: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for path in files:
        try:
            digest.update(hashlib.sha256(path.read_bytes()).digest())
        except OSError as error:
            raise unreadable(path, error) from error
    return digest.hexdigest()
