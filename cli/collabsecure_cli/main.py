"""The command group; each command is a module of its own."""

import click

import collabsecure
from collabsecure_cli.demo import demo
from collabsecure_cli.group import CommandGroup
from collabsecure_cli.second_moment import second_moment


@click.group(cls=CommandGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(collabsecure.__version__, prog_name="collabsecure")
def main() -> None:
    """Edit one language model together, without showing anybody your edits.

    \b
    Exit codes:
      0    done
      1    refused or failed; one line on standard error says why
      2    the command line is not right
      130  interrupted (Ctrl-C)
    """  # noqa: D301 - \b is click's mark for lines that stay as they are


main.add_command(demo)
main.add_command(second_moment)
