"""What a session must give: the same edit in one process, without a network. Runs as a child of `zygote`."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np


def main(folder, *names):
    """Values for every client of `folder`, or the result of one session with drops, or its clients' plain data."""
    if not names:
        make_values(Path(folder))
    elif names[-1] == "statistics":
        plain(Path(folder), Path(names[0]), Path(names[1]))
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
    from collabsecure.errors import SumAborted

    edit = _Edit(folder, session_file)
    summation = edit.summation(text.rstrip("!") for text in drops)
    if any(text.endswith("!") for text in drops):
        summation = _Back(summation, edit.summation(text for text in drops if not text.endswith("!")))
    try:
        result = edit.together(summation)
    except SumAborted as error:
        np.savez(out, reason=str(error))
        return
    survivors = {str(layer): list(members) for layer, members in result.survivors.items()}
    deltas = {f"layer.{layer}": delta for layer, delta in result.deltas.items()}
    np.savez(out, survivors=json.dumps(survivors), **deltas)


def plain(folder, session_file, out):
    """What each client of a layer-synchronous session keeps to itself, into out/NAME.npz."""
    edit = _Edit(folder, session_file)
    spy = _Spy(edit)
    edit.together(spy)
    for number, name in enumerate(edit.agreement.client_names, 1):
        np.savez(out / f"{name}.npz", **spy.kept[number])


class _Spy:
    """A summation that looks at what goes into it."""

    def __init__(self, edit):
        self._edit, self._inner = edit, edit.summation(())
        self.kept = {number: {"values": client.values} for number, client in edit.clients.items()}

    def sum(self, index, uploads, *, link):
        from collabsecure.keys import compute_keys
        from collabsecure.sessions import cross_name, gram_name

        for number, layers in uploads.items():
            kept, requests = self.kept[number], self._edit.clients[number].requests
            for layer, statistics in layers.items():
                kept[gram_name(layer)], kept[cross_name(layer)] = statistics.gram, statistics.cross
                kept[f"keys {layer}"] = compute_keys(self._edit.model, requests, self._edit.templates, layer).T
        return self._inner.sum(index, uploads, link=link)


class _Edit:
    """A session's clients in one process."""

    def __init__(self, folder, session_file):
        from collabsecure.agreement import Agreement
        from collabsecure.templates import ContextTemplates
        from collabsecure_cli.moments import SessionMoments
        from collabsecure_cli.session import load_session

        self._folder, self.session = folder, load_session(session_file)
        self.agreement = agreement = Agreement.of(self.session)
        self.model = _model(agreement)
        moments = SessionMoments(folder / "stats", agreement)
        self.moments = {layer: moments[layer] for layer in agreement.layers}
        self.templates = ContextTemplates.from_json(agreement.templates)
        self.clients = {
            number: _client(folder, agreement, self.model, name)
            for number, name in enumerate(agreement.client_names, 1)
        }

    def summation(self, drops):
        """The session's real one, with the parties' real keys."""
        from collabsecure.secure_summation import Drop, SecureSummation
        from collabsecure_cli.encryption_keys import find_secret
        from collabsecure_cli.folder import StateFolder
        from collabsecure_cli.identity import load_identity
        from collabsecure_protocols import KeyHolder, Policy

        holder = None
        if self.session.is_encrypted:
            key = self._folder / f"{self.agreement.key_holder_name}.key"
            pair = find_secret(StateFolder(key.with_suffix(".state")), self.session.encryption_key)
            holder = KeyHolder(self.session, load_identity(key), pair)

        identities = [load_identity(self._folder / f"{name}.key") for name in self.agreement.client_names]
        return SecureSummation(
            self.session,
            identities,
            load_identity(self._folder / "server.key"),
            policy=Policy(),
            drops=[Drop.parse(text) for text in drops],
            key_holder=holder,
        )

    def together(self, summation):
        from collabsecure.simulation import edit_together

        flow = self.agreement.flow
        return edit_together(self.model, self.clients, self.templates, self.moments, summation, flow=flow)


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
