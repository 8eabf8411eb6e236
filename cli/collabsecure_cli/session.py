"""`collabsecure session`: the file that everybody who takes part must hold, made and shown."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click
import numpy as np

from collabsecure.agreement import Agreement
from collabsecure.errors import BadFile
from collabsecure.files import complete_or_absent, refuse_existing, unreadable
from collabsecure.hyperparameters import Hyperparameters
from collabsecure.sessions import Encryption, best_bits
from collabsecure.statistics import SecondMoment, find_second_moments
from collabsecure_cli import sum_words
from collabsecure_cli.config import emit, operator_options
from collabsecure_cli.drafting import draft_session
from collabsecure_cli.encryption_keys import load_public
from collabsecure_cli.options import Layers, ModelChoice, layers_in_short, model_options
from collabsecure_cli.roster import Roster, format_key, load_roster
from collabsecure_cli.session_words import as_mapping, in_words, spoken_digest
from collabsecure_protocols import InvalidSession, Session
from collabsecure_protocols.tensors import ENCRYPTED_BITS, RING_BITS

if TYPE_CHECKING:
    from collabsecure.layers import EditableModel
    from collabsecure.templates import ContextTemplates

_WEIGHT, _GPTJ_WEIGHT, _GPTJ_STEPS = 20_000, 15_000, 25  # MEMIT's λ; and its λ and v_num_grad_steps for GPT-J
_file = click.Path(exists=True, dir_okay=False, path_type=Path)


def load_session(path: Path) -> Session:
    """Read a session file.

    Raises:
        BadFile: it cannot be read, or is no text.
        InvalidSession: it is no session, or says one thing to people and another to programs.
    """
    try:
        return Session.from_json(path.read_bytes().decode())
    except OSError as error:
        raise unreadable(path, error) from error
    except UnicodeDecodeError as error:
        raise BadFile(path, found=f"no UTF-8 at byte {error.start}", expected="a session file") from error
    except InvalidSession as error:
        raise InvalidSession(f"{path}: {error}") from error


@click.group("session")
def session() -> None:
    """Make and show the file that all parties of a session agree on."""


@session.command("new")
@model_options
@click.option("--layers", type=Layers(), help="Layers to edit: 13-17 or 3,4,5.  [default: the hyper-parameters']")
@click.option(
    "--second-moment",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    required=True,
    help="Folder of `collabsecure second-moment`, or with MEMIT's files.",
)
@click.option("--roster", type=_file, required=True, help="TOML file with the parties' names and keys.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), required=True, help="Session file to make.")
@click.option("--hparams", type=_file, help="MEMIT's hyper-parameters as JSON.  [default: the published ones]")
@click.option("--templates", type=_file, help="Contexts as JSON.  [default: sampled from the model]")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the contexts sampled from the model.")
@click.option(
    "--max-edits",
    type=click.IntRange(min=1),
    default=1000,
    show_default=True,
    help="Largest number of edits of any one client; each fourfold costs up to two bits of precision.",
)
@click.option("--task", help="What the edits are for, in words that all recognise.  [default: edit MODEL together]")
@click.option(
    "--bits",
    type=click.Choice([str(bits) for bits in sorted((*RING_BITS, *ENCRYPTED_BITS))]),
    help="Of a masked number; fewer are faster and coarser.  [default: 48; with ckks, what fits]",
)
@click.option(
    "--encryption",
    type=_file,
    help="Encrypt, so that the server learns no sum: the key holder's file, of `collabsecure keyholder new`.",
)
@click.option("--one-shot", is_flag=True, help="One sum for all layers: clients come online once; not exactly MEMIT.")
@click.option("--force", is_flag=True, help="Overwrite a file that is there.")
@operator_options
def new(
    model: ModelChoice,
    *,
    layers: tuple[int, ...] | None,
    second_moment: Path,
    roster: Path,
    out: Path,
    hparams: Path | None,
    templates: Path | None,
    seed: int,
    max_edits: int,
    task: str | None,
    bits: str | None,
    encryption: Path | None,
    one_shot: bool,
    force: bool,
) -> None:
    """Write down what the parties agree on: model, layers, hyper-parameters, contexts, names and keys.

    \b
    Example:
      collabsecure session new --model gpt2-xl --layers 13-17 --second-moment stats/ \\
        --roster roster.toml --out session.json
    """  # noqa: D301 - \b is click's mark for lines that stay as they are
    if layers is None and hparams is None:
        raise click.UsageError("Give --layers, or --hparams that has them.")
    if not force:
        refuse_existing(out)
    parties = load_roster(roster)
    encrypted = _encryption(encryption, parties, roster)
    default_bits = 48 if encrypted is None else best_bits(encrypted.scheme, len(parties.clients))
    given = None if hparams is None else Hyperparameters.from_json(hparams)
    _say(f"Loading {model.name}")
    editable = model.load()
    hyperparameters = _hyperparameters(editable, given, layers)
    drafted = draft_session(
        editable,
        name=model.name,
        revision=model.revision,
        task=f"edit {model.name} together" if task is None else task,
        roster=parties,
        hyperparameters=hyperparameters,
        templates=_templates(editable, templates, seed),
        second_moments=_second_moments(editable, second_moment, hyperparameters),
        max_edits=max_edits,
        flow="one-shot" if one_shot else "layer-synchronous",
        bits=int(bits) if bits else default_bits,
        encryption=encrypted,
        say=_say,
    )
    Agreement.of(drafted)  # what others will insist on
    with complete_or_absent(out, force=force) as path:
        path.write_text(drafted.to_json(), encoding="utf-8")
    digest = spoken_digest(drafted.transcript).replace("\n", "\n  ")
    emit(
        {"file": str(out), "transcript": drafted.transcript.hex()},
        f"Wrote {out}: {len(parties.clients)} clients edit layers {layers_in_short(hyperparameters.layers)} of "
        f"{model.name}. Its digest:\n\n  {digest}\n\n"
        f"Next: send it to all parties. Each runs `collabsecure session show {out.name}` and compares the digest with "
        "the others\nby phone. When all have the same, the server starts `collabsecure aggregate` and the clients "
        "`collabsecure client`.",
    )


@session.command("show")
@click.argument("file", type=click.Path(path_type=Path))
@operator_options
def show(*, file: Path) -> None:
    """Say in plain words what a session asks of those who take part, with the digest to compare by phone."""
    shown = load_session(file)
    if "format" not in dict(shown.parameters) and not shown.is_encrypted:
        emit(sum_words.as_mapping(shown), sum_words.in_words(shown))
        return
    agreement = Agreement.of(shown)
    emit(as_mapping(shown, agreement), in_words(shown, agreement))


def _hyperparameters(
    model: "EditableModel", given: Hyperparameters | None, layers: Sequence[int] | None
) -> Hyperparameters:
    """The given ones, else those that MEMIT has published for the model, or for GPT-2 XL."""
    if given is not None:
        return given if layers is None else replace(given, layers=tuple(layers))
    chosen = tuple(layers or ())
    if model.model.config.model_type == "gptj":
        return Hyperparameters(layers=chosen, second_moment_weight=_GPTJ_WEIGHT, v_num_grad_steps=_GPTJ_STEPS)
    return Hyperparameters(layers=chosen, second_moment_weight=_WEIGHT)


def _second_moments(model: "EditableModel", folder: Path, settings: Hyperparameters) -> dict[int, np.ndarray]:
    """C of each layer, weighted."""
    d_in = {layer: model.d_in(layer) for layer in settings.layers}
    files = find_second_moments(folder, [model.architecture.projection_of(layer) for layer in d_in])
    moments: dict[int, np.ndarray] = {}
    for (layer, width), path in zip(d_in.items(), files, strict=True):
        _say(f"Reading the second moment of layer {layer}")
        moments[layer] = SecondMoment.load_npz(path).weighted(settings.second_moment_weight)
        if len(moments[layer]) != width:
            raise BadFile(
                path, found=f"a second moment of width {len(moments[layer])}", expected=f"the model's keys' {width}"
            )
    return moments


def _encryption(path: Path | None, parties: Roster, roster: Path) -> Encryption | None:
    """The key to encrypt with, if it is the roster's key holder's."""
    if (path is None) != (parties.key_holder is None):
        raise BadFile(
            roster,
            found="no [key_holder], though there is an encryption key" if path else "a [key_holder]",
            expected="its line" if path else "--encryption FILE as well",
            remedy="The key holder sends both: a roster line, and the file of `collabsecure keyholder new`",
        )
    if path is None or parties.key_holder is None:
        return None
    signed = load_public(path)
    name, holder = parties.key_holder
    if signed.holder != holder:
        raise BadFile(path, found="the key of another key holder", expected=f"{name!r}'s, {format_key(holder)}")
    return Encryption(scheme=signed.key.scheme, holder=holder, key=signed.key.encode())


def _templates(model: "EditableModel", path: Path | None, seed: int) -> "ContextTemplates":
    from collabsecure.templates import ContextTemplates, sample_templates

    if path is None:
        _say("Sampling contexts from the model")
        return sample_templates(model, seed)
    try:
        return ContextTemplates.from_json(path.read_bytes().decode())
    except OSError as error:
        raise unreadable(path, error) from error
    except UnicodeDecodeError as error:
        raise BadFile(path, found=f"no UTF-8 at byte {error.start}", expected="contexts as JSON") from error


def _say(what: str) -> None:
    click.echo(what, err=True)
