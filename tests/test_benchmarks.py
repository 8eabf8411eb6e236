"""The benchmarks still run, and their tables say what they mean. Times are for `make bench`, not for tests."""

from pathlib import Path

import pytest

from benchmarks import __main__ as benchmarks
from benchmarks import clients, server, session
from benchmarks.report import Figure, least, machine, peak_bytes, resident_bytes, show
from benchmarks.session_run import run
from benchmarks.session_world import Shape


@pytest.mark.parametrize(
    ("ratio", "bar", "at_least", "met"),
    [(1.5, 1.5, False, True), (1.51, 1.5, False, False), (5.0, 5, True, True), (4.9, 5, True, False)],
)
def test_a_bar_is_a_ceiling_or_a_floor_and_may_be_touched(ratio, bar, at_least, met):
    figure = Figure(what="x", value="1 ns", ratio=ratio, baseline="y", bar=bar, at_least=at_least)
    assert figure.met is met
    assert figure.cells()[-1] == ("yes" if met else "NO")
    assert show("title", [figure]) == (0 if met else 1)


def test_a_bar_without_a_ratio_is_missed_and_no_bar_is_met():
    assert not Figure(what="x", value="", bar=1.0).met
    assert Figure(what="x", value="").met


def test_every_work_has_a_turn_in_every_round():
    turns = []
    works = {name: (lambda name=name: turns.append(name)) for name in "ab"}
    assert set(least(works, repeats=3)) == {"a", "b"}
    assert turns == ["a", "b"] * 3


def test_the_machine_is_described_by_what_it_is():
    assert "cores" in machine()
    assert 0 < resident_bytes() <= peak_bytes() * 1.1


def test_the_server_keeps_nothing_of_an_upload_whatever_the_number_of_clients(capsys):
    assert server.main(["--clients", "3", "12"]) == 0
    assert capsys.readouterr().out.count("kept of an upload") == 2


def test_a_session_with_dropouts_is_played_and_measured(capsys):
    assert clients.main(["--clients", "7"]) == 0
    assert "set-up, server, per client" in capsys.readouterr().out


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="watches processes by Linux's /proc")
def test_a_session_of_processes_is_right_and_every_figure_of_it_is_there(capsys):
    course = run(Shape(d_in=96, d_out=24, layers=2, clients=3, flow="layer-synchronous", edits=20))
    assert course.distance < session.DISTANCE_BAR
    session.present(course)  # its bars are for other sizes
    printed = capsys.readouterr().out
    assert "2 sums" in printed
    assert "nan" not in printed


def test_an_unknown_benchmark_is_refused(capsys):
    with pytest.raises(SystemExit):
        benchmarks.main(["nonsense"])
    assert "unknown: nonsense" in capsys.readouterr().err
