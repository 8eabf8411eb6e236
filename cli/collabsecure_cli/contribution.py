"""A client's edits on its own model: the statistics that it contributes, and the updates that it takes over."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float64

from collabsecure.agreement import Agreement
from collabsecure.edits import EditRequest
from collabsecure.errors import CollabsecureError, ModelMismatch
from collabsecure.keys import local_statistics
from collabsecure.layers import EditableModel
from collabsecure.sessions import cross_name, gram_name
from collabsecure.simulation import Client, one_shot_statistics
from collabsecure.templates import ContextTemplates
from collabsecure.values import optimise_values
from collabsecure_cli.ledger import edit_digest
from collabsecure_cli.moments import SessionMoments


class UpdateTooLarge(CollabsecureError):
    """An update that changes the weights more than this client's policy lets it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What a client brings along beside its edits."""

    agreement: Agreement
    model: EditableModel  # its weights are those that the session names
    moments: SessionMoments | None  # one-shot sessions need them
    max_change: float  # ‖Δ‖/‖W‖ of any layer, Frobenius
    say: Callable[[str], None]


def load_model(agreement: Agreement, name: str, revision: str | None, device: str | None) -> EditableModel:
    """Load the model that a session is about.

    Raises:
        ModelMismatch: its edited layers have other weights than the session's; both digests are shown.
        NotAModel, UnknownArchitecture: there is no such model, or none that can be edited.
    """
    dtype: torch.dtype = getattr(torch, agreement.weights_dtype)
    model = EditableModel.load(name, revision=revision, device=device, dtype=dtype)
    found = model.weights_digest(agreement.layers)
    if found != agreement.weights_digest:
        raise ModelMismatch(
            f"{name}: found weights with digest {found} in layers {', '.join(map(str, agreement.layers))}; expected "
            f"{agreement.weights_digest}, the session's ({agreement.model}). Nothing was computed or sent: ask the "
            "organiser which model and revision it is"
        )
    return model


class LocalEdits:
    """One client's requests with their values; `participant.Contribution`."""

    def __init__(
        self, setting: Setting, requests: Sequence[EditRequest], values: Float64[np.ndarray, "num_edits d_model"]
    ) -> None:
        self._setting, self._client = setting, Client(requests=requests, values=values)
        self._templates = ContextTemplates.from_json(setting.agreement.templates)
        self._norms = {layer: float(setting.model.weight(layer).double().norm()) for layer in setting.agreement.layers}
        self.edits = tuple(map(edit_digest, requests))

    @classmethod
    def prepare(
        cls, setting: Setting, requests: Sequence[EditRequest], cache: Path, progress: Callable[[int], None]
    ) -> "LocalEdits":
        """Optimise the requests' values, which takes minutes to hours; those in `cache` are there already.

        Raises:
            BadRequest, PromptTooLong, OutOfMemory: as `optimise_values`.
        """
        agreement = setting.agreement
        templates = ContextTemplates.from_json(agreement.templates)
        values = optimise_values(
            setting.model, requests, templates, agreement.hyperparameters, cache=cache, progress=progress
        )
        return cls(setting, requests, values)

    def statistics(self, sum_index: int) -> Iterator[tuple[str, Float64[np.ndarray, "rows columns"]]]:
        """A sum's Gram matrices and cross terms, on the model as it now is."""
        agreement, model = self._setting.agreement, self._setting.model
        if agreement.flow == "one-shot":
            assert self._setting.moments is not None  # noqa: S101 (the command asks for them)
            each = one_shot_statistics(model, self._client, self._templates, self._setting.moments)
        else:
            layer = agreement.layers[sum_index]
            client = self._client
            found = local_statistics(model, client.requests, client.values, self._templates, layer, agreement.layers)
            each = iter([(layer, found)])
        for layer, statistics in each:
            yield gram_name(layer), statistics.gram
            yield cross_name(layer), statistics.cross

    def apply(self, deltas: Mapping[int, Float64[np.ndarray, "d_out _"]]) -> None:
        """Add updates to the model, unless one is larger than this client's policy lets it be.

        Raises:
            UpdateTooLarge: nothing was changed.
        """
        for layer, delta in deltas.items():
            change = float(np.linalg.norm(delta)) / self._norms[layer]
            self._setting.say(f"The update of layer {layer} changes its weights by ‖Δ‖/‖W‖ = {change:.3g}")
            if not change <= self._setting.max_change:
                raise UpdateTooLarge(
                    f"layer {layer}: found ‖Δ‖/‖W‖ = {change:.3g}; expected at most {self._setting.max_change:g}. "
                    "A server that sends everybody the same wrong update is not caught otherwise. If it is right for "
                    "this model, say so: --max-change"
                )
        self._setting.model.apply(deltas)
