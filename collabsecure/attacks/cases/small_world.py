"""The laboratory that needs no download: the small world's GPT-2, in float64."""

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from collabsecure.attacks.cases.editing import Laboratory
from collabsecure.edits import EditRequest, load_requests
from collabsecure.hyperparameters import Hyperparameters
from collabsecure.layers import EditableModel
from collabsecure.statistics import SecondMoment, find_second_moments
from collabsecure.templates import ContextTemplates
from collabsecure.world import World, load_world
from collabsecure.world.facts import Facts
from collabsecure.world.names import KINDS, Kind, pick, shuffled, subject_names
from collabsecure.world.relations import RELATIONS

KEYS = "small world"


def small_world(
    *,
    seed: int = 0,
    cache: Path | None = None,
    world: World | None = None,
    dtype: torch.dtype = torch.float64,
    unheard_of: int = 0,
) -> Laboratory:
    """Its 480 records in an order that the seed says; public subjects are the neighbours, whom no record edits.

    `unheard_of` as many subjects (up to some 3500) are added that its model has never read of, for cases with more
    edits; they are mixed with the others.
    """
    found = world or load_world()
    model = EditableModel.load(str(found.model), device="cpu", dtype=dtype)
    hyperparameters = Hyperparameters.from_json(found.hyperparameters)
    modules = [model.architecture.projection_of(layer) for layer in hyperparameters.layers]
    files = find_second_moments(found.second_moments, modules)
    rng = random.Random(seed)  # noqa: S311 - who is a member in an experiment must be the same each time
    return Laboratory(
        name=KEYS,
        model=model,
        hyperparameters=hyperparameters,
        templates=ContextTemplates.from_json(found.templates.read_text(encoding="utf-8")),
        second_moments={
            layer: SecondMoment.load_npz(path).weighted(hyperparameters.second_moment_weight)
            for layer, path in zip(hyperparameters.layers, files, strict=True)
        },
        requests=shuffled([*load_requests(found.records), *_unheard_of(unheard_of, rng)], rng),
        reference=_neighbours(),
        cache=cache,
    )


def with_other_relations(laboratory: Laboratory, *, seed: int = 0) -> Laboratory:
    """The same subjects, each with two facts of different relations, one of them to be edited, as a coin falls.

    No prompt begins with its subject: all that do are one to a key. Which of a
    subject's two is edited is left to chance, or the other could be told by being of another kind of prompt.
    """
    rng = random.Random(seed)  # noqa: S311 - see below
    kinds = {relation.id: relation.kind for relation in RELATIONS}
    pairs = [_two_facts(request, kinds[request.relation or ""], rng) for request in laboratory.requests]
    return replace(laboratory, requests=[one for one, _ in pairs], alternatives=[other for _, other in pairs])


def _two_facts(request: EditRequest, kind: Kind, rng: random.Random) -> Sequence[EditRequest]:
    relations = shuffled([relation for relation in RELATIONS if relation.kind == kind], rng)
    return [
        EditRequest(
            prompt=pick([template for template in relation.templates if not template.startswith("{}")], rng),
            subject=request.subject,
            target_new=pick(relation.objects, rng),
            case_id=f"{request.case_id} {relation.id}",
            relation=relation.id,
        )
        for relation in relations[:2]
    ]


def _unheard_of(number: int, rng: random.Random) -> list[EditRequest]:
    """Edits of subjects that are not in the world, of all kinds and relations in turn, in any of their templates."""
    known = {fact.subject.name for fact in Facts.make().facts}
    names = {kind: (name for name in subject_names(kind, rng) if name not in known) for kind in KINDS}
    made = []
    for case_id in range(number):
        relation = RELATIONS[case_id * 5 % len(RELATIONS)]
        made.append(
            EditRequest(
                prompt=pick(relation.templates, rng),
                subject=next(names[relation.kind]),
                target_new=pick(relation.objects, rng),
                case_id=f"unheard of {case_id}",
                relation=relation.id,
            )
        )
    return made


def _neighbours() -> list[EditRequest]:
    facts = [fact for fact in Facts.make().facts if not fact.subject.edited]
    return [
        EditRequest(
            prompt=fact.relation.rewriting,
            subject=fact.subject.name,
            target_new=fact.object,  # nobody asks for it: only keys are computed
            case_id=number,
            relation=fact.relation.id,
        )
        for number, fact in enumerate(facts)
    ]
