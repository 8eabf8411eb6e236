"""How each neuron's activation is spread over public keys, smoothed as coarsely as one likes. NumPy only."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Complex128, Float64

_NODES = 512  # of a table, from 4 standard deviations below what occurs to 4 above it
_MARGIN = 4.0  # standard deviations
_BROAD, _BROAD_SHARE = 1.0, 0.02  # a second, wide kernel, so that no value is impossible
_LEAST_DENSITY = 1e-12  # per standard deviation


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Evaluation:
    """−log p of keys' entries, by their neurons' densities, in nats."""

    value: float  # mean over all entries
    slopes: Float64[np.ndarray, "d num"]  # of each entry's −log p
    curvatures: Float64[np.ndarray, "d num"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Densities:
    """−log p by neuron as a table, in between which it is a parabola: its slope is continuous, and is its slope."""

    lowest: Float64[np.ndarray, "d 1"]  # where the table begins
    step: Float64[np.ndarray, "d 1"]
    values: Float64[np.ndarray, "d nodes"]
    slopes: Float64[np.ndarray, "d nodes"]  # per step

    def loss(self, keys: Float64[np.ndarray, "d num"]) -> float:
        """Mean −log p over all entries."""
        return self(keys).value

    def __call__(self, keys: Float64[np.ndarray, "d num"]) -> Evaluation:
        """−log p and its derivatives; beyond the table the outermost parabola goes on."""
        nodes = self.values.shape[1]
        position = (keys - self.lowest) / self.step
        node = np.clip(position, 0, nodes - 2).astype(np.int64)
        position -= node
        node += nodes * np.arange(len(keys))[:, None]
        slope = self.slopes.take(node)
        bend = self.slopes.take(node + 1) - slope
        value = float(np.mean(self.values.take(node) + position * (slope + bend / 2 * position)))
        return Evaluation(value=value, slopes=(slope + bend * position) / self.step, curvatures=bend / self.step**2)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Marginals:
    """Histograms of public keys, neuron by neuron."""

    bound: float  # no entry of any key lies below: of GELU −0.17
    spread: Float64[np.ndarray, "d 1"]  # standard deviation
    lowest: Float64[np.ndarray, "d 1"]
    step: Float64[np.ndarray, "d 1"]
    transformed: Complex128[np.ndarray, "d frequencies"]  # histograms, padded with as many zeros

    @classmethod
    def of(cls, reference: Float64[np.ndarray, "d num_reference"]) -> "Marginals":
        """Those of public keys, two or more."""
        d, num = reference.shape
        spread = np.maximum(reference.std(axis=1, keepdims=True), 1e-9)
        lowest = reference.min(axis=1, keepdims=True) - _MARGIN * spread
        step = (reference.max(axis=1, keepdims=True) + _MARGIN * spread - lowest) / (_NODES - 1)
        position = (reference - lowest) / step
        node = position.astype(np.int64)
        upper = (position - node).ravel()  # each key counts for the two nodes beside it
        place = (node + _NODES * np.arange(d)[:, None]).ravel()
        counts = np.bincount(place, 1 - upper, d * _NODES) + np.bincount(place + 1, upper, d * _NODES)
        return cls(
            bound=float(reference.min()),
            spread=spread,
            lowest=lowest,
            step=step,
            transformed=np.fft.rfft(counts.reshape(d, _NODES) / num, 2 * _NODES, axis=1),
        )

    def smoothed(self, width: float) -> Densities:
        """Densities by a Gaussian kernel of this width, in standard deviations of the neuron; > 0.

        Below the bound, where only smoothing puts any, −log p grows by half the squared distance in widths on top.
        """
        density = (1 - _BROAD_SHARE) * self._convolved(width) + _BROAD_SHARE * self._convolved(max(width, _BROAD))
        nodes = self.lowest + self.step * np.arange(_NODES)
        below = np.maximum(self.bound - nodes, 0) / (width * self.spread)
        unlikely = -np.log(np.maximum(density * self.spread / self.step, _LEAST_DENSITY)) + below**2 / 2
        slopes = np.gradient(unlikely, axis=1)
        values = unlikely[:, :1] + np.cumsum(np.pad((slopes[:, 1:] + slopes[:, :-1]) / 2, ((0, 0), (1, 0))), axis=1)
        return Densities(lowest=self.lowest, step=self.step, values=values, slopes=slopes)

    def _convolved(self, width: float) -> Float64[np.ndarray, "d nodes"]:
        frequencies = np.pi * np.arange(_NODES + 1) / _NODES
        kernel = np.exp(-((width * self.spread / self.step * frequencies) ** 2) / 2)
        density: Float64[np.ndarray, "d nodes"] = np.fft.irfft(self.transformed * kernel, axis=1)[:, :_NODES]
        return density
