"""The command group; each command is a module of its own."""

import click

import collabsecure


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(collabsecure.__version__, prog_name="collabsecure")
def main() -> None:
    """Edit one language model together, without showing anybody your edits."""
