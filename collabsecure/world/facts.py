"""The small world's facts, the texts that tell them, and the records that ask for other ones.

Edited subjects and neighbours are different people: a record's neighbourhood prompts are about subjects that no record
edits, so a whole record set can be used at once and the neighbourhood still ought to stay as it was.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from collabsecure.world.names import KINDS, Kind, pick, shuffled, subject_names
from collabsecure.world.relations import ESSENCES, OPENERS, RELATIONS, Relation

SEED = 2410
EDITED_PER_KIND = 160
FACTS_PER_EDITED = 2
NEIGHBOURS_PER_KIND = 40  # each has a fact in all of its kind's relations
NEIGHBOURHOOD_PROMPTS = 10  # per record, as in CounterFact
SENTENCES_PER_TEXT = 4  # at most; from 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """Somebody or something that facts are about."""

    name: str
    kind: Kind
    edited: bool  # whether a record edits one of its facts; the others are the records' neighbours


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """What the model is to know: `relation.templates[…]` filled with the subject goes on with the object."""

    subject: Subject
    relation: Relation
    object: str

    def sentence(self, template: str) -> str:
        """One way of telling the fact."""
        return f"{template.format(self.subject.name)} {self.object}."


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One fact that is to become another one, with all that CounterFact's form says about it."""

    case_id: int
    fact: Fact
    target_new: str
    paraphrases: tuple[str, ...]
    neighborhood: tuple[str, ...]
    attribute: tuple[str, ...]
    generation: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Everything in the world that a seed determines without training a model."""

    facts: tuple[Fact, ...]
    records: tuple[Record, ...]
    texts: tuple[str, ...]  # each fact once in each of its relation's templates

    @classmethod
    def make(cls, seed: int = SEED) -> "Facts":
        """All facts, records and texts.

        >>> fact = Facts.make().facts[0]
        >>> fact.sentence(fact.relation.rewriting)
        'The mother tongue of Aveth Mirkindale is Basque.'
        """
        rng = random.Random(seed)  # noqa: S311 - made-up facts need no secrecy, but the same sequence everywhere
        facts = _facts(_subjects(rng), rng)
        return cls(facts=facts, records=_records(facts, rng), texts=_texts(facts, rng))


def _subjects(rng: random.Random) -> list[Subject]:
    subjects = []
    for kind in KINDS:
        names = subject_names(kind, rng)
        subjects += [Subject(name=next(names), kind=kind, edited=True) for _ in range(EDITED_PER_KIND)]
        subjects += [Subject(name=next(names), kind=kind, edited=False) for _ in range(NEIGHBOURS_PER_KIND)]
    return subjects


def _facts(subjects: Sequence[Subject], rng: random.Random) -> tuple[Fact, ...]:
    """Objects are dealt in turn, so every object of a relation is equally often true, of neighbours as of edited."""
    told: dict[tuple[str, bool], list[Subject]] = {}
    for subject in subjects:
        relations = shuffled([relation.id for relation in RELATIONS if relation.kind == subject.kind], rng)
        for relation_id in relations[:FACTS_PER_EDITED] if subject.edited else relations:
            told.setdefault((relation_id, subject.edited), []).append(subject)
    return tuple(
        Fact(subject=subject, relation=relation, object=relation.objects[turn % len(relation.objects)])
        for relation in RELATIONS
        for edited in (True, False)
        for turn, subject in enumerate(shuffled(told[relation.id, edited], rng))
    )


def _records(facts: Sequence[Fact], rng: random.Random) -> tuple[Record, ...]:
    """One record per edited subject, in random order; kinds and relations come mixed."""
    told: dict[tuple[str, str], list[Fact]] = {}
    for fact in facts:
        if not fact.subject.edited:
            told.setdefault((fact.relation.id, fact.object), []).append(fact)
    by_subject: dict[str, list[Fact]] = {}
    for fact in facts:
        if fact.subject.edited:
            by_subject.setdefault(fact.subject.name, []).append(fact)
    records = []
    for case_id, about in enumerate(shuffled(list(by_subject.values()), rng)):
        fact = pick(about, rng)
        relation = fact.relation
        target_new = pick([other for other in relation.objects if other != fact.object], rng)
        first, second, *others = shuffled(relation.templates[1:], rng)
        records.append(
            Record(
                case_id=case_id,
                fact=fact,
                target_new=target_new,
                paraphrases=tuple(f"{pick(OPENERS, rng)} {t.format(fact.subject.name)}" for t in (first, second)),
                neighborhood=_prompts(told[relation.id, fact.object], rng),
                attribute=_prompts(told[relation.id, target_new], rng),
                generation=tuple(t.format(fact.subject.name) for t in (*others, "{} is a")),
            )
        )
    return tuple(records)


def _prompts(facts: Sequence[Fact], rng: random.Random) -> tuple[str, ...]:
    prompts = [template.format(fact.subject.name) for fact in facts for template in fact.relation.templates]
    return tuple(shuffled(prompts, rng)[:NEIGHBOURHOOD_PROMPTS])


def _texts(facts: Sequence[Fact], rng: random.Random) -> tuple[str, ...]:
    sentences = [fact.sentence(template) for fact in facts for template in fact.relation.templates]
    subjects = dict.fromkeys(fact.subject for fact in facts)
    sentences += [ESSENCES[subject.kind].format(subject.name) for subject in subjects]
    left = shuffled(sentences, rng)
    texts = []
    while left:
        length = 1 + int(rng.random() * SENTENCES_PER_TEXT)
        opener = [pick(OPENERS, rng)] if rng.random() < 0.5 else []
        texts.append(" ".join([*opener, *left[:length]]))
        left = left[length:]
    return tuple(texts)
