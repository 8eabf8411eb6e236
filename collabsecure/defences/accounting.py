"""What noise promises: from its size to ρ-zCDP, from there to (ε, δ), and to a bound on any membership attack.

Neighbours are two runs that differ in one edit. Gaussian noise of parameter σ on something that one edit changes by at
most s (L2) is ρ-zCDP with ρ = s²/2σ² (Bun and Steinke 2016); ρ adds up over releases, also where the next is chosen
after the last was seen, as a layer is. Pure functions.
"""

import math

from scipy.optimize import brentq, minimize_scalar
from scipy.special import log_ndtr, ndtr


def epsilon_of(rho: float | int, delta: float | int) -> float:
    """The least ε for which ρ-zCDP is known to give (ε, δ) (Canonne, Kamath, Steinke 2020, corollary 13).

    min over α > 1 of αρ + (log 1/δ + (α − 1) log(1 − 1/α) − log α)/(α − 1).

    >>> round(epsilon_of(0.5, 1e-6), 3), epsilon_of(0.0, 1e-6), epsilon_of(math.inf, 1e-6)
    (5.222, 0.0, inf)
    """
    if rho in (0.0, math.inf):
        return rho

    def at(log_excess: float) -> float:  # of α over 1
        excess = math.exp(log_excess)
        alpha = 1 + excess
        return alpha * rho + (math.log(1 / delta) - math.log(alpha)) / excess + log_excess - math.log(alpha)

    # Near √(log(1/δ)/ρ), where the two larger terms are alike.
    guess = 0.5 * math.log(math.log(1 / delta) / rho)
    best = minimize_scalar(at, bounds=(guess - 5, guess + 5), method="bounded", options={"xatol": 1e-10})
    return max(0.0, float(best.fun))


def rho_of(epsilon: float | int, delta: float | int) -> float:
    """The largest ρ for which `epsilon_of` gives no more than ε.

    >>> abs(epsilon_of(rho_of(3.0, 1e-5), 1e-5) - 3.0) < 1e-9
    True
    """
    if epsilon == math.inf:
        return math.inf
    highest = math.log(epsilon + 1.0)  # ε is larger than ρ but for the smallest, where it is 0
    log_rho = brentq(lambda log_rho: epsilon_of(math.exp(log_rho), delta) - epsilon, -80.0, highest, xtol=1e-13)
    return math.exp(float(log_rho))


def gaussian_delta(epsilon: float | int, rho: float | int) -> float:
    """The exact δ at ε of continuous Gaussian noise (Balle and Wang 2018, theorem 8), for comparison with `epsilon_of`.

    Φ(μ/2 − ε/μ) − e^ε Φ(−μ/2 − ε/μ) with μ = √2ρ.
    """
    mu = math.sqrt(2 * rho)
    return float(ndtr(mu / 2 - epsilon / mu) - math.exp(epsilon + float(log_ndtr(-mu / 2 - epsilon / mu))))


def auc_bound(rho: float | int) -> float:
    """No attack that tells whether one edit was in Gaussian noise of this ρ has a larger area under its ROC curve.

    Φ(√ρ): the curve of two normal distributions μ = √2ρ apart, which is the trade-off function of the whole run
    (Dong, Roth, Su 2022: Gaussian mechanisms compose to one). It is about a member and a non-member of which
    everything else is known; an attack that knows less stays below.

    >>> auc_bound(0.0), round(auc_bound(0.5), 3)
    (0.5, 0.76)
    """
    return float(ndtr(math.sqrt(rho)))


def rho_of_sum(whitened_norm: float | int, *, least_sigma: float | int, num_summands: int, num_values: int) -> float:
    """ρ of a sum of n clients' discrete Gaussians, which is not quite a discrete Gaussian itself.

    Kairouz, Liu, Steinke 2021 (arXiv 2102.06387), proposition 14, third bound: ½(s/(√n σ) + τ√d)² with
    τ = 10·Σ_{k<n} e^{−2π²σ²k/(k+1)}. Its proof goes value by value, so each may have its own σ ≥ `least_sigma` (of
    one client's noise, in integer steps); `whitened_norm` is the L2 norm of (change by one edit)/(√n σ_j).
    """
    tau = 10 * sum(math.exp(-2 * math.pi**2 * least_sigma**2 * k / (k + 1)) for k in range(1, num_summands))
    return 0.5 * (whitened_norm + tau * math.sqrt(num_values)) ** 2
