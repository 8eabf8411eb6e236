"""What `collabsecure client` is told about daemons: one way to be reached, files of the right kind, and plain words."""

import signal
import subprocess
import sys

import pytest
from click.testing import CliRunner
from light_session import make_session
from memory_host import identity, made_session

from collabsecure_cli.identity import write_identity
from collabsecure_cli.main import main

LIGHT, SUMS = make_session(num_clients=3), made_session(3)


@pytest.fixture
def invoke(socket_folder, monkeypatch):
    """The command, in a folder with a session of each kind and client 1's key."""
    monkeypatch.chdir(socket_folder)
    (socket_folder / "sums.json").write_text(SUMS.to_json())
    (socket_folder / "editing.json").write_text(LIGHT.session.to_json())
    (socket_folder / "edits.json").write_text("[]")
    for name, one in (("sums", identity(1)), ("editing", LIGHT.identities[1])):
        write_identity(socket_folder / f"{name}.key", one)

    def run(kind, *arguments):
        arguments = ["client", "--session", f"{kind}.json", "--key", f"{kind}.key", *arguments]
        return CliRunner().invoke(main, arguments, catch_exceptions=False)

    return run


DAEMON = ("--daemon", "--socket", "s")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "Missing option '--server', or beside an engine's node: --daemon --socket PATH"),
        (("--daemon",), "--daemon answers at --socket PATH: give one, in a directory that is yours alone"),
        (("--socket", "s"), "--socket is where --daemon answers: give that, too"),
        ((*DAEMON, "--server", "https://x:1"), "found --server beside --daemon, which connects to nobody"),
        ((*DAEMON, "--insecure"), "found --insecure beside --daemon"),
        ((*DAEMON, "--ca", "sums.json"), "found --ca beside --daemon"),
        ((*DAEMON, "--tls-cert", "sums.json"), "found --tls-cert beside --daemon"),
        (("--server", "https://x:1"), "Missing option '--edits'"),
        (("--server", "https://x:1", "--values", "."), "--values is for --daemon in a session of sums"),
        ((*DAEMON, "--values", "none"), "Directory 'none' does not exist"),
    ],
)
def test_options_that_do_not_go_together(invoke, arguments, said):
    result = invoke("sums", *arguments)
    assert result.exit_code == 2
    assert said in result.stderr.replace("\n", " ")


def test_values_are_no_editing_sessions(invoke):
    result = invoke("editing", *DAEMON, "--edits", "edits.json", "--values", ".")
    assert result.exit_code == 2
    assert "here the values are computed from --edits" in result.stderr


@pytest.mark.parametrize(
    ("kind", "arguments", "said"),
    [
        ("editing", DAEMON, "found an editing session; expected --edits FILE"),
        ("sums", (*DAEMON, "--edits", "edits.json"), "found a session of sums; expected an editing session"),
        ("sums", ("--daemon", "--socket", "none/s"), "no directory (no such file"),
        ("sums", (*DAEMON, "--min-clients", "4"), "V31"),
        ("sums", (*DAEMON, "--digest", "00" * 32), "V31"),
        ("sums", ("--daemon", "--socket", "sums.json"), "something that is no socket"),
    ],
)
def test_sessions_and_places_that_are_refused(invoke, kind, arguments, said):
    result = invoke(kind, *arguments)
    assert result.exit_code == 1
    assert said in result.stderr


def test_a_key_that_is_not_on_the_roster_is_named_by_its_file(invoke, socket_folder):
    write_identity(socket_folder / "other.key", identity(9))
    result = invoke("sums", *DAEMON, "--key", "other.key")
    assert result.exit_code == 1
    assert "other.key: V31: found identity ed25519:" in result.stderr
    assert "Give the --key whose line the organiser has" in result.stderr.replace("\n", " ")


def test_config_file_may_say_where_the_socket_is(invoke, socket_folder):
    (socket_folder / "client.toml").write_text('daemon = true\nsocket = "s"\npatience = "1s"\n')
    result = invoke("sums", "--config", "client.toml")
    assert result.exit_code == 4
    assert "Listening on s, in NEW" in result.stderr
    assert "Nobody has asked anything for 1 s. The same command goes on." in result.stderr
    assert not (socket_folder / "s").exists()


def test_the_handler_of_sigterm_is_as_before(invoke):
    before = signal.getsignal(signal.SIGTERM)
    assert invoke("sums", *DAEMON, "--patience", "1s").exit_code == 4
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_daemon_of_sums_needs_no_extra(invoke, socket_folder):
    """Neither the HTTP client that an editing session has, nor PyTorch."""
    arguments = ["client", "--session", "sums.json", "--key", "sums.key", *DAEMON, "--patience", "1s"]
    program = (
        "import sys\n"
        "sys.modules.update(dict.fromkeys(('datasets', 'httpx2', 'tenseal', 'tokenizers', 'torch', 'transformers')))\n"
        "from collabsecure_cli.main import main\n"
        f"main({arguments!r})"
    )
    ended = subprocess.run([sys.executable, "-c", program], cwd=socket_folder, capture_output=True, check=False)
    assert (ended.returncode, b"Listening on s" in ended.stderr) == (4, True), ended.stderr


def test_help_says_who_carries_and_where():
    result = CliRunner().invoke(main, ["client", "--help"])
    for said in ("--daemon", "--socket", "Unix socket for its owner alone", "no key, no edit"):
        assert said in " ".join(result.stdout.split())
