"""The values z: what the last edited layer should give at each subject, so that the model says the new target.

MEMIT §4.2: for each request, z = z₀ + δ, where z₀ is the layer's output at the subject's last token in the clean
prompt and δ minimises, by Adam,

    mean NLL of the target over the contexts  +  kl_factor · KL on "{} is a"  +  v_weight_decay · ‖δ‖ / ‖z₀‖²,

with ‖δ‖ ≤ clamp_norm_factor · ‖z₀‖ after each step. Requests do not touch each other: their losses are summed, each
stops by itself, and one that has stopped leaves the batch. Only the blocks above the last edited layer run in each
step, on the tokens from the subject's last on, and logits are made for the positions that the loss looks at.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor
from torch.nn import functional

from collabsecure.adam import Adam
from collabsecure.edits import EditRequest
from collabsecure.errors import ModelMismatch
from collabsecure.forward import Upper
from collabsecure.hyperparameters import Hyperparameters
from collabsecure.layers import EditableModel
from collabsecure.memory import fitting, run_in_batches
from collabsecure.prompts import TokenizedPrompt, check_length, tokenize_prompt, tokenize_rewriting
from collabsecure.templates import ContextTemplates
from collabsecure.value_cache import ValueCache

ESSENCE = "{} is a"  # what a subject is should not drift
STOP_LOSS = 0.05  # a request whose loss is below this is done
# Requests at once. On a CPU, filling rows up to the longest soon costs more than larger products gain.
_MOST_ON_CPU, _MOST_ON_ACCELERATOR = 8, 24


def optimise_values(
    model: EditableModel,
    requests: Sequence[EditRequest],
    templates: ContextTemplates,
    hyperparameters: Hyperparameters,
    *,
    cache: Path | None = None,
    batch_size: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> Float64[np.ndarray, "num_edits d_model"]:
    """Optimise a value for each request, many at a time.

    `cache` is a directory where finished values are kept and looked up; `batch_size` is halved wherever memory runs
    out, and chosen from free memory when not given; `progress` is told how many more requests are done.

    Raises:
        BadRequest: a request has no token for its subject or target.
        PromptTooLong: a request in one of the contexts does not fit in the model's.
        ModelMismatch: the hyper-parameters' layers are not the model's.
        OutOfMemory: there is not enough memory for a single request.
        BadFile: the cache cannot be written.
    """
    check_layers(model, hyperparameters)
    jobs = [_Job.of(model, index, request, templates) for index, request in enumerate(requests)]
    values = np.empty((len(jobs), model.d_model))
    store = None if cache is None else ValueCache(cache, model, hyperparameters)
    tell = progress or (lambda _: None)
    left = []
    for job in jobs:
        found = None if store is None else store.load(job.prompts)
        if found is None:
            left.append(job)
        else:
            values[job.index] = found
            tell(1)

    def run(batch: Sequence[_Job]) -> None:
        finished = _optimise(model, batch, hyperparameters)
        for job, value in zip(batch, finished, strict=True):
            values[job.index] = value
            if store is not None:
                store.store(job.prompts, value)
            tell(1)

    # Those of like length together: rows are filled up to the longest.
    left.sort(key=lambda job: (job.window, job.longest))
    if left:
        most = _MOST_ON_CPU if model.device.type == "cpu" else _MOST_ON_ACCELERATOR
        largest = max(_bytes_per_request(model, job, hyperparameters) for job in left)
        run_in_batches(left, batch_size or fitting(largest, model.device, most=most), run)
    return values


def check_layers(model: EditableModel, hyperparameters: Hyperparameters) -> None:
    """Refuse hyper-parameters that were made for another model.

    Raises:
        ModelMismatch: an edited layer, or the layer of the loss, is not the model's.
    """
    last = model.num_layers - 1
    if hyperparameters.layers[-1] > last:
        raise ModelMismatch(f"found layer {hyperparameters.layers[-1]} to edit; the model's are 0 to {last}")
    if hyperparameters.v_loss_layer not in (None, last):
        raise ModelMismatch(
            f"found v_loss_layer {hyperparameters.v_loss_layer}; expected the model's last layer, {last}: "
            "the loss is taken where the model predicts"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    """One request, tokenized: its rewriting prompts, the clean one first, and the prompt of the KL term."""

    index: int  # among the requests
    rewriting: tuple[TokenizedPrompt, ...]
    essence: TokenizedPrompt

    @classmethod
    def of(cls, model: EditableModel, index: int, request: EditRequest, templates: ContextTemplates) -> "_Job":
        rewriting = tuple(
            tokenize_rewriting(model.tokenizer, request, context=context) for context, _ in templates.weighted
        )
        for prompt in rewriting:
            check_length(model, request, prompt)
        return cls(
            index=index,
            rewriting=rewriting,
            essence=tokenize_prompt(model.tokenizer, request, prompt=ESSENCE),
        )

    @property
    def prompts(self) -> tuple[TokenizedPrompt, ...]:
        return (*self.rewriting, self.essence)

    @property
    def window(self) -> int:
        """Tokens that a row runs over in each step, at most."""
        return max(len(prompt.tokens) - 1 - prompt.subject_last for prompt in self.rewriting)

    @property
    def longest(self) -> int:
        return max(len(prompt.tokens) for prompt in self.prompts)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Batch:
    """Requests that are optimised together, as rows of one tensor.

    `looked_*` name the N positions with a target token; each request's last row, or its clean row if that begins with
    the same tokens, starts with the position of its KL term.
    """

    upper: Upper
    row_request: Int64[Tensor, " rows"]
    looked_row: Int64[Tensor, " N"]
    looked_position: Int64[Tensor, " N"]  # in the window
    looked_target: Int64[Tensor, " N"]
    looked_share: Float[Tensor, " N"]  # of the token in its request's NLL; a request's add up to 1
    essence_row: Int64[Tensor, " requests"]
    origin: Float[Tensor, "requests d_model"]  # z₀

    @classmethod
    def of(cls, model: EditableModel, jobs: Sequence[_Job], layer: int, dtype: torch.dtype) -> "_Batch":
        rows: list[tuple[int, ...]] = []
        starts: list[int] = []
        row_request: list[int] = []
        looked: list[tuple[int, int, int, float]] = []
        clean_row: list[int] = []
        essence_row: list[int] = []
        for number, job in enumerate(jobs):
            clean_row.append(len(rows))
            for prompt in job.rewriting:
                first = len(prompt.tokens) - prompt.num_target
                share = 1 / (prompt.num_target * len(job.rewriting))
                looked += [
                    (len(rows), position - 1 - prompt.subject_last, prompt.tokens[position], share)
                    for position in range(first, len(prompt.tokens))
                ]
                rows.append(prompt.tokens[:-1])  # the last token predicts nothing
                starts.append(prompt.subject_last)
                row_request.append(number)
            # The KL term looks at the subject's last token only: what follows it has no part.
            if job.essence.until_subject == job.rewriting[0].until_subject:
                essence_row.append(clean_row[-1])
            else:
                essence_row.append(len(rows))
                rows.append(job.essence.until_subject)
                starts.append(job.essence.subject_last)
                row_request.append(number)
        upper = Upper.of(model, layer, rows, starts)
        columns = list(zip(*looked, strict=True))
        device = model.device
        return cls(
            upper=upper,
            row_request=torch.tensor(row_request, device=device),
            looked_row=torch.tensor(columns[0], device=device),
            looked_position=torch.tensor(columns[1], device=device),
            looked_target=torch.tensor(columns[2], device=device),
            looked_share=torch.tensor(columns[3], device=device, dtype=dtype),
            essence_row=torch.tensor(essence_row, device=device),
            origin=upper.hidden[clean_row, 0].to(dtype),
        )

    def states(self, delta: Float[Tensor, "requests d_model"]) -> Float[Tensor, "rows window d_model"]:
        """The final hidden states when each request's δ is added at its subject's last token."""
        hidden = self.upper.hidden
        first = hidden[:, :1] + delta[self.row_request, None].to(hidden.dtype)
        return self.upper.run(torch.cat([first, hidden[:, 1:]], dim=1))

    def losses(
        self, states: Float[Tensor, "rows window d_model"]
    ) -> tuple[Float[Tensor, " requests"], Float[Tensor, "requests vocabulary"]]:
        """Each request's NLL, and its log probabilities after the subject in "{} is a"."""
        looked = torch.cat([states[self.looked_row, self.looked_position], states[self.essence_row, 0]])
        logits = self.upper.logits(looked).to(self.origin.dtype)
        target_logits, essence_logits = logits[: len(self.looked_target)], logits[len(self.looked_target) :]
        token_nll = functional.cross_entropy(target_logits, self.looked_target, reduction="none")
        request = self.row_request[self.looked_row]
        nll = torch.zeros_like(self.origin[:, 0]).index_add(0, request, self.looked_share * token_nll)
        return nll, essence_logits.log_softmax(dim=1)

    def select(self, keep: Bool[Tensor, " requests"]) -> "_Batch":
        """Keep some of the requests."""
        rows = keep[self.row_request]
        looked = rows[self.looked_row]
        new_request = keep.cumsum(0) - 1
        new_row = rows.cumsum(0) - 1
        return replace(
            self,
            upper=self.upper.select(rows.nonzero()[:, 0]),
            row_request=new_request[self.row_request[rows]],
            looked_row=new_row[self.looked_row[looked]],
            looked_position=self.looked_position[looked],
            looked_target=self.looked_target[looked],
            looked_share=self.looked_share[looked],
            essence_row=new_row[self.essence_row[keep]],
            origin=self.origin[keep],
        )


def _optimise(
    model: EditableModel, jobs: Sequence[_Job], hyperparameters: Hyperparameters
) -> Float64[np.ndarray, "requests d_model"]:
    """Optimise the values of one batch."""
    dtype = torch.float64 if model.dtype == torch.float64 else torch.float32  # of δ, also where the model's is smaller
    batch = _Batch.of(model, jobs, hyperparameters.layers[-1], dtype)
    finished = torch.empty_like(batch.origin)
    left = torch.arange(len(jobs), device=model.device)  # which of the jobs each request of the batch is
    delta = torch.zeros_like(batch.origin)
    adam = Adam.start(delta, learning_rate=hyperparameters.v_lr)
    initial: Tensor | None = None
    for step in range(hyperparameters.v_num_grad_steps):
        delta.requires_grad_()
        states = batch.states(delta)
        nll, essence = batch.losses(states)
        if initial is None:
            initial = essence.detach()
        # MEMIT's direction: the mean is over what the model says now.
        drift = functional.kl_div(initial, essence, log_target=True, reduction="none").sum(1)
        decay = delta.norm(dim=1) / batch.origin.norm(dim=1) ** 2
        loss = nll + hyperparameters.kl_factor * drift + hyperparameters.v_weight_decay * decay
        going = ~(loss.detach() < STOP_LOSS)
        if step == hyperparameters.v_num_grad_steps - 1 or not going.any():
            break
        (gradient,) = torch.autograd.grad(loss[going].sum(), delta)
        delta = delta.detach()
        if not going.all():
            finished[left[~going]] = batch.origin[~going] + delta[~going]
            batch, left, delta, gradient = batch.select(going), left[going], delta[going], gradient[going]
            adam, initial = adam.select(going), initial[going]
        delta, adam = adam.step(delta, gradient)
        longest = hyperparameters.clamp_norm_factor * batch.origin.norm(dim=1)
        length = delta.norm(dim=1)
        delta = torch.where((length > longest)[:, None], delta * (longest / length)[:, None], delta)
    finished[left] = batch.origin + delta.detach()
    return finished.cpu().double().numpy()  # in this order: not every device has float64


def _bytes_per_request(model: EditableModel, job: _Job, hyperparameters: Hyperparameters) -> int:
    """Roughly what one request takes while it is optimised; generous."""
    layer = hyperparameters.layers[-1]
    above = model.num_layers - layer - 1
    width = model.weight(layer).element_size()
    rows = len(job.prompts)
    # Saved for the backward pass, per token and block: some ten vectors of the stream, five of the MLP.
    saved = rows * job.window * above * (10 * model.d_model + 5 * model.d_in(layer)) * width
    past = rows * job.longest * above * 2 * model.d_model * width
    looked = 1 + sum(prompt.num_target for prompt in job.rewriting)
    vocabulary: int = model.model.config.vocab_size
    logits = looked * vocabulary * 4 * max(width, 4)
    return saved + past + logits
