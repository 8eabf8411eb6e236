"""The contexts that a prompt is put into while a fact is written, so that the edit holds in any of them.

MEMIT uses the clean prompt and five beginnings that the model makes up itself. They are random, and keys depend on
them, so clients that edit together share one set: one of them samples it, all load it.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from collabsecure.errors import BadRequest, FieldFault
from collabsecure.layers import EditableModel
from collabsecure.prompts import pad_right

_FIRST_WORDS = ("The", "Therefore", "Because", "I", "You")
_NUM_TOKENS = 10  # of a sampled beginning, its first word counted in
_TOP_K = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextTemplates:
    """Contexts in groups; `{}` is where the prompt goes, and the first is the clean prompt alone.

    A request's key is the mean over each group, then over the groups: with MEMIT's two groups the clean prompt weighs
    ½ and each of five sampled contexts ⅒. Its value is optimised over all contexts alike.

    >>> templates = ContextTemplates(groups=(("{}",), ("The best of it. {}", "You see. {}")))
    >>> [context for context, _ in templates.weighted], [weight for _, weight in templates.weighted]
    (['{}', 'The best of it. {}', 'You see. {}'], [0.5, 0.25, 0.25])
    >>> ContextTemplates.from_json(templates.to_json()) == templates
    True

    Raises:
        BadRequest: the first is not the clean prompt, a group is empty, or a context has no single place for a prompt.
    """

    groups: tuple[tuple[str, ...], ...]

    def __post_init__(self) -> None:
        faults = []
        if not self.groups or self.groups[0][:1] != ("{}",):
            faults.append(FieldFault(field="groups[0]", reason='does not begin with "{}", the clean prompt'))
        for number, group in enumerate(self.groups):
            if not group:
                faults.append(FieldFault(field=f"groups[{number}]", reason="is empty"))
            faults += [
                FieldFault(field=f"groups[{number}]", reason=f'{context!r} has not exactly one "{{}}"')
                for context in group
                if context.count("{}") != 1
            ]
        if faults:
            raise BadRequest(faults)

    @property
    def weighted(self) -> tuple[tuple[str, float], ...]:
        """Each context with its share in a key; the shares add up to 1."""
        share = 1 / len(self.groups)
        return tuple((context, share / len(group)) for group in self.groups for context in group)

    def to_json(self) -> str:
        """Write the groups as lists in a list."""
        return json.dumps(self.groups, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> "ContextTemplates":
        """Read what `to_json` wrote.

        Raises:
            BadRequest: it is not such a text.
        """
        try:
            groups = json.loads(text)
        except ValueError as error:
            raise BadRequest([FieldFault(field="templates", reason=f"is no JSON ({error})")]) from error
        is_nested = isinstance(groups, list) and all(isinstance(group, list) for group in groups)
        if not is_nested or not all(isinstance(context, str) for group in groups for context in group):
            raise BadRequest([FieldFault(field="templates", reason="is no list of lists of texts")])
        return cls(groups=tuple(map(tuple, groups)))


CLEAN = ContextTemplates(groups=(("{}",),))
"""The clean prompt alone."""


def sample_templates(model: EditableModel, seed: int) -> ContextTemplates:
    """Sample MEMIT's contexts from the model: five beginnings of ten tokens, each followed by ". {}".

    The same model and seed give the same contexts; across devices they may differ, as logits do in their last bits.
    """
    rows = [model.tokenizer(word, add_special_tokens=False)["input_ids"] for word in _FIRST_WORDS]
    generator = torch.Generator().manual_seed(seed)
    while any(len(row) < _NUM_TOKENS for row in rows):
        best = _likeliest(model, rows)
        for row, logits, tokens in zip(rows, best.values, best.indices, strict=True):
            choice = torch.multinomial(logits.softmax(0), 1, generator=generator)
            if len(row) < _NUM_TOKENS:
                row += tokens[choice].tolist()
    return ContextTemplates(groups=(("{}",), tuple(f"{_as_text(model, row)}. {{}}" for row in rows)))


def _likeliest(model: EditableModel, rows: Sequence[Sequence[int]]) -> torch.return_types.topk:
    """The `_TOP_K` likeliest next tokens of each row, by their logits."""
    tokens = pad_right(rows, model.device)
    last = torch.tensor([len(row) - 1 for row in rows], device=model.device)
    with torch.no_grad():
        states = model.model.base_model(input_ids=tokens, attention_mask=torch.ones_like(tokens), use_cache=False)[0]
        states = states[torch.arange(len(rows), device=model.device), last]
        logits: Float[Tensor, "rows vocabulary"] = model.model.get_output_embeddings()(states).cpu().double()
    logits = logits[:, : len(model.tokenizer)]  # models often have room for more tokens than there are
    # Only tokens that stand for text: an end-of-text in a context would cut it off.
    logits[:, [token for token in model.tokenizer.all_special_ids if token < logits.shape[1]]] = -torch.inf
    return logits.topk(_TOP_K)


def _as_text(model: EditableModel, tokens: Sequence[int]) -> str:
    """Decode a context; no braces, no line breaks, no parts of characters (decoded as "�")."""
    text = model.tokenizer.decode(tokens, skip_special_tokens=True)
    return " ".join(text.translate(dict.fromkeys(map(ord, "{}\N{REPLACEMENT CHARACTER}"), " ")).split())
