"""Cases from a model and records: real keys, real values, real updates."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from collabsecure.attacks.case import Case, Shown
from collabsecure.attacks.knowledge import Decoder, Public, PublicLayer, Setting, Truth
from collabsecure.edits import EditRequest
from collabsecure.errors import TooFewRequests
from collabsecure.hyperparameters import Hyperparameters
from collabsecure.keys import compute_keys, compute_residuals
from collabsecure.layers import EditableModel
from collabsecure.merge import merge_delta
from collabsecure.simulation import Deltas, Moments
from collabsecure.statistics import Statistics, cross, gram
from collabsecure.templates import ContextTemplates
from collabsecure.values import optimise_values

Progress = Callable[[int], None]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Keys:
    """Of a laboratory's requests and public subjects, at one layer."""

    requests: Float64[np.ndarray, "d_in num_requests"]
    reference: Float64[np.ndarray, "d_in num_reference"]
    alternatives: Float64[np.ndarray, "d_in num_alternatives"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Laboratory:
    """A model and records about different subjects, dealt out once: for editing, for the null, as decoys, as public.

    Raises:
        TooFewRequests: from `case`, if there are not enough records for so many edits, twice.
    """

    name: str  # of the model
    model: EditableModel
    hyperparameters: Hyperparameters
    templates: ContextTemplates
    second_moments: Moments  # layer → C, weighted
    requests: Sequence[EditRequest]  # one for each subject, in random order
    reference: Sequence[EditRequest]  # about subjects that are in none of `requests`
    alternatives: Sequence[
        EditRequest
    ] = ()  # other facts of the subjects of `requests`, in their order: candidates too
    cache: Path | None = None  # of values
    _unedited: dict[tuple[int, str], _Keys] = field(default_factory=dict, init=False, repr=False)

    def unedited(self, templates: ContextTemplates, layer: int) -> _Keys:
        """Keys of the unedited model, which all cases share; computed once."""
        found = self._unedited.get((layer, templates.to_json()))
        if found is None:
            found = self._unedited[layer, templates.to_json()] = _Keys(
                requests=compute_keys(self.model, self.requests, templates, layer),
                reference=compute_keys(self.model, self.reference, templates, layer),
                alternatives=compute_keys(self.model, self.alternatives, templates, layer),
            )
        return found

    def case(
        self,
        num_clients: int,
        edits_per_client: int,
        *,
        layers: Sequence[int] | None = None,
        with_values: bool = True,
        guessed_templates: ContextTemplates | None = None,
        decoder: Decoder | None = None,
        note: str = "",
        progress: Progress | None = None,
    ) -> Case:
        """The edit of `num_clients` clients, layer by layer as in a session.

        Half of what the records leave over edits (members, null) is not needed: all that is neither is a candidate that
        was not edited. Without values, statistics have cross terms of zero and there is no update, so only the first
        layer makes sense. `guessed_templates` are what the adversary takes for the session's, which it does not know.

        Raises:
            TooFewRequests: the records do not suffice.
        """
        total = num_clients * edits_per_client
        if len(self.requests) < 3 * total:
            raise TooFewRequests(num_requests=len(self.requests) // 3, num_clients=total)
        members, others = self.requests[:total], self.requests[total:-total]
        alternatives = self.alternatives[: len(self.requests) - total]
        candidates = [*members, *others, *alternatives]
        layers = tuple(layers or (self.hyperparameters.layers if with_values else self.hyperparameters.layers[:1]))
        keys: dict[int, Float64[np.ndarray, "d_in num"]] = {}
        residuals: dict[int, Float64[np.ndarray, "d_out num"]] = {}

        def shown(edited: Sequence[EditRequest]) -> Shown:
            values = (
                optimise_values(
                    self.model, edited, self.templates, self.hyperparameters, cache=self.cache, progress=progress
                )
                if with_values
                else None
            )
            deltas: Deltas = {}
            public: dict[int, PublicLayer] = {}
            uploads: dict[int, dict[int, Statistics]] = {client: {} for client in range(1, num_clients + 1)}
            for layer in layers:
                believed = guessed_templates or self.templates
                with self.model.apply(deltas):
                    if deltas:
                        k = compute_keys(self.model, edited, self.templates, layer)
                        theirs = _Keys(
                            requests=compute_keys(self.model, [*members, *others], believed, layer),
                            reference=compute_keys(self.model, self.reference, believed, layer),
                            alternatives=compute_keys(self.model, alternatives, believed, layer),
                        )
                    else:
                        every, theirs = self.unedited(self.templates, layer), self.unedited(believed, layer)
                        k = every.requests[:, :total] if edited is members else every.requests[:, -total:]
                    r = (
                        np.zeros((self.model.d_model, total))
                        if values is None
                        else compute_residuals(self.model, edited, values, layer, layers)
                    )
                public[layer] = PublicLayer(
                    second_moment=self.second_moments[layer],
                    reference=theirs.reference,
                    candidates=np.concatenate(
                        (theirs.requests[:, : len(self.requests) - total], theirs.alternatives[:, : len(alternatives)]),
                        axis=1,
                    ),
                )
                if edited is members:
                    keys[layer], residuals[layer] = k, r
                for client, part in uploads.items():
                    mine = slice((client - 1) * edits_per_client, client * edits_per_client)
                    part[layer] = Statistics(gram=gram(k[:, mine]), cross=cross(r[:, mine], k[:, mine]))
                if values is not None:
                    deltas[layer] = merge_delta(self.second_moments[layer], gram(k), cross(r, k))
            return Shown(
                public=Public(layers=public, names=tuple(request.text for request in candidates), decoder=decoder),
                uploads=uploads,
                deltas=deltas,
            )

        return Case(
            setting=Setting(
                keys=self.name,
                layers=layers,
                d_in=self.model.d_in(layers[0]),
                d_out=self.model.d_model,
                num_clients=num_clients,
                edits_per_client=edits_per_client,
                note=note,
            ),
            real=shown(members),
            null=shown(self.requests[-total:]),
            truth=Truth(
                keys=keys,
                residuals=residuals,
                client=np.repeat(np.arange(1, num_clients + 1), edits_per_client),
                candidate=np.arange(total),
                objects=tuple(request.target_new for request in members),
            ),
        )
