"""Output files that are either complete or not there at all.

The bytes go to a temporary file in the same folder, are flushed to the disk, and only then take the name they were
meant for: a reader, or the next run, never meets half a file, whatever interrupts the writing.
"""

import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from jaxtyping import Shaped
from safetensors import SafetensorError
from safetensors.numpy import save_file

from collabsecure.errors import BadFile


def refuse_existing(path: Path) -> None:
    """Refuse an output path that is taken; called before long work as well, so that it is not done in vain.

    Raises:
        BadFile: something is at `path` already.
    """
    if os.path.lexists(path):
        raise BadFile(
            path, found="something there already", expected="a new name", remedy="Say so to overwrite it: --force"
        )


@contextmanager
def complete_or_absent(path: Path, *, force: bool, private: bool = False) -> Iterator[Path]:
    """Yield the path of an empty temporary file to write; on leaving without an error it becomes `path`.

    The folder must exist. A `private` file is for its owner's eyes alone, whatever the umask. On any error, an
    interrupt included, the temporary file is gone and `path` as it was.

    Raises:
        BadFile: `path` is taken and `force` is not set, or the disk or folder cannot be written.
    """
    if not force:
        refuse_existing(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        temporary.touch(mode=0o600 if private else 0o666, exist_ok=False)
        mode = temporary.stat().st_mode
        yield temporary
        temporary.chmod(mode)  # safetensors makes files that only their owner may read
        flush(temporary)
        if not force:
            refuse_existing(path)  # again: the writing may have taken hours
        temporary.replace(path)
        flush(path.parent)  # the rename itself survives a power cut
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def folder_complete_or_absent(path: Path, *, force: bool) -> Iterator[Path]:
    """Yield an empty temporary folder beside `path`; on leaving without an error it becomes `path`.

    The files that were put into it are flushed first. On any error it is gone, and `path` as it was. With `force`, what
    is at `path` is replaced: for a moment, in which a crash may fall, nothing is there.

    Raises:
        BadFile: `path` is taken and `force` is not set, or it cannot be written.
    """
    if not force:
        refuse_existing(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.mkdir()
        yield temporary
        for file in temporary.rglob("*"):
            flush(file)
        flush(temporary)
        if not force:
            refuse_existing(path)
        elif path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
        temporary.replace(path)
        flush(path.parent)
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_safetensors(
    path: Path, tensors: Mapping[str, Shaped[np.ndarray, "..."]], metadata: Mapping[str, str], *, force: bool
) -> None:
    """Write arrays and text to a safetensors file, complete or not at all.

    Raises:
        BadFile: as `complete_or_absent`.
    """
    with complete_or_absent(path, force=force) as temporary:
        try:
            save_file(dict(tensors), temporary, dict(metadata))
        except SafetensorError as error:
            raise _as_os_error(error) from error


def unwritable(path: Path, error: OSError) -> BadFile:
    """The error for a path that the operating system would not write: disk full, read-only, no such folder."""
    return BadFile(path, found=in_words(error), expected="a place that can be written")


def unreadable(path: Path, error: OSError) -> BadFile:
    """The error for a path that the operating system would not read: absent, a folder, not permitted."""
    return BadFile(path, found=in_words(error), expected="a file that can be read")


def in_words(error: OSError) -> str:
    """What the operating system said, without its number and path."""
    reason = error.strerror or str(error)
    return reason[:1].lower() + reason[1:]


def file_digest(path: Path) -> str:
    """A file's SHA-256, in hex.

    Raises:
        BadFile: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise unreadable(path, error) from error


def flush(path: Path) -> None:
    """Wait until a file, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _as_os_error(error: SafetensorError) -> OSError:
    """The operating system's error behind safetensors' `… I/O error: No space left on device (os error 28)`."""
    number = re.search(r"\(os error (\d+)\)", str(error))
    return OSError(str(error)) if number is None else OSError(int(number[1]), os.strerror(int(number[1])))
