"""`collabsecure demo`: several clients edit one model together, beside MEMIT with all edits in one place."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click
import numpy as np

from collabsecure.agreement import Flow
from collabsecure.edits import EditRequest, load_requests, split_among_clients
from collabsecure.errors import TooFewRequests
from collabsecure.files import complete_or_absent
from collabsecure.statistics import SecondMoment, find_second_moments
from collabsecure_cli.config import emit, operator_options
from collabsecure_cli.drafting import draft_session
from collabsecure_cli.options import Layers, ModelChoice
from collabsecure_cli.own_folder import own_folder
from collabsecure_cli.progress import evaluation_bar, progress_bar
from collabsecure_cli.promises import HONEST
from collabsecure_cli.roster import Roster
from collabsecure_protocols import Identity, Policy

if TYPE_CHECKING:
    from collabsecure.evaluate import CounterfactScores
    from collabsecure.hyperparameters import Hyperparameters
    from collabsecure.layers import EditableModel
    from collabsecure.secure_summation import Drop, SecureSummation
    from collabsecure.simulation import Client, CollaborativeEdit, Deltas
    from collabsecure.templates import ContextTemplates

MARK = "collabsecure-demo"  # a file that says that a folder is a demo's own
_existing = click.Path(exists=True, path_type=Path)


@click.command("demo")
@click.option("--model", help="Hugging Face directory or name such as gpt2-xl.  [default: the small world's GPT-2]")
@click.option("--records", type=_existing, help="Edits, in any form that collabsecure reads.  [default: made-up facts]")
@click.option("--clients", type=click.IntRange(min=3), default=5, show_default=True, help="Clients that edit together.")
@click.option("--edits-per-client", type=click.IntRange(min=1), default=30, show_default=True, help="Requests of each.")
@click.option("--layers", type=Layers(), help="Layers to edit: 13-17 or 3,4,5.  [default: the hyper-parameters']")
@click.option("--hparams", type=_existing, help="MEMIT's hyper-parameters as JSON; needed with --model.")
@click.option("--second-moment", type=_existing, help="Folder of `collabsecure second-moment`; needed with --model.")
@click.option(
    "--flow",
    type=click.Choice(["layer-synchronous", "one-shot"]),
    default="layer-synchronous",
    show_default=True,
    help="Which of the two makes the saved model; both are measured.",
)
@click.option(
    "--drop",
    multiple=True,
    metavar="CLIENT@PHASE[:SUM]",
    help="Let a client fall silent: 2@masked-input, 4@unmask:1. Phases: advertise-keys, share-keys, masked-input, "
    "consistency-check, unmask.",
)
@click.option("--device", help="cpu, cuda, mps…  [default: a GPU if there is one]")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the contexts sampled from the model.")
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), default="out/demo", show_default=True, help="Results."
)
@click.option("--force", is_flag=True, help="Use a folder that holds something else.")
@operator_options
def demo(
    *,
    model: str | None,
    records: Path | None,
    clients: int,
    edits_per_client: int,
    layers: tuple[int, ...] | None,
    hparams: Path | None,
    second_moment: Path | None,
    flow: str,
    drop: tuple[str, ...],
    device: str | None,
    seed: int,
    out: Path,
    force: bool,
) -> None:
    """Let several clients edit one model together, through the secure sum.

    Compares GLOBAL-EDIT, which is MEMIT with all edits in one place, with the collaborative result, and saves the
    merged model as a Hugging Face directory and as delta.safetensors. Interrupted, the same command goes on.

    \b
    Examples:
      collabsecure demo
      collabsecure demo --clients 8 --edits-per-client 20 --drop 2@masked-input
      collabsecure demo --model gpt2-xl --records multi_counterfact.json --hparams gpt2-xl.json --second-moment stats/
    """  # noqa: D301 - \b is click's mark for lines that stay as they are
    sources = _Sources.of(model, records, hparams, second_moment)
    with own_folder(out, mark=MARK, found="values found so far", force=force):
        choices = _Choices.load(sources, device=device, layers=layers, seed=seed)
        _run(choices, num_clients=clients, edits_per_client=edits_per_client, flow=flow, drops=drop, out=out)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sources:
    """Where everything comes from; what was not given comes from the small world."""

    model: str | None  # None: the small world's
    records: Path
    hparams: Path
    second_moment: Path

    @classmethod
    def of(cls, model: str | None, records: Path | None, hparams: Path | None, second_moment: Path | None) -> _Sources:
        if model is None:
            from collabsecure.world import load_world

            world = load_world()
            records, hparams = records or world.records, hparams or world.hyperparameters
            second_moment = second_moment or world.second_moments
        if records is None or hparams is None or second_moment is None:
            raise click.UsageError("With --model, also give --records, --hparams and --second-moment.")
        return cls(model=model, records=records, hparams=hparams, second_moment=second_moment)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Choices:
    """Everything loaded that the edit needs."""

    model: EditableModel
    name: str
    requests: Sequence[EditRequest]
    hyperparameters: Hyperparameters
    templates: ContextTemplates
    moments: Mapping[int, np.ndarray]  # layer → C

    @classmethod
    def load(cls, sources: _Sources, *, device: str | None, layers: tuple[int, ...] | None, seed: int) -> _Choices:
        import torch

        from collabsecure.hyperparameters import Hyperparameters
        from collabsecure.layers import EditableModel
        from collabsecure.templates import ContextTemplates, sample_templates

        requests = load_requests(sources.records)
        hyperparameters = Hyperparameters.from_json(sources.hparams)
        if layers is not None:
            hyperparameters = replace(hyperparameters, layers=layers)
        if sources.model is None:
            from collabsecure.world import load_world

            # So small a model can afford float64, in which layer-synchronous and global editing agree to rounding.
            world = load_world()
            torch.set_num_threads(1)  # more would wait for each other longer than they compute
            model = EditableModel.load(str(world.model), device=device or "cpu", dtype=torch.float64)
            templates = ContextTemplates.from_json(world.templates.read_text(encoding="utf-8"))
        else:
            model = ModelChoice(name=sources.model, revision=None, device=device).load()
            templates = sample_templates(model, seed)
        modules = [model.architecture.projection_of(layer) for layer in hyperparameters.layers]
        files = find_second_moments(sources.second_moment, modules)
        moments = {
            layer: SecondMoment.load_npz(path).weighted(hyperparameters.second_moment_weight)
            for layer, path in zip(hyperparameters.layers, files, strict=True)
        }
        return cls(
            model=model,
            name=sources.model or "the small world's GPT-2",
            requests=requests,
            hyperparameters=hyperparameters,
            templates=templates,
            moments=moments,
        )


def _run(
    choices: _Choices, *, num_clients: int, edits_per_client: int, flow: str, drops: Sequence[str], out: Path
) -> None:
    """Everything from values to the saved model."""
    from collabsecure.deltas import Delta, Provenance, save_delta
    from collabsecure.evaluate import complete, evaluate_counterfact
    from collabsecure.secure_summation import Drop
    from collabsecure.simulation import edit_globally, edit_together, relative_distance
    from collabsecure.values import optimise_values

    model, layers = choices.model, choices.hyperparameters.layers
    needed = num_clients * edits_per_client
    if len(choices.requests) < needed:
        raise TooFewRequests(num_requests=len(choices.requests), num_clients=num_clients)
    requests = choices.requests[:needed]
    parts = split_among_clients(requests, num_clients)
    click.echo(f"{num_clients} clients with {edits_per_client} edits each on {choices.name}, layers {layers}", err=True)
    wanted = [Drop.parse(text) for text in drops]

    with progress_bar("optimise values", needed) as advance:
        values = optimise_values(
            model, requests, choices.templates, choices.hyperparameters, cache=out / "values", progress=advance
        )
    clients = _clients(parts, values)

    def scored(title: str, deltas: Deltas) -> CounterfactScores:
        with evaluation_bar(f"evaluate {title}") as tell, model.apply(deltas):
            return evaluate_counterfact(model, requests, progress=tell)

    shown = [request.text for request in requests[:3]]
    before, said_before = scored("before", {}), complete(model, shown, max_new_tokens=6)
    steps = num_clients * len(layers)
    edits: dict[str, CollaborativeEdit] = {}
    sent: dict[str, int] = {}  # bytes, by all clients together
    sessions: dict[str, str] = {}  # transcripts
    for name in ("layer-synchronous", "one-shot"):
        summation = _secure_sum(choices, clients, one_shot=name == "one-shot", drops=wanted, out=out)
        with progress_bar(f"edit together, {name}", steps) as advance:
            edits[name] = edit_together(
                model,
                clients,
                choices.templates,
                choices.moments,
                summation,
                flow=name,
                progress=advance,
            )
        sent[name], sessions[name] = summation.bytes_up, summation.session.transcript.hex()
    survivors = edits["layer-synchronous"].survivors
    with progress_bar("edit globally", len(layers)) as advance:
        reference = edit_globally(
            model, clients, choices.templates, choices.moments, survivors=survivors, progress=advance
        )
    rows: list[tuple[str, CounterfactScores, Deltas | None]] = [
        ("before", before, None),
        ("GLOBAL-EDIT", scored("GLOBAL-EDIT", reference), None),
        *((name, scored(name, edit.deltas), edit.deltas) for name, edit in edits.items()),
    ]
    chosen = edits[flow]
    provenance = Provenance(
        model=choices.name,
        revision=None,
        weights_digest=model.weights_digest(layers),
        weights_dtype=str(model.dtype).removeprefix("torch."),
        mode="masked",
        session=sessions[flow],
        survivors=chosen.survivors,
        flow=flow,
    )
    save_delta(out / "delta.safetensors", Delta(layers=chosen.deltas, provenance=provenance), force=True)
    with model.apply(chosen.deltas):
        said_after = complete(model, shown, max_new_tokens=6)
        model.save(out / "model")

    told = [
        _table(rows, reference, layers),
        f"\nThe clients sent {sent[flow] / 1e6:.1f} MB, masked; the server saw sums, and who took part.",
    ]
    if any(len(members) < num_clients for members in survivors.values()):
        who = "; ".join(f"layer {layer}: clients {', '.join(map(str, survivors[layer]))}" for layer in layers)
        told.append(f"\nSome clients dropped out. In the sums, and in GLOBAL-EDIT here: {who}.")
    told.append(f"\nThree of the edits ({flow}):")
    for request, old, new in zip(requests[:3], said_before, said_after, strict=True):
        told.append(f"  {request.text} …\n    before:{old!r}\n    after: {new!r}   (asked for: {request.target_new!r})")
    told.append(
        f"\nSaved {out / 'model'} (Hugging Face directory) and {out / 'delta.safetensors'}.\n\n{HONEST}\n\n"
        f"Next: load it with transformers' from_pretrained({str(out / 'model')!r}), try --drop 2@masked-input, or "
        "do it over a network: docs/two-organisations.md."
    )
    result = {
        "out": str(out),
        "flow": flow,
        "bytes_sent": sent[flow],
        "survivors": {str(layer): members for layer, members in survivors.items()},
        "scores": {
            name: {"es": scores.es, "ps": scores.ps, "ns": scores.ns, "score": scores.score} for name, scores, _ in rows
        },
        "relative_distance_to_global_edit": {
            name: {str(layer): relative_distance(deltas[layer], reference[layer]) for layer in layers}
            for name, _, deltas in rows
            if deltas is not None
        },
    }
    emit(result, "\n".join(told))


def _clients(parts: Sequence[Sequence[EditRequest]], values: np.ndarray) -> dict[int, Client]:
    from collabsecure.simulation import Client

    starts = np.cumsum([0, *map(len, parts)])
    return {
        number: Client(requests=part, values=values[start : start + len(part)])
        for number, (start, part) in enumerate(zip(starts, parts, strict=False), 1)
    }


def _secure_sum(
    choices: _Choices, clients: Mapping[int, Client], *, one_shot: bool, drops: Sequence[Drop], out: Path
) -> SecureSummation:
    """New identities and a new session; its descriptor is written down as operators would exchange it."""
    from collabsecure.secure_summation import SecureSummation

    flow: Flow = "one-shot" if one_shot else "layer-synchronous"
    identities = {f"client-{number}": Identity.generate(os.urandom) for number in clients}
    server = Identity.generate(os.urandom)
    session = draft_session(
        choices.model,
        name=choices.name,
        revision=None,
        task="demo",
        roster=Roster(
            server_name="server",
            server_key=server.public,
            clients={name: identity.public for name, identity in identities.items()},
        ),
        hyperparameters=choices.hyperparameters,
        templates=choices.templates,
        second_moments=choices.moments,
        max_edits=max(len(client.requests) for client in clients.values()),
        flow=flow,
    )
    with complete_or_absent(out / f"session-{flow}.json", force=True) as path:
        path.write_text(session.to_json(), encoding="utf-8")
    policy = Policy(transcript=session.transcript, accept_honest_but_curious=not session.is_complete)
    return SecureSummation(session, list(identities.values()), server, policy=policy, drops=drops)


def _table(
    rows: Sequence[tuple[str, CounterfactScores, Deltas | None]], reference: Deltas, layers: Sequence[int]
) -> str:
    """Scores in per cent, and how far each Δ is from GLOBAL-EDIT's."""
    from collabsecure.simulation import relative_distance

    head = f"\n{'':<20}{'ES':>7}{'PS':>7}{'NS':>7}{'Score':>7}" + "".join(f"{f'Δ{layer}':>10}" for layer in layers)
    lines = [head + "   (relative distance to GLOBAL-EDIT)"]
    for name, scores, deltas in rows:
        figures = (scores.es, scores.ps, scores.ns, scores.score)
        line = f"{name:<20}" + "".join("      –" if figure is None else f"{100 * figure:>7.1f}" for figure in figures)
        if deltas is not None:
            line += "".join(f"{relative_distance(deltas[layer], reference[layer]):>10.1e}" for layer in layers)
        lines.append(line)
    return "\n".join(lines)
