"""What noise promises, against independent computations: closed forms, sums over integers, and attacks."""

import math

import numpy as np
import pytest
from jaxtyping import Float64

from collabsecure.attacks.scoring import auc
from collabsecure.defences.accounting import auc_bound, epsilon_of, gaussian_delta, rho_of, rho_of_sum
from collabsecure.defences.defence import Edits, Layer
from collabsecure.defences.noise import LayerNoise

DELTA = 1e-5


def discrete_gaussian_density(sigma: float, reach: int = 400) -> Float64[np.ndarray, " values"]:
    """P(x) for x from −reach to reach."""
    weights = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * sigma**2))
    return weights / weights.sum()


def layer(num_clients: int = 3) -> Layer:
    rng = np.random.default_rng(0)
    roots = rng.normal(size=(40, 60))
    return Layer(
        number=0,
        left=1,
        num_layers=1,
        second_moment=roots @ roots.T,
        scales=2.0 ** rng.integers(-3, 3, size=40),
        d_out=12,
        num_clients=num_clients,
        edits_per_client=5,
        key_bound=1.5,
        residual_bound=8.0,
    )


def edits(rng: np.random.Generator, at: Layer, count: int) -> Edits:
    """Many of them longer than the bounds."""
    return Edits(
        keys=rng.normal(size=(40, count)) / at.scales[:, None] * 0.4,
        residuals=3.0 * rng.normal(size=(12, count)),
        decoy_keys=np.empty((40, 0)),
        decoy_residuals=np.empty((12, 0)),
    )


@pytest.mark.parametrize("rho", [1e-4, 1e-2, 0.3, 2.0, 30.0, 200.0])
@pytest.mark.parametrize("delta", [1e-3, 1e-6, 1e-10])
def test_epsilon_holds_for_the_continuous_gaussian_and_is_not_far_from_exact(rho: float, delta: float) -> None:
    exact = gaussian_delta(epsilon_of(rho, delta), rho)
    assert delta / 100 < exact <= delta


def test_the_closed_form_is_the_integral_of_the_privacy_loss() -> None:
    mu = 1.7
    x = np.linspace(-30, 30, 2_000_001)
    one, other = (np.exp(-((x - centre) ** 2) / 2) / math.sqrt(2 * math.pi) for centre in (mu, 0.0))
    integral = np.maximum(one - math.exp(2.0) * other, 0.0).sum() * (x[1] - x[0])
    assert gaussian_delta(2.0, mu**2 / 2) == pytest.approx(integral, rel=1e-6)


@pytest.mark.parametrize(("sigma", "change"), [(4.0, 3), (10.0, 1), (2.0, 5), (1.0, 1)])
def test_epsilon_holds_for_the_discrete_gaussian_summed_over_all_integers(sigma: float, change: int) -> None:
    density = discrete_gaussian_density(sigma)
    epsilon = epsilon_of(change**2 / (2 * sigma**2), DELTA)
    shifted = np.roll(density, change)
    assert np.maximum(shifted - math.exp(epsilon) * density, 0.0).sum() <= DELTA


@pytest.mark.parametrize("clients", [2, 5])
@pytest.mark.parametrize("alpha", [1.5, 2.0, 8.0])
def test_the_bound_for_sums_holds_for_convolved_discrete_gaussians(clients: int, alpha: float) -> None:
    """σ = 0.6, where a sum of discrete Gaussians is visibly none, and a change by 2."""
    one = discrete_gaussian_density(0.6, reach=12)
    total = one
    for _ in range(clients - 1):
        total = np.convolve(total, one)
    inside = total > 1e-200
    shifted = np.roll(total, 2)
    ratio = np.log(shifted[inside]) - np.log(total[inside])
    divergence = math.log(np.sum(total[inside] * np.exp(alpha * ratio))) / (alpha - 1)
    bound = rho_of_sum(2 / (math.sqrt(clients) * 0.6), least_sigma=0.6, num_summands=clients, num_values=1)
    assert divergence <= alpha * bound
    assert bound < 3 * 2**2 / (2 * clients * 0.6**2)


def test_rho_and_epsilon_are_inverse() -> None:
    for epsilon in (1e-2, 1.0, 1e2, 1e6, 1e9):
        assert epsilon_of(rho_of(epsilon, DELTA), DELTA) == pytest.approx(epsilon, rel=1e-9)
    assert rho_of(math.inf, DELTA) == epsilon_of(math.inf, DELTA) == math.inf


@pytest.mark.parametrize("rho", [1e-3, 1.0, 1e4, 1e8])
@pytest.mark.parametrize("clients", [1, 3, 100])
def test_noise_is_as_large_as_it_must_be_and_hardly_larger(rho: float, clients: int) -> None:
    assert 0.99 * rho <= LayerNoise.calibrated(layer(clients), rho).rho <= rho


@pytest.mark.parametrize("rho", [1e-3, 1e2, 1e8])
def test_removing_one_edit_changes_the_integers_by_no_more_than_is_accounted_for(rho: float) -> None:
    """The same bytes make the same noise, so contributions with and without an edit differ by the edit and rounding."""
    at = layer()
    noise, rng = LayerNoise.calibrated(at, rho), np.random.default_rng(1)
    diagonal = np.cumsum([0, *range(40, 1, -1)])
    parameters = np.full(40 * 41 // 2, float(noise.off_diagonal_sigma))
    parameters[diagonal] = noise.diagonal_sigma
    for _ in range(5):
        everything = edits(rng, at, 5)
        fewer = Edits(
            keys=everything.keys[:, 1:],
            residuals=everything.residuals[:, 1:],
            decoy_keys=everything.decoy_keys,
            decoy_residuals=everything.decoy_residuals,
        )
        one, other = (noise.contribution(mine, source=np.random.default_rng(2).bytes) for mine in (everything, fewer))
        changes = np.concatenate(
            ((one.gram - other.gram) / parameters, (one.cross - other.cross).ravel() / noise.cross_sigma)
        )
        spent = np.sum(changes**2) / (2 * at.num_clients)
        assert 0.2 * noise.rho < spent <= noise.rho


def test_the_bound_on_attacks_is_met_by_the_best_attack_on_a_single_number() -> None:
    """20 000 draws with and without an edit that changes a sum by 1, at σ = 1."""
    rng = np.random.default_rng(3)
    found = auc(rng.normal(1.0, 1.0, size=20_000), rng.normal(0.0, 1.0, size=20_000))
    assert found.value == pytest.approx(auc_bound(0.5), abs=4 * found.null_error)
