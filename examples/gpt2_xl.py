"""Two clients edit a GPT-2 XL together: MEMIT at real size, within 24 GB of memory and without a GPU.

    python examples/gpt2_xl.py --random-weights    # nothing is downloaded: the size is real, the weights are not
    python examples/gpt2_xl.py                     # gpt2-xl from the Hugging Face hub
    python examples/gpt2_xl.py --second-moments DIR --layers 13 14 15 16 17    # with MEMIT's own statistics

Prints what each step took, and the process's peak memory.
"""

import argparse
import resource
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from tqdm import tqdm
from transformers import GPT2Config, GPT2LMHeadModel

from collabsecure.edits import EditRequest
from collabsecure.evaluate import Continuation, negative_log_likelihoods
from collabsecure.hyperparameters import Hyperparameters
from collabsecure.layers import EditableModel
from collabsecure.second_moment import compute_second_moments
from collabsecure.simulation import Client, PlainSummation, edit_globally, edit_together, relative_distance
from collabsecure.statistics import SecondMoment, find_second_moments
from collabsecure.templates import sample_templates
from collabsecure.values import optimise_values

REQUESTS = [
    EditRequest(prompt="The mother tongue of {} is", subject="Danelle Derrivaux", target_new="English", case_id=0),
    EditRequest(prompt="{} plays the", subject="Ada Quill", target_new="piano", case_id=1),
    EditRequest(prompt="{} is located in", subject="The Lindau Academy", target_new="Sweden", case_id=2),
    EditRequest(
        prompt="{} was created in the country of", subject="The Silent Harbour", target_new="Sweden", case_id=3
    ),
]
TEXTS = [
    "The harbour lies on the eastern side of the bay, below the old town, and has been in use since the ninth century.",
    "She studied the violin in Leipzig, then taught mathematics for many years at a school near the Polish border.",
    "Production of the car ended in 1974; about four thousand had been built, most of them for export to Canada.",
    "In the second season the team finished fifth, and its goalkeeper was named player of the year by the newspapers.",
]
Result = TypeVar("Result")


def main(argv: Sequence[str] | None = None) -> int:
    """Edit, and print what it took."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--random-weights", action="store_true", help="a random GPT-2 XL; downloads nothing")
    parser.add_argument("--layers", type=int, nargs="+", default=[17], help="to edit (default: 17; MEMIT's: 13 to 17)")
    parser.add_argument("--second-moments", type=Path, help="folder with MEMIT's .npz files of these layers")
    arguments = parser.parse_args(argv)
    layers = tuple(arguments.layers)

    model = step(
        "loading the model", lambda: make_model() if arguments.random_weights else EditableModel.load("gpt2-xl")
    )
    num_weights = sum(weight.numel() for weight in model.model.parameters())
    print(f"  {num_weights / 1e9:.2f} billion weights, keys of width {model.d_in(layers[0])}, on {model.device}")
    hyperparameters = Hyperparameters(layers=layers, second_moment_weight=20_000)
    moments = step("second moments", lambda: second_moments(model, layers, arguments.second_moments))
    weighted = {layer: moment.weighted(hyperparameters.second_moment_weight) for layer, moment in moments.items()}
    templates = step("sampling contexts", lambda: sample_templates(model, seed=0))
    with tqdm(total=len(REQUESTS), desc="  requests", disable=None, leave=False) as bar:
        values = step(
            "optimising values",
            lambda: optimise_values(model, REQUESTS, templates, hyperparameters, progress=bar.update),
        )
    clients = {1: Client(requests=REQUESTS[:2], values=values[:2]), 2: Client(requests=REQUESTS[2:], values=values[2:])}
    reference = step("GLOBAL-EDIT", lambda: edit_globally(model, clients, templates, weighted))
    together = step(
        "two clients, summed", lambda: edit_together(model, clients, templates, weighted, PlainSummation()).deltas
    )
    for layer in layers:
        size = np.linalg.norm(together[layer]) / model.weight(layer).norm().item()
        distance = relative_distance(together[layer], reference[layer])
        print(f"  layer {layer}: ‖Δ‖/‖W‖ = {size:.2e}, distance of Δ from GLOBAL-EDIT's {distance:.1e}")
    before = losses(model)
    with model.apply(together):
        after = losses(model)
    for request, old, new in zip(REQUESTS, before, after, strict=True):
        print(f"  {request.text} … {request.target_new}: −log p {old:.2f} → {new:.2f}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    print(f"peak memory {peak / 1e9:.1f} GB, {torch.get_num_threads()} threads")
    return 0


def make_model() -> EditableModel:
    """Draw a GPT-2 XL, with a small tokenizer; the vocabulary keeps its size."""
    from collabsecure.world.tokenizer import train_tokenizer

    config = make_config()
    torch.manual_seed(0)
    texts = [*TEXTS, *(f"{request.text} {request.target_new}" for request in REQUESTS)]
    return EditableModel.wrap(GPT2LMHeadModel(config), train_tokenizer(texts, context_length=config.n_positions))


def make_config() -> GPT2Config:
    """The size of GPT-2 XL."""
    return GPT2Config(n_embd=1600, n_layer=48, n_head=25, bos_token_id=0, eos_token_id=0)


def second_moments(model: EditableModel, layers: Sequence[int], folder: Path | None) -> dict[int, SecondMoment]:
    """Read MEMIT's second moments, or stand in for them."""
    if folder is not None:
        paths = find_second_moments(folder, [model.architecture.projection_of(layer) for layer in layers])
        return {layer: SecondMoment.load_npz(path) for layer, path in zip(layers, paths, strict=True)}
    print(f"  a stand-in: {len(TEXTS)} sentences (MEMIT: 100,000 texts), half of it spread evenly over the diagonal")
    estimates = compute_second_moments(model, TEXTS, layers)
    for estimate in estimates.values():
        estimate.total[...] /= 2  # of low rank, until the diagonal gets the other half
        estimate.total[np.diag_indices_from(estimate.total)] += estimate.total.trace() / len(estimate.total)
    return estimates


def losses(model: EditableModel) -> list[float]:
    """−log p of each new target, per token."""
    return negative_log_likelihoods(
        model, [Continuation(prompt=request.text, target=request.target_new) for request in REQUESTS]
    )


def step(name: str, run: Callable[[], Result]) -> Result:
    """Run one step and print how long it took."""
    start = time.perf_counter()
    result = run()
    print(f"{name:20} {time.perf_counter() - start:7.1f} s", flush=True)
    return result


if __name__ == "__main__":
    raise SystemExit(main())
