"""K comes back from K Kᵀ alone, which the paper's appendix B.2 holds to be hard.

Synthetic keys of length 1024, 500 public ones of other subjects, seeds as in the tests; the small world's keys, which
are half as long, in a slow one.
"""

from typing import TYPE_CHECKING

import numpy as np
import pytest

from collabsecure.attacks import independent_components, reconstruction
from collabsecure.attacks.attack import Score, measure
from collabsecure.attacks.case import Case
from collabsecure.attacks.cases.synthetic import Population, synthetic_case
from collabsecure.attacks.independent_components import Contrast, unmix
from collabsecure.attacks.marginals import Marginals
from collabsecure.attacks.orthogonal import minimise, polar
from collabsecure.attacks.roots import random_orthogonal
from collabsecure.attacks.scoring import matched_cosines

if TYPE_CHECKING:
    from collabsecure.attacks.cases.editing import Laboratory

D_IN = 1024


def case_of(num_edits: int, seed: int) -> Case:
    return synthetic_case(d_in=D_IN, num_clients=1, edits_per_client=num_edits, num_others=0, seed=seed)


def attacked(case: Case) -> Score:
    return reconstruction.ATTACK.run(case.real.plain(1), case.real.public, case.truth, seed=0)


def public_keys(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return Population.draw(20, 5, rng).keys(500, rng)


@pytest.fixture(scope="module")
def laboratory() -> "Laboratory":
    from collabsecure.attacks.cases.small_world import small_world  # PyTorch: only where the model is needed

    return small_world(seed=0)


@pytest.mark.parametrize(("num_edits", "seed", "bar"), [(10, 1, 0.99), (50, 3, 0.95)])
def test_keys_come_back(num_edits: int, seed: int, bar: float) -> None:
    score = attacked(case_of(num_edits, seed))
    assert score.figure("mean |cos|").value >= bar
    assert score.figure("mean |cos| beyond mean and top components").value >= bar
    assert abs(score.figure("loss above truth's").value) <= 0.01


@pytest.mark.slow
@pytest.mark.parametrize(("num_edits", "bar"), [(100, 0.99), (200, 0.99), (300, 0.9)])
def test_more_keys_come_back_with_patience(num_edits: int, bar: float) -> None:
    assert attacked(case_of(num_edits, 0)).figure("mean |cos|").value >= bar


@pytest.mark.slow
@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize(("num_edits", "bar"), [(10, 0.99), (20, 0.99), (40, 0.99), (80, 0.95), (120, 0.8)])
def test_the_small_worlds_keys_come_back(laboratory: "Laboratory", num_edits: int, bar: float, layer: int) -> None:
    case = laboratory.case(1, num_edits, layers=(layer,), with_values=False)
    finding = measure(reconstruction.ATTACK, "plain", case, lambda shown: shown.plain(1), seed=0)
    assert finding.null is not None
    assert finding.score.figure("mean |cos|").value >= bar > 0.75 > finding.null.figure("mean |cos|").value
    beyond = "mean |cos| beyond mean and top components"
    assert finding.score.figure(beyond).value > finding.null.figure(beyond).value + 0.2


def test_only_the_keys_that_are_in_it_come_back() -> None:
    finding = measure(reconstruction.ATTACK, "plain", case_of(20, 2), lambda shown: shown.plain(1), seed=0)
    assert finding.null is not None
    assert finding.score.figure("mean |cos|").value >= 0.99
    assert finding.score.figure("least |cos|").value >= 0.99
    assert abs(finding.score.figure("loss above truth's").value) <= 0.01
    assert finding.null.figure("mean |cos|").value < 0.7  # any two keys are alike in their mean
    assert finding.null.figure("mean |cos| beyond mean and top components").value < 0.3


def test_a_sum_gives_all_clients_keys_back() -> None:
    case = synthetic_case(d_in=512, num_clients=4, edits_per_client=5, num_others=0, seed=4)
    score = reconstruction.ATTACK.run(case.real.summed(), case.real.public, case.truth, seed=0)
    assert score.figure("mean |cos|").value >= 0.99


def test_it_breaks_where_keys_are_many_for_their_length() -> None:
    case = synthetic_case(d_in=32, num_clients=1, edits_per_client=24, num_others=0, seed=5)
    score = attacked(case)
    assert score.figure("least |cos|").value < 0.7
    assert score.figure("mean |cos| beyond mean and top components").value < 0.8
    assert score.figure("loss above truth's").value < -0.05  # other keys look more like keys than the true ones


def test_plain_ica_is_no_measure_of_what_is_safe() -> None:
    case = case_of(50, 3)
    weak = independent_components.ATTACK.run(case.real.plain(1), case.real.public, case.truth, seed=0)
    assert weak.figure("mean |cos|").value < 0.7


@pytest.mark.parametrize("contrast", Contrast)
def test_ica_finds_sources_that_are_independent(contrast: Contrast) -> None:
    rng = np.random.default_rng(6)
    sources = rng.exponential(size=(2000, 5)) - 1
    found = sources @ rng.standard_normal((5, 5))
    assert matched_cosines(found @ unmix(found, contrast, rng), sources).min() > 0.98


def test_densities_are_of_the_public_keys() -> None:
    reference = public_keys(seed=7)
    marginals = Marginals.of(reference)
    assert marginals.bound == reference.min()
    for width in (1.0, 0.125):
        densities = marginals.smoothed(width)
        assert np.allclose(np.exp(-densities.values[:, 0]), 0, atol=1e-3)
        inside = reference.mean(axis=1, keepdims=True) + densities.step * np.linspace(-30, 30, 7)
        assert densities.loss(reference) < densities.loss(-reference)
        at, nudge = densities(inside), 1e-6 * densities.step
        for neuron in range(len(reference)):
            one = np.zeros_like(inside)
            one[neuron] = nudge[neuron]
            slope = (densities.loss(inside + one) - densities.loss(inside - one)) * inside.size / (2 * nudge[neuron, 0])
            assert np.isclose(slope, at.slopes[neuron].sum(), rtol=1e-3, atol=1e-3)


def test_below_the_bound_nothing_is_likely() -> None:
    densities = Marginals.of(public_keys(seed=8)).smoothed(0.125)
    losses = [densities.loss(np.full((20, 1), value)) for value in (-0.2, -0.5, -1.0, -5.0)]
    assert losses == sorted(losses)
    assert losses[-1] > 100


def test_the_search_finds_a_turn_back() -> None:
    rng = np.random.default_rng(9)
    reference = rng.exponential(size=(300, 400))
    keys = rng.exponential(size=(300, 6))
    turned = keys @ random_orthogonal(6, rng)
    loss = Marginals.of(reference).smoothed(0.5)
    minimum = minimise(loss, turned, np.eye(6), max_steps=200, tolerance=1e-8)
    assert np.allclose(minimum.rotation @ minimum.rotation.T, np.eye(6), atol=1e-12)
    assert minimum.value <= loss.loss(keys)
    assert matched_cosines(turned @ minimum.rotation, keys).min() > 0.98
    assert np.allclose(polar(minimum.rotation), minimum.rotation, atol=1e-12)
