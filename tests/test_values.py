"""Batched values equal MEMIT's, computed plainly one at a time; batching, stopping and interruption leave no trace."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from reference_memit import optimise_value
from test_layers import tiny
from transformers import LlamaConfig, LlamaForCausalLM

from collabsecure.architectures import ARCHITECTURES
from collabsecure.edits import EditRequest
from collabsecure.errors import BadFile, ModelMismatch, OutOfMemory, PromptTooLong, UnknownArchitecture
from collabsecure.hyperparameters import Hyperparameters
from collabsecure.layers import EditableModel
from collabsecure.memory import fitting, free_bytes
from collabsecure.templates import CLEAN, ContextTemplates
from collabsecure.values import optimise_values

REQUESTS = [
    EditRequest(prompt=prompt, subject=subject, target_new=target, case_id=number)
    for number, (prompt, subject, target) in enumerate(
        [
            ("The mother tongue of {} is", "Danelle Derrivaux", "English"),
            ("{} plays the", "Ada Quill", "violin"),
            ("Who wrote {}? It was written by", "The Silent Harbour", "Émile Zürn"),
            ("The capital of {} is", "X", "a"),
            ("{}", "Bram Stone plays", "the piano and the violin"),
        ]
    )
]
TEMPLATES = ContextTemplates(groups=(("{}",), ("The best of it. {}", "You see that. {}")))
SETTINGS = Hyperparameters(layers=(0, 1), second_moment_weight=10, v_num_grad_steps=12)
# On `sharp_gpt2`, without decay, drift or a tight clamp, all but the last reach a loss below 0.05, in their own time.
STOPPABLE = [
    EditRequest(prompt=prompt, subject=subject, target_new=target, case_id=number)
    for number, (prompt, subject, target) in enumerate(
        [
            ("The capital of {}", "Norland", "is"),
            ("Who wrote {}", "The Silent Harbour", "the"),
            ("We hear {}", "Ada Quill", "plays"),
            ("{}", "Bram", "plays"),
            ("The capital of {}", "Norland", "English"),
        ]
    )
]
STOPPING = Hyperparameters(
    layers=(0, 1),
    second_moment_weight=10,
    clamp_norm_factor=100,
    v_num_grad_steps=25,
    v_lr=0.1,
    v_weight_decay=0,
    kl_factor=0,
)


@pytest.fixture
def gpt2(tiny_editable) -> EditableModel:
    return tiny_editable


@pytest.fixture
def sharp_gpt2(gpt2) -> EditableModel:
    """In float64, and so sure of what it says that a loss can fall below 0.05."""
    gpt2.model.double().transformer.ln_f.weight.fill_(8)
    return gpt2


@pytest.fixture
def llama(tiny_tokenizer) -> EditableModel:
    config = LlamaConfig(
        vocab_size=len(tiny_tokenizer),
        hidden_size=32,
        intermediate_size=80,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.18,
        bos_token_id=0,
        eos_token_id=0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return EditableModel.wrap(LlamaForCausalLM(config), tiny_tokenizer)


def reference(
    editable: EditableModel, settings: Hyperparameters, requests: Sequence[EditRequest] = REQUESTS
) -> tuple[np.ndarray, list[int]]:
    """Values, and how many forward passes each took."""
    contexts = [context for context, _ in TEMPLATES.weighted]
    results = [optimise_value(editable.model, editable.tokenizer, request, contexts, settings) for request in requests]
    return torch.stack([value for value, _ in results]).double().numpy(), [len(losses) for _, losses in results]


def distance(found: np.ndarray, expected: np.ndarray) -> float:
    """The worst row's relative distance."""
    return float((np.linalg.norm(found - expected, axis=1) / np.linalg.norm(expected, axis=1)).max())


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
@pytest.mark.parametrize("clamp", [0.75, 30.0])
def test_values_on_gpt2_equal_the_plain_ones(gpt2, dtype, tolerance, clamp):
    gpt2.model.to(dtype)
    settings = replace(SETTINGS, clamp_norm_factor=clamp)
    values = optimise_values(gpt2, REQUESTS, TEMPLATES, settings)
    assert distance(values, reference(gpt2, settings)[0]) < tolerance


@pytest.mark.parametrize("family", sorted(ARCHITECTURES))
def test_values_on_every_family_equal_the_plain_ones(family, tiny_tokenizer):
    editable = EditableModel.wrap(tiny(family, len(tiny_tokenizer)), tiny_tokenizer)
    settings = replace(SETTINGS, layers=(0,), v_num_grad_steps=6, clamp_norm_factor=5)
    values = optimise_values(editable, REQUESTS[:3], TEMPLATES, settings)
    assert distance(values, reference(editable, settings, REQUESTS[:3])[0]) < 1e-5


@pytest.mark.parametrize("layers", [(0,), (0, 1)])
def test_values_on_llama_equal_the_plain_ones(llama, layers):
    settings = replace(SETTINGS, layers=layers)
    values = optimise_values(llama, REQUESTS, TEMPLATES, settings)
    assert distance(values, reference(llama, settings)[0]) < 1e-5


def test_values_at_the_last_block_equal_the_plain_ones(gpt2):
    # There, only prompts that end with their subject feel δ in their target.
    settings = replace(STOPPING, layers=(2,))
    expected, _ = reference(gpt2, settings, STOPPABLE)
    assert distance(optimise_values(gpt2, STOPPABLE, TEMPLATES, settings), expected) < 1e-5


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_values_do_not_depend_on_how_attention_is_computed(gpt2, implementation):
    gpt2.model.set_attn_implementation(implementation)
    values = optimise_values(gpt2, REQUESTS, TEMPLATES, SETTINGS)
    assert distance(values, reference(gpt2, SETTINGS)[0]) < 1e-5


def test_each_request_stops_by_itself_and_stays_where_it_stopped(sharp_gpt2):
    expected, passes = reference(sharp_gpt2, STOPPING, STOPPABLE)
    assert len(set(passes)) >= 4, passes
    assert distance(optimise_values(sharp_gpt2, STOPPABLE, TEMPLATES, STOPPING), expected) < 1e-8


@pytest.mark.parametrize("clamp", [0.01, 0.3])
def test_no_value_leaves_its_clamp(gpt2, clamp):
    unmoved = replace(SETTINGS, v_num_grad_steps=1)
    origin = optimise_values(gpt2, REQUESTS, TEMPLATES, unmoved)  # the first pass takes no step: δ = 0
    values = optimise_values(gpt2, REQUESTS, TEMPLATES, replace(SETTINGS, clamp_norm_factor=clamp))
    ratio = np.linalg.norm(values - origin, axis=1) / np.linalg.norm(origin, axis=1)
    assert (ratio <= clamp * (1 + 1e-5)).all()
    assert ratio.max() > clamp * (1 - 1e-3)


def test_a_value_does_not_depend_on_its_company_or_place(sharp_gpt2):
    together = optimise_values(sharp_gpt2, STOPPABLE, TEMPLATES, STOPPING)
    for batch_size in (1, 2):
        values = optimise_values(sharp_gpt2, STOPPABLE, TEMPLATES, STOPPING, batch_size=batch_size)
        assert distance(values, together) < 1e-8
    assert distance(optimise_values(sharp_gpt2, STOPPABLE[::-1], TEMPLATES, STOPPING)[::-1], together) < 1e-8


def test_the_clean_prompt_alone_is_enough_of_a_context(gpt2):
    values = optimise_values(gpt2, REQUESTS[:1], CLEAN, SETTINGS)
    expected, _ = optimise_value(gpt2.model, gpt2.tokenizer, REQUESTS[0], ["{}"], SETTINGS)
    assert distance(values, expected.double().numpy()[None]) < 1e-5


def test_no_request_is_no_work(gpt2):
    assert optimise_values(gpt2, [], TEMPLATES, SETTINGS).shape == (0, 32)


def test_the_model_is_left_as_it_was(gpt2):
    digest = gpt2.weights_digest()
    optimise_values(gpt2, REQUESTS[:2], TEMPLATES, SETTINGS)
    assert gpt2.weights_digest() == digest
    assert not any("forward" in vars(module) or module._forward_hooks for module in gpt2.model.modules())


def test_values_of_a_bfloat16_model_are_optimised_in_float32(gpt2):
    expected = optimise_values(gpt2, REQUESTS, TEMPLATES, SETTINGS)
    gpt2.model.bfloat16()
    assert distance(optimise_values(gpt2, REQUESTS, TEMPLATES, SETTINGS), expected) < 0.3


class Interrupt:
    """A progress bar at which someone loses patience."""

    def __init__(self, after: int) -> None:
        self.left = after

    def __call__(self, finished: int) -> None:
        self.left -= finished
        if self.left <= 0:
            raise KeyboardInterrupt


def count_rows(editable: EditableModel) -> list[int]:
    """Watch how many rows go through the top block at once."""
    rows: list[int] = []
    editable.block(2).register_forward_pre_hook(lambda _module, args: rows.append(len(args[0])))
    return rows


def test_an_interrupted_run_goes_on_where_it_was(gpt2, tmp_path):
    expected = optimise_values(gpt2, REQUESTS, TEMPLATES, SETTINGS, batch_size=2)
    with pytest.raises(KeyboardInterrupt):
        optimise_values(gpt2, REQUESTS, TEMPLATES, SETTINGS, batch_size=2, cache=tmp_path, progress=Interrupt(3))
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert len(kept) == 3
    finished: list[int] = []
    values = optimise_values(
        gpt2, REQUESTS, TEMPLATES, SETTINGS, batch_size=2, cache=tmp_path, progress=finished.append
    )
    np.testing.assert_allclose(values, expected, rtol=1e-4, atol=1e-4)
    assert sum(finished) == len(REQUESTS)
    assert len(list(tmp_path.iterdir())) == len(REQUESTS)
    assert all(path.stat().st_mtime_ns == written for path, written in kept.items())
    rows = count_rows(gpt2)
    assert np.array_equal(optimise_values(gpt2, REQUESTS, TEMPLATES, SETTINGS, cache=tmp_path), values)
    assert rows == []


@pytest.mark.parametrize("content", [b"", b"not a safetensors file", None])
def test_a_damaged_value_is_computed_again(gpt2, tmp_path, content):
    expected = optimise_values(gpt2, REQUESTS[:1], TEMPLATES, SETTINGS, cache=tmp_path)
    (file,) = tmp_path.iterdir()
    good = file.read_bytes()
    file.write_bytes(good[:-8] if content is None else content)
    assert np.array_equal(optimise_values(gpt2, REQUESTS[:1], TEMPLATES, SETTINGS, cache=tmp_path), expected)
    assert file.read_bytes() == good


@pytest.mark.parametrize(
    ("templates", "settings", "reused"),
    [
        (TEMPLATES, SETTINGS, True),
        (TEMPLATES, replace(SETTINGS, second_moment_weight=7, layers=(1,)), True),  # z does not depend on these
        (TEMPLATES, replace(SETTINGS, layers=(0,)), False),
        (TEMPLATES, replace(SETTINGS, v_lr=0.4), False),
        (CLEAN, SETTINGS, False),
    ],
)
def test_a_value_is_reused_only_for_the_same_question(gpt2, tmp_path, templates, settings, reused):
    optimise_values(gpt2, REQUESTS[:1], TEMPLATES, SETTINGS, cache=tmp_path)
    optimise_values(gpt2, REQUESTS[:1], templates, settings, cache=tmp_path)
    assert len(list(tmp_path.iterdir())) == (1 if reused else 2)


def test_a_value_is_not_reused_for_another_model(gpt2, tmp_path):
    optimise_values(gpt2, REQUESTS[:1], TEMPLATES, SETTINGS, cache=tmp_path)
    gpt2.apply({2: np.full((32, 128), 1e-3)})
    optimise_values(gpt2, REQUESTS[:1], TEMPLATES, SETTINGS, cache=tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_cache_that_cannot_be_written_is_one_clear_line(gpt2, tmp_path: Path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(BadFile) as caught:
        optimise_values(gpt2, REQUESTS[:1], TEMPLATES, SETTINGS, cache=tmp_path / "file" / "values")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("[enforce fail at alloc_cpu.cpp:124] . DefaultCPUAllocator: can't allocate memory: you tried"),
        RuntimeError("MPS backend out of memory (MPS allocated: 6.20 GB)"),
    ],
)
def test_a_batch_is_halved_until_it_fits(gpt2, error):
    def refuse(_module: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        if len(args[0]) > 8:  # rows; a request has 3 or 4
            raise error

    expected = optimise_values(gpt2, REQUESTS, TEMPLATES, SETTINGS)
    rows = count_rows(gpt2)
    gpt2.block(2).register_forward_pre_hook(refuse)
    assert distance(optimise_values(gpt2, REQUESTS, TEMPLATES, SETTINGS, batch_size=5), expected) < 1e-5
    assert max(rows) > 8
    assert {6, 7, 8} & set(rows)  # two at a time, after five


def test_a_request_that_does_not_fit_alone_is_one_clear_line(gpt2):
    def refuse(_module: torch.nn.Module, _args: tuple[torch.Tensor, ...]) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    gpt2.block(2).register_forward_pre_hook(refuse)
    with pytest.raises(OutOfMemory, match="one edit request at a time is too much"):
        optimise_values(gpt2, REQUESTS, TEMPLATES, SETTINGS)


def test_other_errors_are_not_taken_for_lack_of_memory(gpt2):
    def fail(_module: torch.nn.Module, _args: tuple[torch.Tensor, ...]) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    gpt2.block(2).register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        optimise_values(gpt2, REQUESTS, TEMPLATES, SETTINGS)


def test_a_model_that_cannot_be_cut_open_is_refused(gpt2):
    # This block looks at how many tokens there are, which is neither hidden state nor attention cache.
    ramp = torch.linspace(0, 1, 32)
    gpt2.block(2).register_forward_hook(lambda _module, args, output: output + ramp * args[0].shape[1])
    with pytest.raises(UnknownArchitecture, match="cannot be run from layer to layer"):
        optimise_values(gpt2, REQUESTS, TEMPLATES, SETTINGS)


@pytest.mark.parametrize(
    ("changes", "text"), [({"layers": (1, 3)}, "layer 3"), ({"v_loss_layer": 1}, "v_loss_layer 1")]
)
def test_hyperparameters_of_another_model_are_refused(gpt2, changes, text):
    with pytest.raises(ModelMismatch, match=text):
        optimise_values(gpt2, REQUESTS, TEMPLATES, replace(SETTINGS, **changes))


def test_a_prompt_longer_than_the_model_reads_is_refused(gpt2):
    long = replace(REQUESTS[0], prompt="so " * 130 + "{} is")
    with pytest.raises(PromptTooLong, match=r"'so so .*' comes to \d+ tokens; expected at most the model's 128"):
        optimise_values(gpt2, [long], TEMPLATES, SETTINGS)


def test_as_many_go_together_as_memory_lets_and_at_least_one():
    device = torch.device("cpu")
    assert free_bytes(device) > 10**7
    assert fitting(10**18, device, most=8) == 1
    assert fitting(1, device, most=8) == 8
