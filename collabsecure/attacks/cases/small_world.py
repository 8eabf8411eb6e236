"""The laboratory that needs no download: the small world's GPT-2, in float64."""

import random
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
from collabsecure.world.names import shuffled

KEYS = "small world"


def small_world(
    *, seed: int = 0, cache: Path | None = None, world: World | None = None, dtype: torch.dtype = torch.float64
) -> Laboratory:
    """Its 480 records in an order that the seed says; public subjects are the neighbours, whom no record edits."""
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
        requests=shuffled(load_requests(found.records), rng),
        reference=_neighbours(),
        cache=cache,
    )


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
