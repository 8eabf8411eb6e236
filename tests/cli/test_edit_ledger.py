"""No edit goes twice into one layer's sum, and a damaged ledger lets nothing through."""

import json
import os
from dataclasses import replace

import pytest
from light_session import aggregating, make_session, take_part

from collabsecure.edits import EditRequest
from collabsecure.errors import BadFile
from collabsecure_cli.folder import StateFolder
from collabsecure_cli.ledger import EditLedger, SummedBefore, edit_digest
from collabsecure_protocols import Ledger

ONE, TWO, THREE = (bytes([number]) * 32 for number in (1, 2, 3))
EDITS = [bytes([number]) * 32 for number in range(20)]


@pytest.fixture
def folder(tmp_path):
    return StateFolder(tmp_path)


def reread(folder):
    return EditLedger(folder)


def test_edit_is_known_by_prompt_subject_and_target_alone():
    edit = EditRequest(case_id="1", prompt="{} is in", subject="Rome", target_new="Italy")
    assert edit_digest(edit) == edit_digest(replace(edit))
    others = [replace(edit, prompt="{} lies in"), replace(edit, subject="Pisa"), replace(edit, target_new="France")]
    shifted = EditRequest(case_id="2", prompt='{} is in", "Rome', subject="Rome", target_new="Italy")
    assert len({edit_digest(found) for found in (edit, *others, shifted)}) == 5


def test_edits_of_an_opened_layer_are_refused_to_every_other_session(folder):
    EditLedger(folder).remember(Ledger(), ONE, (1, 2), EDITS[:12])
    ledger = reread(folder)
    ledger.refuse_repeats(ONE, EDITS[:12], (1, 2))
    ledger.refuse_repeats(TWO, EDITS[12:], (1, 2))
    ledger.refuse_repeats(TWO, EDITS[:12], (3,))
    ledger.refuse_repeats(TWO, [], (1,))
    with pytest.raises(SummedBefore, match=r"1 of 9 edits \(records 1\) .* in layers 2; expected new ones"):
        ledger.refuse_repeats(TWO, EDITS[11:], (2, 3))
    with pytest.raises(SummedBefore, match=r"\(records 1, 2, .*, 9, 10, …\) that session 0101010101010101"):
        ledger.refuse_repeats(TWO, EDITS, (1,))


def test_edits_of_a_one_shot_session_may_go_into_other_layers_of_another(tmp_path):
    """Both have one sum of the same name, by which the protocol's ledger knows it."""
    for layer in (1, 2):
        light = make_session(layers=(layer,), flow="one-shot", seed=layer)
        with aggregating(light, tmp_path / f"aggregator-{layer}") as server:
            outcomes = take_part(light, server.url, tmp_path / "clients")
        assert {outcome.survivors[layer] for outcome in outcomes.values()} == {(1, 2, 3, 4)}
        opened = json.loads((tmp_path / "clients" / "client-1" / "ledger.json").read_text())["sessions"]
        assert [session["layers"] for session in opened.values()] == [[1], [2]][:layer]


def test_ledger_says_nothing_of_the_edits(folder):
    ledger = EditLedger(folder)
    ledger.remember(Ledger(), ONE, (1,), EDITS)
    with pytest.raises(SummedBefore) as refused:
        ledger.refuse_repeats(TWO, EDITS, (1,))
    assert EDITS[3].hex() not in str(refused.value)


def test_what_was_remembered_is_never_forgotten(folder):
    ledger = EditLedger(folder)
    first = Ledger().beginning(ONE).adding(b"what", "layer 1")
    ledger.remember(first, ONE, (1,), EDITS[:1])
    ledger.remember(Ledger().beginning(TWO), TWO, (), EDITS[1:2])
    ledger.remember(Ledger(), THREE, (2,), EDITS[2:3])
    ledger.remember(Ledger(), ONE, (), EDITS[:1])
    found = reread(folder)
    assert found.protocol.begun == {ONE, TWO}
    assert found.protocol.opened == {(b"what", "layer 1")}
    for edit, layer in ((EDITS[0], 1), (EDITS[2], 2)):
        with pytest.raises(SummedBefore):
            found.refuse_repeats(b"new" * 10, [edit], [layer])
    found.refuse_repeats(b"new" * 10, [EDITS[1]], [1, 2])  # its session has opened nothing


def test_what_is_known_already_costs_no_write(folder, monkeypatch):
    ledger = EditLedger(folder)
    ledger.remember(Ledger().beginning(ONE), ONE, (1,), EDITS)

    def write(*_):
        raise AssertionError

    monkeypatch.setattr(StateFolder, "write", write)
    ledger.remember(Ledger().beginning(ONE), ONE, (1,), EDITS)
    ledger.remember(Ledger(), ONE, (), EDITS)


def test_full_disk_is_an_error_and_the_memory_stays_what_the_disk_has(folder, monkeypatch):
    ledger = EditLedger(folder)
    ledger.remember(Ledger().beginning(ONE), ONE, (), EDITS)

    def full(_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(BadFile):
        patch.setattr(os, "fsync", full)
        ledger.remember(Ledger().beginning(TWO), TWO, (1,), EDITS)
    assert ledger.protocol == reread(folder).protocol == Ledger().beginning(ONE)
    ledger.remember(Ledger().beginning(TWO), TWO, (1,), EDITS)
    assert reread(folder).protocol.begun == {ONE, TWO}


@pytest.mark.parametrize(
    "change",
    [
        lambda _: b"",
        lambda _: b"{}",
        lambda _: b"[" * 100_000,
        lambda _: b"[]",
        lambda _: b"\xff",
        lambda written: written[:-1],
        lambda written: written.replace(b"ledger 1", b"ledger 2"),
        lambda written: written.replace(b'"protocol": "', b'"protocol": "00'),
        lambda written: written.replace(b'"protocol": "', b'"protocol": "zz'),
        lambda written: json.dumps(json.loads(written) | {"sessions": []}).encode(),
        lambda written: json.dumps(json.loads(written) | {"sessions": {"zz": {}}}).encode(),
        lambda written: json.dumps(json.loads(written) | {"sessions": {"00": {"layers": 1, "edits": []}}}).encode(),
        lambda written: json.dumps(json.loads(written) | {"format": ["collabsecure ledger 1"]}).encode(),
    ],
)
def test_damaged_ledger_is_named_and_nothing_may_be_contributed(folder, change):
    EditLedger(folder).remember(Ledger().beginning(ONE), ONE, (1,), EDITS)
    path = folder.path / "ledger.json"
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(BadFile, match=r"ledger.json: found a damaged ledger; .* restore it from a backup"):
        EditLedger(folder)
