"""MEMIT (Meng et al. 2022, arXiv 2210.07229) as plainly as it can be written: the judge of the package's batched one.

One request at a time, full forward passes of the whole model, `torch.optim.Adam`, a dense float64 solve. It shares
nothing with the package but the dataclasses of requests and hyper-parameters.
"""

from collections.abc import Sequence

import numpy as np
import torch
from transformers import GPT2LMHeadModel, PreTrainedModel, PreTrainedTokenizerBase

from collabsecure.edits import EditRequest
from collabsecure.hyperparameters import Hyperparameters


def block(model: PreTrainedModel, layer: int) -> torch.nn.Module:
    return model.transformer.h[layer] if hasattr(model, "transformer") else model.model.layers[layer]


def projection(model: PreTrainedModel, layer: int) -> torch.nn.Module:
    mlp = block(model, layer).mlp
    return mlp.c_proj if isinstance(model, GPT2LMHeadModel) else mlp.down_proj


def encode(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def subject_last(tokenizer: PreTrainedTokenizerBase, template: str, subject: str) -> int:
    """MEMIT's way: count the tokens of what stands before the subject, and of the subject with the space before it."""
    before = template.split("{}")[0]
    if before.endswith(" "):
        before, subject = before[:-1], f" {subject}"
    return len(encode(tokenizer, before)) + len(encode(tokenizer, subject)) - 1


def optimise_value(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    request: EditRequest,
    contexts: Sequence[str],
    hyperparameters: Hyperparameters,
) -> tuple[torch.Tensor, list[float]]:
    """One request's z, and the loss of each forward pass."""
    layer = hyperparameters.layers[-1]
    target = encode(tokenizer, f" {request.target_new}")
    templates = [context.replace("{}", request.prompt) for context in contexts] + ["{} is a"]
    rows = [encode(tokenizer, template.replace("{}", request.subject)) for template in templates]
    rows = [row + target[:-1] for row in rows[:-1]] + rows[-1:]
    subjects = [subject_last(tokenizer, template, request.subject) for template in templates]
    tokens = torch.tensor([row + [0] * (max(map(len, rows)) - len(row)) for row in rows], device=model.device)
    attention_mask = torch.tensor([[1] * len(row) + [0] * (tokens.shape[1] - len(row)) for row in rows]).to(tokens)
    # Where each rewriting prompt predicts its target, and what it should predict there.
    numbers = torch.arange(len(contexts), device=model.device)[:, None]  # (prompts, 1)
    places = torch.tensor([range(len(row) - len(target), len(row)) for row in rows[:-1]], device=model.device)
    targets = torch.tensor(target, device=model.device).expand_as(places)  # (prompts, target tokens)

    origin: torch.Tensor | None = None
    delta = torch.zeros(model.config.hidden_size, dtype=model.dtype, device=model.device, requires_grad=True)

    def add_delta(_module, _inputs, output):
        nonlocal origin
        if isinstance(output, tuple):  # GPT-J
            return (add_delta(None, None, output[0]), *output[1:])
        output = output.clone()
        if origin is None:
            origin = output[0, subjects[0]].detach().clone()
        for row, position in enumerate(subjects):
            output[row, position] += delta
        return output

    optimiser = torch.optim.Adam([delta], lr=hyperparameters.v_lr)
    kl_initial = None
    losses = []
    for step in range(hyperparameters.v_num_grad_steps):
        optimiser.zero_grad()
        handle = block(model, layer).register_forward_hook(add_delta)
        logits = model(input_ids=tokens, attention_mask=attention_mask).logits
        handle.remove()
        log_probs = logits.log_softmax(dim=2)
        nll_each = -log_probs[numbers, places, targets].mean(dim=1)
        kl_now = log_probs[-1:, subjects[-1]]
        if kl_initial is None:
            kl_initial = kl_now.detach().clone()
        kl = torch.nn.functional.kl_div(kl_initial, kl_now, log_target=True, reduction="batchmean")
        loss = (
            nll_each.mean()
            + hyperparameters.kl_factor * kl
            + hyperparameters.v_weight_decay * torch.norm(delta) / torch.norm(origin) ** 2
        )
        losses.append(loss.item())
        if loss < 5e-2 or step == hyperparameters.v_num_grad_steps - 1:
            break
        loss.backward()
        optimiser.step()
        longest = hyperparameters.clamp_norm_factor * origin.norm()
        if delta.norm() > longest:
            with torch.no_grad():
                delta[...] = delta * longest / delta.norm()
    return (origin + delta).detach(), losses


def states_at_subject(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, template: str, subject: str, layer: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The projection's input and the block's output of a layer, in one prompt."""
    seen = {}
    handles = [
        projection(model, layer).register_forward_hook(lambda _m, inputs, _o: seen.update(key=inputs[0])),
        block(model, layer).register_forward_hook(lambda _m, _i, output: seen.update(output=output)),
    ]
    with torch.no_grad():
        model(input_ids=torch.tensor([encode(tokenizer, template.replace("{}", subject))], device=model.device))
    for handle in handles:
        handle.remove()
    position = subject_last(tokenizer, template, subject)
    return seen["key"][0, position].cpu().double(), seen["output"][0, position].cpu().double()


def key(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    request: EditRequest,
    groups: Sequence[Sequence[str]],
    layer: int,
) -> np.ndarray:
    """The mean over each group of contexts, then over the groups."""
    means = []
    for group in groups:
        templates = [context.replace("{}", request.prompt) for context in group]
        keys = [states_at_subject(model, tokenizer, template, request.subject, layer)[0] for template in templates]
        means.append(torch.stack(keys).mean(0))
    return torch.stack(means).mean(0).numpy()


def edit(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    requests: Sequence[EditRequest],
    groups: Sequence[Sequence[str]],
    hyperparameters: Hyperparameters,
    second_moments: dict[int, np.ndarray],
) -> dict[int, np.ndarray]:
    """Edit the model in place, layer after layer; returns each layer's Δ (d_out, d_in)."""
    contexts = [context for group in groups for context in group]
    values = [optimise_value(model, tokenizer, request, contexts, hyperparameters)[0].double() for request in requests]
    layers = hyperparameters.layers
    deltas = {}
    for number, layer in enumerate(layers):
        K = np.stack([key(model, tokenizer, request, groups, layer) for request in requests], axis=1)
        current = [states_at_subject(model, tokenizer, r.prompt, r.subject, layers[-1])[1] for r in requests]
        R = torch.stack([z - now for z, now in zip(values, current, strict=True)], dim=1).numpy()
        R = R / (len(layers) - number)
        C = hyperparameters.second_moment_weight * second_moments[layer]
        deltas[layer] = np.linalg.solve(C + K @ K.T, K @ R.T).T
        weight = projection(model, layer).weight
        update = torch.from_numpy(deltas[layer]).to(weight.dtype)
        with torch.no_grad():
            weight += update.T if isinstance(model, GPT2LMHeadModel) else update
    return deltas
