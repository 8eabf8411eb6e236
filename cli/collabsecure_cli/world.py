"""`collabsecure world`: the small world as files, to try the other commands on."""

import shutil
from pathlib import Path

import click

from collabsecure.files import folder_complete_or_absent
from collabsecure.world import World, load_world
from collabsecure_cli.config import emit, operator_options


@click.command("world")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder to write it to; all or nothing.")
@click.option("--force", is_flag=True, help="Replace what is at --out.")
@operator_options
def world(*, out: Path, force: bool) -> None:
    """Write a small world to try everything on: made-up facts, and a GPT-2 that knows them.

    It is in the package, so nothing is downloaded: a Hugging Face model of 4 MB, 480 records in CounterFact's form,
    hyper-parameters, contexts, and second moments of the layers that may be edited.

    \b
    Example:
      collabsecure world --out world/
    """  # noqa: D301 - \b is click's mark for lines that stay as they are
    shipped = load_world()
    with folder_complete_or_absent(out, force=force) as folder:
        shutil.copytree(shipped.model.parent, folder, dirs_exist_ok=True)
    made = World.at(out)
    emit(
        {"out": str(out), "model": str(made.model), "records": str(made.records)},
        f"Wrote {out}. Next: collabsecure demo, or the tutorial docs/two-organisations.md with this model.",
    )
