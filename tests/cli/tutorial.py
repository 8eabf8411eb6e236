"""The commands of a page, run as they stand there: `who$ command` in that party's folder, in order."""

import fcntl
import os
import re
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"
_PROMPT = re.compile(r"^(\w*)\$ ", re.M)
_SECONDS = 300


def commands(page):
    """(who, command) in order; a command may go over several lines, as a here-document does."""
    text = "".join(re.findall(r"```console\n(.*?)```", page.read_text(encoding="utf-8"), re.S))
    parts = _PROMPT.split(text)[1:]
    return [(who, command.rstrip("\n")) for who, command in zip(parts[::2], parts[1::2], strict=True)]


def play(page, folder):
    """All commands run by one shell, so that `&` and `wait` mean what they do on the page; what each has printed."""
    lines = ["set -eu"]
    for number, (who, command) in enumerate(commands(page)):
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
    with page.open() as alone:  # the page's port is one, and a test session may have several processes
        fcntl.flock(alone, fcntl.LOCK_EX)
        code = _run(["bash", "play.sh"], folder, environment)
    said = {command: folder / f"{number}.out" for number, (_, command) in enumerate(commands(page))}
    outputs = {command: path.read_text() for command, path in said.items() if path.exists()}
    assert code == 0, list(outputs.items())[-1]
    return outputs


def _run(command, folder, environment):
    """Its exit code; nothing that it started outlives it."""
    shell = subprocess.Popen(command, cwd=folder, env=environment, start_new_session=True)
    try:
        return shell.wait(_SECONDS)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(shell.pid, signal.SIGKILL)  # all are in the shell's group
        shell.wait()


def saying(outputs, part):
    """What the first command with `part` in it has printed."""
    return next(text for command, text in outputs.items() if part in command)
