"""Where a party lets itself be sent: which addresses of an aggregator are taken, and what is said of the others."""

from dataclasses import fields

import click
import pytest
from click.testing import CliRunner
from light_session import SERVER, make_session

from collabsecure.errors import CollabsecureError
from collabsecure_cli import aggregate as command
from collabsecure_cli.endpoints import server_options
from collabsecure_cli.identity import write_identity
from collabsecure_cli.serving import Limits
from collabsecure_cli.tls import Tls


@click.command()
@server_options
def connect(server):
    """Say where."""
    click.echo(server.url)


def invoke(*arguments):
    return CliRunner().invoke(connect, ["--server", *arguments])


@pytest.mark.parametrize(
    "arguments",
    [
        ("https://sum.example.org:8443",),
        ("https://[::1]:8443/behind/a/proxy",),
        ("http://127.0.0.1:8443", "--insecure"),
        ("http://localhost:8443", "--insecure"),
    ],
)
def test_addresses_that_are_taken(arguments):
    assert invoke(*arguments).stdout.strip() == arguments[0]


@pytest.mark.parametrize(
    "arguments",
    [
        ("http://sum.example.org:8443",),
        ("http://sum.example.org:8443", "--insecure"),
        ("http://127.0.0.1.example.org", "--insecure"),
        ("http://localhost@sum.example.org", "--insecure"),
        ("https://127.0.0.1:8443", "--insecure"),
        ("https://sum.example.org:99999",),
        ("https://sum.example.org/?to=elsewhere",),
        ("https://",),
        ("sum.example.org:8443",),
    ],
)
def test_addresses_that_are_refused(arguments):
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert "found" in result.stderr


@pytest.mark.parametrize("scheme", ["https", "http"])
def test_a_password_in_an_address_is_refused_and_not_shown(scheme):
    """It would be sent in the place of the request's signature, and be in every message about the server."""
    result = invoke(f"{scheme}://alice:hunter2@127.0.0.1:8443", *(["--insecure"] if scheme == "http" else []))
    assert result.exit_code == 2
    assert "expected none" in result.stderr
    assert "hunter2" not in result.output


def test_without_tls_the_status_page_stays_on_this_machine(tmp_path):
    """It says who takes part."""
    tls = Tls(certificate=tmp_path / "tls.crt", key=tmp_path / "tls.key")
    command.check_status(("127.0.0.1", 0), None)
    command.check_status(("0.0.0.0", 8444), tls)  # noqa: S104
    for host in ("0.0.0.0", "::", "192.0.2.1"):  # noqa: S104
        with pytest.raises(click.UsageError, match="loopback addresses alone"):
            command.check_status((host, 8444), None)


def test_every_limit_can_be_set(monkeypatch, tmp_path):
    light, found = make_session(num_clients=3), {}

    class Noted(CollabsecureError):
        pass

    def note(**limits):
        found.update(limits)
        raise Noted

    (tmp_path / "session.json").write_text(light.session.to_json())
    write_identity(tmp_path / "server.key", SERVER)
    monkeypatch.setattr(command, "Limits", note)
    named = {"header-time": "1s", "idle-time": "2s", "request-time": "3s", "max-connections": "4"}
    named |= {"max-connections-per-address": "5", "max-refusals-per-minute": "6"}
    options = [f"--{name}={value}" for name, value in named.items()]
    files = ["--session", str(tmp_path / "session.json"), "--key", str(tmp_path / "server.key")]
    result = CliRunner().invoke(command.aggregate, [*files, "--insecure", "--out", str(tmp_path / "out"), *options])
    assert isinstance(result.exception, Noted), result.output
    assert sorted(found.values()) == [1, 2, 3, 4, 5, 6]
    assert found.keys() == {field.name for field in fields(Limits)}
