"""Articles about the small world's subjects, in the place of the encyclopedia that CounterFact's texts are from."""

from collabsecure.world.facts import Fact, Facts, Subject
from collabsecure.world.relations import ESSENCES


def snippets(facts: Facts) -> dict[tuple[str, str], list[str]]:
    """By relation id and target id as in the records: an article about each subject of which that is true.

    >>> articles = snippets(Facts.make())["language", "language:Basque"]
    >>> articles[0][:71]
    'Aveth Mirkindale is a person. The mother tongue of Aveth Mirkindale is '
    """
    told: dict[Subject, list[Fact]] = {}
    for fact in facts.facts:
        told.setdefault(fact.subject, []).append(fact)
    articles = {subject: _article(subject, about) for subject, about in told.items()}
    found: dict[tuple[str, str], list[str]] = {}
    for fact in facts.facts:
        found.setdefault((fact.relation.id, f"{fact.relation.id}:{fact.object}"), []).append(articles[fact.subject])
    return found


def _article(subject: Subject, about: list[Fact]) -> str:
    """Everything that the world's texts say about a subject."""
    sentences = [fact.sentence(template) for fact in about for template in fact.relation.templates]
    return " ".join([ESSENCES[subject.kind].format(subject.name), *sentences])
