"""Writes protocols/vectors and the diagram in protocols/secagg.md anew: python tests/protocols/regenerate.py

Everything is deterministic; a test holds what is committed against what this makes.
"""

import json
from pathlib import Path

import agreed
import refused_later
import slow_session
from recorded import Recorder
from replay import VECTORS
from scenarios import SCENARIOS

from collabsecure_protocols.states import diagram

SPEC = VECTORS.parent / "secagg.md"
MARKS = "<!-- diagram -->\n", "\n<!-- /diagram -->"


def vector(name):
    """One vector of protocols/vectors, by file name."""
    if name in AGREED:
        return AGREED[name]()
    recorded = Recorder(SCENARIOS[name]).run()
    refused_later.apply(name, recorded, slow_session.Session.parse(SCENARIOS[name].session.encode()))
    return recorded


AGREED = {"descriptors": agreed.descriptors, "policies": agreed.policies, "primitives": agreed.primitives}
ALL = (*AGREED, *SCENARIOS)


def text_of(vector):
    """JSON with one element of each list on a line: small, and readable in a diff."""
    fields = [f"{json.dumps(name)}: {_value(value)}" for name, value in vector.items()]
    return "{\n" + ",\n".join(fields) + "\n}\n"


def _value(value):
    if isinstance(value, list) and value:
        return "[\n  " + ",\n  ".join(json.dumps(item, ensure_ascii=False) for item in value) + "\n]"
    return json.dumps(value, ensure_ascii=False)


def with_diagram(spec):
    """The specification's text with the diagram that the tables give."""
    before, rest = spec.split(MARKS[0])
    return before + MARKS[0] + diagram() + MARKS[1] + rest.split(MARKS[1])[1]


def main():
    VECTORS.mkdir(exist_ok=True)
    for stale in set(VECTORS.glob("*.json")) - {VECTORS / f"{name}.json" for name in ALL}:
        stale.unlink()
    for name in ALL:
        Path(VECTORS / f"{name}.json").write_text(text_of(vector(name)))
    SPEC.write_text(with_diagram(SPEC.read_text()))


if __name__ == "__main__":
    main()
