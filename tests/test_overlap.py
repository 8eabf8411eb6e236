"""Repeated edits: the recursion is what editing again does, the threshold keeps its promise, repetitions are found."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from collabsecure.errors import NotPositiveDefinite
from collabsecure.merge import merge_delta
from collabsecure.overlap import repetition_threshold, residual_norms, residual_ratios, residuals_without_own
from collabsecure.statistics import cross, gram


def layer(num_edits: int, *, d_in: int = 40, d_out: int = 12, weight: float = 1.0, seed: int = 0):
    """C with features of unlike scales, keys of the same text, residuals of like length."""
    rng = np.random.default_rng(seed)
    scale = 10 ** rng.uniform(-1, 1, d_in)
    text = rng.standard_normal((d_in, 5 * d_in)) * scale[:, None]
    keys = rng.standard_normal((d_in, num_edits)) * scale[:, None]
    return weight * gram(text) / text.shape[1], keys, rng.standard_normal((d_out, num_edits))


def test_the_norms_are_those_of_really_editing_again():
    moment, keys, residuals = layer(20)
    weights = np.random.default_rng(1).standard_normal((12, 40))
    wanted = weights @ keys + residuals
    expected = [np.linalg.norm(residuals)]
    for _ in range(4):
        weights = weights + merge_delta(moment, gram(keys), cross(wanted - weights @ keys, keys))
        expected.append(np.linalg.norm(wanted - weights @ keys))
    np.testing.assert_allclose(residual_norms(moment, keys, residuals, repeats=4), expected, rtol=1e-9)


def test_one_edit_falls_by_one_plus_its_keys_weight_each_time():
    moment, keys, residuals = layer(1)
    factor = 1 + float(keys[:, 0] @ np.linalg.inv(moment) @ keys[:, 0])
    expected = np.linalg.norm(residuals) / factor ** np.arange(6)
    np.testing.assert_allclose(residual_norms(moment, keys, residuals, repeats=5), expected, rtol=1e-8)


@given(num_edits=st.integers(1, 60), weight=st.floats(0.01, 1000), seed=st.integers(0, 2**32 - 1))
def test_the_norm_falls_with_every_repetition(num_edits, weight, seed):
    moment, keys, residuals = layer(num_edits, weight=weight, seed=seed)
    norms = residual_norms(moment, keys, residuals, repeats=5)
    assert norms.shape == (6,)
    assert norms[0] == np.linalg.norm(residuals)
    if num_edits > 40:  # more edits than d_in: some of R is out of every update's reach
        assert (np.diff(norms) <= 1e-12 * norms[0]).all()
    assert norms[1] < norms[0]
    assert num_edits > 40 or (np.diff(norms) < 0).all()


def test_leaving_one_out_is_editing_without_it():
    moment, keys, residuals = layer(15)
    found = residuals_without_own(moment, keys, residuals)
    for edit in range(15):
        others = np.delete(keys, edit, axis=1)
        delta = merge_delta(moment, gram(others), cross(np.delete(residuals, edit, axis=1), others))
        np.testing.assert_allclose(found[:, edit], residuals[:, edit] - delta @ keys[:, edit], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("num_edits", "weight", "least", "most"),
    [
        (200, 40.0, 0.97, 1.0),  # an edit takes half of its residual away
        (200, 800.0, 0.8, 1.0),  # λ is four times the edits, as in the paper: a seventh
        (200, 1e6, 0.6, 1.0),  # hardly anything, but other edits change even less
        (1600, 6400.0, 0.15, 0.4),  # almost as many edits as a Δ has entries, 1920: their marks cover each other
    ],
)
def test_repeated_edits_are_found_and_new_ones_taken_for_such_as_seldom_as_promised(num_edits, weight, least, most):
    """A round of edits; then all of them again, and as many that are new."""
    moment, keys, residuals = layer(2 * num_edits, d_in=160, weight=weight)
    again, new = slice(0, num_edits), slice(num_edits, None)
    delta = merge_delta(moment, gram(keys[:, again]), cross(residuals[:, again], keys[:, again]))
    ratios = residual_ratios(residuals - delta @ keys, residuals)
    others = residuals_without_own(moment, keys[:, again], residuals[:, again])
    threshold = repetition_threshold(residual_ratios(others, residuals[:, again]), false_alarms=0.05)
    assert least <= np.mean(ratios[again] < threshold) <= most
    assert np.mean(ratios[new] < threshold) < 0.05 + 3 * np.sqrt(0.05 * 0.95 / num_edits)


@pytest.mark.slow
def test_on_the_small_world_every_repeated_edit_is_found():
    """100 edits with MEMIT's own keys and values in the first edited layer, and 100 others: no simulation."""
    import torch

    from collabsecure.edits import load_requests
    from collabsecure.hyperparameters import Hyperparameters
    from collabsecure.keys import compute_keys, compute_residuals
    from collabsecure.layers import EditableModel
    from collabsecure.statistics import SecondMoment, find_second_moments
    from collabsecure.templates import ContextTemplates
    from collabsecure.values import optimise_values
    from collabsecure.world import load_world

    torch.set_num_threads(1)
    world = load_world()
    hyperparameters = Hyperparameters.from_json(world.hyperparameters)
    templates = ContextTemplates.from_json(world.templates.read_text(encoding="utf-8"))
    model = EditableModel.load(str(world.model), device="cpu", dtype=torch.float64)
    requests, first = load_requests(world.records)[:200], hyperparameters.layers[0]
    (file,) = find_second_moments(world.second_moments, [model.architecture.projection_of(first)])
    moment = SecondMoment.load_npz(file).weighted(hyperparameters.second_moment_weight)
    values = optimise_values(model, requests, templates, hyperparameters)
    keys = compute_keys(model, requests, templates, first)
    residuals = compute_residuals(model, requests, values, first, hyperparameters.layers)

    again, new = slice(0, 100), slice(100, 200)
    norms = residual_norms(moment, keys[:, again], residuals[:, again], repeats=6)
    assert (np.diff(norms) < 0).all()
    assert norms[1] < 0.5 * norms[0]
    delta = merge_delta(moment, gram(keys[:, again]), cross(residuals[:, again], keys[:, again]))
    ratios = residual_ratios(residuals - delta @ keys, residuals)
    others = residuals_without_own(moment, keys[:, again], residuals[:, again])
    threshold = repetition_threshold(residual_ratios(others, residuals[:, again]), false_alarms=0.05)
    assert (ratios[again] < threshold).all()
    assert np.mean(ratios[new] < threshold) < 0.12


def test_false_alarms_are_as_many_as_promised_whatever_the_distribution():
    rng = np.random.default_rng(0)
    alarms = 0
    for _ in range(4000):
        ratios = rng.exponential(size=40) ** 3
        alarms += ratios[-1] < repetition_threshold(ratios[:-1], false_alarms=0.1)
    assert abs(alarms / 4000 - 0.1) < 4 * np.sqrt(0.1 * 0.9 / 4000)


@pytest.mark.parametrize(("num", "false_alarms"), [(19, 0.05), (48, 1 / 49), (1, 0.5), (99, 0.01)])
def test_the_fewest_ratios_that_promise_so_few_false_alarms(num, false_alarms):
    ratios = np.arange(num, 0.0, -1)
    assert repetition_threshold(ratios, false_alarms=false_alarms) == 1.0  # the smallest
    with pytest.raises(ValueError, match=rf"found {num - 1} ratios .*; expected at least {num}"):
        repetition_threshold(ratios[1:], false_alarms=false_alarms)


@pytest.mark.parametrize("false_alarms", [0.0, 1.0, -0.1, 5.0, float("nan")])
def test_a_probability_that_is_none_is_refused(false_alarms):
    with pytest.raises(ValueError, match="expected a probability"):
        repetition_threshold(np.ones(100), false_alarms=false_alarms)


def test_an_edit_that_had_nothing_to_write_is_refused():
    with pytest.raises(ValueError, match="edit 1: found a residual of length 0"):
        residual_ratios(np.ones((2, 3)), np.array([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]]))


def test_a_second_moment_that_is_none_is_refused():
    with pytest.raises(NotPositiveDefinite):
        residual_norms(-np.eye(2), np.ones((2, 1)), np.ones((3, 1)), repeats=1)
