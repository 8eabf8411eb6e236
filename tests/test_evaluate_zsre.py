"""zsRE's accuracies: hand-computed records, and MEMIT's way of asking, one prompt and one token at a time."""

from dataclasses import replace

import pytest

pytest.importorskip("torch")

import torch

from collabsecure.edits import EditRequest, Neighbor, load_requests
from collabsecure.evaluate import RecordAccuracies, ZsreScores, evaluate_zsre
from collabsecure.layers import EditableModel
from collabsecure.world import load_world


def constant(model: EditableModel, word: str) -> EditableModel:
    """A model that says one token, whatever stands before it."""
    (token,) = model.tokenizer(word)["input_ids"]
    model.model.transformer.ln_f.weight.data.zero_()
    model.model.transformer.ln_f.bias.data.zero_()[0] = 1.0
    model.model.lm_head.weight.data.zero_()[token, 0] = 1.0
    return model


def as_memit_asks(model: EditableModel, prompt: str, target: str) -> list[bool]:
    """experiments/py/eval_utils_zsre.py: prompt and the target's first tokens as text, one pass for each token."""
    tokens = model.tokenizer(f" {target}")["input_ids"]
    right = []
    for i, token in enumerate(tokens):
        text = prompt + model.tokenizer.decode(tokens[:i])
        with torch.no_grad():
            logits = model.model(torch.tensor([model.tokenizer(text)["input_ids"]])).logits
        expected = model.tokenizer(model.tokenizer.decode([token]))["input_ids"][0]
        right.append(logits[0, -1].argmax().item() == expected)
    return right


def test_accuracies_of_hand_computed_records(tiny_editable: EditableModel) -> None:
    # Whatever is asked, the model says " French": 2 tokens of "French is French" are right, and 1 of "is French".
    first = EditRequest(
        prompt="{} is",
        subject="Ada",
        target_new="French is French",
        case_id=0,
        paraphrases=("Bram is", "Mira is"),
        neighborhood=(Neighbor(prompt="Norland?", answer="French"), Neighbor(prompt="Sudmark?", answer="is French")),
    )
    second = EditRequest(
        prompt="{} is",
        subject="Ada",
        target_new="is",
        case_id=1,
        neighborhood=(Neighbor(prompt="Norland?", answer="is French"),),
    )
    scores = evaluate_zsre(constant(tiny_editable, " French"), [first, second])
    assert scores.records == (
        RecordAccuracies(
            case_id=0,
            rewrite=(True, False, True),
            paraphrases=(True, False, True) * 2,
            neighborhood=(True, False, True),
        ),
        RecordAccuracies(case_id=1, rewrite=(False,), paraphrases=(), neighborhood=(False, True)),
    )
    assert scores.ea == pytest.approx((2 / 3 + 0) / 2)
    assert scores.pa == pytest.approx(2 / 3)  # of the one record that has paraphrases
    assert scores.na == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert scores.score == pytest.approx(3 / (3 + 3 / 2 + 12 / 7))


def test_every_token_counts_as_in_memits_loop_over_single_prompts() -> None:
    torch.set_num_threads(1)
    model = EditableModel.load(str(load_world().model), device="cpu")
    # Targets of which the model knows the first word, and answers of which it knows all, some or none.
    requests = [
        replace(
            request,
            target_new=f"{request.target_true}, or rather {request.target_new}",
            target_true=None,
            neighborhood=(*request.neighborhood[:2], Neighbor(prompt="nq question: who is it?", answer=request.text)),
        )
        for request in load_requests(load_world().records)[:60:20]
    ]

    def ask(pairs: list[tuple[str, str]]) -> tuple[bool, ...]:
        right = tuple(right for prompt, target in pairs for right in as_memit_asks(model, prompt, target))
        assert {*right} == {True, False}
        return right

    expected = tuple(
        RecordAccuracies(
            case_id=request.case_id,
            rewrite=ask([(request.text, request.target_new)]),
            paraphrases=ask([(prompt, request.target_new) for prompt in request.paraphrases]),
            neighborhood=ask([(neighbor.prompt, neighbor.answer) for neighbor in request.neighborhood]),
        )
        for request in requests
    )
    for batch_size in (1, 4, 64):
        assert evaluate_zsre(model, requests, batch_size=batch_size).records == expected


def test_a_token_that_is_part_of_a_character_can_be_right(tiny_editable: EditableModel) -> None:
    # " 東" is a blank and three bytes, each a token; the model says the second byte, whatever stands before it.
    tokens = tiny_editable.tokenizer(" 東")["input_ids"]
    model = constant(tiny_editable, " French")
    model.model.lm_head.weight.data[tokens[2], 0] = 2.0
    (record,) = evaluate_zsre(model, [EditRequest(prompt="{} is", subject="Ada", target_new="東", case_id=0)]).records
    assert record.rewrite == (False, False, True, False)
    assert as_memit_asks(model, "Ada is", "東") == [False] * 4


def test_the_score_is_zero_where_one_of_three_is_and_none_where_one_is() -> None:
    right = RecordAccuracies(case_id=0, rewrite=(True,), paraphrases=(False,), neighborhood=(True,))
    assert ZsreScores(records=(right,)).score == 0.0
    bare = replace(right, paraphrases=())
    assert (ZsreScores(records=(bare,)).pa, ZsreScores(records=(bare,)).score) == (None, None)
