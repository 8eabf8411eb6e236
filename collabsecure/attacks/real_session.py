"""What lies on an aggregator's disk after a real session, attacked by one who knows what was edited and wants to see.

There is no second session of other subjects to be the null. Its place is taken by candidates that nobody edited: as
many of them as there are edits are taken for members, and the same attack on the same views must not tell them from the
rest. That does not show whether edits and other candidates are of one kind: if they are not, if all edits are of
people, say, and the others of places, then beyond n = d_in (or d_model, for updates) some of what an attack finds is
the kind.

For what is masked or encrypted, where the least that is found would be a broken promise, the null is that attack on the
same list and random numbers: what it makes of these is chance, whoever is on the list. An upload holds one client's
edits, and the list does not say which they are, so little is found even without a mask; that its numbers look random is
tested by itself. Needs torch.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
from jaxtyping import Float64

from collabsecure.attacks import behaviour, membership, published_delta, rank
from collabsecure.attacks.attack import Attack, Figure, Finding, Score
from collabsecure.attacks.behaviour import EditedModel
from collabsecure.attacks.cases.decoding import Continuations
from collabsecure.attacks.cases.editing import Laboratory
from collabsecure.attacks.knowledge import Public, PublicLayer, Setting, Truth
from collabsecure.attacks.uniformity import examine
from collabsecure.attacks.views import (
    AggregatorState,
    EncryptedUpload,
    MaskedUpload,
    PlainUpload,
    PublishedDelta,
    View,
)
from collabsecure.edits import EditRequest
from collabsecure.keys import compute_keys
from collabsecure_protocols.encryption_parameters import DATA_PRIME

Updates = Mapping[int, Float64[np.ndarray, "d_out _"]]


def attack_state(
    state: AggregatorState, laboratory: Laboratory, *, num_edited: int, seed: int, note: str = ""
) -> Iterator[Finding]:
    """All that can be tried on each view in a state folder.

    The first `num_edited` of the laboratory's requests are what was edited; its model, templates and second moments are
    the session's. Updates that the folder does not have are those of layers that were not edited yet.
    """
    published = {} if state.published is None else dict(state.published.layers)

    @cache
    def keys(layer: int) -> PublicLayer:
        with laboratory.model.apply({below: delta for below, delta in published.items() if below < layer}):
            return PublicLayer(
                second_moment=laboratory.second_moments[layer],
                reference=compute_keys(laboratory.model, laboratory.reference, laboratory.templates, layer),
                candidates=compute_keys(laboratory.model, laboratory.requests, laboratory.templates, layer),
            )

    setting = Setting(
        keys=laboratory.name,
        layers=tuple(laboratory.hyperparameters.layers),
        d_in=laboratory.model.d_in(laboratory.hyperparameters.layers[0]),
        d_out=laboratory.model.d_model,
        num_clients=1,
        edits_per_client=num_edited,
        note=note,
    )
    client = 1 if state.summed is None else state.summed.survivors[0]  # whose edits were whose is not asked
    everybody, others = laboratory.requests, laboratory.requests[num_edited:]
    for name, view in state.parts():
        if not view.layers:
            continue
        hidden = isinstance(view, MaskedUpload | EncryptedUpload)
        nothing, unedited = view, (others, min(num_edited, len(others) // 2))
        if isinstance(view, MaskedUpload | EncryptedUpload):
            nothing, unedited = at_random(view, np.random.default_rng(seed)), (everybody, num_edited)
            yield examine(view, None, view=name, setting=setting, must=False)
        tries = _tries(view, laboratory, published)
        for (attack, show), (_, show_null) in zip(tries, _tries(nothing, laboratory, published), strict=True):
            start = time.monotonic()
            scores = []
            for (listed, members), showing in (((everybody, num_edited), show), (unedited, show_null)):
                skipped = len(everybody) - len(listed)
                public = Public(
                    layers={
                        layer: replace(keys(layer), candidates=keys(layer).candidates[:, skipped:])
                        for layer in view.layers
                    },
                    names=tuple(request.text for request in listed),
                )
                scores.append(attack.run(showing(listed), public, _truth(public, members, client), seed=seed))
            score, null = against(*scores) if hidden else scores
            yield Finding(
                attack=attack.name,
                view=name,
                setting=setting,
                score=score,
                null=null,
                must=False if hidden else None,
                seconds=time.monotonic() - start,
            )


def at_random(view: MaskedUpload | EncryptedUpload, rng: np.random.Generator) -> MaskedUpload | EncryptedUpload:
    """An upload of the same form that nobody sent: uniform numbers."""
    bits = {tensor.name: tensor.bits for spec in view.session.sums for tensor in spec.tensors}
    return replace(
        view,
        words={
            name: rng.integers(
                DATA_PRIME if isinstance(view, EncryptedUpload) else 1 << bits[name], size=len(words), dtype=np.uint64
            )
            for name, words in view.words.items()
        },
    )


def against(score: Score, null: Score) -> tuple[Score, Score]:
    """A score whose chance is what the null has, and the null, of which there is nothing to ask.

    Both vary as much, so the difference's standard error is √2 of one's.
    """
    chance = {figure.name: figure.value for figure in null.figures}
    figures = tuple(
        figure
        if figure.chance is None or figure.error is None or figure.name not in chance
        else replace(figure, chance=chance[figure.name], error=math.sqrt(2) * figure.error)
        for figure in score.figures
    )
    plain = tuple(Figure(name=figure.name, value=figure.value) for figure in null.figures)
    return replace(score, figures=figures), replace(null, figures=plain)


def _tries(
    view: View, laboratory: Laboratory, published: Updates
) -> list[tuple[Attack[Any], Callable[[Sequence[EditRequest]], object]]]:
    """Attacks on a view, each with what it gets, given the list of candidates."""
    if isinstance(view, PublishedDelta):

        def asked(listed: Sequence[EditRequest]) -> EditedModel:
            before, after = (
                Continuations(model=laboratory.model, candidates=listed, deltas=deltas) for deltas in ({}, published)
            )
            return EditedModel(before=before, after=after)

        return [(published_delta.ATTACK, lambda _: view), (behaviour.ATTACK, asked)]
    if isinstance(view, MaskedUpload | EncryptedUpload):
        taken_for_plain = PlainUpload(layers=view.layers)
        return [(membership.ATTACK, lambda _: taken_for_plain)]
    return [(rank.ATTACK, lambda _: view), (membership.ATTACK, lambda _: view)]


def _truth(public: Public, num_members: int, client: int) -> Truth:
    """The first candidates are members; what was written for them is not looked at."""
    return Truth(
        keys={layer: found.candidates[:, :num_members] for layer, found in public.layers.items()},
        residuals={},
        client=np.full(num_members, client),
        candidate=np.arange(num_members),
        objects=("",) * num_members,
    )
