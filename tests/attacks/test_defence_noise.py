"""Noise is what it should be, hides what it promises, and costs the edit. Synthetic keys, d = 96; seeds in tests."""

import math
import os
from dataclasses import replace
from inspect import signature

import numpy as np
import pytest
from scipy.stats import chisquare, kstest, norm

from collabsecure.attacks.knowledge import PublicLayer
from collabsecure.attacks.scoring import auc
from collabsecure.defences.accounting import auc_bound, rho_of
from collabsecure.defences.defence import Edits, Layer, SecureSum
from collabsecure.defences.discrete_gaussian import LARGEST_SIGMA, discrete_gaussian
from collabsecure.defences.noise import DiscreteGaussianNoise, KeyNoise, LayerNoise
from collabsecure.merge import equilibration, merge_delta
from collabsecure.statistics import Statistics

D_IN, D_OUT, CLIENTS, EDITS = 96, 24, 2, 15


def draw(rng: np.random.Generator, count: int) -> np.ndarray:
    """Keys that share a mean and a few factors."""
    basis = np.random.default_rng(0).normal(size=(D_IN, 8))
    return 0.5 + 0.5 * basis @ rng.normal(size=(8, count)) / 3 + rng.normal(size=(D_IN, count))


@pytest.fixture(scope="module")
def layer() -> Layer:
    text = draw(np.random.default_rng(1), 2000)
    moment = 30.0 * text @ text.T / 2000
    scales = 2.0 ** np.rint(np.log2(equilibration(moment)))
    return Layer(
        number=0,
        left=1,
        num_layers=1,
        second_moment=moment,
        scales=scales,
        d_out=D_OUT,
        num_clients=CLIENTS,
        edits_per_client=EDITS,
        key_bound=float(np.quantile(np.linalg.norm(scales[:, None] * text, axis=0), 0.9)),
        residual_bound=6.0,
    )


def client(rng: np.random.Generator, keys: np.ndarray) -> Edits:
    return Edits(
        keys=keys,
        residuals=rng.normal(size=(D_OUT, keys.shape[1])),
        decoy_keys=np.empty((D_IN, 0)),
        decoy_residuals=np.empty((D_OUT, 0)),
    )


def summed(defence: DiscreteGaussianNoise | KeyNoise | SecureSum, layer: Layer, clients: list[Edits]) -> Statistics:
    rng = np.random.default_rng(5)
    uploads = [defence.upload(edits, layer, rng) for edits in clients]
    return Statistics(gram=sum(upload.gram for upload in uploads), cross=sum(upload.cross for upload in uploads))


@pytest.mark.parametrize("sigma", [1, 2, 7, 40])
def test_samples_follow_the_discrete_gaussian(sigma: int) -> None:
    """χ² of 200 000 samples, values that come fewer than 20 times taken together; seed 0."""
    samples = discrete_gaussian(sigma, 200_000, source=np.random.default_rng(0).bytes)
    values = np.arange(-60 * sigma, 60 * sigma + 1)
    weights = np.exp(-(values**2) / (2 * sigma**2))
    expected = 200_000 * weights / weights.sum()
    common = expected >= 20
    found = np.array([np.count_nonzero(samples == value) for value in values[common]])
    rest = (200_000 - found.sum(), 200_000 - expected[common].sum())
    assert chisquare([*found, rest[0]], [*expected[common], rest[1]]).pvalue > 0.001


def test_large_parameters_give_what_is_almost_a_normal_distribution() -> None:
    samples = discrete_gaussian(LARGEST_SIGMA, 100_000, source=np.random.default_rng(1).bytes)
    assert kstest(samples / LARGEST_SIGMA, norm.cdf).pvalue > 0.001


def test_samples_depend_on_the_bytes_alone_and_these_are_the_operating_systems() -> None:
    one, same, other = (discrete_gaussian(1000, 500, source=np.random.default_rng(seed).bytes) for seed in (2, 2, 3))
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)
    assert signature(discrete_gaussian).parameters["source"].default is os.urandom
    assert DiscreteGaussianNoise(epsilon=1.0).source is os.urandom


@pytest.mark.parametrize("sigma", [0, -1, LARGEST_SIGMA + 1])
def test_other_parameters_are_refused(sigma: int) -> None:
    with pytest.raises(ValueError, match="expected 1 to"):
        discrete_gaussian(sigma, 1)


def test_so_little_noise_that_steps_are_too_coarse_is_refused(layer: Layer) -> None:
    with pytest.raises(ValueError, match="expected at least 8"):
        LayerNoise.calibrated(layer, 1e30)


def test_no_noise_is_the_clean_edit_bit_for_bit(layer: Layer) -> None:
    rng = np.random.default_rng(4)
    clients = [client(rng, draw(rng, EDITS)) for _ in range(CLIENTS)]
    clean, noisy = (
        summed(defence, layer, clients) for defence in (SecureSum(), DiscreteGaussianNoise(epsilon=math.inf))
    )
    np.testing.assert_array_equal(noisy.gram, clean.gram)
    np.testing.assert_array_equal(noisy.cross, clean.cross)
    delta = DiscreteGaussianNoise(epsilon=math.inf).merge(noisy, layer)
    np.testing.assert_array_equal(delta, merge_delta(layer.second_moment, clean.gram, clean.cross))


def test_the_sum_has_the_noise_that_it_should_have(layer: Layer) -> None:
    """ε = 10; standard deviations of 4656, 96 and 2304 values to within four of their errors; seed 6."""
    defence = DiscreteGaussianNoise(epsilon=10.0, source=np.random.default_rng(6).bytes)
    nothing = [client(np.random.default_rng(7), np.zeros((D_IN, EDITS))) for _ in range(CLIENTS)]
    total, noise = summed(defence, layer, nothing), defence.noise(layer)
    scaled = total.gram * layer.scales[:, None] * layer.scales
    off = scaled[np.triu_indices(D_IN, 1)] / noise.gram_deviation
    on = scaled.diagonal() / noise.gram_deviation
    written = total.cross * layer.scales * 2.0**noise.cross_bits / noise.cross_sigma
    for values, expected in ((off, math.sqrt(0.5)), (on, 1.0), (written, math.sqrt(CLIENTS))):
        assert values.std() == pytest.approx(expected, rel=4 / math.sqrt(2 * values.size))
    np.testing.assert_array_equal(total.gram, total.gram.T)


def test_little_noise_changes_the_edit_little_and_much_noise_leaves_none(layer: Layer) -> None:
    rng = np.random.default_rng(8)
    clients = [client(rng, draw(rng, EDITS)) for _ in range(CLIENTS)]
    wide = replace(layer, key_bound=3 * layer.key_bound, residual_bound=100.0)  # so that nothing is clipped
    clean = SecureSum().merge(summed(SecureSum(), wide, clients), wide)
    distances = []
    for epsilon in (1e12, 10.0):
        defence = DiscreteGaussianNoise(epsilon=epsilon, source=np.random.default_rng(9).bytes)
        delta = defence.merge(summed(defence, wide, clients), wide)
        distances.append(np.linalg.norm(delta - clean) / np.linalg.norm(clean))
    assert distances[0] < 0.01
    assert distances[1] > 0.9


def found_by(defence: DiscreteGaussianNoise | KeyNoise | SecureSum, layer: Layer, *, seed: int, edited: bool) -> float:
    """AUC of 30 candidates against 60; they are edited, or others are."""
    rng = np.random.default_rng(seed)
    members, others, elsewhere = draw(rng, CLIENTS * EDITS), draw(rng, 60), draw(rng, CLIENTS * EDITS)
    keys = members if edited else elsewhere
    clients = [client(rng, keys[:, start : start + EDITS]) for start in range(0, CLIENTS * EDITS, EDITS)]
    public = PublicLayer(
        second_moment=layer.second_moment,
        reference=draw(rng, 10),
        candidates=np.concatenate((members, others), axis=1),
    )
    suspicion = defence.suspicion(summed(defence, layer, clients), layer, public)
    return auc(suspicion[: CLIENTS * EDITS], suspicion[CLIENTS * EDITS :]).value


@pytest.mark.parametrize(("epsilon", "least"), [(30.0, 0.6), (1e4, 0.999)])
def test_noise_hides_members_as_far_as_it_promises_and_no_further(layer: Layer, epsilon: float, least: float) -> None:
    """Mean of 3 runs, seeds 10 to 12; standard error of the mean under chance 0.0375."""
    runs = range(10, 13)
    found, null = (
        np.mean(
            [
                found_by(
                    DiscreteGaussianNoise(epsilon=epsilon, source=np.random.default_rng(seed).bytes),
                    layer,
                    seed=seed,
                    edited=edited,
                )
                for seed in runs
            ]
        )
        for edited in (True, False)
    )
    assert least < found <= auc_bound(rho_of(epsilon, 1e-5)) + 4 * 0.0375
    assert null == pytest.approx(0.5, abs=4 * 0.0375)


def test_noise_on_keys_does_not_hide_them(layer: Layer) -> None:
    """As long as half a key; seeds 30 and 31; standard error under chance 0.065."""
    assert found_by(KeyNoise(share=0.5), layer, seed=30, edited=True) >= 0.99
    assert found_by(KeyNoise(share=0.5), layer, seed=31, edited=False) == pytest.approx(0.5, abs=4 * 0.065)


def test_without_noise_the_attack_is_perfect(layer: Layer) -> None:
    assert found_by(SecureSum(), layer, seed=40, edited=True) == 1.0
    assert found_by(SecureSum(), layer, seed=41, edited=False) == pytest.approx(0.5, abs=4 * 0.065)
