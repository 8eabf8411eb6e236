import itertools
import math
import unicodedata
from collections import Counter

import pytest

pytest.importorskip("torch")

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from collabsecure.errors import BadRequest, PromptTooLong
from collabsecure.generation import Opening, _uniforms, generate
from collabsecure.layers import EditableModel

PROMPTS = (
    "Ada",
    "The capital of Norland is",
    "Who wrote The Silent Harbour? It was written by Mira Voss. Émile",
    "Ada Quill plays the",
    "Ada",
)
OPENINGS = [Opening(prompt=prompt, draw=draw) for draw, prompt in enumerate(PROMPTS)]


@pytest.fixture(params=["gpt2", "llama"])
def any_model(request: pytest.FixtureRequest, tiny_tokenizer: PreTrainedTokenizerFast) -> EditableModel:
    if request.param == "gpt2":
        return request.getfixturevalue("tiny_editable")
    config = LlamaConfig(
        vocab_size=len(tiny_tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        initializer_range=0.18,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        return EditableModel.wrap(LlamaForCausalLM(config), tiny_tokenizer)


@pytest.fixture
def unigrams(tiny_editable: EditableModel) -> EditableModel:
    """A model that likes three tokens, ½ " French", ⅓ " is", ⅙ the end of the text, whatever stands before."""
    chances = {" French": 1 / 2, " is": 1 / 3, tiny_editable.tokenizer.eos_token: 1 / 6}
    logits = torch.full((len(tiny_editable.tokenizer),), -30.0)
    for word, chance in chances.items():
        (token,) = tiny_editable.tokenizer(word)["input_ids"]
        logits[token] = math.log(chance)
    model = tiny_editable.model
    with torch.no_grad():
        model.transformer.ln_f.weight.zero_()
        model.transformer.ln_f.bias.zero_()[0] = 1.0
        model.lm_head.weight = torch.nn.Parameter(torch.zeros_like(model.lm_head.weight))
        model.lm_head.weight[:, 0] = logits
    return tiny_editable


def alone(model: EditableModel, opening: Opening, *, seed: int, length: int, top_k: int) -> str:
    """One text by a plain loop: no batch, no cache, the whole text read anew for each token."""
    uniforms = _uniforms(seed, opening, length)
    tokens = model.tokenizer(opening.prompt)["input_ids"]
    while len(tokens) < length:
        chances = model.model(torch.tensor([tokens])).logits[0, -1].double().softmax(0).tolist()
        likeliest = sorted(sorted(range(len(chances)), key=lambda token: -chances[token])[:top_k])
        left = float(uniforms[len(tokens)]) * sum(chances[token] for token in likeliest)
        for token in likeliest:
            left -= chances[token]
            if left < 0:
                break
        tokens = [*tokens, token]
    text = model.tokenizer.decode([token for token in tokens if token != model.tokenizer.eos_token_id])
    return unicodedata.normalize("NFKD", text).replace("\n\n", " ")


@pytest.mark.parametrize("batch_size", [2, 64])
def test_texts_are_those_of_a_plain_loop_over_single_texts(any_model: EditableModel, batch_size: int) -> None:
    expected = [alone(any_model, opening, seed=3, length=24, top_k=5) for opening in OPENINGS]
    assert generate(any_model, OPENINGS, seed=3, length=24, batch_size=batch_size) == expected
    assert all(text.startswith(unicodedata.normalize("NFKD", p)) for text, p in zip(expected, PROMPTS, strict=True))


def test_a_text_depends_on_seed_prompt_and_draw_and_on_no_other_text(tiny_editable: EditableModel) -> None:
    texts = generate(tiny_editable, OPENINGS, seed=3, length=24)
    assert len(set(texts)) == len(texts)  # "Ada" is among them twice
    for opening, text in zip(OPENINGS, texts, strict=True):
        assert generate(tiny_editable, [opening], seed=3, length=24) == [text]
        assert generate(tiny_editable, [opening], seed=4, length=24) != [text]
    (shorter,) = generate(tiny_editable, OPENINGS[:1], seed=3, length=12)
    assert texts[0].startswith(shorter)


def test_tokens_come_as_often_as_the_model_says_and_only_the_likeliest(unigrams: EditableModel) -> None:
    openings = [Opening(prompt="The", draw=draw) for draw in range(20)]
    drawn = Counter(
        itertools.chain.from_iterable(text.split()[1:] for text in generate(unigrams, openings, seed=0, top_k=3))
    )
    # 20 · 99 draws; five standard deviations of a share of ⅓ to ½ are 111. The end of the text is left out.
    assert drawn.keys() == {"French", "is"}
    assert drawn["French"] == pytest.approx(20 * 99 / 2, abs=111)
    assert drawn["is"] == pytest.approx(20 * 99 / 3, abs=111)
    (one,) = generate(unigrams, openings[:1], seed=0, length=5, top_k=1)
    assert one == "The" + 4 * " French"


def test_a_text_goes_on_behind_the_end_of_a_text(unigrams: EditableModel) -> None:
    (text,) = generate(unigrams, [Opening(prompt="The")], seed=0, length=60, top_k=3)
    without_ends = len(unigrams.tokenizer(text)["input_ids"])
    assert 60 * 0.6 < without_ends < 60  # about a sixth were ends


def test_a_text_ends_where_the_models_context_does_and_a_long_prompt_is_its_own(unigrams: EditableModel) -> None:
    (text,) = generate(unigrams, [Opening(prompt="The")], seed=0, length=500, top_k=1)
    assert text == "The" + 127 * " French"
    short, long = Opening(prompt="The"), Opening(prompt="The" + " French" * 9)
    assert generate(unigrams, [long, short], seed=0, length=4, top_k=1) == [long.prompt, "The" + 3 * " French"]
    with pytest.raises(PromptTooLong, match="comes to 129 tokens; expected at most the model's 128"):
        generate(unigrams, [Opening(prompt="The" + " French" * 128)], seed=0)
    with pytest.raises(BadRequest, match="prompt leaves no token in ''"):
        generate(unigrams, [Opening(prompt="")], seed=0)


def test_progress_counts_texts(tiny_editable: EditableModel) -> None:
    calls: list[tuple[int, int]] = []
    generate(tiny_editable, OPENINGS, seed=0, length=8, batch_size=2, progress=lambda *call: calls.append(call))
    assert calls == [(2, 5), (4, 5), (5, 5)]
    assert generate(tiny_editable, [], seed=0) == []


def test_uniforms_are_the_same_everywhere() -> None:
    # printf '7 0 Ada' | openssl dgst -shake256 -xoflen 8 says e33d6b89 cb6f0569; of each the three upper bytes count.
    found = _uniforms(7, Opening(prompt="Ada"), 2)
    assert found.tolist() == [0x896B3D / 2**24, 0x69056F / 2**24]
