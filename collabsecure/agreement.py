"""What the parties of an editing session agree on beside the protocol: model, layers, hyper-parameters, names.

It stands in the session's parameters, as text, and so in the transcript that everybody compares. NumPy only: the
aggregator reads it too.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Literal

import numpy as np
from jaxtyping import Float64

from collabsecure.errors import BadRequest, BadSession
from collabsecure.hyperparameters import Hyperparameters
from collabsecure.sessions import cross_name, gram_name
from collabsecure_protocols import Session, Sum

Flow = Literal["layer-synchronous", "one-shot"]

FORMAT = "collabsecure editing 1"
WEIGHTS_DTYPES = ("float32", "float64", "bfloat16", "float16")
FLOWS: tuple[Flow, ...] = ("layer-synchronous", "one-shot")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_LONGEST_NAME = 200  # characters
_BLOCK_ROWS = 128
_MOMENT = "second_moment {}".format
_PLAIN = frozenset(
    {"format", "model", "weights", "weights_dtype", "layers", "flow", "hyperparameters", "templates", "max_edits",
     "client_names", "server_name"}
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """The parameters of an editing session, typed.

    Raises:
        BadSession: something is out of its range, or contradicts something else.
    """

    model: str  # as the organiser named it; others may have it in another place
    revision: str | None
    weights_digest: str  # SHA-256 of the edited layers' weights in `weights_dtype`, `EditableModel.weights_digest`
    weights_dtype: str  # in which all load the model, one of WEIGHTS_DTYPES
    layers: tuple[int, ...]  # ascending
    flow: Flow
    hyperparameters: Hyperparameters
    templates: str  # `ContextTemplates.to_json`; text, so that no torch is needed
    second_moments: Mapping[int, str]  # layer → `second_moment_digest` of C, weighted by λ
    max_edits: int  # of any one client, ≥ 1
    client_names: tuple[str, ...]  # client i is client_names[i − 1]
    server_name: str
    key_holder_name: str | None = None  # of an encrypted session

    def __post_init__(self) -> None:
        names = {"model": self.model, "revision": self.revision, "server_name": self.server_name}
        for what, text in {**names, "key_holder_name": self.key_holder_name}.items():
            _require(text is None or is_name(text), what, repr(text), "printable text")
        digests = {"weights": self.weights_digest} | {_MOMENT(layer): d for layer, d in self.second_moments.items()}
        for what, digest in digests.items():
            _require(_DIGEST.fullmatch(digest) is not None, what, repr(digest), "64 hex digits")
        known = self.weights_dtype in WEIGHTS_DTYPES
        _require(known, "weights_dtype", repr(self.weights_dtype), f"one of {', '.join(WEIGHTS_DTYPES)}")
        layers = self.hyperparameters.layers
        _require(self.layers == layers, "layers", str(self.layers), f"the hyper-parameters' {layers}")
        moments = tuple(sorted(self.second_moments))
        _require(moments == self.layers, "second moments", f"those of {moments}", f"one of each layer {self.layers}")
        _require(self.max_edits >= 1, "max_edits", str(self.max_edits), "at least 1")
        _groups(self.templates)
        for name in self.client_names:
            _require(is_name(name), "client_names", repr(name), "printable text")
        twice = [name for name, count in Counter(self._names()).items() if count > 1]
        _require(not twice, "names", f"{twice[:1]} twice", "one name for each party")

    def _names(self) -> tuple[str, ...]:
        holder = () if self.key_holder_name is None else (self.key_holder_name,)
        return (*self.client_names, self.server_name, *holder)

    @property
    def contexts(self) -> tuple[tuple[str, ...], ...]:
        """The templates' groups, as `ContextTemplates.groups`."""
        return _groups(self.templates)

    def parameters(self) -> dict[str, str]:
        """The session's parameters, for `sessions.editing_session`."""
        settings = {field.name: getattr(self.hyperparameters, field.name) for field in fields(Hyperparameters)}
        found = {
            "format": FORMAT,
            "model": self.model,
            "weights": self.weights_digest,
            "weights_dtype": self.weights_dtype,
            "layers": ",".join(map(str, self.layers)),
            "flow": self.flow,
            "hyperparameters": json.dumps(settings, sort_keys=True),
            "templates": self.templates,
            "max_edits": str(self.max_edits),
            "client_names": json.dumps(self.client_names, ensure_ascii=False),
            "server_name": self.server_name,
            **{_MOMENT(layer): digest for layer, digest in sorted(self.second_moments.items())},
        }
        optional = {"revision": self.revision, "key_holder_name": self.key_holder_name}
        return found | {name: text for name, text in optional.items() if text is not None}

    @classmethod
    def of(cls, session: Session) -> "Agreement":
        """Read a session's parameters, and hold its roster, sums and tensors against them.

        Raises:
            BadSession: it is no editing session, or contradicts itself.
        """
        found = dict(session.parameters)
        agreement = cls._read(found)
        # One way to write each thing: what would read alike is alike.
        for name, value in agreement.parameters().items():
            _require(found[name] == value, f"parameter {name!r}", repr(found[name][:80]), repr(value[:80]))
        names = len(agreement.client_names)
        _require(names == session.num_clients, "client_names", str(names), f"{session.num_clients}, as on the roster")
        named = agreement.key_holder_name is not None
        _require(named == session.is_encrypted, "key_holder_name", str(named), "a name where there is encryption")
        _check_sums(agreement, session.sums)
        return agreement

    @classmethod
    def _read(cls, found: Mapping[str, str]) -> "Agreement":
        if "format" not in found:
            raise BadSession("found a session of sums; expected an editing session")
        _require(found["format"] == FORMAT, "format", repr(found["format"]), repr(FORMAT))
        missing = _PLAIN - found.keys()
        _require(not missing, "parameters", f"no {', no '.join(sorted(missing))}", "all of an editing session's")
        try:
            settings = json.loads(found["hyperparameters"])
            layers = tuple(map(int, found["layers"].split(",")))
            moments = {layer: found[_MOMENT(layer)] for layer in layers}
            names = json.loads(found["client_names"])
            max_edits = int(found["max_edits"])
            hyperparameters = _hyperparameters(settings)
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError, BadRequest) as error:
            raise BadSession(f"The session's parameters cannot be read: {type(error).__name__}: {error}") from error
        unknown = found.keys() - _PLAIN - {"revision", "key_holder_name"} - {_MOMENT(layer) for layer in layers}
        listed = ", ".join(map(repr, sorted(unknown)))
        _require(not unknown, "parameters", listed, "those of an editing session alone; is this collabsecure too old?")
        are_texts = isinstance(names, list) and all(isinstance(name, str) for name in names)
        _require(are_texts, "client_names", repr(found["client_names"][:80]), "a list of texts")
        return cls(
            model=found["model"],
            revision=found.get("revision"),
            weights_digest=found["weights"],
            weights_dtype=found["weights_dtype"],
            layers=layers,
            flow=_flow(found["flow"]),
            hyperparameters=hyperparameters,
            templates=found["templates"],
            second_moments=moments,
            max_edits=max_edits,
            client_names=tuple(names),
            server_name=found["server_name"],
            key_holder_name=found.get("key_holder_name"),
        )


def second_moment_digest(second_moment: Float64[np.ndarray, "d d"]) -> str:
    """SHA-256 in hexadecimal over C's shape and entries, row by row as little-endian float64; no copy is made.

    >>> second_moment_digest(np.eye(2))[:16]
    '7691651f9a077ea4'
    """
    digest = hashlib.sha256(f"second moment float64 {second_moment.shape}\n".encode())
    for start in range(0, len(second_moment), _BLOCK_ROWS):
        digest.update(np.ascontiguousarray(second_moment[start : start + _BLOCK_ROWS], dtype="<f8").data)
    return digest.hexdigest()


def is_name(text: str) -> bool:
    r"""Whether a text is fit to name something to people: it cannot move a terminal's cursor, or be nothing at all.

    >>> is_name("Müller & Co"), is_name(""), is_name("a\x1b[2J")
    (True, False, False)
    """
    return 0 < len(text) <= _LONGEST_NAME and text.isprintable() and text == text.strip()


def _check_sums(agreement: Agreement, sums: tuple[Sum, ...]) -> None:
    """The sums must be those of the flow: of each layer, its Gram matrix and its cross term, in the same units."""
    pairs = {f"layer {layer}": [gram_name(layer), cross_name(layer)] for layer in agreement.layers}
    if agreement.flow == "one-shot":
        pairs = {"all layers": [name for pair in pairs.values() for name in pair]}
    found = {spec.name: [tensor.name for tensor in spec.tensors] for spec in sums}
    _require(list(found.items()) == list(pairs.items()), "sums", str(found), f"{agreement.flow}'s {pairs}")
    tensors = [tensor for spec in sums for tensor in spec.tensors]
    for gram, cross in zip(tensors[::2], tensors[1::2], strict=True):
        d_out, d_in = tensors[1].shape[0], gram.shape[-1]
        right = (
            gram.symmetric
            and not cross.symmetric
            and cross.shape == (d_out, d_in)
            and gram.row_exponents == cross.column_exponents
            and not cross.row_exponents
            and gram.bits == cross.bits == tensors[0].bits
        )
        shapes = f"{gram.name!r} {gram.shape} and {cross.name!r} {cross.shape}"
        _require(right, "tensors", shapes, "a Gram matrix (d_in, d_in) and a cross term (d_out, d_in) in its units")


def _hyperparameters(settings: object) -> Hyperparameters:
    names = {field.name for field in fields(Hyperparameters)}
    if not isinstance(settings, dict) or settings.keys() != names or not isinstance(settings["layers"], list):
        raise ValueError(f"hyperparameters are no object with {', '.join(sorted(names))}")
    for name, value in settings.items():
        kinds = {"layers": list, "v_num_grad_steps": int, "v_loss_layer": int | None}.get(name, int | float)
        listed = value if isinstance(value, list) else []
        if not isinstance(value, kinds) or any(type(item) is not int for item in listed) or isinstance(value, bool):
            raise ValueError(f"hyperparameters have {name} {value!r}")
    return Hyperparameters(**{**settings, "layers": tuple(settings["layers"])})


def _flow(text: str) -> Flow:
    for flow in FLOWS:
        if text == flow:
            return flow
    raise BadSession(f"The session's flow: found {text!r}; expected one of {', '.join(FLOWS)}")


def _groups(templates: str) -> tuple[tuple[str, ...], ...]:
    try:
        groups = json.loads(templates)
    except (ValueError, RecursionError) as error:
        raise BadSession(f"The session's templates: found no JSON ({error}); expected groups of contexts") from error
    nested = isinstance(groups, list) and all(isinstance(group, list) and group for group in groups)
    texts = nested and all(isinstance(text, str) and text.count("{}") == 1 for group in groups for text in group)
    _require(
        texts and groups and groups[0][0] == "{}", "templates", repr(templates[:80]), 'groups of contexts, "{}" first'
    )
    return tuple(map(tuple, groups))


def _require(holds: object, what: str, found: str, expected: str) -> None:
    if not holds:
        raise BadSession(f"The session's {what}: found {found}; expected {expected}")
