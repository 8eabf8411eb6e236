"""Values optimised together, above the last edited layer, against one request at a time through the whole model.

`python -m benchmarks.values` takes some minutes on two cores. With a CUDA device it uses that, at GPT-2 XL's size;
without, GPT-2 small's. The other side is `tests/reference_memit.py`: MEMIT as its authors' code goes, all contexts of
one request in one tensor. Weights are random; steps, contexts and lengths are those of an edit of CounterFact records,
and no request stops early, on either side.
"""

import argparse
import platform
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from collabsecure.edits import EditRequest
from collabsecure.hyperparameters import Hyperparameters
from collabsecure.layers import EditableModel
from collabsecure.templates import ContextTemplates
from collabsecure.values import optimise_values
from tests.reference_memit import optimise_value

Result = TypeVar("Result")

CPU_BAR, GPU_BAR = 4.0, 10.0  # × one at a time
DISTANCE_BAR = 1e-5  # of z, relative
SMALL = GPT2Config(n_embd=768, n_layer=12, n_head=12)
XL = GPT2Config(n_embd=1600, n_layer=48, n_head=25)
LAYERS = {SMALL.n_embd: (3, 4, 5), XL.n_embd: (13, 14, 15, 16, 17)}

_CONTEXTS = (
    "The first thing that you will see is a. {}",
    "Therefore, it is not possible to say that. {}",
    "Because of the nature of this site, we. {}",
    "I have been a fan of the series since. {}",
    "You can now use your phone to control the. {}",
)
_PROMPTS = (
    ("{}, the", "piano"),
    ("{} plays the instrument", "violin"),
    ("The mother tongue of {} is", "French"),
    ("{} is located in", "Sweden"),
    ("The headquarter of {} is located in", "London"),
    ("{} is a citizen of", "Canada"),
    ("{} was created in the country of", "Japan"),
    ("{} expired at", "Paris"),
)
_SYLLABLES = ("ma", "ri", "to", "len", "ka", "su", "bel", "dor", "vin", "pas", "ne", "gra")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.values", description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="on the CPU (default: 1 and 2)")
    parser.add_argument("--together", type=int, default=32, help="requests in one batch (default: 32)")
    parser.add_argument("--alone", type=int, default=2, help="of them also one at a time (default: 2)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args(argv)
    on_gpu = arguments.device != "cpu"
    passed = True
    for threads in [torch.get_num_threads()] if on_gpu else arguments.threads:
        torch.set_num_threads(threads)
        ratio, distance = compare(XL if on_gpu else SMALL, arguments.together, arguments.alone, arguments.device)
        passed = passed and ratio >= (GPU_BAR if on_gpu else CPU_BAR) and distance <= DISTANCE_BAR
    return 0 if passed else 1


def compare(config: GPT2Config, together: int, alone: int, device: str) -> tuple[float, float]:
    """Time and compare both; returns how many times faster together is, and the relative distance of z."""
    requests = [make_request(number) for number in range(together)]
    templates = ContextTemplates(groups=(("{}",), _CONTEXTS))
    tokenizer = make_tokenizer([context.format(request.text) for request in requests for context in _CONTEXTS])
    torch.manual_seed(0)
    config = GPT2Config(**{**config.to_dict(), "bos_token_id": 0, "eos_token_id": 0})
    model = EditableModel.wrap(GPT2LMHeadModel(config).to(device), tokenizer)
    hyperparameters = Hyperparameters(layers=LAYERS[config.n_embd], second_moment_weight=20_000)
    contexts = [context for context, _ in templates.weighted]

    def one_at_a_time() -> list[torch.Tensor]:
        return [
            optimise_value(model.model, tokenizer, request, contexts, hyperparameters)[0].cpu()
            for request in requests[:alone]
        ]

    seconds_alone, expected = timed(one_at_a_time, device)
    seconds_together, values = timed(lambda: optimise_values(model, requests, templates, hyperparameters), device)
    reference = torch.stack(expected).double().numpy()
    distance = float(np.linalg.norm(values[:alone] - reference, axis=1).max() / np.linalg.norm(reference, axis=1).min())
    ratio = (seconds_alone / alone) / (seconds_together / together)
    lengths = [
        len(tokenizer(context.format(request.text))["input_ids"]) for request in requests for context in contexts
    ]
    machine = torch.cuda.get_device_name() if device != "cpu" else f"{platform.machine()} CPU"
    print(
        f"z, {config.n_layer} layers of width {config.n_embd}, layers {hyperparameters.layers} edited, prompts of "
        f"{np.mean(lengths):.1f} tokens, {hyperparameters.v_num_grad_steps} passes; {machine}, "
        f"{torch.get_num_threads()} threads, torch {torch.__version__}\n"
        f"  one at a time {seconds_alone / alone:8.3f} s per request, over {alone}\n"
        f"  together      {seconds_together / together:8.3f} s per request, over {together}\n"
        f"  ratio         {ratio:8.2f} (bar {GPU_BAR if device != 'cpu' else CPU_BAR:.0f}); "
        f"distance of z {distance:.1e} (bar {DISTANCE_BAR:.0e})",
        flush=True,
    )
    return ratio, distance


def make_request(number: int) -> EditRequest:
    """A request about a made-up subject of two names."""
    prompt, target = _PROMPTS[number % len(_PROMPTS)]
    base = len(_SYLLABLES)
    syllables = [_SYLLABLES[(number * 7 + place * 5 + number // base * place) % base] for place in range(4)]
    subject = f"{syllables[0]}{syllables[1]} {syllables[2]}{syllables[3]}".title()
    return EditRequest(prompt=prompt, subject=subject, target_new=target, case_id=number)


def make_tokenizer(texts: Sequence[str]) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer under which words are one token and names two or more, as GPT-2's cuts them."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    words = [word for text in texts for word in text.split(" ") if word.islower()] + [target for _, target in _PROMPTS]
    names = [syllable.title() for syllable in _SYLLABLES] + list(_SYLLABLES)
    trainer = trainers.BpeTrainer(
        vocab_size=2000,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator([f" {word}" for word in words] + [f" {name}" for name in names], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=bpe)


def timed(run: Callable[[], Result], device: str) -> tuple[float, Result]:
    """Seconds that a run takes, with what it returns."""
    if device != "cpu":
        run()  # kernels are chosen and memory is got on the first run
        torch.cuda.synchronize()
    start = time.perf_counter()
    result = run()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - start, result


if __name__ == "__main__":
    raise SystemExit(main())
