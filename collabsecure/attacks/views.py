"""What an adversary sees, as types: an attack gets one of these, `knowledge.Public`, and nothing else.

Statistics are by layer. Whoever colludes with the adversary adds what it has itself (`colluders`); what is left of a
sum without that is `SumOnly.of_the_others`. NumPy only.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float64

from collabsecure.statistics import Statistics

Layers = Mapping[int, Statistics]  # layer → gram and cross term
Colluders = Mapping[int, Layers]  # client → what it contributed, which it has told the adversary


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PlainUpload:
    """What the server of plain CollabEdit has from one client: G_i = K_i K_iᵀ and X_i = R_i K_iᵀ."""

    layers: Layers
    colluders: Colluders = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SumOnly:
    """What the server of a masked session has, or the key holder of an encrypted one: ΣG_i and ΣX_i."""

    layers: Layers
    survivors: tuple[int, ...]  # whose edits are in it
    colluders: Colluders = field(default_factory=dict)

    @property
    def of_the_others(self) -> "SumOnly":
        """The sum over the clients that do not collude: what server and colluders together know of them."""
        layers = {}
        for layer, total in self.layers.items():
            known = [told[layer] for client, told in self.colluders.items() if client in self.survivors]
            layers[layer] = Statistics(
                gram=total.gram - sum(told.gram for told in known),
                cross=total.cross - sum(told.cross for told in known),
            )
        others = tuple(client for client in self.survivors if client not in self.colluders)
        return SumOnly(layers=layers, survivors=others)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PublishedDelta:
    """What everybody has who gets the edited model and has the one before: Δ of each layer."""

    layers: Mapping[int, Float64[np.ndarray, "d_out _"]]
    colluders: Colluders = field(default_factory=dict)
