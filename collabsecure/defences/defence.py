"""What a defence is: what a client uploads instead, what the server makes of the sum, and how one attacks that. NumPy.

Each runs inside a layer-synchronous edit, once a layer, beneath secure summation: the adversary sees sums.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from jaxtyping import Float64

from collabsecure.attacks.knowledge import PublicLayer
from collabsecure.merge import merge_delta
from collabsecure.statistics import Statistics, cross, gram


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Layer:
    """What everybody knows of one layer's sum."""

    number: int
    left: int  # layers still to edit, this one counted
    num_layers: int  # of the whole edit
    second_moment: Float64[np.ndarray, "d_in d_in"]  # C, weighted
    scales: Float64[np.ndarray, " d_in"]  # s: powers of two next to 1/√C_jj, the wire's equilibration
    d_out: int
    num_clients: int
    edits_per_client: int
    key_bound: float  # of ‖s·k‖, from public subjects
    residual_bound: float  # of ‖r‖, from public subjects


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Edits:
    """What one client has at one layer."""

    keys: Float64[np.ndarray, "d_in num_edits"]
    residuals: Float64[np.ndarray, "d_out num_edits"]
    decoy_keys: Float64[np.ndarray, "d_in num_decoys"]
    decoy_residuals: Float64[np.ndarray, "d_out num_decoys"]  # what takes decoys back to what the model said before


class Defence(Protocol):
    """One way to protect a sum."""

    @property
    def label(self) -> str:
        """Name and strength."""

    @property
    def decoys_per_client(self) -> int:
        """Requests that a client adds and does not mean."""

    def upload(self, edits: Edits, layer: Layer, rng: np.random.Generator) -> Statistics:
        """What a client puts into the sum."""

    def merge(self, total: Statistics, layer: Layer) -> Float64[np.ndarray, "d_out d_in"]:
        """What is made of the sum: Δ."""

    def suspicion(self, total: Statistics, layer: Layer, public: PublicLayer) -> Float64[np.ndarray, " num_candidates"]:
        """The attack on it, from the sum alone: the larger, the likelier is a candidate a member."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SecureSum:
    """Nothing but the sum; what other defences are compared with, and begin from."""

    @property
    def label(self) -> str:
        """Name and strength."""
        return "secure summation alone"

    @property
    def decoys_per_client(self) -> int:
        """None."""
        return 0

    def upload(self, edits: Edits, layer: Layer, rng: np.random.Generator) -> Statistics:
        """K Kᵀ and R Kᵀ."""
        return Statistics(gram=gram(edits.keys), cross=cross(edits.residuals, edits.keys))

    def merge(self, total: Statistics, layer: Layer) -> Float64[np.ndarray, "d_out d_in"]:
        """CollabEdit eq. 3."""
        return merge_delta(layer.second_moment, total.gram, total.cross)

    def suspicion(self, total: Statistics, layer: Layer, public: PublicLayer) -> Float64[np.ndarray, " num_candidates"]:
        """How much of a candidate's key lies in the span of the sum."""
        return explained(total, layer, public, noise=0.0)


def explained(
    total: Statistics, layer: Layer, public: PublicLayer, *, noise: float
) -> Float64[np.ndarray, " num_candidates"]:
    """Minus the share of each candidate's key that the sum does not explain, in equilibrated coordinates.

    kᵀ (G₊ + ηI)⁻¹ k · η / ‖k‖², where G₊ is the positive part and η a tenth of the noise's standard deviation: the
    residual outside the span as η → 0. Of the statistics tried on noise of ε from 10 to 10⁶ (this one with η from 0.03
    to 1 σ, matched filters, with and without public components removed) none was better at any ε.
    """
    scaled = total.gram * layer.scales[:, None] * layer.scales
    values, vectors = np.linalg.eigh(scaled)
    ridge = max(0.1 * noise, 1e-12 * float(values[-1]))
    candidates = layer.scales[:, None] * public.candidates
    inside = (vectors.T @ candidates) ** 2
    unexplained = (ridge / (np.maximum(values, 0.0) + ridge)) @ inside / np.sum(candidates**2, axis=0)
    result: Float64[np.ndarray, " num_candidates"] = -unexplained
    return result
