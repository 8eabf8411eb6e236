import math
from collections.abc import Sequence
from copy import deepcopy

import pytest

pytest.importorskip("torch")

import tokenizers
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from collabsecure.edits import EditRequest, Neighbor
from collabsecure.errors import BadRequest, PromptTooLong
from collabsecure.evaluate import (
    Comparison,
    Continuation,
    CounterfactScores,
    RecordScores,
    complete,
    evaluate_counterfact,
    negative_log_likelihoods,
)
from collabsecure.layers import EditableModel

REQUESTS = (
    EditRequest(
        prompt="The mother tongue of {} is",
        subject="Danelle Derrivaux",
        target_new="piano",
        target_true="French",
        case_id=0,
        paraphrases=("Émile Zürn was born. Danelle Derrivaux, a native", "Who wrote The Silent Harbour?"),
        neighborhood=(
            Neighbor(prompt="The capital of Norland is", answer="Ostrava in Köln"),
            Neighbor(prompt="Ada", answer="Quill"),
            Neighbor(prompt="Ada Quill plays the", answer="violin, 1987."),
        ),
    ),
    EditRequest(
        prompt="{} plays the",
        subject="Bram Stone",
        target_new="unheard-of tongue",
        target_true="violin",
        case_id="two",
        paraphrases=("It was Bram Stone who plays",),
        neighborhood=(Neighbor(prompt="Ada Quill plays the", answer="piano"),),
    ),
    EditRequest(prompt="Who wrote {}?", subject="The Silent Harbour", target_new="Mira Voss", case_id=2),
)


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
    """A model that gives each token the same chance whatever stands before it: ¼ " French", ⅛ " is", the rest alike."""
    chances = {" French": 1 / 4, " is": 1 / 8}
    others = (1 - sum(chances.values())) / (len(tiny_editable.tokenizer) - len(chances))
    logits = torch.full((len(tiny_editable.tokenizer),), math.log(others))
    for word, chance in chances.items():
        (token,) = tiny_editable.tokenizer(word)["input_ids"]
        logits[token] = math.log(chance)
    transformer = tiny_editable.model.transformer
    transformer.ln_f.weight.zero_()
    transformer.ln_f.bias.zero_()[0] = 1.0
    tiny_editable.model.lm_head.weight.zero_()[:, 0] = logits
    return tiny_editable


def request(**fields: object) -> EditRequest:
    base = {
        "prompt": "The tongue of {} is",
        "subject": "Norland",
        "target_new": "French",
        "target_true": "is",
        "case_id": 0,
    }
    return EditRequest(**{**base, **fields})


def one_at_a_time(model: EditableModel, prompt: str, target: str) -> float:
    """MEMIT's way: the target tokenized alone, one text in one pass, all logits."""
    before, after = (model.tokenizer(text)["input_ids"] for text in (prompt, f" {target}"))
    with torch.no_grad():
        logits = model.model(torch.tensor([before + after])).logits[0].double()
    chances = logits.log_softmax(-1)
    return -sum(chances[len(before) - 1 + i, token].item() for i, token in enumerate(after)) / len(after)


def test_a_target_is_scored_by_the_mean_over_its_tokens_not_by_their_sum(unigrams: EditableModel) -> None:
    one, two, mixed = negative_log_likelihoods(
        unigrams, [Continuation(prompt="The", target=target) for target in ("is", "French", "French is is")]
    )
    assert [one, two] == pytest.approx([math.log(8), math.log(4)], rel=1e-6)
    assert mixed == pytest.approx((math.log(4) + 2 * math.log(8)) / 3, rel=1e-6)
    (record,) = evaluate_counterfact(unigrams, [request(target_new="French is is", target_true="is")]).records
    assert record.es == 1.0  # although p(new) = 1/256 and p(true) = 1/8


def test_scores_of_hand_computed_records(unigrams: EditableModel) -> None:
    # French (¼) is likelier than "is" (⅛), whatever the prompt; "is is" is as likely as "is".
    scores = evaluate_counterfact(
        unigrams,
        [
            request(
                target_new="French",
                target_true="is",
                paraphrases=("Norland", "Sudmark"),
                neighborhood=(
                    Neighbor(prompt="Ada", answer="is"),
                    Neighbor(prompt="Bram", answer="French"),
                    Neighbor(prompt="Mira", answer="piano"),
                ),
            ),
            request(
                case_id=1,
                target_new="is",
                target_true="French",
                paraphrases=("Norland",),
                neighborhood=(Neighbor(prompt="Ada", answer="French"), Neighbor(prompt="Bram", answer="is is")),
            ),
            request(case_id=2, target_new="is is", target_true="is"),
        ],
    )
    assert [(record.es, record.ps, record.ns) for record in scores.records] == [
        (1.0, 1.0, 0.0),
        (0.0, 0.0, 0.5),
        (0.0, None, None),
    ]
    assert (scores.es, scores.ps, scores.ns) == (1 / 3, 1 / 2, 1 / 4)
    assert scores.score == pytest.approx(3 / (3 + 2 + 4))


def test_what_the_model_says_is_right_where_it_is_the_new_target_or_the_neighbours_answer(
    unigrams: EditableModel,
) -> None:
    # It says "French" again and again.
    (record,) = evaluate_counterfact(
        unigrams,
        [
            request(
                target_new="French French",
                paraphrases=("Ada",),
                neighborhood=(Neighbor(prompt="Ada", answer="is"), Neighbor(prompt="Ada", answer="French")),
            )
        ],
    ).records
    assert [one.is_right for one in (*record.rewrite, *record.paraphrases)] == [True, True]
    assert [one.is_right for one in record.neighborhood] == [False, True]


def test_equal_is_not_likelier_in_either_direction(unigrams: EditableModel) -> None:
    equal = request(
        target_new="is is", target_true="is", paraphrases=("Ada",), neighborhood=(Neighbor(prompt="Ada", answer="is"),)
    )
    scores = evaluate_counterfact(unigrams, [equal])
    assert (scores.es, scores.ps, scores.ns, scores.score) == (0.0, 0.0, 0.0, 0.0)


def test_records_without_something_to_compare_count_in_no_mean() -> None:
    likelier = Comparison(new=1.0, true=2.0)
    full = RecordScores(case_id=0, rewrite=(likelier,), paraphrases=(likelier,), neighborhood=(likelier,))
    bare = RecordScores(case_id=1, rewrite=(), paraphrases=(), neighborhood=())
    both = CounterfactScores(records=(full, bare))
    assert (both.es, both.ps, both.ns) == (1.0, 1.0, 0.0)
    neither = CounterfactScores(records=(bare,))
    assert (neither.es, neither.ps, neither.ns, neither.score) == (None, None, None, None)


def test_without_a_true_target_neighbours_are_still_compared(tiny_editable: EditableModel) -> None:
    without = request(target_true=None, paraphrases=("Ada",), neighborhood=(Neighbor(prompt="Ada", answer="Quill"),))
    (record,) = evaluate_counterfact(tiny_editable, [without]).records
    assert (record.rewrite, record.paraphrases, len(record.neighborhood)) == ((), (), 1)


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_every_comparison_equals_a_plain_loop_over_single_texts(any_model: EditableModel, batch_size: int) -> None:
    scores = evaluate_counterfact(any_model, REQUESTS, batch_size=batch_size)
    for request, record in zip(REQUESTS, scores.records, strict=True):
        assert record.case_id == request.case_id
        prompts = [request.text, *request.paraphrases] if request.target_true else []
        expected = [(prompt, request.target_true) for prompt in prompts]
        expected += [(neighbor.prompt, neighbor.answer) for neighbor in request.neighborhood]
        found = [*record.rewrite, *record.paraphrases, *record.neighborhood]
        for comparison, (prompt, true) in zip(found, expected, strict=True):
            assert comparison.new == pytest.approx(one_at_a_time(any_model, prompt, request.target_new), abs=1e-5)
            assert comparison.true == pytest.approx(one_at_a_time(any_model, prompt, true), abs=1e-5)


def test_the_same_again_is_the_same_to_the_last_bit(tiny_editable: EditableModel) -> None:
    assert evaluate_counterfact(tiny_editable, REQUESTS) == evaluate_counterfact(tiny_editable, REQUESTS)


def test_logits_are_made_for_target_tokens_alone(tiny_editable: EditableModel) -> None:
    seen: list[Sequence[int]] = []
    handle = tiny_editable.model.lm_head.register_forward_hook(lambda *call: seen.append(tuple(call[-1].shape)))
    continuations = [Continuation(prompt="The capital of Norland is", target=t) for t in ("French", "French is French")]
    negative_log_likelihoods(tiny_editable, continuations)
    handle.remove()
    assert seen == [(1, 1 + 3, len(tiny_editable.tokenizer))]


def test_a_text_that_begins_another_is_not_read_again(tiny_editable: EditableModel) -> None:
    read: list[Sequence[int]] = []
    handle = tiny_editable.model.transformer.wte.register_forward_hook(
        lambda *call: read.append(tuple(call[1][0].shape))
    )
    length = len(tiny_editable.tokenizer("The capital of Norland is")["input_ids"])
    targets = ("French is French", "is", "French", "French is", "French French")
    negative_log_likelihoods(
        tiny_editable, [Continuation(prompt="The capital of Norland is", target=target) for target in targets]
    )
    handle.remove()
    # "is", "French" and "French French" are read within "French is French": all but its last token.
    assert read == [(1, length + 2)]


def test_progress_counts_up_to_all_continuations_and_shared_ones_are_scored_once(tiny_editable: EditableModel) -> None:
    calls: list[tuple[int, int]] = []
    twins = [request(case_id=case_id, paraphrases=("Ada", "Bram")) for case_id in range(5)]
    evaluate_counterfact(tiny_editable, twins, batch_size=2, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(4, 6), (6, 6)]


def test_a_prompt_that_is_longer_than_the_context_is_refused_by_name(tiny_editable: EditableModel) -> None:
    with pytest.raises(
        PromptTooLong, match=r"'The French French .*…' comes to 129 tokens; expected at most the model's 128"
    ):
        negative_log_likelihoods(tiny_editable, [Continuation(prompt="The" + " French" * 120, target="is" + " is" * 7)])


def test_a_prompt_that_the_tokenizer_swallows_is_refused(tiny_editable: EditableModel) -> None:
    backend = deepcopy(tiny_editable.tokenizer.backend_tokenizer)
    backend.normalizer = tokenizers.normalizers.Replace("☃", "")
    model = EditableModel.wrap(tiny_editable.model, PreTrainedTokenizerFast(tokenizer_object=backend))
    with pytest.raises(BadRequest, match="leaves no token in '☃'"):
        negative_log_likelihoods(model, [Continuation(prompt="☃", target="is")])
    with pytest.raises(BadRequest, match="leaves no token in '☃'"):
        complete(model, ["☃"], max_new_tokens=1)


def test_completion_takes_the_likeliest_token_each_time(any_model: EditableModel) -> None:
    prompts = ["Ada Quill plays the", "The"]
    for prompt, continuation in zip(prompts, complete(any_model, prompts, max_new_tokens=6), strict=True):
        tokens = any_model.tokenizer(prompt)["input_ids"]
        for _ in range(6):
            likeliest = any_model.model(torch.tensor([tokens])).logits[0, -1].argmax().item()
            if likeliest == any_model.tokenizer.eos_token_id:
                break
            tokens = [*tokens, likeliest]
        assert any_model.tokenizer.decode(tokens) == prompt + continuation


def test_completion_ends_at_the_end_of_text_and_at_the_context(unigrams: EditableModel) -> None:
    assert complete(unigrams, ["The"], max_new_tokens=3) == [" French French French"]
    unigrams.model.lm_head.weight[unigrams.tokenizer.eos_token_id, 0] = 1.0
    assert complete(unigrams, ["The"], max_new_tokens=3) == [""]
    with pytest.raises(PromptTooLong, match="'The' comes to 129 tokens"):
        complete(unigrams, ["The"], max_new_tokens=128)
