"""CounterFact's scores of a model: which of two targets is likelier (CollabEdit, appendix C)."""

from collections.abc import Iterable, Sequence
from itertools import chain

from collabsecure.edits import EditRequest
from collabsecure.evaluate.continuations import Continuation, Progress, read_continuations
from collabsecure.evaluate.scores import Comparison, CounterfactScores, RecordScores
from collabsecure.layers import EditableModel

Pairs = list[tuple[Continuation, Continuation]]  # new target, true target


def evaluate_counterfact(
    model: EditableModel,
    requests: Sequence[EditRequest],
    *,
    batch_size: int = 16,
    progress: Progress | None = None,
) -> CounterfactScores:
    """Compare the new target with the true one after every request's prompt, paraphrases and neighbours' prompts.

    What the scores are does not depend on `batch_size` (texts that the model reads at once) but for rounding.

    Raises:
        BadRequest: a prompt or a target leaves no token.
        PromptTooLong: a prompt with its target does not fit into the model's context.
    """
    compared = [_prompts(request) for request in requests]
    # Neighbours are shared between records, and so are read once.
    continuations = list(dict.fromkeys(chain.from_iterable(pair for groups in compared for pair in chain(*groups))))
    readings = read_continuations(model, continuations, batch_size=batch_size, progress=progress)
    found = dict(zip(continuations, readings, strict=True))

    def compare(pairs: Pairs, *, right: int) -> tuple[Comparison, ...]:
        """`right` is the place in a pair of the target that should be said."""
        return tuple(
            Comparison(new=found[pair[0]].loss, true=found[pair[1]].loss, is_right=found[pair[right]].is_said)
            for pair in pairs
        )

    return CounterfactScores(
        records=tuple(
            RecordScores(
                case_id=request.case_id,
                rewrite=compare(rewrite, right=0),
                paraphrases=compare(paraphrases, right=0),
                neighborhood=compare(neighborhood, right=1),
            )
            for request, (rewrite, paraphrases, neighborhood) in zip(requests, compared, strict=True)
        )
    )


def _prompts(request: EditRequest) -> tuple[Pairs, Pairs, Pairs]:
    """Pair up what is compared on a request's own prompt, its paraphrases and its neighbours' prompts."""

    def pairs(prompts: Iterable[tuple[str, str | None]]) -> Pairs:
        return [
            (Continuation(prompt=prompt, target=request.target_new), Continuation(prompt=prompt, target=true))
            for prompt, true in prompts
            if true is not None
        ]

    return (
        pairs([(request.text, request.target_true)]),
        pairs((paraphrase, request.target_true) for paraphrase in request.paraphrases),
        pairs((neighbor.prompt, neighbor.answer) for neighbor in request.neighborhood),
    )
