"""A session in plain words: what somebody who takes part in it agrees to. Needs no torch."""

import json
import math
from collections.abc import Sequence
from dataclasses import fields

from collabsecure.agreement import Agreement
from collabsecure.hyperparameters import Hyperparameters
from collabsecure.leak_meter import LeakMeter
from collabsecure_cli.options import layers_in_short
from collabsecure_cli.promises import HONEST
from collabsecure_cli.roster import format_key
from collabsecure_protocols import Policy, Session
from collabsecure_protocols.policy import corruption_bound

_INDENT = " " * 14
_SERVER_LEARNS = (
    "the sums of the Gram matrices KKᵀ and of the cross terms RKᵀ over the clients that stay, and the update Δ that\n"
    "follows from them; who takes part, who stays, and when. Never one client's own matrices."
)
_SERVER_LEARNS_NO_SUM = (
    "no sum: only the update Δ that the key holder hands back, who takes part, who stays, and when.\n"
    "The key holder learns the sums of KKᵀ and RKᵀ over the clients that stay; both together learn no more."
)
_ALL_RECEIVE = "the update Δ of each layer, which is the edited model, and the names of the clients that stayed."


def spoken_digest(digest: bytes | str) -> str:
    """A SHA-256 digest to be read out: groups of four hex digits, on two lines.

    >>> print(spoken_digest(bytes(range(32))))
    0001 0203 0405 0607 0809 0a0b 0c0d 0e0f
    1011 1213 1415 1617 1819 1a1b 1c1d 1e1f
    """
    text = digest if isinstance(digest, str) else digest.hex()
    groups = [text[start : start + 4] for start in range(0, len(text), 4)]
    half = len(groups) // 2
    return "\n".join(" ".join(part) for part in (groups[:half], groups[half:]))


def upload_bytes(session: Session) -> dict[str, int]:
    """What one client sends for each sum, by its name: masked values, without the few bytes around them."""
    return {spec.name: sum(session.chunk_bytes(spec, chunk) for chunk in spec.chunks()) for spec in session.sums}


def leak_of(session: Session, agreement: Agreement, clients_in_sum: int) -> LeakMeter:
    """What a sum over so many clients gives away, if each has as many edits as it may."""
    _, cross = session.sums[0].tensors[:2]
    d_out, d_in = cross.shape
    return LeakMeter(total_edits=clients_in_sum * agreement.max_edits, d_model=d_out, d_in=d_in)


def as_mapping(session: Session, agreement: Agreement) -> dict[str, object]:
    """Everything that `in_words` says, for programs."""
    uploads = upload_bytes(session)
    return {
        "transcript": session.transcript.hex(),
        "task": session.task,
        "model": agreement.model,
        "revision": agreement.revision,
        "weights_digest": agreement.weights_digest,
        "weights_dtype": agreement.weights_dtype,
        "layers": list(agreement.layers),
        "flow": agreement.flow,
        "hyperparameters": _settings(agreement.hyperparameters),
        "second_moments": {str(layer): digest for layer, digest in agreement.second_moments.items()},
        "templates": agreement.contexts,
        "max_edits": agreement.max_edits,
        "server": {"name": agreement.server_name, "key": format_key(session.server_key)},
        "clients": [
            {"number": number, "name": name, "key": format_key(key)}
            for number, (name, key) in enumerate(zip(agreement.client_names, session.roster, strict=True), 1)
        ],
        "min_survivors": session.min_survivors,
        "threshold": session.threshold,
        "max_colluding_clients": colluding(session),
        "withstands_malicious_server": session.is_complete,
        "encryption": session.encryption,
        "key_holder": session.is_encrypted
        and {"name": agreement.key_holder_name, "key": format_key(session.key_holder)},
        "bits": session.sums[0].tensors[0].bits,
        "upload_bytes": uploads,
        "upload_bytes_total": sum(uploads.values()),
        "server_learns": _learns(session).replace("\n", " "),
        "everyone_receives": _ALL_RECEIVE,
        "leak": leak_of(session, agreement, session.num_clients).to_json(),
        "note": HONEST.replace("\n", " "),
    }


def in_words(session: Session, agreement: Agreement) -> str:
    """What a session asks of those who take part, and what everybody learns."""
    revision = "" if agreement.revision is None else f", revision {agreement.revision}"
    settings = _settings(agreement.hyperparameters)
    weight = settings.pop("second_moment_weight")
    settings.pop("layers")
    moments = [f"layer {layer}: {digest}" for layer, digest in sorted(agreement.second_moments.items())]
    contexts = [json.dumps(context) for group in agreement.contexts for context in group]
    holder = agreement.key_holder_name or ""
    width = max(map(len, (agreement.server_name, holder, *agreement.client_names)))
    keys = [("server", agreement.server_name, session.server_key)]
    if session.is_encrypted:
        keys.append(("holder", holder, session.key_holder))
    keys += [
        (f"{number}", name, key)
        for number, (name, key) in enumerate(zip(agreement.client_names, session.roster, strict=True), 1)
    ]
    uploads = upload_bytes(session)
    bits = session.sums[0].tensors[0].bits
    rows = [
        ("Task", [repr(session.task)]),
        ("Digest", [*spoken_digest(session.transcript).split("\n"), "Compare it with the other parties by phone."]),
        ("Who", [f"{number:<6}  {name:<{width}}  {format_key(key)}" for number, name, key in keys]),
        ("Stay", staying(session)),
        ("Model", [f"{agreement.model}{revision}, in {agreement.weights_dtype}"]),
        ("Layers", [layers_in_short(agreement.layers), f"weights {agreement.weights_digest}"]),
        ("Flow", [_flow(agreement)]),
        ("Editing", [f"at most {agreement.max_edits} edits of any one client, λ = {weight}", _listed(settings)]),
        ("C", moments),
        ("Contexts", contexts),
        (
            "You send",
            [
                *(f"{name}: {size_in_words(size)}" for name, size in uploads.items()),
                f"{size_in_words(sum(uploads.values()))} in all, masked{_encrypted(session)}, {bits} bits a number",
            ],
        ),
        ("Server learns", _learns(session).split("\n")),
        ("All receive", [_ALL_RECEIVE]),
        ("Leak", leak_of(session, agreement, session.num_clients).lines()),
    ]
    return "\n".join([*laid_out(rows), "", HONEST])


def laid_out(rows: Sequence[tuple[str, Sequence[str]]]) -> list[str]:
    """Blocks of lines, each with its title at the left."""
    return [
        f"{title if first else '':<{len(_INDENT)}}{line}"
        for title, block in rows
        for first, line in zip([True, *[False] * (len(block) - 1)], block, strict=True)
    ]


def _encrypted(session: Session) -> str:
    return f" and encrypted ({session.encryption}) for the key holder" if session.is_encrypted else ""


def _learns(session: Session) -> str:
    return _SERVER_LEARNS_NO_SUM if session.is_encrypted else _SERVER_LEARNS


def staying(session: Session) -> list[str]:
    """How many must stay, and may collude, in words."""
    n, floor, number = session.num_clients, session.min_survivors, colluding(session)
    stay = f"all {n} clients" if floor == n else f"{floor} of the {n} clients"
    who = {0: "No client may collude", 1: "At most 1 client may collude"}.get(
        number, f"At most {number} clients may collude"
    )
    lines = [f"{stay} must stay to the end of a sum, else it is not opened.", f"{who} with the server."]
    if not session.is_complete:
        lines.append(
            f"Each client is masked by {session.degree} others: safe from a server that follows the protocol, not from "
            "one that does not."
        )
    return lines


def colluding(session: Session) -> int:
    """How many clients may collude with the server: on a k-regular graph, the share that policies insist on."""
    if session.is_complete:
        return corruption_bound(session.num_clients)
    return math.floor(Policy().corrupt_fraction * session.num_clients)


def _flow(agreement: Agreement) -> str:
    if agreement.flow == "one-shot":
        return "one-shot: all layers from one sum; over several layers that is not exactly what MEMIT would do"
    return "layer-synchronous: sum a layer, merge, everybody applies Δ, then the next layer; exactly MEMIT"


def _settings(hyperparameters: Hyperparameters) -> dict[str, object]:
    return {field.name: getattr(hyperparameters, field.name) for field in fields(Hyperparameters)}


def _listed(settings: dict[str, object]) -> str:
    return ", ".join(f"{name} {'last' if value is None else value}" for name, value in settings.items())


def size_in_words(num_bytes: int) -> str:
    """Bytes for people.

    >>> size_in_words(999), size_in_words(154_000_000)
    ('999 bytes', '154.0 MB')
    """
    if num_bytes < 100_000:
        return f"{num_bytes} bytes"
    return f"{num_bytes / 1e6:.1f} MB" if num_bytes < 1e9 else f"{num_bytes / 1e9:.2f} GB"
