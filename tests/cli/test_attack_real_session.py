"""What a real session leaves on its aggregator's disk, attacked with the same command; and what is missing, refused."""

import json

import pytest
from click.testing import CliRunner
from parties import running

from collabsecure.world import load_world
from collabsecure_cli.main import main


def attack(*arguments):
    return CliRunner().invoke(main, ["attack", *map(str, arguments)])


@pytest.mark.slow
def test_the_sum_and_the_updates_of_a_session_tell_what_was_edited(parties, tmp_path):
    """Five clients with 13 edits; 3-sigma nulls of so few would not be worth a bar, so four standard errors."""
    with running(parties, "five", tmp_path / "run") as run:
        aggregator, clients = run.aggregate(), run.all_clients()
        run.finish(aggregator, clients)
        state = run.folder / "merged.state"
        edited = [record for name in run.names for record in json.loads(parties.edits(name).read_text())]
        (tmp_path / "edited.json").write_text(json.dumps(edited))
        asked = (
            *("--session-state", state, "--session", parties.session("five"), "--edited", tmp_path / "edited.json"),
            *("--records", load_world().records, "--second-moment", parties.folder / "stats", "--device", "cpu"),
        )
        result = attack(*asked, "--out", tmp_path / "out")
        nothing = attack(*asked, "--views", "plain,masked", "--out", tmp_path / "nothing")
    assert nothing.exit_code == 1  # a run that tries nothing must not pass
    assert "found 1 × sum and 1 × delta to attack; expected something for --views plain,masked" in nothing.stderr
    assert result.exit_code == 0, result.output
    data = json.loads((tmp_path / "out" / "report.json").read_text())
    found = {(each["attack"], each["view"]): each for each in data["findings"]}
    assert found.keys() == {
        ("rank", "sum"),
        ("membership", "sum"),
        ("published delta", "delta"),
        ("behaviour", "delta"),
    }
    assert found["rank", "sum"]["score"]["figures"][0]["value"] == len(edited)
    for each in (found["membership", "sum"], found["published delta", "delta"]):
        value, null = (each[of]["figures"][0] for of in ("score", "null"))
        assert value["name"] == null["name"] == "AUC"
        assert value["value"] > 0.99
        assert null["is_chance"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--session-state", "."), "also give --session, --edited, --records and --second-moment"),
        (("--session", "pyproject.toml"), "--session and --edited belong to --session-state"),
        (("--session-state", ".", "--clients", "3", "--suite", "quick"), "leave out --clients, --suite."),
        (("--session-state", ".", "--hparams", "pyproject.toml"), "leave out --hparams."),
    ],
)
def test_a_session_needs_all_that_belongs_to_it(arguments, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pyproject.toml").write_text("")
    result = attack(*arguments)
    assert result.exit_code == 2
    assert said in result.stderr
