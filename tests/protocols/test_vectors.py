"""Two implementations that share no code agree on protocols/vectors, byte for byte, and the vectors on the text."""

import base64
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import regenerate
import slow_session
from replay import VECTORS, Package, Refusal, Second, expand, load, replay
from slow_primitives import Refused

from collabsecure_protocols import AbortReason, InvalidSession, Session, Tensor
from collabsecure_protocols.fixedpoint import Encoder
from collabsecure_protocols.graph import order
from collabsecure_protocols.states import diagram

ALL = load()
TRANSCRIPTS = {name: vector for name, vector in ALL.items() if "steps" in vector}
SPEC = regenerate.SPEC.read_text()
WITHOUT_VECTOR = {
    "V35": "saved state is an implementation's own affair: no bytes of it mean anything to another",
    **dict.fromkeys(("V40", "V41", "V42", "V43"), "SEAL draws its own randomness: no transcript can be played again"),
}
IMPORT = re.compile(r"\s*(from|import) ")
both = pytest.mark.parametrize("implementation", [Package, Second])


@pytest.mark.parametrize("name", regenerate.ALL)
def test_regeneration_gives_no_diff(name):
    assert regenerate.text_of(regenerate.vector(name)) == (VECTORS / f"{name}.json").read_text()


def test_no_vector_is_left_that_nothing_makes():
    assert set(ALL) == set(regenerate.ALL)


def test_diagram_in_the_text_is_that_of_the_tables():
    assert f"<!-- diagram -->\n{diagram()}\n<!-- /diagram -->" in SPEC
    assert regenerate.with_diagram(SPEC) == SPEC


@both
@pytest.mark.parametrize("name", TRANSCRIPTS)
def test_transcript_is_replayed_byte_for_byte_and_breaches_are_refused(name, implementation):
    """secagg.md V01–V08, V10–V14, V20–V28, V32–V34: see `replay` for what is compared, `refused` for the breaches.

    P2 (sums as recorded), P4 and P8 (a refused message leaves the state, and the rest of the transcript, as it was).
    """
    replay(implementation, TRANSCRIPTS[name])


def expected(vector):
    """All that a vector says must be refused or noted, and by which check."""
    named = [bad["expect"] for bad in (*vector.get("refused", ()), *vector.get("cases", ()))]
    return [text for text in (*named, vector["description"]) if re.match(r"V\d\d ", text)]


def test_every_check_of_the_text_has_a_vector_or_a_reason():
    numbers = set(re.findall(r"^\| (V\d\d) \|", SPEC, re.MULTILINE))
    shown = {text[:3] for vector in ALL.values() for text in expected(vector)}
    assert numbers == shown | WITHOUT_VECTOR.keys()
    assert not shown & WITHOUT_VECTOR.keys()


@pytest.mark.parametrize("name", ["bad_seed_dealer", "bad_key_dealer", "seed_beyond_32_bytes"])
def test_dealer_of_another_secret_is_named_in_the_abort(name):  # secagg.md V28
    events = [event for step in TRANSCRIPTS[name]["steps"] for event in step["events"]]
    aborts = [event for event in events if event[0] == "aborted"]
    assert {(AbortReason(event[1]), *event[-1]) for event in aborts} == {(AbortReason.BAD_DEALER, 2)}
    assert len(aborts) == 5  # the server and all four clients are told


@pytest.mark.parametrize("name", ["spoilt_shares", "share_beyond_the_field"])
def test_unusable_shares_are_noted_and_the_sum_is_completed(name):  # secagg.md V14
    events = [event for step in TRANSCRIPTS[name]["steps"] for event in step["events"]]
    assert events.count(["misbehaved", [2], "V14"]) == 1
    assert ["finished", 0, [1, 2, 3, 4]] in events


def test_sums_of_the_vectors_are_the_survivors_values():  # secagg.md P2
    """An oracle beside both implementations: the recorded values of the recorded survivors, added as they stand."""
    checked = 0
    for vector in TRANSCRIPTS.values():
        values = {(s["sum"], s["client"]): s["values"] for s in vector["steps"] if s["do"] == "input"}
        for step in vector["steps"]:
            for name, recorded in step.get("result", {}).items():
                _, at, survivors = step["events"][-1]
                added = np.sum([expand(values[at, client][name]) for client in survivors], axis=0)
                assert "values" not in recorded or added.tolist() == recorded["values"]
                checked += 1
    assert checked > 20


def test_second_implementation_uses_nothing_of_the_package():
    sources = sorted(Path(__file__).parent.glob("slow_*.py"))
    imported = {line.split()[1] for path in sources for line in path.read_text().splitlines() if IMPORT.match(line)}
    third = {name.partition(".")[0] for name in imported} - {path.stem for path in sources} - sys.stdlib_module_names
    assert len(sources) == 4
    assert third == {"cryptography"}


# What is agreed before any message


@pytest.mark.parametrize("good", ALL["descriptors"]["sessions"], ids=lambda good: good["description"])
def test_descriptors_have_one_encoding_and_one_transcript(good):
    wire, transcript = base64.b64decode(good["session"]), bytes.fromhex(good["transcript"])
    package, second = Session.decode(wire), slow_session.Session.parse(wire)
    assert package.encode() == second.encode() == wire
    assert package.transcript == second.transcript == transcript


@pytest.mark.parametrize("bad", ALL["descriptors"]["refused"], ids=lambda bad: bad["expect"])
def test_what_is_no_descriptor_is_refused(bad):  # secagg.md V30
    wire = base64.b64decode(bad["session"])
    with pytest.raises(InvalidSession, match="V30"):
        Session.decode(wire)
    with pytest.raises(Refused, match="V30"):
        slow_session.Session.parse(wire)


@both
@pytest.mark.parametrize("case", ALL["policies"]["cases"], ids=lambda case: case["expect"])
def test_client_takes_part_where_its_policy_allows(case, implementation):  # secagg.md V31, V36
    check = case["expect"][:3] if re.match(r"V\d\d ", case["expect"]) else None
    try:
        implementation(case)
    except Refusal as found:
        assert found.check == check
    else:
        assert check is None


@pytest.mark.parametrize("recorded", ALL["primitives"]["orders"], ids=lambda recorded: f"sum {recorded['sum']}")
def test_graph_orders_are_as_recorded(recorded):
    wire = base64.b64decode(recorded["session"])
    package, second = Session.decode(wire), slow_session.Session.parse(wire)
    ring, half = recorded["order"], package.degree // 2
    assert list(order(package, recorded["sum"])) == ring
    for place, client in enumerate(ring):
        around = sorted((ring + ring + ring)[len(ring) + place - half : len(ring) + place + half + 1])
        assert second.around(recorded["sum"], client) == around


@pytest.mark.parametrize("recorded", ALL["primitives"]["rounded"], ids=lambda recorded: recorded["tensor"])
def test_values_become_the_recorded_ring_elements(recorded):
    reader = slow_session.Reader(base64.b64decode(recorded["encoding"]))
    second = slow_session.Tensor.read(reader)
    reader.end()
    assert [value % 2**second.bits for value in second.to_ring(recorded["values"])] == recorded["ring"]
    fields = ("name", "shape", "bound", "fraction_bits", "bits", "symmetric", "row_exponents", "column_exponents")
    package = Tensor(**{name: getattr(second, name) for name in fields})
    out = np.empty(len(recorded["values"]), np.uint64)
    Encoder(package, np.reshape(np.array(recorded["values"]), package.shape)).encode_into(0, out)
    assert [int(value) % 2**package.bits for value in out] == recorded["ring"]
