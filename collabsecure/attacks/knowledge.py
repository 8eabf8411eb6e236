"""What everybody knows (`Public`), and what only the one who scores an attack may know (`Truth`). NumPy only."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float64, Int64


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What an attack was run on, as a table tells it."""

    keys: str  # whose keys: "small world", "synthetic", a model's name
    layers: tuple[int, ...]
    d_in: int  # length of a key
    d_out: int  # d_model
    num_clients: int
    edits_per_client: int
    note: str = ""  # what else is special: "templates unknown", "float16"

    @property
    def total_edits(self) -> int:
        """Edits in the sum."""
        return self.num_clients * self.edits_per_client


@runtime_checkable
class Decoder(Protocol):
    """The public model as a dictionary of what residuals say."""

    def objects(self, layer: int, candidates: Sequence[int], residuals: Float64[np.ndarray, "d_out num"]) -> list[str]:
        """For each candidate's prompt, what the model would go on with if this residual were written there."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PublicLayer:
    """What the public model says about one layer."""

    second_moment: Float64[np.ndarray, "d_in d_in"]  # C, weighted by λ
    reference: Float64[np.ndarray, "d_in num_reference"]  # keys of public subjects that are not among the candidates
    candidates: Float64[np.ndarray, "d_in num_candidates"]  # keys of what the adversary thinks may have been edited


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Public:
    """The public model, public data, and the list of candidates that the adversary has made up.

    No candidate is a subject of `reference` (an open world: statistics of the population come from elsewhere than from
    what is to be told apart).
    """

    layers: Mapping[int, PublicLayer]
    names: tuple[str, ...]  # of the candidates
    decoder: Decoder | None = None  # none where there is no model: synthetic keys


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Truth:
    """Who edited what. Never handed to an attack."""

    keys: Mapping[int, Float64[np.ndarray, "d_in num_edits"]]  # layer → K, client by client
    residuals: Mapping[int, Float64[np.ndarray, "d_out num_edits"]]  # layer → R
    client: Int64[np.ndarray, " num_edits"]  # from 1
    candidate: Int64[np.ndarray, " num_edits"]  # its place in the adversary's list
    objects: tuple[str, ...]  # the new targets; empty strings where there is no model

    def is_member(self, num_candidates: int) -> Bool[np.ndarray, " num_candidates"]:
        """Which candidates were edited."""
        found = np.zeros(num_candidates, dtype=bool)
        found[self.candidate] = True
        return found

    def of_client(self, number: int) -> "Truth":
        """One client's part."""
        mine = self.client == number
        return Truth(
            keys={layer: keys[:, mine] for layer, keys in self.keys.items()},
            residuals={layer: residuals[:, mine] for layer, residuals in self.residuals.items()},
            client=self.client[mine],
            candidate=self.candidate[mine],
            objects=tuple(target for target, is_mine in zip(self.objects, mine, strict=True) if is_mine),
        )
