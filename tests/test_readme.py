"""What the README shows is what happens."""

import re
import shlex
from pathlib import Path

import click
import pytest

from collabsecure_cli.main import main

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^\$ (.+?)(?:\s+#.*)?$", "\n".join(re.findall(r"```console\n(.*?)```", README, re.DOTALL)), re.M)


def test_the_python_session_prints_what_it_says(capsys):
    (block,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    (expected,) = re.findall(r"print\(.*?\)\s+# (\[.*?\])", block)
    exec(compile(block, "README.md", "exec"), {})
    assert capsys.readouterr().out.strip() == expected


@pytest.mark.parametrize("command", [command for command in COMMANDS if command.startswith("collabsecure ")])
def test_every_command_and_option_shown_exists(command):
    found, arguments = main, shlex.split(command)[1:]
    while isinstance(found, click.Group):
        found = found.commands[arguments.pop(0)]
    known = {option for parameter in found.params for option in parameter.opts} | {"--help"}
    assert {argument for argument in arguments if argument.startswith("--")} <= known


@pytest.mark.parametrize("command", [command for command in COMMANDS if command.startswith("make ")])
def test_every_make_target_shown_exists(command):
    assert re.search(rf"^{command.split()[1]}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\(([^)]+)\)", README))))
def test_every_link_leads_to_a_file(link):
    assert (ROOT / link).exists()
