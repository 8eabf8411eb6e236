"""Options from a file and the environment, and results as JSON: what every operator's command does alike."""

import json

import click
import pytest
from click.testing import CliRunner

from collabsecure_cli.config import emit, operator_options
from collabsecure_cli.group import CommandGroup, NoResult, Unreachable
from collabsecure_cli.main import main
from collabsecure_cli.options import Layers


@click.group(cls=CommandGroup, context_settings={"auto_envvar_prefix": "COLLABSECURE"})
def group():
    pass


@group.command("act")
@click.option("--tls-cert")
@click.option("--layers", type=Layers(), required=True)
@click.option("--seconds", type=click.FloatRange(min=0), default=25.0)
@click.option("--label", multiple=True)
@click.option("--force", is_flag=True)
@operator_options
def act(**found):
    emit(found, f"layers {found['layers']}")


def run(*arguments, env=None, config=None, tmp_path=None):
    if config is not None:
        (tmp_path / "options.toml").write_text(config)
        arguments = (*arguments, "--config", str(tmp_path / "options.toml"))
    return CliRunner().invoke(group, ["act", *arguments], env=env)


def test_the_command_line_goes_before_the_environment_before_the_file_before_the_default(tmp_path):
    config = 'layers = "1-2"\nseconds = 3\n'
    variables = {"COLLABSECURE_ACT_LAYERS": "3", "COLLABSECURE_ACT_SECONDS": "4"}
    found = [
        json.loads(run("--json", *arguments, env=env, config=config, tmp_path=tmp_path).stdout)
        for arguments, env in (
            (["--layers", "7", "--seconds", "5"], variables),
            ([], variables),
            ([], {}),
        )
    ]
    assert [(one["layers"], one["seconds"]) for one in found] == [([7], 5.0), ([3], 4.0), ([1, 2], 3.0)]
    assert json.loads(run("--layers", "1", "--json").stdout)["seconds"] == 25.0


def test_the_file_itself_may_come_from_the_environment(tmp_path):
    (tmp_path / "options.toml").write_text("layers = 3\n")
    result = run(env={"COLLABSECURE_ACT_CONFIG": str(tmp_path / "options.toml")})
    assert result.stdout == "layers (3,)\n"


def test_a_file_holds_flags_repeated_options_and_names_with_either_dash(tmp_path):
    config = 'tls_cert = "a.pem"\nlayers = "1"\nforce = true\nlabel = ["x", 2]\nseconds = 0.5\n'
    expected = {"tls_cert": "a.pem", "layers": [1], "seconds": 0.5, "label": ["x", "2"], "force": True}
    for text in (config, config.replace("tls_cert", "tls-cert")):
        assert json.loads(run("--json", config=text, tmp_path=tmp_path).stdout) == expected


def test_json_may_be_asked_for_in_the_file(tmp_path):
    assert json.loads(run(config="layers = 1\njson = true\n", tmp_path=tmp_path).stdout)["layers"] == [1]


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ("colour = 1", "found the key 'colour'; expected options of group act: force, json, label, layers, seconds"),
        ("config = 'x'", "found the key 'config'"),
        ("[act]\nlayers = 1", "found the key 'act'"),
        ("tls-cert = 'a'\ntls_cert = 'b'", "twice"),
        ("force = 'yes'", "force = 'yes'; expected true or false"),
        ("tls-cert = true", "tls-cert = True; expected one text or number"),
        ("tls-cert = ['a', 'b']", "expected one text or number"),
        ("label = [true]", "expected a list of texts or numbers"),
        ("layers = ", "no TOML"),
    ],
)
def test_files_that_are_not_in_order_are_one_line(tmp_path, config, said):
    result = run(config=config, tmp_path=tmp_path)
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert said in line


def test_values_of_a_file_are_refused_as_on_the_command_line(tmp_path):
    result = run(config='layers = "all"', tmp_path=tmp_path)
    assert result.exit_code == 2
    assert "found 'all'; expected layers" in result.stderr
    assert run(config="seconds = -1\nlayers = 1", tmp_path=tmp_path).exit_code == 2
    assert run("--config", str(tmp_path / "absent.toml")).exit_code == 2


@pytest.mark.parametrize(("error", "code"), [(NoResult, 3), (Unreachable, 4)])
def test_endings_without_a_result_have_codes_of_their_own_which_the_help_lists(error, code):
    @click.command()
    def end():
        raise error("why")

    result = CliRunner().invoke(end)
    assert (result.exit_code, result.stderr) == (code, "Error: why\n")
    assert f"\n    {code}    " in CliRunner().invoke(main, ["--help"]).output


def test_variables_that_containers_set_do_not_end_commands(tmp_path):
    env = {"COLLABSECURE_VERSION": "0.1.0", "COLLABSECURE_HELP": "1"}
    result = CliRunner().invoke(main, ["identity", "new", "--out", str(tmp_path / "alice.key")], env=env)
    assert result.exit_code == 0
    assert result.stdout.startswith("alice = ")
