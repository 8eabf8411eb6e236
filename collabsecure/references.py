"""Texts that say of others what an edit says of its subject: what generated texts are held against for RS.

ROME's `attribute_snippets.json` has, for a relation and an object, encyclopedia articles about subjects of which that
is true. Both are named by Wikidata's ids, as in CounterFact's records (`relation_id` and `target_new.id`).
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from collabsecure.errors import BadFile
from collabsecure.files import unreadable
from collabsecure.tfidf import TfIdf

Snippets = Mapping[tuple[str, str], Sequence[str]]  # texts, by relation id and target id


@dataclass(frozen=True, slots=True, kw_only=True)
class References:
    """Each record's reference texts, and what the words in them weigh."""

    texts: Mapping[int | str, Sequence[str]]  # by case_id; a record may have none
    tfidf: TfIdf

    @classmethod
    def match(
        cls, records: Iterable[Mapping[str, object]], snippets: Snippets, *, tfidf: TfIdf | None = None
    ) -> "References":
        """Find the snippets about each record's new target; records in multi_counterfact's form, as JSON has them.

        Without `tfidf`, words are weighed by all the snippets, used or not, which is how ROME made its files.
        """
        texts: dict[int | str, Sequence[str]] = {}
        for index, record in enumerate(records):
            case_id = record.get("case_id")
            case_id = index if case_id is None else case_id.strip() if isinstance(case_id, str) else case_id
            rewrite = record.get("requested_rewrite")
            target = rewrite.get("target_new") if isinstance(rewrite, Mapping) else None
            if isinstance(case_id, int | str) and isinstance(rewrite, Mapping) and isinstance(target, Mapping):
                texts[case_id] = snippets.get((str(rewrite.get("relation_id")), str(target.get("id"))), ())
        return cls(texts=texts, tfidf=tfidf or TfIdf.fit(chain.from_iterable(snippets.values())))


def read_snippets(path: Path) -> Snippets:
    """Read a file of the form of `attribute_snippets.json`.

    Raises:
        BadFile: it cannot be read, or is of another form.
    """
    expected = "a list of objects with relation_id, target_id and samples, each with a text"
    snippets: dict[tuple[str, str], list[str]] = {}
    try:
        for entry in json.loads(path.read_text(encoding="utf-8")):
            texts = [str(sample["text"]) for sample in entry["samples"]]
            snippets.setdefault((str(entry["relation_id"]), str(entry["target_id"])), []).extend(texts)
    except OSError as error:
        raise unreadable(path, error) from error
    except (KeyError, TypeError) as error:
        raise BadFile(path, found="other JSON", expected=expected) from error
    except (ValueError, RecursionError) as error:
        raise BadFile(path, found=f"no JSON ({error})", expected=expected) from error
    return snippets
