"""docs/embedding.md is right: its programs and commands, run as they stand, give what it says."""

import re

import click
import pytest
from tutorial import DOCS, commands, play, saying

from collabsecure_cli.main import main

PAGE = DOCS / "embedding.md"
TEXT = PAGE.read_text(encoding="utf-8")
PROGRAMS = dict(re.findall(r"`(\w+\.py)`:\n\n```python\n(.*?)```", TEXT, re.S))


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("embedding")
    for name, program in PROGRAMS.items():
        (folder / name).write_text(program, encoding="utf-8")
    return play(PAGE, folder)


def test_the_sums_come_out_as_the_page_says(played: dict[str, str]) -> None:
    said = saying(played, "total.py")
    (last,) = re.findall(r"It ends with `(.*?)`", TEXT)
    assert said.splitlines()[-1] == last
    assert last.replace("round 2", "round 1") in said.splitlines()


def test_every_python_block_is_one_of_the_programs() -> None:
    assert len(PROGRAMS) == TEXT.count("```python")
    assert set(PROGRAMS) == {
        name for _, command in commands(PAGE) for name in re.findall(r"\.\./(\w+\.py)", command)
    } | {"folder_engine.py"}


def test_the_adapter_is_sixty_lines_at_most() -> None:
    assert len(PROGRAMS["folder_engine.py"].splitlines()) <= 60


def test_every_option_and_command_named_exists() -> None:
    group = main
    assert isinstance(group, click.Group)
    for command in re.findall(r"`collabsecure ([a-z-]+[^`]*)`", TEXT):
        name, *arguments = command.split()
        known = {option for parameter in group.commands[name].params for option in parameter.opts}
        assert {argument for argument in arguments if argument.startswith("--")} <= known


@pytest.mark.parametrize("link", sorted({link for link in re.findall(r"\]\(([^)#]+)\)", TEXT) if "://" not in link}))
def test_every_link_leads_to_a_file(link: str) -> None:
    assert (PAGE.parent / link).exists()
