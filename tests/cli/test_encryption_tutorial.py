"""Every command of docs/encryption.md, as it stands there."""

import json
import re

import pytest
from tutorial import DOCS, play, saying

from collabsecure.deltas import load_delta
from collabsecure_protocols import KeyPair

pytest.importorskip("tenseal", reason="encryption is of the extra ckks")
PARTIES = ("hospital", "university", "library", "sum", "auditor")


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encryption")
    return folder, play(DOCS / "encryption.md", folder)


def test_every_party_ends_with_the_same_update(played):
    folder, _ = played
    found = [load_delta(folder / who / "merged" / "delta.safetensors") for who in PARTIES]
    for delta in found[1:]:
        assert all((delta.layers[layer] == found[0].layers[layer]).all() for layer in found[0].layers)
    report = json.loads((folder / "auditor" / "merged" / "report.json").read_text())
    assert (report["written_by"], report["encryption"]) == ("auditor", "bfv")


def test_all_are_shown_who_learns_what_and_the_same_digest(played):
    _, outputs = played
    made, shown = (saying(outputs, part) for part in ("session new", "session show"))
    digest = re.search(r"((?:[0-9a-f]{4} ){7}[0-9a-f]{4})", made)
    assert digest
    assert digest[1] in shown
    assert "no sum: only the update" in shown
    assert re.search(r"bytes per value +16.0", saying(outputs, "keyholder explain"))


def test_the_secret_is_in_the_key_holders_folder_alone(played):
    folder, outputs = played
    keys = list(folder.rglob("encryption-*.key"))
    assert [path.parent for path in keys] == [folder / "auditor" / "auditor.state"]
    assert keys[0].parent.stat().st_mode & 0o777 == 0o700
    assert repr(KeyPair.restore(keys[0].read_bytes())) not in "".join(outputs.values())
    assert "may go" in saying(outputs, "keyholder run")
