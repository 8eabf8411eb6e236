"""A session of sums in plain words: what somebody who takes part in it agrees to."""

from collabsecure_cli.roster import format_key
from collabsecure_cli.session_words import colluding, laid_out, size_in_words, spoken_digest, staying, upload_bytes
from collabsecure_protocols import Session, Tensor

_LEARNS = (
    "Who coordinates learns the sums over the clients that stay; who takes part, who stays, and when. Never one\n"
    "client's own values. What becomes of the sums is up to the app: this session says nothing of it."
)
_NOT_HIDDEN = (
    "collabsecure hides which client gave what; it does not hide what the sum itself says, nor a client's values from\n"
    "the app that computes them."
)


def as_mapping(session: Session) -> dict[str, object]:
    """Everything that `in_words` says, for programs."""
    uploads = upload_bytes(session)
    return {
        "transcript": session.transcript.hex(),
        "task": session.task,
        "server": {"key": format_key(session.server_key)},
        "clients": [{"number": number, "key": format_key(key)} for number, key in enumerate(session.roster, 1)],
        "min_survivors": session.min_survivors,
        "threshold": session.threshold,
        "max_colluding_clients": colluding(session),
        "withstands_malicious_server": session.is_complete,
        "sums": [
            {
                "name": spec.name,
                "arrays": [
                    {"name": tensor.name, "shape": list(tensor.shape), "bound": tensor.bound, "bits": tensor.bits}
                    for tensor in spec.tensors
                ],
            }
            for spec in session.sums
        ],
        "parameters": dict(session.parameters),
        "upload_bytes": uploads,
        "upload_bytes_total": sum(uploads.values()),
        "server_learns": _LEARNS.replace("\n", " "),
        "note": _NOT_HIDDEN.replace("\n", " "),
    }


def in_words(session: Session) -> str:
    """What a session of sums asks of those who take part, and what is learnt."""
    uploads = upload_bytes(session)
    keys = [("server", session.server_key), *((f"{number}", key) for number, key in enumerate(session.roster, 1))]
    rows = [
        ("Task", [repr(session.task)]),
        ("Digest", [*spoken_digest(session.transcript).split("\n"), "Compare it with the other parties by phone."]),
        ("Who", [f"{number:<6}  {format_key(key)}" for number, key in keys]),
        ("Stay", staying(session)),
        ("Sums", [line for spec in session.sums for line in (f"{spec.name!r}:", *map(_array, spec.tensors))]),
        ("Said besides", [f"{name!r}: {text!r}" for name, text in session.parameters] or ["nothing"]),
        (
            "You send",
            [
                *(f"{name!r}: {size_in_words(size)}" for name, size in uploads.items()),
                f"{size_in_words(sum(uploads.values()))} in all, masked",
            ],
        ),
        ("Learnt", _LEARNS.split("\n")),
    ]
    return "\n".join([*laid_out(rows), "", _NOT_HIDDEN])


def _array(tensor: Tensor) -> str:
    shape = " × ".join(map(str, tensor.shape))
    return f"  {tensor.name!r}: {shape} numbers within ±{tensor.bound:g}, {tensor.bits} bits each"
