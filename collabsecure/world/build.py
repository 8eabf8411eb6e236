"""Making the small world: facts, texts, tokenizer, model, second moments, and how to edit it."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedTokenizerFast

from collabsecure.errors import BadFile, CollabsecureError
from collabsecure.files import complete_or_absent, unwritable
from collabsecure.layers import EditableModel
from collabsecure.second_moment import compute_second_moments
from collabsecure.statistics import SecondMoment
from collabsecure.templates import sample_templates
from collabsecure.world import World
from collabsecure.world.facts import SEED, Facts
from collabsecure.world.tokenizer import train_tokenizer
from collabsecure.world.training import CONTEXT_LENGTH, Recipe, recall, train

LAYERS_WITH_MOMENTS = (0, 1, 2)  # the edited ones and one more
MIN_RECALL = 0.95
HYPERPARAMETERS: dict[str, object] = {
    "layers": [0, 1],  # in so small a model facts are recalled early
    "clamp_norm_factor": 1.0,
    "layer_selection": "all",
    "fact_token": "subject_last",
    "v_num_grad_steps": 20,
    "v_lr": 0.5,
    "v_loss_layer": 5,
    "v_weight_decay": 0.5,
    "kl_factor": 0.0625,
    "mom2_adjustment": True,
    "mom2_update_weight": 600,  # 4 · 150 edits, as the paper's 20 000 for 5 000
}
"""MEMIT's settings that suit this model."""


class WorldNotLearnt(CollabsecureError):
    """Training ended before the model knew its facts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """A world that was made, and how well its model knows it."""

    world: World
    recall: float  # of all (fact, template) pairs, in [0, 1]


def make_facts_and_tokenizer() -> tuple[Facts, PreTrainedTokenizerFast]:
    """The parts that take a second and come out the same everywhere."""
    facts = Facts.make(SEED)
    return facts, train_tokenizer(facts.texts, context_length=CONTEXT_LENGTH)


def build_world(directory: Path, *, recipe: Recipe, progress: Callable[[int, int, float], None]) -> Built:
    """Make a world in an empty or new directory; `progress` gets training's step, number of steps and loss.

    The model is rounded to float16 before anything is computed with it, and stored so.

    Raises:
        BadFile: the directory has something in it, or cannot be written.
        WorldNotLearnt: the model knows less than 95% of the true objects.
    """
    world = World.at(directory)
    _make_directories(directory, world.second_moments)
    facts, tokenizer = make_facts_and_tokenizer()
    _write(world.records, records_json(facts))
    _write(world.texts, "".join(f"{text}\n" for text in facts.texts))
    _write(world.hyperparameters, json.dumps(HYPERPARAMETERS, indent=4) + "\n")
    model = train(facts.texts, tokenizer, recipe, progress)
    EditableModel.wrap(model.half(), tokenizer).save(world.model)
    editable = EditableModel.load(str(world.model), device="cpu", dtype=torch.float64)
    known = recall(editable.model, tokenizer, facts.facts)
    if known < MIN_RECALL:
        raise WorldNotLearnt(f"found a model that knows {known:.1%} of the true objects; expected {MIN_RECALL:.0%}")
    _write(world.templates, sample_templates(editable, SEED).to_json() + "\n")
    for layer, moment in compute_second_moments(editable, facts.texts, LAYERS_WITH_MOMENTS).items():
        _save_single(world.second_moments, editable.architecture.projection_of(layer), moment)
    return Built(world=world, recall=known)


def records_json(facts: Facts) -> str:
    """The records in the form of multi_counterfact, one on each line."""
    lines = []
    for record in facts.records:
        fact = record.fact
        relation = fact.relation
        content = {
            "case_id": record.case_id,
            "pararel_idx": record.case_id,
            "requested_rewrite": {
                "prompt": relation.rewriting,
                "relation_id": relation.id,
                "target_new": {"str": record.target_new, "id": f"{relation.id}:{record.target_new}"},
                "target_true": {"str": fact.object, "id": f"{relation.id}:{fact.object}"},
                "subject": fact.subject.name,
            },
            "paraphrase_prompts": record.paraphrases,
            "neighborhood_prompts": record.neighborhood,
            "attribute_prompts": record.attribute,
            "generation_prompts": record.generation,
        }
        lines.append(json.dumps(content, separators=(",", ":")))
    return "[\n" + ",\n".join(lines) + "\n]\n"


def _save_single(directory: Path, module: str, moment: SecondMoment) -> None:
    """MEMIT's file in MEMIT's own float32: half the size, and as exact as the sums are."""
    path = directory / f"{module}_float32_mom2_{moment.sample_size}.npz"
    with complete_or_absent(path, force=False) as temporary, temporary.open("wb") as file:
        np.savez(
            file,
            allow_pickle=False,
            **{
                "mom2.count": np.array(moment.count),
                "mom2.mom2": moment.total.astype(np.float32),
                "sample_size": np.array(moment.sample_size),
            },
        )


def _make_directories(directory: Path, second_moments: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if any(directory.iterdir()):
            raise BadFile(directory, found="a folder with things in it", expected="a new or empty one")
        second_moments.mkdir()
    except OSError as error:
        raise unwritable(directory, error) from error


def _write(path: Path, text: str) -> None:
    with complete_or_absent(path, force=False) as temporary:
        temporary.write_text(text, encoding="utf-8")
