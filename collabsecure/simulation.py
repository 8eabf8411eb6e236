"""Several clients and a server in one process: the whole collaborative edit, with real messages but no network.

All share one model object, which each client has as it stands after the layers merged so far; what one client computes
never depends on another's requests, as keys, residuals and values are per request.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float64

from collabsecure.edits import EditRequest
from collabsecure.keys import local_statistics
from collabsecure.layers import EditableModel
from collabsecure.links import FIRST_LINK, delta_digest, next_link
from collabsecure.merge import merge_delta
from collabsecure.statistics import Statistics, Summed
from collabsecure.templates import ContextTemplates

Flow = Literal["layer-synchronous", "one-shot"]
Deltas = dict[int, Float64[np.ndarray, "d_out _"]]
Moments = Mapping[int, Float64[np.ndarray, "_ _"]]  # layer → C, weighted


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Client:
    """One organisation's part: its requests and their values, which never leave it."""

    requests: Sequence[EditRequest]
    values: Float64[np.ndarray, "num_edits d_model"]  # z


@runtime_checkable
class Summation(Protocol):
    """Adds the clients' statistics: in the clear, or through `secure_summation`."""

    def sum(self, index: int, uploads: Mapping[int, Mapping[int, Statistics]], *, link: bytes) -> Summed:
        """Sum number `index`: client → layer → its statistics; `link` is what the sum follows."""


class PlainSummation:
    """The sum in the clear, for comparison: the server sees every upload."""

    def sum(self, index: int, uploads: Mapping[int, Mapping[int, Statistics]], *, link: bytes) -> Summed:
        """Add up."""
        layers = next(iter(uploads.values())).keys()
        return Summed(
            layers={
                layer: Statistics(
                    gram=np.sum([upload[layer].gram for upload in uploads.values()], axis=0),
                    cross=np.sum([upload[layer].cross for upload in uploads.values()], axis=0),
                )
                for layer in layers
            },
            survivors=tuple(sorted(uploads)),
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CollaborativeEdit:
    """What the clients wrote together."""

    deltas: Deltas
    survivors: Mapping[int, tuple[int, ...]]  # layer → the clients whose edits are in its Δ


def edit_globally(
    model: EditableModel,
    clients: Mapping[int, Client],
    templates: ContextTemplates,
    second_moments: Moments,
    *,
    survivors: Mapping[int, tuple[int, ...]] | None = None,
    progress: Callable[[int], None] | None = None,
) -> Deltas:
    """MEMIT with all requests in one place, layer by layer: GLOBAL-EDIT. The model is left as it was.

    `survivors` says whose requests are in each layer, if not everybody's.
    """
    layers = sorted(second_moments)
    deltas: Deltas = {}
    for layer in layers:
        pool = pooled([clients[number] for number in (clients if survivors is None else survivors[layer])])
        with model.apply(deltas):
            everything = _statistics(model, pool, templates, layer, layers, progress)
        deltas[layer] = _merge(second_moments[layer], everything)
    return deltas


def pooled(clients: Sequence[Client]) -> Client:
    """All requests and values in one place, which is what nobody wants outside a simulation."""
    return Client(
        requests=[request for client in clients for request in client.requests],
        values=np.concatenate([client.values for client in clients]),
    )


def edit_together(
    model: EditableModel,
    clients: Mapping[int, Client],
    templates: ContextTemplates,
    second_moments: Moments,
    summation: Summation,
    *,
    flow: Flow = "layer-synchronous",
    progress: Callable[[int], None] | None = None,
) -> CollaborativeEdit:
    """Let the clients edit together; the model is left as it was.

    Layer-synchronous: sum a layer, apply its Δ everywhere, and only then compute the next layer's keys: global MEMIT
    exactly. One-shot (CollabEdit's algorithm 1): each client edits by itself to get all layers' statistics, which are
    summed at once; at later layers its keys are not those of global MEMIT. `progress` is told of each finished (client,
    layer).

    Raises:
        NotPositiveDefinite: a layer's sum is not one that can be merged.
    """
    if flow == "one-shot":
        return _one_shot(model, clients, templates, second_moments, summation, progress)
    layers = sorted(second_moments)
    deltas: Deltas = {}
    survivors = {}
    link = FIRST_LINK
    for index, layer in enumerate(layers):
        with model.apply(deltas):
            uploads = {
                number: {layer: _statistics(model, client, templates, layer, layers, progress)}
                for number, client in clients.items()
            }
        summed = summation.sum(index, uploads, link=link)
        deltas[layer] = _merge(second_moments[layer], summed.layers[layer])
        survivors[layer] = summed.survivors
        link = next_link(link, [delta_digest(layer, deltas[layer])])
    return CollaborativeEdit(deltas=deltas, survivors=survivors)


def _one_shot(
    model: EditableModel,
    clients: Mapping[int, Client],
    templates: ContextTemplates,
    second_moments: Moments,
    summation: Summation,
    progress: Callable[[int], None] | None,
) -> CollaborativeEdit:
    layers = sorted(second_moments)
    uploads = {
        number: dict(one_shot_statistics(model, client, templates, second_moments, progress))
        for number, client in clients.items()
    }
    summed = summation.sum(0, uploads, link=FIRST_LINK)
    deltas = {layer: _merge(second_moments[layer], summed.layers[layer]) for layer in layers}
    return CollaborativeEdit(deltas=deltas, survivors=dict.fromkeys(layers, summed.survivors))


def one_shot_statistics(
    model: EditableModel,
    client: Client,
    templates: ContextTemplates,
    second_moments: Moments,
    progress: Callable[[int], None] | None = None,
) -> Iterator[tuple[int, Statistics]]:
    """One client's statistics, layer by layer, each computed after the client's own edit of the layers before."""
    layers = sorted(second_moments)
    own: Deltas = {}
    for layer in layers:
        with model.apply(own):
            mine = _statistics(model, client, templates, layer, layers, progress)
        yield layer, mine
        if layer != layers[-1]:  # nothing is computed on top of the last
            own[layer] = merge_delta(second_moments[layer], mine.gram, mine.cross)


def _statistics(
    model: EditableModel,
    client: Client,
    templates: ContextTemplates,
    layer: int,
    layers: Sequence[int],
    progress: Callable[[int], None] | None,
) -> Statistics:
    statistics = local_statistics(model, client.requests, client.values, templates, layer, layers)
    if progress is not None:
        progress(1)
    return statistics


def _merge(second_moment: Float64[np.ndarray, "d_in d_in"], summed: Statistics) -> Float64[np.ndarray, "d_out d_in"]:
    return merge_delta(second_moment, summed.gram, summed.cross, overwrite=True)


def relative_distance(delta: Float64[np.ndarray, "d_out d_in"], reference: Float64[np.ndarray, "d_out d_in"]) -> float:
    """‖Δ − Δ_ref‖ / ‖Δ_ref‖, Frobenius."""
    return float(np.linalg.norm(delta - reference) / np.linalg.norm(reference))
