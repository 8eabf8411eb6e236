"""What a session must give: the same edit in one process, without a network. Runs as a child of `zygote`."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np


def main(folder, *names):
    """Values for every client of `folder` (`make_values`), or the result of one session with drops (`expected`)."""
    if not names:
        make_values(Path(folder))
    else:
        session, out, *drops = names
        expected(Path(folder), Path(session), Path(out), drops)


def make_values(folder):
    """Each client's values, optimised by itself, into folder/values/NAME."""
    from collabsecure.agreement import Agreement
    from collabsecure_cli.session import load_session

    agreement = Agreement.of(load_session(folder / "seven.json"))
    model = _model(agreement)
    for name in agreement.client_names:
        _client(folder, agreement, model, name)


def expected(folder: Path, session_file: Path, out: Path, drops: Sequence[str]):
    """Δ and survivors of a session in one process, into out.npz; only a reason if it was aborted.

    `drops` as `Drop.parse` has them; one with a ! behind it is back in the next sum.
    """
    from collabsecure.agreement import Agreement
    from collabsecure.errors import SumAborted
    from collabsecure.secure_summation import Drop, SecureSummation
    from collabsecure.simulation import edit_together
    from collabsecure.templates import ContextTemplates
    from collabsecure_cli.identity import load_identity
    from collabsecure_cli.moments import SessionMoments
    from collabsecure_cli.session import load_session
    from collabsecure_protocols import Policy

    session = load_session(session_file)
    agreement = Agreement.of(session)
    model = _model(agreement)
    moments = SessionMoments(folder / "stats", agreement)
    identities = [load_identity(folder / f"{name}.key") for name in agreement.client_names]
    server = load_identity(folder / "server.key")

    def summation_without(texts):
        drops = [Drop.parse(text) for text in texts]
        return SecureSummation(session, identities, server, policy=Policy(), drops=drops)

    summation = summation_without(text.rstrip("!") for text in drops)
    if any(text.endswith("!") for text in drops):
        summation = _Back(summation, summation_without(text for text in drops if not text.endswith("!")))
    clients = {number: _client(folder, agreement, model, name) for number, name in enumerate(agreement.client_names, 1)}
    templates = ContextTemplates.from_json(agreement.templates)
    try:
        result = edit_together(
            model,
            clients,
            templates,
            {layer: moments[layer] for layer in agreement.layers},
            summation,
            flow=agreement.flow,
        )
    except SumAborted as error:
        np.savez(out, reason=str(error))
        return
    survivors = {str(layer): list(members) for layer, members in result.survivors.items()}
    deltas = {f"layer.{layer}": delta for layer, delta in result.deltas.items()}
    np.savez(out, survivors=json.dumps(survivors), **deltas)


class _Back:
    """Two summations, one for the first sum and one, in which some clients are back, for the others."""

    def __init__(self, first, others):
        self._first, self._others = first, others

    def sum(self, index, uploads, *, link):
        later = self._others.sum(index, uploads, link=link)
        return later if index else self._first.sum(index, uploads, link=link)


def _model(agreement):
    import torch

    from collabsecure_cli.contribution import load_model

    torch.set_num_threads(1)
    return load_model(agreement, agreement.model, agreement.revision, "cpu")


def _client(folder, agreement, model, name):
    from collabsecure.edits import load_requests
    from collabsecure.simulation import Client
    from collabsecure.templates import ContextTemplates
    from collabsecure.values import optimise_values

    requests = load_requests(folder / f"{name}.json")
    templates = ContextTemplates.from_json(agreement.templates)
    cache = folder / "values" / name
    values = optimise_values(model, requests, templates, agreement.hyperparameters, cache=cache)
    return Client(requests=requests, values=values)
