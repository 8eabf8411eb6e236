"""A new session descriptor, from a model and what its organiser has chosen."""

import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from collabsecure.agreement import Agreement, Flow, second_moment_digest
from collabsecure.sessions import Encryption, Ranges, editing_session
from collabsecure_cli.roster import Roster
from collabsecure_protocols import Session

if TYPE_CHECKING:
    from collabsecure.hyperparameters import Hyperparameters
    from collabsecure.layers import EditableModel
    from collabsecure.templates import ContextTemplates


def draft_session(
    model: "EditableModel",
    *,
    name: str,
    revision: str | None,
    task: str,
    roster: Roster,
    hyperparameters: "Hyperparameters",
    templates: "ContextTemplates",
    second_moments: Mapping[int, np.ndarray],  # layer → C, weighted by λ
    max_edits: int,
    flow: Flow,
    bits: int = 48,
    encryption: Encryption | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Session:
    """Make the descriptor; `say` is told what takes long.

    Raises:
        BadSession: a name or the model's type is none that others could read.
        DegenerateSecondMoment: some C_jj is not positive.
        InvalidSession: so wide a range does not fit into so few bits.
        ModelMismatch: the model has no such layer.
    """
    from collabsecure.keys import residual_range

    layers = hyperparameters.layers
    say(f"Digesting the weights of {len(layers)} layers")
    weights_digest = model.weights_digest(layers)
    say(f"Digesting the second moments of {len(layers)} layers")
    agreement = Agreement(
        model=name,
        revision=revision,
        weights_digest=weights_digest,
        weights_dtype=str(model.dtype).removeprefix("torch."),
        layers=layers,
        flow=flow,
        hyperparameters=hyperparameters,
        templates=templates.to_json(),
        second_moments={layer: second_moment_digest(second_moments[layer]) for layer in layers},
        max_edits=max_edits,
        client_names=tuple(roster.clients),
        server_name=roster.server_name,
        key_holder_name=None if roster.key_holder is None else roster.key_holder[0],
    )
    public_texts = [context.replace("{}", "The") for context, _ in templates.weighted]
    residual = residual_range(model, public_texts, layers[-1], hyperparameters.clamp_norm_factor)
    return editing_session(
        session_id=os.urandom(32),
        task=task,
        roster=list(roster.clients.values()),
        server_key=roster.server_key,
        second_moments=second_moments,
        weight=hyperparameters.second_moment_weight,
        d_out=model.d_model,
        ranges=Ranges(max_edits=max_edits, residual=residual),
        one_shot=flow == "one-shot",
        bits=bits,
        parameters=agreement.parameters(),
        encryption=encryption,
    )
