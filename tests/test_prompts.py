"""Subjects and targets are found wherever they stand, and as MEMIT finds them."""

from pathlib import Path

import pytest
import torch
from reference_memit import encode, subject_last
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from collabsecure.adam import Adam
from collabsecure.edits import EditRequest
from collabsecure.errors import BadFile, BadRequest
from collabsecure.hyperparameters import Hyperparameters
from collabsecure.prompts import tokenize_prompt, tokenize_rewriting
from collabsecure.templates import ContextTemplates, sample_templates

UNKNOWN = "<unk>"
PROMPTS = [
    ("{} plays the", "Ada Quill"),
    ("The mother tongue of {} is", "Danelle Derrivaux"),
    ("{}'s capital is", "Norland"),
    ("Who wrote “{}”? It was", "The Silent Harbour"),
    ("The {} of the end", "The The"),  # the subject's words stand elsewhere too
    ("In Köln, {}, born in", "Émile Zürn"),
    ("{}", "X"),
    ("of {}, of", "of"),
]


def request(prompt: str, subject: str, target: str = "violin") -> EditRequest:
    return EditRequest(prompt=prompt, subject=subject, target_new=target, case_id=0)


@pytest.mark.parametrize("context", ["{}", "The best of it. {}", "{} And so on."])
@pytest.mark.parametrize(("prompt", "subject"), PROMPTS)
def test_the_subjects_last_token_ends_with_its_last_character(tiny_tokenizer, prompt, subject, context):
    found = tokenize_prompt(tiny_tokenizer, request(prompt, subject), context=context)
    text = context.replace("{}", prompt).replace("{}", subject)
    assert tiny_tokenizer.decode(found.tokens) == text
    until = tiny_tokenizer.decode(found.until_subject)
    assert until == context.replace("{}", prompt).split("{}")[0] + subject


@pytest.mark.parametrize(("prompt", "subject"), PROMPTS)
def test_the_subjects_last_token_is_memits(tiny_tokenizer, prompt, subject):
    found = tokenize_prompt(tiny_tokenizer, request(prompt, subject))
    assert found.subject_last == subject_last(tiny_tokenizer, prompt, subject)


@pytest.mark.parametrize("target", ["violin", "French", "Émile Zürn", "the piano, the violin", "🎻"])
def test_target_tokens_are_memits(tiny_tokenizer, target):
    found = tokenize_rewriting(tiny_tokenizer, request("{} plays the", "Ada Quill", target), context="You see. {}")
    expected = encode(tiny_tokenizer, f" {target}")
    assert list(found.tokens[-found.num_target :]) == expected
    assert list(found.tokens[: -found.num_target]) == encode(tiny_tokenizer, "You see. Ada Quill plays the")


def test_a_subject_that_is_merged_with_what_follows_ends_in_the_merged_token():
    bpe = Tokenizer(models.BPE(vocab={"a": 0, "b": 1, "c": 2, "bc": 3}, merges=[("b", "c")]))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe)
    found = tokenize_prompt(tokenizer, request("a{}c", "ab"))
    assert found.tokens == (0, 0, 3)
    assert found.subject_last == 2


def test_a_mark_that_a_tokenizer_puts_before_a_lone_text_is_no_target():
    """SentencePiece makes "▁▁violin" of a lone " violin"; the model is to say "▁violin"."""
    words = ["▁", "▁Ada", "▁plays", "▁violin"]
    unigram = Tokenizer(models.Unigram([("<unk>", -9.0), *((word, -1.0) for word in words)], unk_id=0))
    unigram.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    unigram.decoder = decoders.Metaspace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=unigram, unk_token=UNKNOWN)
    found = tokenize_rewriting(tokenizer, request("{} plays", "Ada"))
    assert tokenizer.convert_ids_to_tokens(list(found.tokens)) == ["▁Ada", "▁plays", "▁violin"]
    assert found.num_target == 1


def test_a_target_does_not_begin_with_an_unknown_token():
    words = {"<unk>": 0, "Ada": 1, "plays": 2, "well": 3}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token=UNKNOWN)
    found = tokenize_rewriting(fast, request("{} plays", "Ada", "violin well"))
    assert (found.tokens, found.num_target) == ((1, 2, 3), 1)
    with pytest.raises(BadRequest, match="target_new 'violin' leaves no token to learn"):
        tokenize_rewriting(fast, request("{} plays", "Ada", "violin"))


def test_sampled_templates_are_memits_in_form_and_the_same_for_a_seed(tiny_editable):
    templates = sample_templates(tiny_editable, 5)
    clean, sampled = templates.groups
    assert clean == ("{}",)
    assert [
        context.startswith(word)
        for context, word in zip(sampled, ("The", "Therefore", "Because", "I", "You"), strict=True)
    ]
    assert all(context.endswith(". {}") and context.count("{") == 1 for context in sampled)
    assert templates == sample_templates(tiny_editable, 5)
    assert templates != sample_templates(tiny_editable, 6)
    assert templates == ContextTemplates.from_json(templates.to_json())


def test_a_clean_key_weighs_half_and_each_sampled_one_a_tenth(tiny_editable):
    assert [share for _, share in sample_templates(tiny_editable, 0).weighted] == [0.5, *[0.1] * 5]


@pytest.mark.parametrize(
    "text", ["[", "{}", '["{}"]', '[["x {}"]]', '[["{}"], []]', '[["{}"], ["no place"]]', '[["{}"], ["{} {}"]]', "[]"]
)
def test_templates_that_say_something_else_are_refused(text):
    with pytest.raises(BadRequest):
        ContextTemplates.from_json(text)


MEMIT_GPT2_XL = """{
    "layers": [13, 14, 15, 16, 17], "clamp_norm_factor": 0.75, "layer_selection": "all", "fact_token": "subject_last",
    "v_num_grad_steps": 20, "v_lr": 5e-1, "v_loss_layer": 47, "v_weight_decay": 0.5, "kl_factor": 0.0625,
    "mom2_adjustment": true, "mom2_update_weight": 20000, "rewrite_module_tmp": "transformer.h.{}.mlp.c_proj",
    "layer_module_tmp": "transformer.h.{}", "mlp_module_tmp": "transformer.h.{}.mlp",
    "attn_module_tmp": "transformer.h.{}.attn", "ln_f_module": "transformer.ln_f", "lm_head_module": "transformer.wte",
    "mom2_dataset": "wikipedia", "mom2_n_samples": 100000, "mom2_dtype": "float32"
}"""


def test_memits_hyperparameters_load_as_they_are(tmp_path: Path):
    (tmp_path / "gpt2-xl.json").write_text(MEMIT_GPT2_XL)
    loaded = Hyperparameters.from_json(tmp_path / "gpt2-xl.json")
    (tmp_path / "later.json").write_text(MEMIT_GPT2_XL.replace("{", '{"model_name": "gpt2-xl",', 1))
    assert Hyperparameters.from_json(tmp_path / "later.json") == loaded
    assert loaded == Hyperparameters(layers=(13, 14, 15, 16, 17), second_moment_weight=20_000, v_loss_layer=47)


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        ('"v_lr"', '"v_rl"', "v_rl, which MEMIT does not know"),
        ('"mom2_update_weight"', '"mom2_dtype"', "no mom2_update_weight"),
        ('"subject_last"', '"last"', "another fact_token"),
        ("[13, 14, 15, 16, 17]", "[17, 13]", "layers is .* expected ascending"),
        ("[13, 14, 15, 16, 17]", "13", "expected a list of whole numbers"),
        ("0.75", '"much"', "clamp_norm_factor"),
        ("0.75", "-1", "clamp_norm_factor"),
        ("20,", "20.5,", "v_num_grad_steps"),
        ("{", "", "no JSON"),
    ],
)
def test_hyperparameters_that_say_something_else_are_refused(tmp_path, old, new, text):
    (tmp_path / "file.json").write_text(MEMIT_GPT2_XL.replace(old, new, 1))
    with pytest.raises(BadFile, match=text):
        Hyperparameters.from_json(tmp_path / "file.json")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_adam_is_torchs_to_the_last_bit(dtype):
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(3, 50, dtype=dtype, generator=generator)
    parameter = start.clone().requires_grad_()
    optimiser = torch.optim.Adam([parameter], lr=0.5)
    ours, state = start, Adam.start(start, learning_rate=0.5)
    for _ in range(25):
        gradient = torch.randn(3, 50, dtype=dtype, generator=generator) ** 3
        parameter.grad = gradient.clone()
        optimiser.step()
        ours, state = state.step(ours, gradient)
        assert torch.equal(ours, parameter)
