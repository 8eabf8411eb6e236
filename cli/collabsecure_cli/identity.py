"""`collabsecure identity`: the Ed25519 key by which the others know a party.

A key file is PEM (PKCS #8), unencrypted, for its owner's eyes only (mode 0600), and is never overwritten: a key that is
lost takes its party off every roster.
"""

import os
import re
from pathlib import Path

import click
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from collabsecure.agreement import is_name
from collabsecure.errors import BadFile
from collabsecure.files import flush, unreadable, unwritable
from collabsecure_cli.config import emit, operator_options
from collabsecure_cli.roster import format_key, roster_line
from collabsecure_protocols import Identity

_MOST_BYTES = 16_384  # of a key file; real ones have 119
_OTHERS = 0o077  # permissions of the group and of everybody


def load_identity(path: Path) -> Identity:
    """Read a key file.

    Raises:
        BadFile: it cannot be read, others can read it, or it holds something else.
    """
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            if mode & _OTHERS:
                raise BadFile(
                    path,
                    found=f"a key that others may use (mode {mode & 0o777:04o})",
                    expected="one for its owner alone (mode 0600)",
                    remedy=f"Unless it has leaked already: chmod 600 {path}",
                )
            content = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise unreadable(path, error) from error
    if len(content) > _MOST_BYTES:
        raise _no_key(path, f"more than {_MOST_BYTES} bytes")
    try:
        key = load_pem_private_key(content, password=None)
    except TypeError as error:
        raise _no_key(path, "an encrypted key", remedy="Decrypt it: openssl pkey -in … -out …") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise _no_key(path, _kind(content)) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise _no_key(path, f"a key of another kind ({type(key).__name__.strip('_')})")
    return Identity(key.private_bytes_raw())


def write_identity(path: Path, identity: Identity) -> None:
    """Write a key file, and wait until it is on the disk.

    Raises:
        BadFile: something is at `path` already, or it cannot be written.
    """
    key = Ed25519PrivateKey.from_private_bytes(identity.reveal())
    content = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)  # private before the first byte
    except FileExistsError as error:
        raise BadFile(
            path,
            found="something there already",
            expected="a new name",
            remedy="A key is never overwritten; give another --out",
        ) from error
    except OSError as error:
        raise unwritable(path, error) from error
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        flush(path.parent)  # its name in the folder, too, survives a power cut
    except BaseException as error:  # an interruption too: no half key stays
        path.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise unwritable(path, error) from error
        raise


@click.group("identity")
def identity() -> None:
    """Make and show the key by which the other parties know you."""


_name = click.option("--name", help="What the others call you.  [default: the file's name without .key]")


@identity.command("new")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Key file to make, such as alice.key.")
@_name
@operator_options
def new(*, out: Path, name: str | None) -> None:
    """Make a new identity: a key file that stays with you, and a line for the organiser's roster.

    The line is public; that it reaches the organiser unchanged is what everybody's trust in you rests on.

    \b
    Example:
      collabsecure identity new --out alice.key
    """  # noqa: D301 - \b is click's mark for lines that stay as they are
    name = _checked_name(out, name)
    made = Identity.generate(os.urandom)
    write_identity(out, made)
    click.echo(
        f"Made {out}. Keep it secret and backed up: whoever has it can act as {name!r}.\n"
        "Next: send the line on standard output to the organiser, by a way on which they know that it is from you.",
        err=True,
    )
    _emit_line(out, name, made)


@identity.command("show")
@click.argument("key", type=click.Path(path_type=Path))
@_name
@operator_options
def show(*, key: Path, name: str | None) -> None:
    """Print the roster line of a key file; nothing of the secret."""
    name = _checked_name(key, name)
    _emit_line(key, name, load_identity(key))


def _emit_line(path: Path, name: str, shown: Identity) -> None:
    line = roster_line(name, shown.public)
    emit({"file": str(path), "name": name, "key": format_key(shown.public), "roster_line": line}, line)


def _checked_name(path: Path, name: str | None) -> str:
    name = path.stem if name is None else name
    if not is_name(name):
        raise click.BadParameter(f"found {name!r}; expected printable text", param_hint="--name")
    return name


def _kind(content: bytes) -> str:
    """What a file that is no private key seems to be; of its content, only the label is ever repeated."""
    label = re.search(rb"-----BEGIN ([A-Z0-9 ]{1,40})-----", content)
    return "no PEM" if label is None else f"PEM of {label[1].decode().lower()!r} that cannot be read as a private key"


def _no_key(path: Path, found: str, *, remedy: str = "Make one: collabsecure identity new") -> BadFile:
    return BadFile(path, found=found, expected="an Ed25519 private key (PEM, PKCS #8, unencrypted)", remedy=remedy)
