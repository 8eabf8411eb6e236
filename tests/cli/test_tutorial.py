"""Every command of docs/two-organisations.md, as it stands there."""

import re

import pytest
from tutorial import DOCS, play, saying


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tutorial")
    return folder, play(DOCS / "two-organisations.md", folder)


def test_every_party_ends_with_the_same_update(played):
    from collabsecure.deltas import load_delta

    folder, outputs = played
    found = [load_delta(folder / who / "merged" / "delta.safetensors") for who in ("hospital", "university", "sum")]
    for delta in found[1:]:
        assert all((delta.layers[layer] == found[0].layers[layer]).all() for layer in found[0].layers)
    assert "Next: collabsecure apply" in saying(outputs, "collabsecure aggregate")


def test_the_edits_took_and_can_be_taken_out(played):
    _, outputs = played
    assert re.search(r"ES +100\.0", saying(outputs, "evaluate --model edited"))
    assert re.search(r"ES +0\.0", saying(outputs, "evaluate --model ../world"))
    assert "bit for bit" in saying(outputs, "--revert")


def test_all_are_shown_the_same_digest(played):
    _, outputs = played
    made, shown = (saying(outputs, part) for part in ("session new", "session show"))
    digest = re.search(r"((?:[0-9a-f]{4} ){7}[0-9a-f]{4})", made)
    assert digest
    assert digest[1] in shown


def test_every_folder_of_state_is_private(played):
    folder, _ = played
    states = [*folder.rglob("*.state")]
    assert len(states) == 4
    assert {path.stat().st_mode & 0o777 for path in states} == {0o700}
