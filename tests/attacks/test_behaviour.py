"""A working edit shows in what the model says: KL before and after. Small world, seed 0."""

from dataclasses import replace

import numpy as np
import pytest

from collabsecure.attacks.attack import Finding, measure
from collabsecure.attacks.behaviour import ATTACK
from collabsecure.attacks.cases.decoding import Continuations, edited_model
from collabsecure.attacks.cases.editing import Laboratory
from collabsecure.attacks.cases.small_world import small_world


@pytest.fixture(scope="module")
def laboratory() -> Laboratory:
    """48 records of the small world: 8 are edited, 32 are not, 8 are the null's."""
    whole = small_world(seed=0)
    return replace(whole, requests=whole.requests[:48], reference=whole.reference[:4])


@pytest.fixture(scope="module")
def finding(laboratory: Laboratory) -> Finding:
    case = laboratory.case(2, 4)
    candidates = laboratory.requests
    return measure(ATTACK, "delta", case, lambda shown: edited_model(laboratory.model, candidates, shown), seed=0)


def test_every_edit_shows_in_the_models_behaviour(finding: Finding) -> None:
    assert finding.score.figure("AUC").value >= 0.99
    assert finding.score.figure("TPR at 0.1% FPR").value >= 0.7


def test_edits_of_other_subjects_do_not_single_out_the_candidates(finding: Finding) -> None:
    assert finding.null is not None
    assert finding.null.figure("AUC").is_chance


def test_what_comes_next_is_a_distribution(laboratory: Laboratory) -> None:
    said = Continuations(model=laboratory.model, candidates=laboratory.requests, deltas={})(range(3))
    np.testing.assert_allclose(np.exp(said).sum(axis=1), 1.0)
