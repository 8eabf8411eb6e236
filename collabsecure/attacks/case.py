"""A case: who edited what (the truth), and what each party was shown of it. Cases are made in `cases`. NumPy only."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from collabsecure.attacks.knowledge import Public, Setting, Truth
from collabsecure.attacks.views import Layers, PlainUpload, PublishedDelta, SumOnly
from collabsecure.statistics import Statistics


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Shown:
    """One run of a collaborative edit, as its parties and everybody else see it."""

    public: Public  # candidates' keys are those of the model with this run's updates of the layers below
    uploads: Mapping[int, Layers]  # client (from 1) → its statistics
    deltas: Mapping[int, Float64[np.ndarray, "d_out _"]]  # what was merged from them; empty in a case without values

    def plain(self, client: int, *, colluders: Sequence[int] = ()) -> PlainUpload:
        """What the server of plain CollabEdit has from a client."""
        return PlainUpload(layers=self.uploads[client], colluders=self._told(colluders))

    def summed(self, survivors: Sequence[int] = (), *, colluders: Sequence[int] = ()) -> SumOnly:
        """What a secure sum shows: over all clients, or over some."""
        over = tuple(survivors) or tuple(sorted(self.uploads))
        layers = {
            layer: Statistics(
                gram=np.sum([self.uploads[client][layer].gram for client in over], axis=0),
                cross=np.sum([self.uploads[client][layer].cross for client in over], axis=0),
            )
            for layer in self.public.layers
        }
        return SumOnly(layers=layers, survivors=over, colluders=self._told(colluders))

    def published(self, *, colluders: Sequence[int] = ()) -> PublishedDelta:
        """What everybody has who gets the edited model."""
        return PublishedDelta(layers=self.deltas, colluders=self._told(colluders))

    def _told(self, colluders: Sequence[int]) -> dict[int, Layers]:
        return {client: self.uploads[client] for client in colluders}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Case:
    """A collaborative edit to attack, and beside it the null: one of other subjects, with none of the candidates in it.

    What an attack finds in the null, it finds by chance, or it cheats.
    """

    setting: Setting
    truth: Truth
    real: Shown
    null: Shown
