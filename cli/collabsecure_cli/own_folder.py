"""An --out folder that a command makes its own, so that a second run goes on and nobody's files are in the way."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from collabsecure.errors import BadFile
from collabsecure.files import complete_or_absent, unwritable
from collabsecure_cli.group import Interrupted

_UNFINISHED, _FINISHED = "unfinished\n", "finished\n"


@contextmanager
def own_folder(out: Path, *, mark: str, found: str, force: bool) -> Iterator[None]:
    """Take a new folder, or one that an earlier run left; say how to go on if this one is interrupted.

    `mark` is a file that says whose folder it is, `found` what an interrupted run leaves in it: "values found so far".

    Raises:
        BadFile: there is something else in it and `force` is not set, or it cannot be written.
        Interrupted: Ctrl-C.
    """
    path = out / mark
    try:
        out.mkdir(parents=True, exist_ok=True)
        if not path.exists() and any(out.iterdir()) and not force:
            raise BadFile(
                out,
                found="a folder with other things in it",
                expected="an empty one",
                remedy="Give another --out, or --force",
            )
        if path.exists() and path.read_text() == _UNFINISHED:
            click.echo(f"Going on with what an interrupted run left in {out}", err=True)
        path.write_text(_UNFINISHED)
    except OSError as error:
        raise unwritable(out, error) from error
    try:
        yield
    except KeyboardInterrupt as error:
        raise Interrupted(f"Interrupted. The {found} are in {out}; the same command goes on.") from error
    with complete_or_absent(path, force=True) as temporary:
        temporary.write_text(_FINISHED)
