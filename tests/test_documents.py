"""What the pages on measurements name is there: commands and their options, tests, modules, views."""

import importlib
import re
import shlex
from pathlib import Path

import click
import pytest

from collabsecure_cli.main import main

ROOT = Path(__file__).parent.parent
TEXT = "\n".join(
    (ROOT / "docs" / page).read_text(encoding="utf-8") for page in ("privacy-evaluation.md", "reproduction.md")
)
SPANS = sorted(set(re.findall(r"`([^`\n]+)`", TEXT)))
COMMANDS = {
    *re.findall(r"^\$ (collabsecure .+?)(?:\s+#.*)?$", TEXT, re.MULTILINE),
    *(span for span in SPANS if span.startswith("collabsecure ")),
}


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_and_option_exists(command):
    found, arguments = main, shlex.split(command)[1:]
    while isinstance(found, click.Group) and arguments:
        found = found.commands[arguments.pop(0)]
    known = {option for parameter in found.params for option in parameter.opts}
    assert {argument for argument in arguments if argument.startswith("--")} <= known


@pytest.mark.parametrize("path", sorted(set(re.findall(r"tests/[\w/]+\.py", TEXT))))
def test_every_test_is_there(path):
    assert (ROOT / path).is_file()


@pytest.mark.parametrize("name", [span for span in SPANS if re.fullmatch(r"collabsecure(\.\w+)+", span)])
def test_every_module_is_there(name):
    importlib.import_module(name)


@pytest.mark.parametrize(
    "name", [span for span in SPANS if re.fullmatch(r"[A-Z]\w+(Upload|State|Only|Sums|Delta|Model)", span)]
)
def test_every_view_is_a_type(name):
    modules = ("collabsecure.attacks.views", "collabsecure.attacks.behaviour")
    assert any(isinstance(getattr(importlib.import_module(module), name, None), type) for module in modules)
