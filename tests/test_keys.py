"""Keys, residuals and whole edits over several layers equal MEMIT's, computed plainly one request at a time."""

import copy

import numpy as np
import pytest
import reference_memit as plain
import torch
from test_values import REQUESTS, SETTINGS, TEMPLATES
from transformers import LlamaConfig, LlamaForCausalLM

from collabsecure.errors import ModelMismatch
from collabsecure.keys import compute_keys, compute_residuals, local_statistics
from collabsecure.layers import EditableModel
from collabsecure.merge import merge_delta
from collabsecure.statistics import cross, gram
from collabsecure.values import optimise_values


@pytest.fixture(params=["gpt2", "llama"])
def editable(request: pytest.FixtureRequest, tiny_editable, tiny_tokenizer) -> EditableModel:
    """In float64, so that only the method can differ."""
    if request.param == "llama":
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
            tiny_editable = EditableModel.wrap(LlamaForCausalLM(config), tiny_tokenizer)
    tiny_editable.model.double()
    return tiny_editable


def tolerance(editable: EditableModel) -> float:
    """Llama computes its norms in float32 whatever its type."""
    return 1e-12 if editable.architecture.block.startswith("transformer") else 1e-6


def relative(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


@pytest.mark.parametrize("layer", [0, 2])
def test_keys_equal_the_plain_ones(editable, layer):
    expected = [plain.key(editable.model, editable.tokenizer, request, TEMPLATES.groups, layer) for request in REQUESTS]
    keys = compute_keys(editable, REQUESTS, TEMPLATES, layer)
    assert keys.shape == (editable.d_in(layer), len(REQUESTS))
    assert relative(keys, np.stack(expected, axis=1)) < tolerance(editable)


def test_residuals_share_what_is_missing_among_the_layers_left(editable):
    z = np.random.default_rng(0).normal(size=(len(REQUESTS), 32))
    current = [
        plain.states_at_subject(editable.model, editable.tokenizer, request.prompt, request.subject, 2)[1].numpy()
        for request in REQUESTS
    ]
    missing = (z - np.stack(current)).T
    for layer, share in ((0, 2), (2, 1)):
        residuals = compute_residuals(editable, REQUESTS, z, layer, (0, 2))
        assert relative(residuals, missing / share) < tolerance(editable)


def test_statistics_are_of_these_keys_and_residuals(tiny_editable):
    z = np.random.default_rng(0).normal(size=(len(REQUESTS), 32))
    statistics = local_statistics(tiny_editable, REQUESTS, z, TEMPLATES, 0, (0, 1))
    keys = compute_keys(tiny_editable, REQUESTS, TEMPLATES, 0)
    residuals = compute_residuals(tiny_editable, REQUESTS, z, 0, (0, 1))
    assert np.array_equal(statistics.gram, gram(keys))
    assert np.array_equal(statistics.cross, cross(residuals, keys))


def test_a_key_does_not_depend_on_its_company(editable):
    together = compute_keys(editable, REQUESTS, TEMPLATES, 1)
    alone = [compute_keys(editable, [request], TEMPLATES, 1)[:, 0] for request in REQUESTS]
    assert relative(np.stack(alone, axis=1), together) < tolerance(editable)


def test_progress_counts_requests(tiny_editable):
    counts: list[int] = []
    compute_keys(tiny_editable, REQUESTS, TEMPLATES, 0, progress=counts.append)
    assert sum(counts) == len(REQUESTS)


def test_no_request_has_no_keys(tiny_editable):
    assert compute_keys(tiny_editable, [], TEMPLATES, 0).shape == (128, 0)
    assert compute_residuals(tiny_editable, [], np.empty((0, 32)), 0, (0, 1)).shape == (32, 0)


def test_keys_run_only_the_blocks_they_need(tiny_editable):
    compute_keys(tiny_editable, REQUESTS, TEMPLATES, 1)  # whatever is found out about the model once
    ran = []
    for layer in range(3):
        tiny_editable.projection(layer).register_forward_pre_hook(lambda _m, _a, layer=layer: ran.append(layer))
    compute_keys(tiny_editable, REQUESTS, TEMPLATES, 1)
    assert set(ran) == {0, 1}


def test_residuals_of_a_layer_that_is_not_edited_are_refused(tiny_editable):
    with pytest.raises(ModelMismatch, match="layer 1"):
        compute_residuals(tiny_editable, REQUESTS, np.zeros((len(REQUESTS), 32)), 1, (0, 2))


def test_an_edit_over_two_layers_equals_plain_memits(editable):
    settings = SETTINGS  # layers 0 and 1
    rng = np.random.default_rng(5)
    samples = {layer: rng.normal(size=(editable.d_in(layer), 200)) for layer in settings.layers}
    moments = {layer: sample @ sample.T / 200 for layer, sample in samples.items()}
    other = copy.deepcopy(editable.model)
    expected = plain.edit(other, editable.tokenizer, REQUESTS, TEMPLATES.groups, settings, moments)

    z = optimise_values(editable, REQUESTS, TEMPLATES, settings)
    for layer in settings.layers:
        statistics = local_statistics(editable, REQUESTS, z, TEMPLATES, layer, settings.layers)
        delta = merge_delta(settings.second_moment_weight * moments[layer], statistics.gram, statistics.cross)
        assert relative(delta, expected[layer]) < 10 * tolerance(editable)
        editable.apply({layer: delta})
        torch.testing.assert_close(editable.projection(layer).weight, plain.projection(other, layer).weight)
