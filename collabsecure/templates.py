"""The contexts that a prompt is put into while a fact is written, so that the edit holds in any of them.

MEMIT uses the clean prompt and five beginnings that the model makes up itself. They are random, and keys depend on
them, so clients that edit together share one set: one of them samples it, all load it.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from collabsecure.errors import BadRequest, FieldFault
from collabsecure.layers import EditableModel

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
    beginnings = [_continue(model, row, generator) for row in rows]
    return ContextTemplates(groups=(("{}",), tuple(f"{beginning}. {{}}" for beginning in beginnings)))


def _continue(model: EditableModel, tokens: Sequence[int], generator: torch.Generator) -> str:
    """Sample from the `_TOP_K` likeliest tokens until there are `_NUM_TOKENS`."""
    row: Int64[Tensor, "1 length"] = torch.tensor([list(tokens)], device=model.device)
    while row.shape[1] < _NUM_TOKENS:
        with torch.no_grad():
            output = model.model(input_ids=row, attention_mask=torch.ones_like(row), use_cache=False, logits_to_keep=1)
        logits: Float[Tensor, " vocabulary"] = output.logits[0, -1].cpu().double()
        # Only tokens that stand for text: an end-of-text in a context would cut it off.
        logits[[token for token in model.tokenizer.all_special_ids if token < len(logits)]] = -torch.inf
        best = logits[: len(model.tokenizer)].topk(_TOP_K)
        choice = torch.multinomial(best.values.softmax(0), 1, generator=generator)
        row = torch.cat([row, best.indices[choice][None].to(row)], dim=1)
    text = model.tokenizer.decode(row[0], skip_special_tokens=True)
    # "�" stands for part of a character.
    return " ".join(text.replace("{", " ").replace("}", " ").replace("\N{REPLACEMENT CHARACTER}", " ").split())
