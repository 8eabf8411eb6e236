import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collabsecure.edits import (
    EditRequest,
    Neighbor,
    RecordForm,
    load_requests,
    load_requests_from_hub,
    split_among_clients,
)
from collabsecure.errors import BadFile, BadRecords, BadRequest, TooFewRequests

MULTI_COUNTERFACT: dict[str, object] = {
    "case_id": 7,
    "pararel_idx": 12,
    "requested_rewrite": {
        "prompt": "The mother tongue of {} is",
        "relation_id": "P1",
        "target_new": {"str": "English", "id": "Q1"},
        "target_true": {"str": "French", "id": "Q2"},
        "subject": "Danelle Derrivaux",
    },
    "paraphrase_prompts": ["It rained. Danelle Derrivaux, a native"],
    "neighborhood_prompts": ["The mother tongue of Émile Zürn is", "Mira Voss spoke"],
    "attribute_prompts": ["Ada Quill spoke"],
    "generation_prompts": ["Danelle Derrivaux was born in"],
}
EASYEDIT: dict[str, object] = {
    "case_id": 2,
    "prompt": "Tova Yarrow, the",
    "target_new": "cello",
    "subject": "Tova Yarrow",
    "ground_truth": "oboe",
    "rephrase_prompt": "When Tova Yarrow plays, it is the",
    "locality_prompt": "Bram Stone plays the",
    "locality_ground_truth": "oboe",
}
ZSRE: dict[str, object] = {
    "subject": "Umbrafil",
    "src": "Which goods leave the works of Umbrafil?",
    "pred": "lantern",
    "rephrase": "What does Umbrafil sell?",
    "alt": "kettles",
    "answers": ["lanterns", "lantern"],
    "loc": "nq question: who built the lighthouse",
    "loc_ans": "Mira Voss",
}
PLAIN: dict[str, object] = {"prompt": "The capital of {} is", "subject": "Norland", "target_new": "Lindau"}


def written(path: Path, *records: object) -> Path:
    path.write_text(json.dumps(records))
    return path


def changed(record: dict[str, object], **fields: object) -> dict[str, object]:
    return {**record, **fields}


def problems(path: Path) -> list[tuple[int, str, str]]:
    with pytest.raises(BadRecords) as error:
        load_requests(path)
    assert all(str(problem) in str(error.value) for problem in error.value.problems)
    assert {problem.source for problem in error.value.problems} == {str(path)}
    return [(problem.index, problem.field, problem.reason) for problem in error.value.problems]


def test_a_multi_counterfact_record_becomes_a_request_whose_neighbours_keep_the_true_target(tmp_path: Path) -> None:
    assert load_requests(written(tmp_path / "a.json", MULTI_COUNTERFACT)) == [
        EditRequest(
            prompt="The mother tongue of {} is",
            subject="Danelle Derrivaux",
            target_new="English",
            target_true="French",
            relation="P1",
            case_id=7,
            paraphrases=("It rained. Danelle Derrivaux, a native",),
            neighborhood=(
                Neighbor(prompt="The mother tongue of Émile Zürn is", answer="French"),
                Neighbor(prompt="Mira Voss spoke", answer="French"),
            ),
            generation_prompts=("Danelle Derrivaux was born in",),
        )
    ]


def test_an_easyedit_record_gets_a_place_where_it_names_its_subject(tmp_path: Path) -> None:
    assert load_requests(written(tmp_path / "a.json", EASYEDIT)) == [
        EditRequest(
            prompt="{}, the",
            subject="Tova Yarrow",
            target_new="cello",
            target_true="oboe",
            case_id=2,
            paraphrases=("When Tova Yarrow plays, it is the",),
            neighborhood=(Neighbor(prompt="Bram Stone plays the", answer="oboe"),),
        )
    ]


def test_a_zsre_record_edits_in_its_first_answer_and_asks_its_locality_question_plainly(tmp_path: Path) -> None:
    assert load_requests(written(tmp_path / "a.json", ZSRE)) == [
        EditRequest(
            prompt="Which goods leave the works of {}?",
            subject="Umbrafil",
            target_new="lanterns",
            case_id=0,
            paraphrases=("What does Umbrafil sell?",),
            neighborhood=(Neighbor(prompt="nq question: who built the lighthouse?", answer="Mira Voss"),),
        )
    ]


def test_a_plain_record_may_have_every_field_of_a_request(tmp_path: Path) -> None:
    record = changed(
        PLAIN,
        case_id="n-1",
        target_true="Ostrava",
        relation="capital",
        paraphrases=["Norland's capital is"],
        neighborhood=[{"prompt": "The capital of Sudmark is", "answer": "Weil"}],
        generation_prompts=["Norland is"],
    )
    (request,) = load_requests(written(tmp_path / "a.json", record))
    assert request.neighborhood == (Neighbor(prompt="The capital of Sudmark is", answer="Weil"),)
    assert (request.case_id, request.target_true, request.relation) == ("n-1", "Ostrava", "capital")


def test_json_lines_and_csv_read_the_same(tmp_path: Path) -> None:
    lines, table = tmp_path / "edits", tmp_path / "table"
    second = changed(PLAIN, subject='Süd, "mark"', target_true="Weil")
    lines.write_text("\ufeff" + json.dumps(PLAIN) + "\n\n" + json.dumps(second, ensure_ascii=False) + "\r\n")
    table.write_text(
        "prompt,subject,target_new,target_true\r\nThe capital of {} is,Norland, Lindau,\r\n,,,\r\n"
        'The capital of {} is,"Süd, ""mark""",Lindau,Weil\r\n'
    )
    assert load_requests(lines) == load_requests(table)
    assert [request.case_id for request in load_requests(lines)] == [0, 1]


@pytest.mark.parametrize(
    ("subject", "prompt", "marked"),
    [
        ("Ur", "During the reign of Ur", "During the reign of {}"),
        ("Beatle", "Which Beatles song", "Which {}s song"),
        ("東京", "東京の首都は", "{}の首都は"),
        ("A.I. (film)", "Who directed A.I. (film)?", "Who directed {}?"),
        ("Ann", "Is {} Ann's sister? Ann", "Is {} Ann's sister? Ann"),
    ],
)
def test_the_subject_is_found_as_a_whole_word_where_there_is_one(
    tmp_path: Path, subject: str, prompt: str, marked: str
) -> None:
    (request,) = load_requests(written(tmp_path / "a.json", changed(EASYEDIT, subject=subject, prompt=prompt)))
    assert request.prompt == marked


def test_a_prompt_that_names_its_subject_never_or_twice_is_refused(tmp_path: Path) -> None:
    path = written(
        tmp_path / "a.json",
        EASYEDIT,
        changed(EASYEDIT, case_id=3, prompt="The piano of"),
        changed(EASYEDIT, case_id=4, prompt="Tova Yarrow and Tova Yarrow's"),
    )
    assert problems(path) == [
        (1, "prompt", "does not name 'Tova Yarrow'; expected its subject once, or one \"{}\" in its place"),
        (2, "prompt", "names the subject 'Tova Yarrow' 2 times; expected its subject once, or one \"{}\" in its place"),
    ]


def test_all_bad_records_are_listed_at_once_with_all_their_faults(tmp_path: Path) -> None:
    rewrite = MULTI_COUNTERFACT["requested_rewrite"]
    assert isinstance(rewrite, dict)
    path = written(
        tmp_path / "a.json",
        changed(MULTI_COUNTERFACT, requested_rewrite=changed(rewrite, prompt="The mother tongue", subject=5)),
        MULTI_COUNTERFACT,
        changed(MULTI_COUNTERFACT, paraphrase_prompts=["fine", ""], neighborhood_prompts="none", case_id=float("nan")),
        changed(MULTI_COUNTERFACT, requested_rewrite=changed(rewrite, target_true=None, target_new="English")),
        [],
        MULTI_COUNTERFACT,
    )
    assert problems(path) == [
        (0, "requested_rewrite.subject", "is a number; expected a text"),
        (0, "requested_rewrite.prompt", 'has no place for the subject; expected exactly one "{}"'),
        (2, "case_id", "is a number; expected a whole number or a text"),
        (2, "neighborhood_prompts", "is a text; expected a list"),
        (2, "paraphrase_prompts[1]", "is empty"),
        (3, "requested_rewrite.target_true.str", "is missing"),
        (3, "requested_rewrite.target_new", "is a text; expected an object"),
        (3, "requested_rewrite.target_new.str", "is missing"),
        (4, "", "is a list; expected an object"),
        (5, "case_id", "7 names record 1 already"),
    ]


@pytest.mark.parametrize(
    ("fields", "field", "reason"),
    [
        ({"prompt": "{} or {}"}, "prompt", 'has 2 places for the subject; expected exactly one "{}"'),
        ({"subject": "{}"}, "subject", 'holds "{}", which only a prompt may'),
        ({"subject": " \n"}, "subject", "is empty"),
        ({"target_new": None}, "target_new", "is missing"),
        ({"target_true": " Lindau"}, "target_new", "is the same as the true target: there is nothing to edit"),
        ({"target_new": "x" * 10_001}, "target_new", "has 10001 characters; expected at most 10000"),
        ({"target_new": "\ud800"}, "target_new", "holds half a character (a lone surrogate)"),
        ({"case_id": True}, "case_id", "is true or false; expected a whole number or a text"),
        ({"case_id": ""}, "case_id", "is empty"),
        ({"paraphrases": [["a"]]}, "paraphrases[0]", "is a list; expected a text"),
        ({"neighborhood": ["a"]}, "neighborhood[0]", "is a text; expected an object with prompt and answer"),
        ({"neighborhood": [{"prompt": "a"}]}, "neighborhood[0].answer", "is missing"),
    ],
)
def test_a_malformed_field_is_refused_with_its_reason(
    tmp_path: Path, fields: dict[str, object], field: str, reason: str
) -> None:
    assert problems(written(tmp_path / "a.json", changed(PLAIN, **fields))) == [(0, field, reason)]


def test_a_mistyped_field_of_a_plain_record_is_refused_not_dropped(tmp_path: Path) -> None:
    ((_, field, reason),) = problems(written(tmp_path / "a.json", changed(PLAIN, paraphrase=["Norland's capital is"])))
    assert field == "paraphrase"
    assert reason.startswith("is no field of this form; its fields are prompt, subject, target_new")


def test_a_locality_prompt_without_its_answer_is_refused(tmp_path: Path) -> None:
    record = {name: value for name, value in ZSRE.items() if name != "loc_ans"}
    path = written(tmp_path / "a.json", record, changed(ZSRE, answers=[], loc=""))
    assert problems(path) == [
        (0, "loc_ans", "is missing"),
        (1, "answers[0]", "is missing"),
        (1, "loc", "is empty"),
    ]


def test_lines_that_cannot_be_read_are_listed_with_their_number(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(f"{json.dumps(PLAIN)}\n\n{{oops\n7\n{'[' * 100_000}\n")
    with pytest.raises(BadRecords, match=r"3 of 4 records cannot be used") as error:
        load_requests(path)
    assert [(problem.index, problem.line) for problem in error.value.problems] == [(1, 3), (2, 4), (3, 5)]
    assert "a.jsonl: record 1 (line 3): is no JSON (Expecting property name" in str(error.value)


def test_a_row_of_csv_that_does_not_fit_the_header_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('prompt,subject,target_new\n{} is,"a\nb",c\n{} is,d\n')
    with pytest.raises(BadRecords) as error:
        load_requests(path)
    assert [str(problem) for problem in error.value.problems] == [
        f"{path}: record 1 (line 4): has 2 cells; the header has 3"
    ]


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "no records"),
        (b"[]", "no records"),
        (b"[1, 2]", "a list that begins with a number"),
        (b"[{}", "no JSON"),
        (b'{"a": 1}', "records with the fields a"),
        (b"{oops", "a first record that is no JSON"),
        (b'{\n"layers": [3]\n}', "one JSON object over several lines"),
        (b"[" * 100_000, "no JSON"),
        (b"[" + b"9" * 5000 + b"]", "no JSON"),
        (b"\xff\xfe", "no UTF-8 at byte 0"),
        (b'prompt,subject,target_new\n"{} is', "no CSV at line 2"),
        (b"prompt,prompt\na,b", "the column 'prompt' twice"),
        (b"name,age\nAda,36", "records with the fields name, age"),
    ],
)
def test_a_file_that_holds_no_records_gets_one_clear_error(tmp_path: Path, content: bytes, found: str) -> None:
    path = tmp_path / "a"
    path.write_bytes(content)
    with pytest.raises(BadFile) as error:
        load_requests(path)
    assert str(error.value).startswith(f"{path}: found {found}")


def test_a_file_that_cannot_be_opened_gets_a_typed_error(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(BadFile, match="expected a file of edit requests"):
            load_requests(path)


def test_a_form_that_is_given_is_not_guessed(tmp_path: Path) -> None:
    with pytest.raises(BadRecords, match=r"requested_rewrite\.prompt is missing"):
        load_requests(written(tmp_path / "a.json", PLAIN), form=RecordForm.MULTI_COUNTERFACT)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text("a {}\n\ud800é", max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["str", "prompt"]), inner),
    max_leaves=5,
)


@given(data=st.data())
def test_any_json_in_the_place_of_any_field_gives_requests_or_a_typed_error(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    record = data.draw(st.sampled_from([MULTI_COUNTERFACT, EASYEDIT, ZSRE, PLAIN]))
    fields = data.draw(st.dictionaries(st.sampled_from([*record, "requested_rewrite"]), json_values, max_size=3))
    path = written(tmp_path_factory.getbasetemp() / "any.json", changed(record, **fields))
    try:
        (request,) = load_requests(path)
    except (BadFile, BadRecords):
        return
    assert request.subject in request.text


def test_a_data_set_reads_like_the_file_it_was_made_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    directory = tmp_path / "set"
    directory.mkdir()
    path = directory / "train.jsonl"
    second = changed(MULTI_COUNTERFACT, case_id=8, paraphrase_prompts=None)
    path.write_text(f"{json.dumps(MULTI_COUNTERFACT)}\n{json.dumps(second)}\n")
    assert load_requests_from_hub(str(directory), split="train") == load_requests(path)
    with pytest.raises(BadFile, match="a data set with the split 'validation'"):
        load_requests_from_hub(str(directory), split="validation")
    with pytest.raises(BadFile, match="expected a data set with the split 'train'"):
        load_requests_from_hub(str(tmp_path / "none"), split="train")


def test_a_request_that_no_editor_could_use_cannot_be_made() -> None:
    with pytest.raises(BadRequest) as error:
        EditRequest(prompt="The capital is ", subject="", target_new=" Lindau", case_id=0, paraphrases=("",))
    assert [fault.field for fault in error.value.faults] == [
        "prompt",
        "subject",
        "target_new",
        "paraphrases[0]",
        "prompt",
    ]


def request(case_id: int) -> EditRequest:
    return EditRequest(prompt="The capital of {} is", subject="Norland", target_new="Lindau", case_id=case_id)


@given(num_requests=st.integers(1, 40), num_clients=st.integers(1, 40))
def test_clients_put_end_to_end_are_the_requests_again_and_differ_by_at_most_one(
    num_requests: int, num_clients: int
) -> None:
    requests = [request(case_id) for case_id in range(num_requests)]
    if num_clients > num_requests:
        with pytest.raises(TooFewRequests):
            split_among_clients(requests, num_clients)
        return
    clients = split_among_clients(requests, num_clients)
    assert [request for client in clients for request in client] == requests
    sizes = [len(client) for client in clients]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] - sizes[-1] <= 1


def test_there_is_no_splitting_among_no_clients() -> None:
    with pytest.raises(TooFewRequests, match="found 1 requests for 0 clients"):
        split_among_clients([request(0)], 0)


def test_reading_requests_imports_no_model_library() -> None:
    code = "import sys, collabsecure.edits; print({'torch', 'transformers', 'datasets'} & sys.modules.keys())"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout == b"set()\n"
