"""Synthetic keys look like a transformer's, and their cases like those of real ones."""

import numpy as np
import pytest

from collabsecure.attacks.case import Case
from collabsecure.attacks.cases.synthetic import LAYER, Population, synthetic_case


@pytest.fixture(scope="module")
def keys() -> np.ndarray:
    rng = np.random.default_rng(0)
    return Population.draw(1024, 256, rng).keys(480, rng)


@pytest.fixture(scope="module")
def case() -> Case:
    return synthetic_case(d_in=128, num_clients=3, edits_per_client=4, num_others=30, num_reference=50, seed=1)


def test_entries_are_bounded_below_as_gelu_is_and_mostly_off(keys: np.ndarray) -> None:
    assert -0.17005 < keys.min() < -0.169
    assert 0.2 < (keys > 0).mean() < 0.4


def test_neurons_differ(keys: np.ndarray) -> None:
    often, seldom = np.quantile((keys > 0).mean(axis=1), (0.9, 0.1))
    assert often > 0.5
    assert seldom < 0.1


def test_keys_share_a_mean_and_factors_and_some_are_nearly_the_same(keys: np.ndarray) -> None:
    unit = keys / np.linalg.norm(keys, axis=0)
    cosines = (unit.T @ unit)[np.triu_indices(480, 1)]
    assert 0.3 < np.median(cosines) < 0.5
    assert cosines.max() > 0.9
    spectrum = np.sqrt(np.linalg.eigvalsh(keys.T @ keys)[::-1])
    assert 0.4 < spectrum[1] / spectrum[0] < 0.6
    assert spectrum[99] / spectrum[0] < 0.1
    assert spectrum[-1] / spectrum[0] > 1e-3  # no two are the same


def test_truth_is_what_was_uploaded(case: Case) -> None:
    public = case.real.public.layers[LAYER]
    assert np.array_equal(public.candidates[:, case.truth.candidate], case.truth.keys[LAYER])
    for client in (1, 2, 3):
        part = case.truth.of_client(client)
        uploaded = case.real.uploads[client][LAYER]
        assert np.allclose(uploaded.gram, part.keys[LAYER] @ part.keys[LAYER].T, atol=1e-12)
        assert np.allclose(uploaded.cross, part.residuals[LAYER] @ part.keys[LAYER].T, atol=1e-12)


def test_delta_solves_the_merge(case: Case) -> None:
    for shown in (case.real, case.null):
        total = shown.summed().layers[LAYER]
        assert np.allclose(
            shown.deltas[LAYER] @ (shown.public.layers[LAYER].second_moment + total.gram), total.cross, atol=1e-9
        )


def test_nobody_is_in_two_places(case: Case) -> None:
    public = case.real.public.layers[LAYER]
    everybody = np.concatenate((public.candidates, public.reference), axis=1)
    assert np.unique(everybody, axis=1).shape[1] == 42 + 50
    null = case.null.summed().layers[LAYER].gram
    inside = np.linalg.pinv(null) @ null
    outside = np.linalg.norm(everybody - inside @ everybody, axis=0) / np.linalg.norm(everybody, axis=0)
    assert outside.min() > 1e-3


def test_a_seed_says_everything() -> None:
    small = {"d_in": 8, "num_clients": 1, "edits_per_client": 2, "num_others": 3, "num_reference": 5}
    first, again, other = (synthetic_case(**small, seed=seed) for seed in (3, 3, 4))
    assert np.array_equal(first.truth.keys[LAYER], again.truth.keys[LAYER])
    assert not np.array_equal(first.truth.keys[LAYER], other.truth.keys[LAYER])
