"""`collabsecure second-moment` as users meet it: files, one line for every failure, and going on after Ctrl-C."""

import errno
import json
import os
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from collabsecure import second_moment as computation
from collabsecure.statistics import SecondMoment, find_second_moments
from collabsecure_cli import second_moment as command
from collabsecure_cli.main import main
from collabsecure_cli.options import Layers, layers_in_short

MODULES = ("transformer.h.0.mlp.c_proj", "transformer.h.1.mlp.c_proj")
LINES = ["The capital of Norland is Ostrava", "Émile Zürn was born in Köln, 1987.", "Ada Quill plays the piano"] * 9


@pytest.fixture
def model_folder(tiny_editable, tmp_path) -> Path:
    tiny_editable.save(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def collabsecure(model_folder, tmp_path) -> Callable[..., Result]:
    (tmp_path / "texts.txt").write_text("\n".join(LINES) + "\n\n", encoding="utf-8")

    def run(*arguments: str, source: tuple[str, ...] = ("--texts", str(tmp_path / "texts.txt"))) -> Result:
        options = ["--model", str(model_folder), "--layers", "0-1", "--device", "cpu", "--out", str(tmp_path / "stats")]
        return CliRunner().invoke(main, ["second-moment", *options, *source, *arguments])

    return run


def assert_one_line(result: Result, *parts: str) -> None:
    """Failed as documented: exit code 1, and the last thing said is one line that starts with Error."""
    assert result.exit_code == 1, result.output
    assert isinstance(result.exception, SystemExit)
    *_, line = result.stderr.splitlines()
    assert line.startswith("Error: ")
    assert all(part in line for part in parts), line
    assert "Traceback" not in result.output


def test_one_file_per_layer_is_written_under_memits_names(collabsecure, tmp_path):
    result = collabsecure("--samples", "20")
    assert result.exit_code == 0, result.output
    paths = find_second_moments(tmp_path / "stats", MODULES)
    assert [path.name for path in paths] == [f"{module}_float64_mom2_20.npz" for module in MODULES]
    assert result.stdout.split() == [str(path) for path in paths]
    assert SecondMoment.load_npz(paths[0]).sample_size == 20
    assert "20/20" in result.stderr
    assert sorted(entry.name for entry in (tmp_path / "stats").iterdir()) == [path.name for path in paths]


def test_fewer_texts_than_asked_for_are_said_and_named(collabsecure, tmp_path):
    result = collabsecure()
    assert result.exit_code == 0
    assert "only 27 texts, not 100000" in result.stderr
    assert find_second_moments(tmp_path / "stats", MODULES)[0].name.endswith("_mom2_27.npz")


def test_json_lines_and_a_local_data_set_give_the_texts_of_their_field(collabsecure, tmp_path):
    rows = [json.dumps({"n": number, "body": line}) for number, line in enumerate(LINES)]
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.jsonl").write_text("\n".join(rows), encoding="utf-8")
    totals = []
    for source in (("--texts", str(tmp_path / "data" / "train.jsonl")), ("--dataset", str(tmp_path / "data"))):
        result = collabsecure("--field", "body", "--force", source=source)
        assert result.exit_code == 0, result.output
        totals.append(SecondMoment.load_npz(find_second_moments(tmp_path / "stats", MODULES)[1]))
    plain, shuffled = totals
    assert plain.count == shuffled.count
    assert abs(plain.total - shuffled.total).max() < 1e-5 * plain.total.max()


def test_interrupted_run_says_so_keeps_its_checkpoint_and_goes_on(collabsecure, tmp_path, monkeypatch):
    assert collabsecure("--samples", "24").exit_code == 0
    whole = SecondMoment.load_npz(find_second_moments(tmp_path / "stats", MODULES)[0])
    monkeypatch.setattr(computation, "_TEXTS_AT_ONCE", 8)
    monkeypatch.setattr(computation, "_CHECKPOINT_SHARE", 0)
    eager = partial(computation.compute_second_moments, checkpoint_seconds=0.0)
    monkeypatch.setattr(computation, "compute_second_moments", eager)

    def until_interrupted(path: Path, *, field: str) -> Iterator[str]:
        yield from LINES[:18]
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(command, "read_texts", until_interrupted)
        result = collabsecure("--samples", "24", "--force")
    assert result.exit_code == 130
    checkpoint = tmp_path / "stats" / "checkpoint_layers_0-1.safetensors"
    assert result.stderr.splitlines()[-1] == f"Interrupted. {checkpoint} is kept; the same command goes on from it."
    assert "Traceback" not in result.output

    result = collabsecure("--samples", "24", "--force")
    assert result.exit_code == 0
    assert f"Going on after 16 texts, from {checkpoint}" in result.stderr
    assert not checkpoint.exists()
    resumed = SecondMoment.load_npz(find_second_moments(tmp_path / "stats", MODULES)[0])
    assert abs(resumed.total - whole.total).max() < 1e-5 * whole.total.max()


def test_interruption_before_any_checkpoint_says_that_nothing_is_kept(collabsecure, monkeypatch):
    def interrupted(path: Path, *, field: str) -> Iterator[str]:
        raise KeyboardInterrupt
        yield ""

    monkeypatch.setattr(command, "read_texts", interrupted)
    result = collabsecure()
    assert result.exit_code == 130
    assert result.stderr.splitlines()[-1] == "Interrupted. Nothing is kept."


def test_files_that_are_there_are_refused_before_any_work_unless_forced(collabsecure, tmp_path, monkeypatch):
    (tmp_path / "stats").mkdir()
    precious = tmp_path / "stats" / f"{MODULES[1]}_float64_mom2_5.npz"
    precious.write_text("precious")
    with monkeypatch.context() as patch:
        patch.setattr(computation, "compute_second_moments", lambda *_, **__: pytest.fail("worked in vain"))
        assert_one_line(collabsecure("--samples", "5"), precious.name, "something there already", "--force")
    assert precious.read_text() == "precious"
    assert collabsecure("--samples", "5", "--force").exit_code == 0
    assert SecondMoment.load_npz(precious).sample_size == 5


def test_full_disk_is_one_line_and_leaves_no_half_file(collabsecure, tmp_path, monkeypatch):
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert_one_line(collabsecure(), "no space left on device")
    assert not list((tmp_path / "stats").iterdir())


def test_folder_that_cannot_be_made_is_one_line(collabsecure, tmp_path):
    (tmp_path / "file").touch()
    assert_one_line(collabsecure("--out", str(tmp_path / "file" / "stats")), "not a directory")


def test_bad_sources_are_one_line_each(collabsecure, tmp_path):
    (tmp_path / "latin.txt").write_bytes("Köln".encode("latin-1"))
    (tmp_path / "broken.jsonl").write_text('{"text": "a"}\n{"text": \n')
    (tmp_path / "other.jsonl").write_text('{"text": "a"}\n{"body": "b"}\n')
    (tmp_path / "empty.txt").touch()
    for name, parts in {
        "latin.txt": ["bytes that are no text", "UTF-8"],
        "broken.jsonl": ["no JSON in line 2"],
        "other.jsonl": ["line 2 without text in 'text'"],
        "empty.txt": ["without a single token"],
    }.items():
        assert_one_line(collabsecure(source=("--texts", str(tmp_path / name))), *parts)


def test_bad_data_sets_are_one_line_each(collabsecure, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.jsonl").write_text('{"text": "a"}\n')
    folder = ("--dataset", str(tmp_path / "data"))
    assert_one_line(collabsecure("--split", "test", source=folder), "split test", "train")
    assert_one_line(collabsecure("--field", "body", source=folder), "found fields text", "'body'")
    assert_one_line(collabsecure(source=("--dataset", str(tmp_path / "absent" / "x"))), "absent")


def test_model_that_is_none_and_layer_that_is_not_there_are_one_line(collabsecure, tmp_path):
    assert_one_line(collabsecure("--model", str(tmp_path)), str(tmp_path))
    assert_one_line(collabsecure("--layers", "2-3"), "layer 3")


def test_checkpoint_of_other_texts_is_one_line_with_a_remedy(collabsecure, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(SecondMoment, "save_npz", lambda *_, **__: sys.exit(3))
        assert collabsecure().exit_code == 3
    (tmp_path / "texts.txt").write_text("quite another text\n" * 30)
    assert_one_line(collabsecure(), "27 texts that are not the first", "delete it")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--layers", "5-2"], "lower layer first"),
        (["--layers", "all"], "found 'all'; expected layers such as 13-17 or 3,4,5"),
        (["--samples", "0"], "0 is not in the range"),
        (["--texts", "absent.txt"], "does not exist"),
        (["--dataset", "wikitext"], "one of --texts and --dataset"),
        (["--device", "abacus"], "found 'abacus'"),
    ],
)
def test_wrong_command_lines_exit_with_2_and_say_what_was_expected(collabsecure, arguments, said):
    result = collabsecure(*arguments)
    assert result.exit_code == 2
    assert said in " ".join(result.stderr.replace("│", " ").split())


def test_without_pytorch_the_command_says_what_to_install(collabsecure, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    assert_one_line(collabsecure(), "second-moment needs the package torch", "pip install 'collabsecure[edit]'")


@pytest.mark.parametrize("arguments", [["--help"], ["second-moment", "--help"]])
def test_help_works_without_pytorch_and_shows_an_example_or_the_exit_codes(arguments, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0
    assert ("130  interrupted" if arguments == ["--help"] else "--layers 13-17 \\\n") in result.output


@pytest.mark.parametrize(
    ("typed", "layers", "short"),
    [("13-17", (13, 14, 15, 16, 17), "13-17"), ("5,3,4", (3, 4, 5), "3-5"), (" 0-1 , 7", (0, 1, 7), "0-1,7")],
)
def test_layers_are_read_as_typed_and_written_in_short(typed, layers, short):
    assert Layers().convert(typed, None, None) == layers
    assert layers_in_short(layers) == short
    assert Layers().convert(layers, None, None) == layers


@pytest.mark.parametrize("typed", ["", "1,", "a", "1--2", "-1", "3-1", "1-3,2", "0-99999", "²"])
def test_layers_that_make_no_sense_are_refused(typed):
    with pytest.raises(click.BadParameter, match=r"found .*expected"):
        Layers().convert(typed, None, None)
