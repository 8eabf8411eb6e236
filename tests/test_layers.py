"""Every known family is located, captured, edited, reverted, saved and loaded alike."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GPTJConfig,
    GPTJForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from collabsecure.architectures import ARCHITECTURES, Architecture
from collabsecure.errors import BadFile, ModelMismatch, NotAModel, UnknownArchitecture
from collabsecure.layers import EditableModel

# d_in is twice d_model, then as wide: an orientation that is read from shapes would be wrong half the time.
WIDTHS = (32, 16)


def tiny(family: str, vocabulary: int, inner: int = 32, *, tied: bool | None = None) -> PreTrainedModel:
    """A random model of two layers of width 16."""
    ends = {"vocab_size": vocabulary, "bos_token_id": 0, "eos_token_id": 0}
    if tied is not None:
        ends["tie_word_embeddings"] = tied
    gpt = {"n_positions": 64, "n_embd": 16, "n_inner": inner, "n_layer": 2, "n_head": 2, **ends}
    llama = {
        "hidden_size": 16,
        "intermediate_size": inner,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 8,
        "max_position_embeddings": 64,
        **ends,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        match family:
            case "gpt2":
                return GPT2LMHeadModel(GPT2Config(**gpt, initializer_range=0.2))
            case "gptj":
                return GPTJForCausalLM(GPTJConfig(**gpt, rotary_dim=4, initializer_range=0.2))
            case "llama":
                return LlamaForCausalLM(LlamaConfig(**llama, initializer_range=0.2))
            case "mistral":
                return MistralForCausalLM(MistralConfig(**llama, initializer_range=0.2))
            case "qwen2":
                llama.pop("head_dim")
                return Qwen2ForCausalLM(Qwen2Config(**llama, initializer_range=0.2))
            case _:
                return Qwen3ForCausalLM(Qwen3Config(**llama, initializer_range=0.2))


@pytest.fixture(params=sorted(ARCHITECTURES))
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=WIDTHS)
def editable(family: str, request: pytest.FixtureRequest, tiny_tokenizer: PreTrainedTokenizerFast) -> EditableModel:
    torch.set_num_threads(1)
    return EditableModel.wrap(tiny(family, len(tiny_tokenizer), request.param), tiny_tokenizer)


def run(editable: EditableModel) -> torch.Tensor:
    with torch.no_grad():
        return editable.model(input_ids=torch.arange(12).reshape(2, 6)).logits


def test_captured_keys_are_what_the_projection_multiplies(editable):
    outputs = []
    handle = editable.projection(1).register_forward_hook(lambda _module, _inputs, output: outputs.append(output))
    with editable.projection_inputs([0, 1]) as keys:
        run(editable)
    handle.remove()
    assert keys[1].shape == (2, 6, editable.d_in(1))
    bias = getattr(editable.projection(1), "bias", None)
    expected = keys[1] @ editable.weight(1).T + (0 if bias is None else bias)
    torch.testing.assert_close(outputs[0], expected)


def test_an_edit_changes_the_projection_by_delta_times_key(editable):
    delta = np.random.default_rng(0).normal(size=(editable.d_model, editable.d_in(1)))
    outputs = []
    handle = editable.projection(1).register_forward_hook(lambda _module, _inputs, output: outputs.append(output))
    with editable.projection_inputs([1]) as keys:
        run(editable)
        with editable.apply({1: delta}):
            run(editable)
    handle.remove()
    change = keys[1].double() @ torch.from_numpy(delta).T
    torch.testing.assert_close((outputs[1] - outputs[0]).double(), change, rtol=1e-4, atol=1e-4)


def test_captured_block_outputs_feed_the_next_block(editable):
    inputs = []
    handle = editable.block(1).register_forward_pre_hook(lambda _module, args: inputs.append(args[0]))
    with editable.block_outputs([0]) as outputs:
        run(editable)
    handle.remove()
    assert torch.equal(outputs[0], inputs[0])


def test_nothing_is_captured_after_the_context_is_left(editable):
    with editable.projection_inputs([0]) as keys, editable.block_outputs([0]) as outputs:
        run(editable)
    before = keys[0], outputs[0]
    run(editable)
    assert keys[0] is before[0]
    assert outputs[0] is before[1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_reverting_gives_the_weights_back_bit_for_bit(dtype, family, tiny_tokenizer):
    editable = EditableModel.wrap(tiny(family, len(tiny_tokenizer)).to(dtype), tiny_tokenizer)
    before, digest = run(editable), editable.weights_digest()
    deltas = {layer: np.full((16, 32), np.pi * 1e3) for layer in (0, 1)}
    with editable.apply(deltas):
        assert not torch.equal(run(editable), before)
        assert editable.weights_digest([0]) != editable.weights_digest([1])
    assert editable.weights_digest() == digest
    assert torch.equal(run(editable), before)


def test_edits_of_one_layer_revert_in_the_opposite_order(editable):
    digest = editable.weights_digest()
    delta = np.ones((editable.d_model, editable.d_in(0)))
    first = editable.apply({0: delta})
    once = editable.weights_digest()
    editable.apply({0: delta / 3}).revert()
    assert editable.weights_digest() == once
    first.revert()
    first.revert()
    assert editable.weights_digest() == digest


def test_an_edit_is_rounded_once_to_the_models_type(tiny_tokenizer):
    editable = EditableModel.wrap(tiny("gpt2", len(tiny_tokenizer)), tiny_tokenizer)
    delta = np.random.default_rng(1).normal(size=(16, 32))
    expected = (editable.weight(0).double() + torch.from_numpy(delta)).float()
    editable.apply({0: delta})
    assert torch.equal(editable.weight(0), expected)


@pytest.mark.parametrize("deltas", [{0: np.ones((16, 32)), 1: np.ones((32, 16))}, {2: np.ones((16, 32))}])
def test_a_delta_that_does_not_fit_changes_nothing(deltas, tiny_tokenizer):
    editable = EditableModel.wrap(tiny("gpt2", len(tiny_tokenizer)), tiny_tokenizer)
    digest = editable.weights_digest()
    with pytest.raises(ModelMismatch, match="layer"):
        editable.apply(deltas)
    assert editable.weights_digest() == digest


@pytest.mark.parametrize("tied", [True, False])
def test_saved_models_load_with_their_edit(tied, family, tiny_tokenizer, tmp_path, capfd):
    editable = EditableModel.wrap(tiny(family, len(tiny_tokenizer), tied=tied), tiny_tokenizer)
    editable.apply({1: np.ones((16, 32))})
    editable.save(tmp_path / "model")
    loaded = EditableModel.load(str(tmp_path / "model"), device="cpu")
    torch.testing.assert_close(run(loaded), run(editable), rtol=0, atol=0)
    assert loaded.weights_digest() == editable.weights_digest()
    assert loaded.tokenizer("The capital")["input_ids"] == tiny_tokenizer("The capital")["input_ids"]
    assert capfd.readouterr() == ("", "")


def test_the_digest_knows_layers_and_all_weights_apart(tiny_tokenizer):
    editable = EditableModel.wrap(tiny("gpt2", len(tiny_tokenizer)), tiny_tokenizer)
    edited, whole = editable.weights_digest([1]), editable.weights_digest()
    with torch.no_grad():
        editable.model.lm_head.weight[3, 3] += 1
    assert editable.weights_digest([1]) == edited
    assert editable.weights_digest() != whole


def test_an_unknown_architecture_is_told_what_to_give(tiny_tokenizer):
    config = OPTConfig(vocab_size=400, hidden_size=16, ffn_dim=32, num_hidden_layers=2, num_attention_heads=2)
    config.word_embed_proj_dim = 16
    with pytest.raises(UnknownArchitecture, match=r"'opt'.*give an Architecture\(block=…, projection=…\)"):
        EditableModel.wrap(OPTForCausalLM(config), tiny_tokenizer)


def test_an_architecture_can_be_given(tiny_tokenizer):
    model = tiny("llama", len(tiny_tokenizer))
    model.config.model_type = "unheard_of"
    given = Architecture(block="model.layers.{}", projection="model.layers.{}.mlp.down_proj")
    assert EditableModel.wrap(model, tiny_tokenizer, given).num_layers == 2


def test_an_architecture_that_points_elsewhere_is_refused(tiny_tokenizer):
    wrong = Architecture(block="transformer.h.{}", projection="transformer.h.{}.mlp.down_proj")
    with pytest.raises(UnknownArchitecture, match="found 0 blocks"):
        EditableModel.wrap(tiny("gpt2", len(tiny_tokenizer)), tiny_tokenizer, wrong)


def test_a_model_that_is_not_there_is_one_clear_line(tmp_path):
    with pytest.raises(NotAModel, match=r"nothing there; expected a Hugging Face directory$"):
        EditableModel.load(str(tmp_path / "nowhere"))


def test_a_directory_without_a_model_is_one_clear_line(tmp_path):
    (tmp_path / "notes.txt").write_text("no model")
    with pytest.raises(NotAModel) as caught:
        EditableModel.load(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_a_damaged_checkpoint_is_refused(tiny_tokenizer, tmp_path):
    editable = EditableModel.wrap(tiny("gpt2", len(tiny_tokenizer)), tiny_tokenizer)
    editable.save(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(NotAModel):
        EditableModel.load(str(tmp_path))


def test_a_checkpoint_that_lacks_weights_is_refused(tiny_tokenizer, tmp_path):
    from safetensors.torch import load_file, save_file

    editable = EditableModel.wrap(tiny("gpt2", len(tiny_tokenizer)), tiny_tokenizer)
    editable.save(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights.pop("transformer.h.1.mlp.c_proj.weight")
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(NotAModel, match=r"1 weights are missing, such as transformer.h.1.mlp.c_proj.weight"):
        EditableModel.load(str(tmp_path))


def test_a_tokenizer_without_offsets_is_refused(tiny_tokenizer):
    class Slow(PreTrainedTokenizerFast):
        is_fast = False

    slow = Slow(tokenizer_object=tiny_tokenizer.backend_tokenizer)
    with pytest.raises(NotAModel, match="give a fast tokenizer"):
        EditableModel.wrap(tiny("gpt2", len(tiny_tokenizer)), slow)


def test_a_folder_that_cannot_be_written_is_one_clear_line(tiny_tokenizer, tmp_path: Path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(BadFile) as caught:
        EditableModel.wrap(tiny("gpt2", len(tiny_tokenizer)), tiny_tokenizer).save(tmp_path / "file" / "model")
    assert "\n" not in str(caught.value)
