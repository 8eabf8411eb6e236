"""What a session leaves behind: all of it or nothing, with the honest sentence, and nobody's words become markup."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from light_session import make_session

from collabsecure.deltas import load_delta
from collabsecure.errors import BadFile
from collabsecure.leak_meter import LeakMeter
from collabsecure.links import delta_digest
from collabsecure_cli.folder import StateFolder
from collabsecure_cli.promises import HONEST
from collabsecure_cli.report import Report, norms, refuse_foreign, write_merged
from collabsecure_cli.results import Results

LIGHT = make_session(num_clients=3)
DELTAS = {layer: np.full((5, 12), float(layer)) for layer in (1, 2)}


@pytest.fixture
def results(tmp_path):
    (tmp_path / "results").mkdir()
    found = Results(LIGHT.session, LIGHT.agreement, StateFolder(tmp_path / "results"))
    found.keep(0, {1: DELTAS[1]}, (1, 2, 3))
    found.keep(1, {2: DELTAS[2]}, (1, 3))
    return found


def report(results, **changes):
    agreement = replace(LIGHT.agreement, **changes)
    return Report(
        session=LIGHT.session,
        agreement=agreement,
        party="sum-server",
        survivors=results.survivors,
        norms=norms(results),
        digests=results.digests,
        figures={"bytes_sent": 5, "seconds": 1.5},
    )


def test_merged_folder_holds_the_update_and_both_reports(results, tmp_path):
    write_merged(tmp_path / "merged", results, report(results), force=False)
    assert sorted(file.name for file in (tmp_path / "merged").iterdir()) == [
        "delta.safetensors",
        "report.json",
        "report.md",
    ]
    delta = load_delta(tmp_path / "merged" / "delta.safetensors")
    for layer, values in DELTAS.items():
        np.testing.assert_array_equal(delta.layers[layer], values)
    assert delta.provenance.session == LIGHT.session.transcript.hex()
    assert delta.provenance.survivors == {1: (1, 2, 3), 2: (1, 3)}
    found = json.loads((tmp_path / "merged" / "report.json").read_text())
    assert found["session"] == LIGHT.session.transcript.hex()
    assert found["layers"]["2"]["survivors"] == ["client-1", "client-3"]
    assert found["layers"]["2"]["delta_norm"] == pytest.approx(2 * 60**0.5)
    assert found["layers"]["1"]["delta_digest"] == delta_digest(1, DELTAS[1]).hex()
    assert delta_digest(2, DELTAS[2]).hex() in (tmp_path / "merged" / "report.md").read_text()
    assert found["figures"] == {"bytes_sent": 5, "seconds": 1.5}


def test_report_for_people_names_who_is_missing_and_says_what_is_not_hidden(results):
    text = report(results).to_markdown()
    assert "| 2 | 2 of 3 | client-2 | 15.49 |" in text
    assert " ".join(HONEST.split()) in text
    assert "- bytes sent: 5" in text
    assert "revision" not in text
    assert "revision main" in report(results, revision="main").to_markdown()


def test_reports_say_how_much_so_many_edits_give_away(results):
    """The larger sum is over three clients, each with as many edits as it may have, in a layer of 5 × 12."""
    found = report(results)
    assert found.leak == LeakMeter(total_edits=3 * LIGHT.agreement.max_edits, d_model=5, d_in=12)
    assert found.to_json()["leak"] == found.leak.to_json()
    assert all(f"- {line}" in found.to_markdown() for line in found.leak.lines())


def test_names_cannot_add_columns_to_the_table(results):
    text = report(results, client_names=("a", "b | c", "d")).to_markdown()
    (row,) = [line for line in text.splitlines() if line.startswith("| 2 ")]
    assert row.replace("\\|", "").count("|") == 5


@pytest.mark.parametrize("number", range(8))
def test_folder_is_complete_or_absent_whatever_write_fails(results, tmp_path, monkeypatch, number):
    count, write_text, rename = 0, Path.write_text, Path.replace

    def once_in_a_while(whole):
        def work(*arguments, **options):
            nonlocal count
            count += 1
            if count == number + 1:
                raise OSError(28, "No space left on device")
            return whole(*arguments, **options)

        return work

    failed = False
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", once_in_a_while(write_text))
        patch.setattr(Path, "replace", once_in_a_while(rename))
        try:
            write_merged(tmp_path / "merged", results, report(results), force=False)
        except BadFile as error:
            failed = "no space left" in str(error)
    assert failed == (number < count)
    assert failed != (tmp_path / "merged").exists()
    assert not list(tmp_path.glob(".*"))


def test_result_of_this_session_is_known_again_and_anything_else_is_refused(results, tmp_path):
    out = tmp_path / "merged"
    assert not refuse_foreign(out, LIGHT.session, force=False)
    write_merged(out, results, report(results), force=False)
    assert refuse_foreign(out, LIGHT.session, force=False)
    assert refuse_foreign(out, LIGHT.session, force=True)
    other = make_session(num_clients=3, seed=8).session
    with pytest.raises(BadFile, match="something there already"):
        refuse_foreign(out, other, force=False)
    assert not refuse_foreign(out, other, force=True)


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b"\xff", b"[" * 100_000, b'{"session": 5}', None])
def test_folder_of_somebody_else_is_never_taken_for_a_result(tmp_path, content):
    out = tmp_path / "merged"
    out.mkdir()
    if content is not None:
        (out / "report.json").write_bytes(content)
    (out / "thesis.tex").write_text("irreplaceable")
    for force in (False, True):
        try:
            refuse_foreign(out, LIGHT.session, force=force)
        except BadFile:
            continue
    with pytest.raises(BadFile):
        refuse_foreign(out, LIGHT.session, force=False)
    assert (out / "thesis.tex").read_text() == "irreplaceable"
