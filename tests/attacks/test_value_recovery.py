"""What was written shows in statistics, to the new object, and in what the model says after. Small world, seed 0."""

from dataclasses import replace

import numpy as np
import pytest

from collabsecure.attacks import behaviour
from collabsecure.attacks.attack import Finding, measure
from collabsecure.attacks.case import Case
from collabsecure.attacks.cases.decoding import Continuations, PromptDecoder, edited_model
from collabsecure.attacks.cases.editing import Laboratory
from collabsecure.attacks.cases.small_world import small_world
from collabsecure.attacks.value_recovery import ATTACK, recover
from collabsecure.attacks.views import TwoSums
from collabsecure.statistics import Statistics, cross, gram
from collabsecure.templates import ContextTemplates


@pytest.fixture(scope="module")
def laboratory() -> Laboratory:
    """36 records of the small world: 8 are edited, 20 are not, 8 are the null's."""
    whole = small_world(seed=0)
    templates = ContextTemplates(groups=tuple(group[:1] for group in whole.templates.groups))  # for speed
    return replace(whole, templates=templates, requests=whole.requests[:36], reference=whole.reference[:4])


@pytest.fixture(scope="module")
def case(laboratory: Laboratory) -> Case:
    decoder = PromptDecoder(
        model=laboratory.model, candidates=laboratory.requests, layers=laboratory.hyperparameters.layers
    )
    return laboratory.case(2, 4, decoder=decoder)


@pytest.fixture(scope="module")
def on_the_sum(case: Case) -> Finding:
    return measure(ATTACK, "sum", case, lambda shown: shown.summed(), seed=0)


def test_residuals_come_back_from_the_sum_over_two_clients(on_the_sum: Finding) -> None:
    assert on_the_sum.score.figure("least cos").value > 1 - 1e-9


def test_objects_are_decoded_as_well_as_from_the_true_residuals(on_the_sum: Finding) -> None:
    ceiling = on_the_sum.score.figure("objects decoded from the true residual").value
    assert ceiling == 1.0
    assert on_the_sum.score.figure("objects decoded").value == ceiling


def test_other_subjects_edits_say_nothing_of_the_candidates(on_the_sum: Finding) -> None:
    assert on_the_sum.null is not None
    assert on_the_sum.null.figure("mean cos").value < 0.5
    assert on_the_sum.null.figure("objects decoded").value <= 2 / 8


def test_one_client_gives_its_own_edits_away(case: Case) -> None:
    alone = replace(case, truth=case.truth.of_client(2))
    found = measure(ATTACK, "plain", alone, lambda shown: shown.plain(2), seed=0)
    assert found.score.figure("least cos").value > 1 - 1e-9
    assert found.score.figure("objects decoded").value == 1.0


def test_a_colluder_takes_its_own_edits_out_of_the_sum_first(case: Case) -> None:
    found = measure(ATTACK, "sum", case, lambda shown: shown.summed(colluders=[2]), seed=0)
    assert found.score.figure("least cos").value > 1 - 1e-9


def test_two_sums_give_away_what_the_missing_client_wrote(case: Case) -> None:
    found = measure(
        ATTACK, "two sums", case, lambda shown: TwoSums(first=shown.summed(), second=shown.summed([1])), seed=0
    )
    assert found.score.figure("least cos").value > 1 - 1e-6
    assert found.score.figure("objects decoded").value == 1.0


def test_a_later_layers_residual_is_decoded_with_the_update_below(laboratory: Laboratory, case: Case) -> None:
    last = case.setting.layers[-1]
    decoder = PromptDecoder(
        model=laboratory.model,
        candidates=laboratory.requests,
        layers=case.setting.layers,
        lower=case.real.deltas,
    )
    before = laboratory.model.weights_digest()
    found = decoder.objects(last, range(8), case.truth.residuals[last])
    assert [text.strip() for text in found] == list(case.truth.objects)
    assert laboratory.model.weights_digest() == before


@pytest.fixture(scope="module")
def on_behaviour(laboratory: Laboratory, case: Case) -> Finding:
    model, candidates = laboratory.model, laboratory.requests
    return measure(behaviour.ATTACK, "delta", case, lambda shown: edited_model(model, candidates, shown), seed=0)


def test_every_edit_shows_in_the_models_behaviour(on_behaviour: Finding) -> None:
    """8 members against 20 others."""
    assert on_behaviour.score.figure("AUC").value >= 0.99
    assert on_behaviour.score.figure("TPR at 0.1% FPR").value >= 0.7


def test_edits_of_other_subjects_do_not_single_out_the_candidates(on_behaviour: Finding) -> None:
    assert on_behaviour.null is not None
    assert on_behaviour.null.figure("AUC").is_chance


def test_what_comes_next_is_a_distribution(laboratory: Laboratory) -> None:
    said = Continuations(model=laboratory.model, candidates=laboratory.requests, deltas={})(range(3))
    np.testing.assert_allclose(np.exp(said).sum(axis=1), 1.0)


@pytest.mark.parametrize(("edits", "least", "most"), [(64, 1 - 1e-9, 1.0), (128, 0.55, 0.85), (640, 0.2, 0.45)])
def test_more_edits_than_a_key_has_entries_blur_the_residuals(edits: int, least: float, most: float) -> None:
    """d = 64 and Gaussian keys: of n > d residuals, the least-squares fit keeps about √(d/n)."""
    rng = np.random.default_rng(0)
    keys, residuals = rng.normal(size=(64, edits)), rng.normal(size=(32, edits))
    found = recover(Statistics(gram=gram(keys), cross=cross(residuals, keys)), keys)
    lengths = np.linalg.norm(found, axis=0) * np.linalg.norm(residuals, axis=0)
    assert least < float(np.mean(np.sum(found * residuals, axis=0) / lengths)) <= most + 1e-12


def test_rounding_to_float32_leaves_residuals_readable() -> None:
    rng = np.random.default_rng(1)
    keys, residuals = rng.normal(size=(64, 20)), rng.normal(size=(32, 20))
    rounded = Statistics(
        gram=gram(keys).astype(np.float32).astype(np.float64),
        cross=cross(residuals, keys).astype(np.float32).astype(np.float64),
    )
    np.testing.assert_allclose(recover(rounded, keys), residuals, atol=1e-4)
