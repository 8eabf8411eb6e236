"""Adam for many independent problems in one tensor, of which some may finish early."""

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

_BETA1, _BETA2, _EPSILON = 0.9, 0.999, 1e-8


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Adam:
    """The moments of Adam (Kingma and Ba 2015), one row for each problem; bit for bit `torch.optim.Adam`'s.

    `torch.optim` keeps its state by parameter and would go on moving a row whose gradient has become zero; here rows
    that are done are left out by `select`, and so stay as they were.
    """

    learning_rate: float
    steps: int
    mean: Float[Tensor, "problems d"]  # of gradients
    square: Float[Tensor, "problems d"]  # of their squares

    @classmethod
    def start(cls, parameters: Float[Tensor, "problems d"], *, learning_rate: float) -> "Adam":
        """Begin with zero moments."""
        zero = torch.zeros_like(parameters)
        return cls(learning_rate=learning_rate, steps=0, mean=zero, square=zero)

    def step(
        self, parameters: Float[Tensor, "problems d"], gradient: Float[Tensor, "problems d"]
    ) -> tuple[Float[Tensor, "problems d"], "Adam"]:
        """Return the parameters after one step, and the state that goes with them."""
        steps = self.steps + 1
        mean = self.mean.lerp(gradient, 1 - _BETA1)
        square = (self.square * _BETA2).addcmul(gradient, gradient, value=1 - _BETA2)
        size = self.learning_rate / (1 - _BETA1**steps)
        spread = square.sqrt() / math.sqrt(1 - _BETA2**steps) + _EPSILON
        return parameters.addcdiv(mean, spread, value=-size), replace(self, steps=steps, mean=mean, square=square)

    def select(self, keep: Bool[Tensor, " problems"]) -> "Adam":
        """Keep some of the problems."""
        return replace(self, mean=self.mean[keep], square=self.square[keep])
