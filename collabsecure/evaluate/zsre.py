"""zsRE's scores of a model: how many of the right answer's tokens it says (CollabEdit, appendix C).

As MEMIT evaluates zsRE: each token of the answer is asked for with those before it given, and is right if no other is
likelier. MEMIT asks in as many passes as there are tokens, and has them as text in between. There a token that is part
of a character becomes another one, and cannot count as right; here it can. Otherwise the two agree.
"""

from collections.abc import Iterable, Sequence
from itertools import chain

from collabsecure.edits import EditRequest
from collabsecure.evaluate.continuations import Continuation, Progress, read_continuations
from collabsecure.evaluate.scores import RecordAccuracies, ZsreScores
from collabsecure.layers import EditableModel


def evaluate_zsre(
    model: EditableModel,
    requests: Sequence[EditRequest],
    *,
    batch_size: int = 16,
    progress: Progress | None = None,
) -> ZsreScores:
    """Ask for the new target after every request's prompt and paraphrases, for the answer after neighbours' prompts.

    No true target is needed. What the scores are does not depend on `batch_size` (texts that the model reads at once)
    but for rounding.

    Raises:
        BadRequest: a prompt or a target leaves no token.
        PromptTooLong: a prompt with its target does not fit into the model's context.
    """
    asked = [_prompts(request) for request in requests]
    continuations = list(dict.fromkeys(chain.from_iterable(chain(*groups) for groups in asked)))
    readings = read_continuations(model, continuations, batch_size=batch_size, progress=progress)
    found = dict(zip(continuations, readings, strict=True))

    def tokens(group: Iterable[Continuation]) -> tuple[bool, ...]:
        return tuple(chain.from_iterable(found[continuation].likeliest for continuation in group))

    return ZsreScores(
        records=tuple(
            RecordAccuracies(
                case_id=request.case_id,
                rewrite=tokens(rewrite),
                paraphrases=tokens(paraphrases),
                neighborhood=tokens(neighborhood),
            )
            for request, (rewrite, paraphrases, neighborhood) in zip(requests, asked, strict=True)
        )
    )


def _prompts(request: EditRequest) -> tuple[list[Continuation], list[Continuation], list[Continuation]]:
    """What should be said after a request's own prompt, its paraphrases and its neighbours' prompts."""
    return (
        [Continuation(prompt=request.text, target=request.target_new)],
        [Continuation(prompt=paraphrase, target=request.target_new) for paraphrase in request.paraphrases],
        [Continuation(prompt=neighbor.prompt, target=neighbor.answer) for neighbor in request.neighborhood],
    )
