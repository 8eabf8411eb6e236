"""Key files and the roster: secret from the first byte on, never overwritten, refused when they are not in order."""

import errno
import json
import os
import stat
import sys

import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from collabsecure.errors import BadFile
from collabsecure_cli.identity import load_identity, write_identity
from collabsecure_cli.main import main
from collabsecure_cli.roster import format_key, load_roster, roster_line
from collabsecure_protocols import Identity

IDENTITIES = [Identity(bytes([number]) * 32) for number in range(5)]
KEYS = [format_key(identity.public) for identity in IDENTITIES]


def identity(*arguments):
    return CliRunner().invoke(main, ["identity", *map(str, arguments)])


def test_a_new_identity_prints_its_roster_line_alone_and_shows_it_again(tmp_path):
    path = tmp_path / "alice.key"
    made = identity("new", "--out", path)
    assert made.exit_code == 0, made.output
    assert made.stdout == f'alice = "{format_key(load_identity(path).public)}"\n'
    assert "Next: send the line" in made.stderr
    assert identity("show", path).stdout == made.stdout
    secret = load_identity(path).reveal().hex()
    assert secret not in made.output + identity("show", path).output
    shown = json.loads(identity("show", path, "--name", "Alice & Söhne", "--json").stdout)
    assert shown["roster_line"] == f'"Alice & Söhne" = "{shown["key"]}"'


def test_identities_need_no_torch(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    assert identity("new", "--out", tmp_path / "alice.key").exit_code == 0


def test_a_key_file_is_private_from_the_first_byte_on_whatever_the_umask(tmp_path, monkeypatch):
    seen = []
    make = os.open

    def watching(path, flags, mode=0o777):
        descriptor = make(path, flags, mode)
        if flags & os.O_CREAT:
            seen.append((stat.S_IMODE(os.fstat(descriptor).st_mode), flags & os.O_EXCL))
        return descriptor

    monkeypatch.setattr("collabsecure_cli.identity.os.open", watching)
    before = os.umask(0)
    try:
        write_identity(tmp_path / "alice.key", IDENTITIES[0])
    finally:
        os.umask(before)
    assert seen == [(0o600, os.O_EXCL)]
    assert load_identity(tmp_path / "alice.key").public == IDENTITIES[0].public


@pytest.mark.parametrize("taken", ["file", "dangling link"])
def test_what_is_there_is_never_overwritten_and_there_is_no_force(tmp_path, taken):
    path = tmp_path / "alice.key"
    if taken == "file":
        path.write_text("precious")
    else:
        path.symlink_to(tmp_path / "elsewhere")
    result = identity("new", "--out", path)
    assert result.exit_code == 1
    assert "never overwritten" in result.stderr
    assert result.stdout == ""
    assert not (tmp_path / "elsewhere").exists()
    assert identity("new", "--out", path, "--force").exit_code == 2


@pytest.mark.parametrize("interruption", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_no_half_key_stays(tmp_path, monkeypatch, interruption):
    def fail(descriptor):
        raise interruption

    monkeypatch.setattr(os, "fsync", fail)
    result = identity("new", "--out", tmp_path / "alice.key")
    assert result.exit_code == (1 if isinstance(interruption, OSError) else 130)
    assert result.stdout == ""
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_a_key_that_others_may_use_is_refused(tmp_path, mode):
    path = tmp_path / "alice.key"
    write_identity(path, IDENTITIES[0])
    path.chmod(mode)
    with pytest.raises(BadFile, match=rf"mode {mode:04o}.*chmod 600"):
        load_identity(path)
    assert identity("show", path).exit_code == 1


def pem(key, encryption=None):
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption or NoEncryption())


ED25519 = ed25519.Ed25519PrivateKey.from_private_bytes(bytes(32))


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "found no PEM"),
        (b"\xff" * 300, "found no PEM"),
        (b"x" * 20_000, "more than 16384 bytes"),
        (pem(ec.generate_private_key(ec.SECP256R1())), "a key of another kind"),
        (pem(ED25519, BestAvailableEncryption(b"secret")), "an encrypted key"),
        (ED25519.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo), "PEM of 'public key'"),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "PEM of 'certificate'"),
        (pem(ED25519)[:70], "PEM of 'private key' that cannot be read"),
    ],
)
def test_what_is_no_ed25519_private_key_is_refused_with_what_it_is_and_nothing_of_it(tmp_path, content, found):
    path = tmp_path / "alice.key"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(BadFile) as caught:
        load_identity(path)
    assert found in str(caught.value)
    assert "expected an Ed25519 private key (PEM, PKCS #8, unencrypted)" in str(caught.value)
    assert "MC4CAQ" not in str(caught.value)  # how the PEM of every Ed25519 key begins


def test_a_missing_key_or_folder_is_one_line(tmp_path):
    for arguments in (("show", tmp_path / "absent"), ("show", tmp_path), ("new", "--out", tmp_path / "absent" / "a")):
        result = identity(*arguments)
        assert result.exit_code == 1
        assert len(result.stderr.splitlines()) == 1


def test_a_name_that_could_move_the_cursor_is_refused(tmp_path):
    assert identity("new", "--out", tmp_path / "a.key", "--name", "\x1b[2J").exit_code == 2
    assert not list(tmp_path.iterdir())


def test_a_roster_of_the_lines_that_identities_print_is_read_in_order(tmp_path):
    names = ["zoë", "alice & co", 'the "third"', "dot.ted"]
    lines = [roster_line(name, identity.public) for name, identity in zip(names, IDENTITIES[1:], strict=True)]
    path = tmp_path / "roster.toml"
    path.write_text("\n".join(["[server]", roster_line("sum", IDENTITIES[0].public), "[clients]", *lines]))
    roster = load_roster(path)
    assert (roster.server_name, roster.server_key) == ("sum", IDENTITIES[0].public)
    assert list(roster.clients) == names
    assert list(roster.clients.values()) == [identity.public for identity in IDENTITIES[1:]]


SERVER = f'[server]\nsum = "{KEYS[0]}"\n'
CLIENTS = f'[clients]\na = "{KEYS[1]}"\nb = "{KEYS[2]}"\nc = "{KEYS[3]}"\n'


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (SERVER, "no table [clients]"),
        (CLIENTS, "no table [server]"),
        ("server = 1\n" + CLIENTS, "no table [server]"),
        (SERVER + CLIENTS + "[extra]\n", "found 'extra'"),
        ("[server]\n" + CLIENTS, "0 lines in [server]"),
        (SERVER + f'other = "{KEYS[4]}"\n' + CLIENTS, "2 lines in [server]"),
        (SERVER + CLIENTS.rpartition("c =")[0], "found 2 clients; expected at least 3"),
        (SERVER + CLIENTS + f'd = "{KEYS[1]}"\n', "as 'a' and 'd'"),
        (SERVER + CLIENTS + f'd = "{KEYS[0]}"\n', "as 'sum' and 'd'"),
        (SERVER + CLIENTS + f'sum = "{KEYS[4]}"\n', "'sum' in two tables"),
        (SERVER + CLIENTS + f'a = "{KEYS[4]}"\n', "no TOML"),
        (SERVER + CLIENTS + f'd = "{KEYS[4].upper()}"\n', "64 hex digits"),
        (SERVER + CLIENTS + f'd = "{KEYS[4][:-1]}"\n', "64 hex digits"),
        (SERVER + CLIENTS + "d = 5\n", "d = 5; expected"),
        (SERVER + CLIENTS + f'"\\u001b[2J" = "{KEYS[4]}"\n', r"'\x1b[2J'"),
        (SERVER + CLIENTS + f'"" = "{KEYS[4]}"\n', "the name ''"),
        ("[server", "no TOML"),
    ],
)
def test_rosters_that_are_not_in_order_are_refused(tmp_path, content, said):
    path = tmp_path / "roster.toml"
    path.write_text(content)
    with pytest.raises(BadFile) as caught:
        load_roster(path)
    assert said in str(caught.value)


def test_rosters_that_are_absent_or_no_text_are_refused(tmp_path):
    (tmp_path / "latin.toml").write_bytes("[clients]\nmüller = 1".encode("latin-1"))
    for name, said in (("latin.toml", "no TOML"), ("absent.toml", "no such file"), (".", "is a directory")):
        with pytest.raises(BadFile, match=said):
            load_roster(tmp_path / name)
