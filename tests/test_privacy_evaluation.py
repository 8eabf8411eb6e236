"""What docs/privacy-evaluation.md names is there."""

import importlib
import re
import shlex
from pathlib import Path

import pytest

from collabsecure_cli.main import main

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "docs" / "privacy-evaluation.md").read_text(encoding="utf-8")
SPANS = re.findall(r"`([^`\n]+)`", TEXT)
COMMANDS = re.findall(r"^\$ (collabsecure .+?)(?:\s+#.*)?$", TEXT, re.MULTILINE) + [
    span for span in SPANS if span.startswith("collabsecure ")
]


@pytest.mark.parametrize("command", sorted(set(COMMANDS)))
def test_every_command_has_the_options_shown(command):
    name, *arguments = shlex.split(command)[1:]
    known = {option for parameter in main.commands[name].params for option in parameter.opts}
    assert {argument for argument in arguments if argument.startswith("--")} <= known


@pytest.mark.parametrize("path", sorted(set(re.findall(r"tests/[\w/]+\.py", TEXT))))
def test_every_test_named_is_there(path):
    assert (ROOT / path).is_file()


@pytest.mark.parametrize("name", sorted(span for span in set(SPANS) if re.fullmatch(r"collabsecure(\.\w+)+", span)))
def test_every_module_named_is_there(name):
    importlib.import_module(name)


@pytest.mark.parametrize(
    "name", sorted({span for span in SPANS if re.fullmatch(r"[A-Z]\w+(Upload|State|Only|Sums|Delta|Model)", span)})
)
def test_every_view_named_is_a_type(name):
    modules = ("collabsecure.attacks.views", "collabsecure.attacks.behaviour")
    assert any(isinstance(getattr(importlib.import_module(module), name, None), type) for module in modules)
