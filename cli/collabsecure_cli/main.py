"""The command group; each command is a module of its own."""

import click

import collabsecure
from collabsecure_cli.aggregate import aggregate
from collabsecure_cli.apply import apply
from collabsecure_cli.attack import attack
from collabsecure_cli.client import client
from collabsecure_cli.demo import demo
from collabsecure_cli.evaluate import evaluate
from collabsecure_cli.group import CommandGroup
from collabsecure_cli.identity import identity
from collabsecure_cli.keyholder import keyholder
from collabsecure_cli.merge import merge
from collabsecure_cli.reproduce import reproduce
from collabsecure_cli.second_moment import second_moment
from collabsecure_cli.session import session
from collabsecure_cli.world import world


@click.group(
    cls=CommandGroup,
    context_settings={"help_option_names": ["-h", "--help"], "auto_envvar_prefix": "COLLABSECURE"},
)
# Containers often have a variable COLLABSECURE_VERSION; it must not end every command.
@click.version_option(collabsecure.__version__, prog_name="collabsecure", allow_from_autoenv=False)
def main() -> None:
    """Edit one language model together, without showing anybody your edits.

    \b
    Exit codes:
      0    done
      1    refused or failed; one line on standard error says why
      2    the command line is not right
      3    the session ended without a result: aborted, or it went on without this client
      4    the other side could not be reached for as long as we were told to wait
      130  interrupted (Ctrl-C)

    Every option can also come from the environment: COLLABSECURE_CLIENT_SERVER is --server of `client`.
    """  # noqa: D301 - \b is click's mark for lines that stay as they are


main.add_command(apply)
main.add_command(aggregate)
main.add_command(attack)
main.add_command(client)
main.add_command(demo)
main.add_command(evaluate)
main.add_command(identity)
main.add_command(keyholder)
main.add_command(merge)
main.add_command(reproduce)
main.add_command(second_moment)
main.add_command(session)
main.add_command(world)
