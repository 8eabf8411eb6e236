"""Every command of docs/two-organisations.md, as it stands there."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "two-organisations.md"
PROMPT = re.compile(r"^(\w*)\$ ", re.M)


def commands():
    """(who, command) in order; a command may go over several lines, as a here-document does."""
    text = "".join(re.findall(r"```console\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S))
    parts = PROMPT.split(text)[1:]
    return [(who, command.rstrip("\n")) for who, command in zip(parts[::2], parts[1::2], strict=True)]


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    """All commands run by one shell, so that `&` and `wait` mean what they do on the page; what each has printed."""
    folder = tmp_path_factory.mktemp("tutorial")
    lines = ["set -eu"]
    for number, (who, command) in enumerate(commands()):
        said = folder / f"{number}.out"
        background = command.endswith(" &")
        body = command.removesuffix(" &")
        if body == "wait":
            lines.append('for pid in $pids; do wait "$pid"; done')
        elif background:
            lines += [f"(cd {folder / who}", body, f") > {said} 2>&1 &", 'pids="${pids-} $!"']
        else:
            lines += [f"(cd {folder / who}", body, f") > {said} 2>&1"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    (folder / "play.sh").write_text("\n".join(lines) + "\n", encoding="utf-8")
    try:
        run = subprocess.run(["bash", "play.sh"], cwd=folder, env=environment, timeout=300, check=False)
    finally:
        subprocess.run(["pkill", "-f", str(folder)], check=False)
    said = {command: folder / f"{number}.out" for number, (_, command) in enumerate(commands())}
    outputs = {command: path.read_text() for command, path in said.items() if path.exists()}
    assert run.returncode == 0, list(outputs.items())[-1]
    return folder, outputs


def saying(outputs, part):
    return next(text for command, text in outputs.items() if part in command)


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
