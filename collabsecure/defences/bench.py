"""What all defences are measured on: one collaborative edit, one of other subjects, and who might have been edited.

Needs torch.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float64

from collabsecure.attacks.cases.decoding import Continuations
from collabsecure.attacks.cases.editing import Laboratory
from collabsecure.attacks.knowledge import PublicLayer
from collabsecure.defences.defence import Defence, Edits, Layer
from collabsecure.edits import EditRequest
from collabsecure.errors import TooFewRequests
from collabsecure.keys import compute_keys, compute_residuals
from collabsecure.merge import equilibration
from collabsecure.simulation import Deltas
from collabsecure.statistics import Statistics
from collabsecure.values import optimise_values

_MOST_PUBLIC = 120  # public subjects whose keys are computed
_PUBLIC_SHARE = 0.9  # of public subjects' keys and states are no longer than the bounds that noise is made for


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Group:
    """Edits and decoys of all clients, client by client."""

    edits: Sequence[EditRequest]
    values: Float64[np.ndarray, "num_edits d_model"]  # z
    decoys: Sequence[EditRequest]
    decoy_values: Float64[np.ndarray, "num_decoys d_model"]  # what the model has there anyway

    def part(self, start: int, stop: int) -> "Group":
        """Some of the edits."""
        return replace(self, edits=self.edits[start:stop], values=self.values[start:stop])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Run:
    """What comes of one edit with a defence."""

    totals: dict[int, Statistics]  # layer → the sum
    candidates: dict[int, Float64[np.ndarray, "d_in num"]]  # layer → candidates' keys, as the model then had them
    deltas: Deltas


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Bench:
    """One collaborative edit, and one of other subjects for the null; the candidates are edits, others and decoys."""

    laboratory: Laboratory
    layers: dict[int, Layer]
    real: Group
    null: Group
    others: Sequence[EditRequest]  # candidates that nobody edits or uses as a decoy
    public: PublicLayer  # of the first layer
    before: Float64[
        np.ndarray, "num_candidates vocabulary"
    ]  # log-probabilities of what comes after candidates' prompts

    @classmethod
    def prepare(
        cls,
        laboratory: Laboratory,
        *,
        num_clients: int,
        edits_per_client: int,
        decoys_per_client: int,
        num_others: int,
        progress: Callable[[int], None] | None = None,
    ) -> "Bench":
        """Deal out the laboratory's records, and optimise values; `progress` is told how many more of these are done.

        Raises:
            TooFewRequests: the records do not suffice.
        """
        edits, decoys = num_clients * edits_per_client, num_clients * decoys_per_client
        requests = laboratory.requests
        if len(requests) < 2 * (edits + decoys) + num_others:
            raise TooFewRequests(num_requests=len(requests), num_clients=2 * (edits + decoys) + num_others)

        def group(part: Sequence[EditRequest]) -> Group:
            model, settings = laboratory.model, laboratory.hyperparameters
            last, still = settings.layers[-1], np.zeros((decoys, laboratory.model.d_model))
            return Group(
                edits=part[:edits],
                values=optimise_values(
                    model, part[:edits], laboratory.templates, settings, cache=laboratory.cache, progress=progress
                ),
                decoys=part[edits:],
                decoy_values=-compute_residuals(model, part[edits:], still, last, settings.layers).T
                if decoys
                else still,
            )

        real, null = group(requests[: edits + decoys]), group(requests[-edits - decoys :])
        others = requests[edits + decoys :][:num_others]
        candidates = [*real.edits, *others, *real.decoys]
        layers = {
            number: _layer(laboratory, number, num_clients=num_clients, edits_per_client=edits_per_client)
            for number in laboratory.hyperparameters.layers
        }
        first = min(layers)
        everybody = Continuations(model=laboratory.model, candidates=candidates, deltas={})
        return cls(
            laboratory=laboratory,
            layers=layers,
            real=real,
            null=null,
            others=others,
            public=PublicLayer(
                second_moment=laboratory.second_moments[first],
                reference=compute_keys(
                    laboratory.model, laboratory.reference[:_MOST_PUBLIC], laboratory.templates, first
                ),
                candidates=compute_keys(laboratory.model, candidates, laboratory.templates, first),
            ),
            before=everybody(range(len(candidates))),
        )

    @property
    def candidates(self) -> list[EditRequest]:
        """In the order of `public` and `before`."""
        return [*self.real.edits, *self.others, *self.real.decoys]

    def run(self, defence: Defence, group: Group, *, seed: int) -> Run:
        """Edit layer by layer with a defence; the model is left as it was."""
        model, templates, rng = self.laboratory.model, self.laboratory.templates, np.random.default_rng(seed)
        numbers = tuple(self.layers)
        totals: dict[int, Statistics] = {}
        candidates: dict[int, Float64[np.ndarray, "d_in num"]] = {}
        deltas: Deltas = {}
        for number, layer in self.layers.items():
            used = defence.decoys_per_client * layer.num_clients
            decoys, decoy_values = group.decoys[:used], group.decoy_values[:used]
            with model.apply(deltas):
                keys = compute_keys(model, group.edits, templates, number)
                residuals = compute_residuals(model, group.edits, group.values, number, numbers)
                if used:
                    decoy_keys = compute_keys(model, decoys, templates, number)
                    decoy_residuals = compute_residuals(model, decoys, decoy_values, number, numbers)
                    candidates[number] = (
                        compute_keys(model, self.candidates, templates, number) if deltas else self.public.candidates
                    )
                else:
                    decoy_keys, decoy_residuals = np.empty((len(keys), 0)), np.empty((len(residuals), 0))
            uploads = []
            for client in range(layer.num_clients):
                mine = slice(client * layer.edits_per_client, (client + 1) * layer.edits_per_client)
                own = slice(client * defence.decoys_per_client, (client + 1) * defence.decoys_per_client)
                edits = Edits(
                    keys=keys[:, mine],
                    residuals=residuals[:, mine],
                    decoy_keys=decoy_keys[:, own],
                    decoy_residuals=decoy_residuals[:, own],
                )
                uploads.append(defence.upload(edits, layer, rng))
            totals[number] = Statistics(
                gram=np.sum([upload.gram for upload in uploads], axis=0),
                cross=np.sum([upload.cross for upload in uploads], axis=0),
            )
            deltas[number] = defence.merge(totals[number], layer)
        return Run(totals=totals, candidates=candidates, deltas=deltas)


def _layer(laboratory: Laboratory, number: int, *, num_clients: int, edits_per_client: int) -> Layer:
    """What is public of a layer.

    Bounds are of public subjects: how long their keys are, and how far from their states a value may be.
    """
    model, settings, public = laboratory.model, laboratory.hyperparameters, laboratory.reference[:_MOST_PUBLIC]
    scales = 2.0 ** np.rint(np.log2(equilibration(laboratory.second_moments[number])))
    keys = scales[:, None] * compute_keys(model, public, laboratory.templates, number)
    last, left = settings.layers[-1], len(settings.layers) - settings.layers.index(number)
    states = compute_residuals(model, public, np.zeros((len(public), model.d_model)), last, settings.layers)
    longest = settings.clamp_norm_factor * np.quantile(np.linalg.norm(states, axis=0), _PUBLIC_SHARE)
    return Layer(
        number=number,
        left=left,
        num_layers=len(settings.layers),
        second_moment=laboratory.second_moments[number],
        scales=scales,
        d_out=model.d_model,
        num_clients=num_clients,
        edits_per_client=edits_per_client,
        key_bound=float(np.quantile(np.linalg.norm(keys, axis=0), _PUBLIC_SHARE)),
        residual_bound=float(longest / left),
    )
