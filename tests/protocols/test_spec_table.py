"""secagg.md, code and tests point at each other: every check and promise is cited in the code and names its tests."""

import ast
import functools
import importlib
import re
from pathlib import Path

import attacks_on_sums  # noqa: F401 (enters its scenarios in the list)
import pytest
from attacks import ATTACKS
from test_malicious_peer import BODIES, ENVELOPES

import collabsecure_protocols

PACKAGE = Path(collabsecure_protocols.__file__).parent
SPEC = (PACKAGE.parent / "secagg.md").read_text(encoding="utf-8")
TABLES = [[cell.strip() for cell in line.split("|")[1:-1]] for line in SPEC.splitlines() if line.startswith("|")]
ROWS = {row[0]: row for row in TABLES}
CHECKS = sorted(number for number in ROWS if re.fullmatch(r"V\d\d", number))
PROMISES = sorted(re.findall(r"^- \*\*(P\d+) ", SPEC, re.MULTILINE), key=lambda name: int(name[1:]))
TEST = re.compile(r"`(test_\w+)::(test_\w+)`")


def test_promises_and_checks_are_numbered_without_gaps():
    assert [f"P{number}" for number in range(1, len(PROMISES) + 1)] == PROMISES
    assert len(CHECKS) == len(set(re.findall(r"\bV\d\d\b", SPEC)))  # none is spoken of that has no row


@pytest.mark.parametrize("number", [*CHECKS, *PROMISES])
def test_number_is_cited_in_the_code(number):
    places = [path.name for path in PACKAGE.glob("*.py") if re.search(rf"\b{number}\b", path.read_text("utf-8"))]
    assert places, f"nothing in the package cites {number}"


@pytest.mark.parametrize("number", [*CHECKS, *PROMISES])
def test_number_names_tests_that_exist(number):
    named = TEST.findall(ROWS[number][-1])
    assert named, f"{number} names no test"
    for module, function in named:
        tree = ast.parse((Path(__file__).parent / f"{module}.py").read_text(encoding="utf-8"))
        names = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        names |= {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
        assert function in names, f"{number} names {module}::{function}, which does not exist"


@pytest.mark.parametrize("number", CHECKS)
def test_code_that_a_check_names_exists(number):
    """The fifth column: `module`, `module.function` or `module.Class.method`."""
    named = re.findall(r"`([\w.]+)`", ROWS[number][4])
    assert named
    for name in named:
        module, *path = name.split(".")
        functools.reduce(getattr, path, importlib.import_module(f"collabsecure_protocols.{module}"))


def test_attacks_break_every_check_that_a_message_can_break():
    """V14 is noted and not refused, V28 ends the session: both have tests of their own."""
    broken = {attack.check for attack in ATTACKS}
    broken |= {check for _, _, check in BODIES.values()} | {check for _, check in ENVELOPES.values()}
    assert broken >= {number for number in CHECKS if number < "V30"} - {"V08", "V14", "V28"}
