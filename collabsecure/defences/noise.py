"""Distributed discrete Gaussian noise on a sum's integers, with an edit-level (ε, δ); and noise on keys, without one.

Kairouz, Liu, Steinke 2021 (arXiv 2102.06387): each client adds its part to what it would upload, so that only the sum
over all is protected, and that from everybody. Who drops out or colludes takes its part away: with c of n such clients
ρ is n/(n − c) times as large. Neighbours differ in one edit, which is clipped to ‖s·k‖ ≤ c and
‖r‖ ≤ b: then one edit changes the equilibrated Gram matrix by at most c² (Frobenius) and the cross term by at most b·c.
A symmetric matrix's entries off the diagonal count twice in that norm, so their noise has parameter σ/√2.
"""

import math
import os
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float64, Int64

from collabsecure.attacks.knowledge import PublicLayer
from collabsecure.defences.accounting import auc_bound, rho_of, rho_of_sum
from collabsecure.defences.defence import Edits, Layer, SecureSum, counted
from collabsecure.defences.discrete_gaussian import LARGEST_SIGMA, ByteSource, discrete_gaussian
from collabsecure.merge import merge_delta
from collabsecure.statistics import Statistics, cross, gram, pack_upper, unpack_upper

_LARGEST_SUM = 1 << 47  # what 48 bits of the ring hold, sign and all
_TAIL = 12  # standard deviations that noise is given room for
_LARGEST_SIGMA = LARGEST_SIGMA // 2  # rounding makes it a little larger
_LEAST_SIGMA = 8  # steps; a sum of such noises is a discrete Gaussian to within e^−600


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Contribution:
    """Integers: what a client adds to a sum, or a sum."""

    gram: Int64[np.ndarray, " unique"]  # of the equilibrated K Kᵀ, upper triangle, in steps of 2^−gram_bits
    cross: Int64[np.ndarray, "d_out d_in"]  # of R Kᵀ with equilibrated columns, in steps of 2^−cross_bits


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LayerNoise:
    """Noise of one layer's sum; parameters of the discrete Gaussian are one client's, in integer steps."""

    layer: Layer
    gram_bits: int  # a step is 2^−gram_bits
    cross_bits: int
    diagonal_sigma: int
    off_diagonal_sigma: int
    cross_sigma: int

    @classmethod
    def calibrated(cls, layer: Layer, rho: float | int) -> "LayerNoise":
        """Noise that is ρ-zCDP for one edit, half of it spent on either matrix; as large as that takes, no larger.

        Steps are so fine that one client's parameters come near 2^21, or as fine as the ring lets them be.

        Raises:
            ValueError: so little noise that it would not reach a few steps.
        """
        aim = rho
        while (noise := cls._of(layer, aim)).rho > rho:  # rounding lets an edit change a little more than it is
            aim *= 0.999 * rho / noise.rho
        return noise

    @classmethod
    def _of(cls, layer: Layer, rho: float | int) -> "LayerNoise":
        """The same for matrices that are not rounded."""
        gram_bits, sigma = _steps(layer, layer.key_bound**2, rho / 2)
        cross_bits, cross_sigma = _steps(layer, layer.key_bound * layer.residual_bound, rho / 2)
        return cls(
            layer=layer,
            gram_bits=gram_bits,
            cross_bits=cross_bits,
            diagonal_sigma=sigma,
            off_diagonal_sigma=math.ceil(sigma / math.sqrt(2)),
            cross_sigma=cross_sigma,
        )

    @property
    def rho(self) -> float:
        """What it is worth, rounding and the sum's not being quite a discrete Gaussian counted in.

        Each client rounds its sum once, so removing an edit changes an integer by the edit's share and at most one step
        more.
        """
        bound, d_in, clients = self.layer.key_bound, len(self.layer.scales), self.layer.num_clients
        off = d_in * (d_in - 1) // 2
        widest = min(self.diagonal_sigma, math.sqrt(2) * self.off_diagonal_sigma)
        gram_norm = bound**2 * 2.0**self.gram_bits / widest
        gram_norm += math.sqrt(d_in / self.diagonal_sigma**2 + off / self.off_diagonal_sigma**2)
        cross_norm = bound * self.layer.residual_bound * 2.0**self.cross_bits / self.cross_sigma
        cross_norm += math.sqrt(self.layer.d_out * d_in) / self.cross_sigma
        return rho_of_sum(
            math.hypot(gram_norm, cross_norm) / math.sqrt(clients),
            least_sigma=min(self.off_diagonal_sigma, self.cross_sigma),
            num_summands=clients,
            num_values=off + d_in + self.layer.d_out * d_in,
        )

    @property
    def gram_deviation(self) -> float:
        """The sum's noise on the diagonal of the equilibrated Gram matrix: a standard deviation."""
        return self.diagonal_sigma * math.sqrt(self.layer.num_clients) * 2.0**-self.gram_bits

    def contribution(self, edits: Edits, *, source: ByteSource = os.urandom) -> Contribution:
        """A client's clipped statistics in steps, with its part of the noise on them."""
        keys, residuals = clip(edits, self.layer)
        scaled = self.layer.scales[:, None] * keys
        upper = pack_upper(gram(scaled))
        noise = discrete_gaussian(self.off_diagonal_sigma, len(upper), source=source)
        diagonal = np.cumsum([0, *range(len(scaled), 1, -1)])  # where each row of the packed triangle begins
        noise[diagonal] = discrete_gaussian(self.diagonal_sigma, len(scaled), source=source)
        columns = cross(residuals, scaled)
        cross_noise = discrete_gaussian(self.cross_sigma, columns.size, source=source).reshape(columns.shape)
        return Contribution(
            gram=np.rint(upper * 2.0**self.gram_bits).astype(np.int64) + noise,
            cross=np.rint(columns * 2.0**self.cross_bits).astype(np.int64) + cross_noise,
        )

    def decode(self, total: Contribution) -> Statistics:
        """Integers as the statistics that they stand for."""
        scales = self.layer.scales
        scaled = unpack_upper(total.gram * 2.0**-self.gram_bits)
        return Statistics(
            gram=scaled / scales[:, None] / scales,
            cross=total.cross * 2.0**-self.cross_bits / scales,
        )


def _steps(layer: Layer, norm: float, rho: float | int) -> tuple[int, int]:
    """Bits of a step, and the parameter of one client's noise in steps, where one edit changes a sum by `norm`."""
    real = norm / math.sqrt(2 * rho * layer.num_clients)
    room = layer.num_clients * layer.edits_per_client * norm + _TAIL * math.sqrt(layer.num_clients) * real
    bits = math.floor(min(math.log2(_LARGEST_SIGMA / real), math.log2(_LARGEST_SUM / room)))
    sigma = math.ceil(real * 2.0**bits)
    if sigma < _LEAST_SIGMA:
        raise ValueError(f"found noise of {sigma} steps for ρ = {rho:.3g}; expected at least {_LEAST_SIGMA}")
    return bits, sigma


def clip(
    edits: Edits, layer: Layer
) -> tuple[Float64[np.ndarray, "d_in num_edits"], Float64[np.ndarray, "d_out num_edits"]]:
    """Weigh an edit down until ‖s·k‖ ≤ c, key and residual alike (so it writes the same), and cut r to ‖r‖ ≤ b."""
    lengths = np.linalg.norm(layer.scales[:, None] * edits.keys, axis=0)
    weights = layer.key_bound / np.maximum(lengths, layer.key_bound)
    shares = layer.residual_bound / np.maximum(np.linalg.norm(edits.residuals, axis=0), layer.residual_bound)
    return edits.keys * weights, edits.residuals * (weights * shares)


@dataclass(frozen=True, slots=True, kw_only=True)
class DiscreteGaussianNoise:
    """The defence: an edit's ε over all layers, at a δ; ε = ∞ is no noise and no clipping."""

    epsilon: float | int
    delta: float = 1e-5
    source: ByteSource = field(default=os.urandom, repr=False)

    @property
    def label(self) -> str:
        """Name and strength."""
        return f"discrete Gaussian noise, ε = {self.epsilon:.3g}"

    @property
    def decoys_per_client(self) -> int:
        """None."""
        return 0

    @property
    def auc_bound(self) -> float:
        """What no attack can exceed, on sums of all layers and on all that is made of them."""
        return auc_bound(rho_of(self.epsilon, self.delta))

    def noise(self, layer: Layer) -> LayerNoise:
        """One layer's: each takes the same share of ρ."""
        return LayerNoise.calibrated(layer, rho_of(self.epsilon, self.delta) / layer.num_layers)

    def upload(self, edits: Edits, layer: Layer, rng: np.random.Generator) -> Statistics:
        """Clipped, rounded, with noise."""
        if self.epsilon == math.inf:
            return SecureSum().upload(edits, layer, rng)
        noise = self.noise(layer)
        return noise.decode(noise.contribution(edits, source=self.source))

    def merge(self, total: Statistics, layer: Layer) -> Float64[np.ndarray, "d_out d_in"]:
        """CollabEdit eq. 3 with what stands out of the noise.

        That costs no privacy, and without it the noise in directions that C hardly weighs destroys the model long
        before it hides anything. Kept are the eigenvectors of the Gram matrix beyond the edge of the noise's own
        spectrum, √(2d)·σ (Wigner's law), and the cross term within them.
        """
        if self.epsilon == math.inf:
            return SecureSum().merge(total, layer)
        scales = layer.scales
        values, vectors = np.linalg.eigh(total.gram * scales[:, None] * scales)
        kept = values > self.noise(layer).gram_deviation * math.sqrt(2 * len(scales))
        basis = vectors[:, kept] / scales[:, None]
        inverse = vectors[:, kept] * scales[:, None]  # basisᵀ·inverse = I
        return merge_delta(layer.second_moment, (basis * values[kept]) @ basis.T, (total.cross @ inverse) @ basis.T)

    def suspicion(self, total: Statistics, layer: Layer, public: PublicLayer) -> Float64[np.ndarray, " num_candidates"]:
        """How often a candidate is in the sum, by an adversary that knows how much noise there is."""
        if self.epsilon == math.inf:
            return SecureSum().suspicion(total, layer, public)
        return counted(total, layer, public, noise=self.noise(layer).gram_deviation)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyNoise:
    """Noise on each key before anything is computed from it, `share` times as long as the key; it promises no ε."""

    share: float | int

    @property
    def label(self) -> str:
        """Name and strength."""
        return f"noise on keys, {self.share:g} × their length"

    @property
    def decoys_per_client(self) -> int:
        """None."""
        return 0

    def upload(self, edits: Edits, layer: Layer, rng: np.random.Generator) -> Statistics:
        """Statistics of keys that are a little wrong, in all equilibrated directions alike."""
        lengths = np.linalg.norm(layer.scales[:, None] * edits.keys, axis=0)
        noise = rng.normal(size=edits.keys.shape) * (self.share * lengths / math.sqrt(len(layer.scales)))
        keys = edits.keys + noise / layer.scales[:, None]
        return Statistics(gram=gram(keys), cross=cross(edits.residuals, keys))

    def merge(self, total: Statistics, layer: Layer) -> Float64[np.ndarray, "d_out d_in"]:
        """CollabEdit eq. 3."""
        return merge_delta(layer.second_moment, total.gram, total.cross)

    def suspicion(self, total: Statistics, layer: Layer, public: PublicLayer) -> Float64[np.ndarray, " num_candidates"]:
        """How often a candidate is in the sum, whose noise is about share / √d of a k kᵀ in each direction."""
        return counted(total, layer, public, noise=self.share * layer.key_bound**2 / math.sqrt(len(layer.scales)))
