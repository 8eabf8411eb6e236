"""What a layer's edit is computed from: its keys, and the residuals that are still to be written."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from collabsecure.edits import EditRequest
from collabsecure.errors import ModelMismatch
from collabsecure.forward import running_up_to
from collabsecure.layers import EditableModel
from collabsecure.memory import fitting, run_in_batches
from collabsecure.prompts import TokenizedPrompt, check_length, pad_right, tokenize_prompt
from collabsecure.statistics import Statistics, cross, gram
from collabsecure.templates import ContextTemplates

_MOST_AT_ONCE = 256  # prompts; more gain nothing


def compute_keys(
    model: EditableModel,
    requests: Sequence[EditRequest],
    templates: ContextTemplates,
    layer: int,
    *,
    progress: Callable[[int], None] | None = None,
) -> Float64[np.ndarray, "d_in num_edits"]:
    """Compute K: each request's input of the layer's MLP output projection at its subject's last token.

    A key is the mean over the contexts, weighed by group (`ContextTemplates`). It depends on what has been written to
    the layers below. `progress` is told how many more requests are done.

    Raises:
        BadRequest: a request has no token for its subject.
        PromptTooLong: a request in one of the contexts does not fit in the model's.
        ModelMismatch: the model has no such layer.
    """
    contexts = templates.weighted
    prompts = [_prompt(model, request, context) for request in requests for context, _ in contexts]

    def capture(rows: Sequence[TokenizedPrompt]) -> Float64[np.ndarray, "rows d_in"]:
        with model.projection_inputs([layer]) as inputs:
            _run(model, rows, layer)
        return _at_subject(inputs[layer], rows)

    each = _in_batches(model, prompts, model.d_in(layer), capture, _per_request(progress, len(contexts)))
    shares = np.array([share for _, share in contexts])
    keys: Float64[np.ndarray, "d_in num_edits"]
    keys = np.einsum("rcd,c->dr", each.reshape(len(requests), len(contexts), model.d_in(layer)), shares)
    return keys


def compute_residuals(
    model: EditableModel,
    requests: Sequence[EditRequest],
    z: Float64[np.ndarray, "num_edits d_model"],
    layer: int,
    layers: Sequence[int],
    *,
    progress: Callable[[int], None] | None = None,
) -> Float64[np.ndarray, "d_model num_edits"]:
    """Compute R: what of each z is still missing at the last edited layer, spread over the layers left to edit.

    MEMIT eq. 20: r = (z − current output of the last of `layers`) / (L − l + 1), on the clean prompt, where the
    denominator counts the layers from `layer` on.

    Raises:
        ModelMismatch: `layer` is not one of `layers`, or these are not the model's.
    """
    if layer not in layers:
        raise ModelMismatch(
            f"found layer {layer}; expected one of those that are edited: {', '.join(map(str, layers))}"
        )
    last = layers[-1]

    def capture(rows: Sequence[TokenizedPrompt]) -> Float64[np.ndarray, "rows d_model"]:
        with model.block_outputs([last]) as outputs:
            _run(model, rows, last)
        return _at_subject(outputs[last], rows)

    prompts = [_prompt(model, request, "{}") for request in requests]
    current = _in_batches(model, prompts, model.d_model, capture, _per_request(progress, 1))
    return np.ascontiguousarray((z - current).T) / (len(layers) - list(layers).index(layer))


def local_statistics(
    model: EditableModel,
    requests: Sequence[EditRequest],
    z: Float64[np.ndarray, "num_edits d_model"],
    templates: ContextTemplates,
    layer: int,
    layers: Sequence[int],
) -> Statistics:
    """Compute what these requests contribute to a layer's edit: the Gram matrix K Kᵀ and the cross term R Kᵀ."""
    keys = compute_keys(model, requests, templates, layer)
    residuals = compute_residuals(model, requests, z, layer, layers)
    return Statistics(gram=gram(keys), cross=cross(residuals, keys))


def residual_range(model: EditableModel, texts: Sequence[str], layer: int, clamp_norm_factor: float | int) -> float:
    """A bound that residuals of any edit will keep, from public texts alone: `sessions.Ranges.residual`.

    ‖δ‖ is clamped to `clamp_norm_factor` · ‖z₀‖, so the longest state of `layer` on the texts says how long a residual
    may be; doubled, since what one layer leaves for the next can be longer than its share.
    """
    longest = 0.0
    for text in texts:
        tokens = model.tokenizer(text, add_special_tokens=False)["input_ids"]
        row: Tensor = torch.tensor([tokens], device=model.device)
        with torch.no_grad(), model.block_outputs([layer]) as outputs, running_up_to(model, layer):
            model.model.base_model(input_ids=row, attention_mask=torch.ones_like(row), use_cache=False)
        longest = max(longest, float(outputs[layer].float().norm(dim=-1).max()))
    return 2 * clamp_norm_factor * longest


def _prompt(model: EditableModel, request: EditRequest, context: str) -> TokenizedPrompt:
    prompt = tokenize_prompt(model.tokenizer, request, context=context)
    check_length(model, request, prompt)
    return prompt


def _run(model: EditableModel, prompts: Sequence[TokenizedPrompt], layer: int) -> None:
    """Run the blocks up to `layer` on the prompts, each up to its subject: what follows has no part."""
    tokens = pad_right([prompt.until_subject for prompt in prompts], model.device)
    with torch.no_grad(), running_up_to(model, layer):
        model.model.base_model(input_ids=tokens, attention_mask=torch.ones_like(tokens), use_cache=False)


def _at_subject(states: Tensor, prompts: Sequence[TokenizedPrompt]) -> Float64[np.ndarray, "rows d"]:
    last = torch.tensor([prompt.subject_last for prompt in prompts], device=states.device)
    at_subject = states[torch.arange(len(prompts), device=states.device), last]
    return at_subject.cpu().double().numpy()  # in this order: not every device has float64


def _in_batches(
    model: EditableModel,
    prompts: Sequence[TokenizedPrompt],
    width: int,
    capture: Callable[[Sequence[TokenizedPrompt]], Float64[np.ndarray, "rows {width}"]],
    progress: Callable[[int], None],
) -> Float64[np.ndarray, "prompts {width}"]:
    """Capture one vector for each prompt; prompts of like length run together."""
    result = np.empty((len(prompts), width))
    order = sorted(range(len(prompts)), key=lambda index: prompts[index].subject_last)
    longest = max((prompt.subject_last + 1 for prompt in prompts), default=1)
    # Nothing is saved for a backward pass: a few copies of the widest state, and of the attention scores.
    per_token = 8 * (model.d_model + model.d_in(0)) + 4 * longest * getattr(
        model.model.config, "num_attention_heads", 1
    )
    size = fitting(longest * per_token * model.weight(0).element_size(), model.device, most=_MOST_AT_ONCE)

    def run(indices: Sequence[int]) -> None:
        result[list(indices)] = capture([prompts[index] for index in indices])
        progress(len(indices))

    run_in_batches(order, size, run)
    return result


def _per_request(progress: Callable[[int], None] | None, prompts_per_request: int) -> Callable[[int], None]:
    """Tell of whole requests while prompts are counted."""
    done = 0

    def count(prompts: int) -> None:
        nonlocal done
        before, done = done // prompts_per_request, done + prompts
        if progress is not None:
            progress(done // prompts_per_request - before)

    return count
