"""What a defence is: what a client uploads instead, what the server makes of the sum, and how one attacks that. NumPy.

Each runs inside a layer-synchronous edit, once a layer, beneath secure summation: the adversary sees sums.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float64

from collabsecure.attacks.knowledge import PublicLayer
from collabsecure.merge import merge_delta
from collabsecure.statistics import Statistics, cross, gram

_FLOOR = 1e-12  # of what is largest, where there is no noise


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


@runtime_checkable
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
        return explained(total, layer, public)


def explained(total: Statistics, layer: Layer, public: PublicLayer) -> Float64[np.ndarray, " num_candidates"]:
    """The share of each candidate's key, in equilibrated coordinates, that lies in the span of the sum."""
    values, vectors = np.linalg.eigh(_equilibrated(total, layer))
    candidates = layer.scales[:, None] * public.candidates
    inside = np.maximum(values, 0.0) / (np.maximum(values, 0.0) + _FLOOR * values[-1])
    share: Float64[np.ndarray, " num_candidates"]
    share = inside @ (vectors.T @ candidates) ** 2 / np.sum(candidates**2, axis=0)
    return share


def counted(
    total: Statistics, layer: Layer, public: PublicLayer, *, noise: float
) -> Float64[np.ndarray, " num_candidates"]:
    """How often each candidate is in a noisy sum: the ridge regression of G on the candidates' k kᵀ.

    In equilibrated coordinates noise of parameter σ (`noise`) is alike in all directions, so of G = Σ_c x_c k_c k_cᵀ
    + N this is what Bayes would say of the x_c‖k_c‖², were they spread by half of the longest allowed. With the others
    on the list explained as well, it tells far more than how much of a key stands out of the noise (small world, 60
    edits, ε = 100: AUC 0.98 instead of 0.84).
    """
    keys = layer.scales[:, None] * public.candidates
    lengths = np.sum(keys**2, axis=0)
    ridge = (2 * noise / layer.key_bound**2) ** 2 + _FLOOR
    alike = (keys.T @ keys) ** 2 / lengths / lengths[:, None]
    matched = np.einsum("dc,dc->c", keys, _equilibrated(total, layer) @ keys) / lengths
    counts: Float64[np.ndarray, " num_candidates"]
    counts = np.linalg.solve(alike + ridge * np.eye(len(lengths)), matched)
    return counts


def _equilibrated(total: Statistics, layer: Layer) -> Float64[np.ndarray, "d_in d_in"]:
    scaled: Float64[np.ndarray, "d_in d_in"] = total.gram * layer.scales[:, None] * layer.scales
    return scaled
