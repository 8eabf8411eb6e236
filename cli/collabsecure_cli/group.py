"""How commands end: with a result, or with one line that says why not and an exit code to act on."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from collabsecure.errors import CollabsecureError, MissingExtra
from collabsecure_protocols import ProtocolError

_OF_EXTRA_EDIT = frozenset({"datasets", "httpx2", "tokenizers", "torch", "transformers"})


class Interrupted(click.ClickException):
    """Ctrl-C, with what is left to say; exit code 130 as shells have it."""

    exit_code = 130

    def show(self, file: object = None) -> None:
        """Say it on standard error, on a line of its own: the terminal has ^C on the current one."""
        click.echo(f"\n{self.format_message()}", err=True)


@contextmanager
def interruptible(state: Path) -> Iterator[None]:
    """Work that an interruption costs nothing: what is done is in a state folder."""
    try:
        yield
    except KeyboardInterrupt as error:
        raise Interrupted(f"Interrupted. Everything is in {state}; the same command goes on.") from error


class NoResult(click.ClickException):
    """The session ended without a result for this party: aborted, or went on without it."""

    exit_code = 3


class Unreachable(click.ClickException):
    """The other side did not answer for as long as we were told to wait; the same command line goes on later."""

    exit_code = 4


class CommandGroup(click.Group):
    """Commands whose typed errors become one line and exit code 1; any other error is a bug and keeps its traceback."""

    def invoke(self, ctx: click.Context) -> object:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except (CollabsecureError, ProtocolError) as error:
            raise click.ClickException(str(error)) from error
        except ModuleNotFoundError as error:
            if error.name not in _OF_EXTRA_EDIT:
                raise
            purpose = f"collabsecure {ctx.invoked_subcommand}"
            extra = "ckks" if ctx.invoked_subcommand == "keyholder" else "edit"
            raise click.ClickException(str(MissingExtra(purpose, package=error.name, extra=extra))) from error
        except KeyboardInterrupt as error:
            raise Interrupted("Interrupted.") from error
