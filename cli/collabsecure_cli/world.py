"""`collabsecure world`: the small world as files, to try the other commands on."""

import json
import shutil
from pathlib import Path

import click

from collabsecure.files import folder_complete_or_absent
from collabsecure.world import World, load_world
from collabsecure.world.articles import snippets
from collabsecure.world.facts import Facts
from collabsecure.world.zsre import zsre_json
from collabsecure_cli.config import emit, operator_options

_ZSRE, _SNIPPETS = "records-zsre.json", "attribute_snippets.json"


@click.command("world")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder to write it to; all or nothing.")
@click.option("--force", is_flag=True, help="Replace what is at --out.")
@operator_options
def world(*, out: Path, force: bool) -> None:
    """Write a small world to try everything on: made-up facts, and a GPT-2 that knows them.

    It is in the package, so nothing is downloaded: a Hugging Face model of 4 MB, 480 records in CounterFact's form
    (records.json) and in zsRE's (records-zsre.json), texts to hold generated ones against (attribute_snippets.json),
    hyper-parameters, contexts, and second moments of the layers that may be edited.

    \b
    Example:
      collabsecure world --out world/
    """  # noqa: D301 - \b is click's mark for lines that stay as they are
    shipped = load_world()
    with folder_complete_or_absent(out, force=force) as folder:
        shutil.copytree(shipped.model.parent, folder, dirs_exist_ok=True)
        facts = Facts.make()  # what the shipped files were made from
        (folder / _ZSRE).write_text(zsre_json(facts), encoding="utf-8")
        (folder / _SNIPPETS).write_text(_snippets_json(facts), encoding="utf-8")
    made = World.at(out)
    emit(
        {"out": str(out), "model": str(made.model), "records": str(made.records)},
        f"Wrote {out}. Next: collabsecure demo, or the tutorial docs/two-organisations.md with this model.",
    )


def _snippets_json(facts: Facts) -> str:
    """The articles in the form of ROME's attribute_snippets.json."""
    entries = [
        {"relation_id": relation, "target_id": target, "samples": [{"text": text} for text in texts]}
        for (relation, target), texts in snippets(facts).items()
    ]
    return json.dumps(entries, indent=1) + "\n"
