"""Defences in a real edit: what they leave of it, and what they leave to be seen. Small world, seed 0, 2 × 4 edits."""

import math
from dataclasses import replace

import numpy as np
import pytest

from collabsecure.attacks.attack import Finding
from collabsecure.attacks.cases.small_world import small_world
from collabsecure.defences.bench import Bench
from collabsecure.defences.decoys import DecoyKind, Decoys
from collabsecure.defences.defence import SecureSum
from collabsecure.defences.noise import DiscreteGaussianNoise
from collabsecure.defences.tradeoff import measure_defence
from collabsecure.errors import TooFewRequests
from collabsecure.simulation import Client, edit_globally
from collabsecure.templates import ContextTemplates


@pytest.fixture(scope="module")
def bench() -> Bench:
    """8 edits and 8 decoys, 16 others, and 8 edits and 8 decoys for the null."""
    whole = small_world(seed=0)
    templates = ContextTemplates(groups=tuple(group[:1] for group in whole.templates.groups))  # for speed
    laboratory = replace(whole, templates=templates, requests=whole.requests[:48], reference=whole.reference[:40])
    return Bench.prepare(laboratory, num_clients=2, edits_per_client=4, decoys_per_client=4, num_others=16)


@pytest.fixture(scope="module", params=list(DecoyKind))
def finding(bench: Bench, request: pytest.FixtureRequest) -> Finding:
    return measure_defence(bench, Decoys(decoys_per_client=4, kind=request.param), seed=0)


def value(finding: Finding, name: str) -> float:
    return finding.score.figure(name).value


def test_without_a_defence_it_is_the_global_edit(bench: Bench) -> None:
    found = bench.run(SecureSum(), bench.real, seed=0).deltas
    together = {1: Client(requests=bench.real.edits, values=bench.real.values)}
    laboratory = bench.laboratory
    expected = edit_globally(laboratory.model, together, laboratory.templates, laboratory.second_moments)
    for layer, delta in expected.items():
        np.testing.assert_allclose(found[layer], delta, atol=1e-10 * np.abs(delta).max())


def test_infinite_epsilon_is_no_defence_bit_for_bit(bench: Bench) -> None:
    clean = bench.run(SecureSum(), bench.real, seed=0)
    noisy = bench.run(DiscreteGaussianNoise(epsilon=math.inf), bench.real, seed=0)
    for layer, delta in clean.deltas.items():
        np.testing.assert_array_equal(noisy.deltas[layer], delta)


def test_decoys_leave_the_edit_as_good_as_it_was(finding: Finding) -> None:
    assert value(finding, "ES") == 1.0
    assert value(finding, "Score") > 0.9


def test_the_gram_matrix_does_not_tell_decoys_from_edits(finding: Finding) -> None:
    assert finding.score.figure("AUC").value == 1.0  # both are in the sum, and others are not
    assert finding.score.figure("AUC against decoys").is_chance


def test_what_is_written_tells_decoys_from_edits(finding: Finding) -> None:
    assert value(finding, "AUC by what is written against decoys") == 1.0


def test_behaviour_tells_decoys_from_edits(finding: Finding) -> None:
    assert value(finding, "AUC by behaviour against decoys") >= 0.99


def test_every_attack_is_at_chance_on_other_subjects_edits(finding: Finding) -> None:
    assert finding.null is not None
    names = [figure.name for figure in finding.null.figures]
    assert len(names) == 6
    assert [figure.name for figure in finding.null.figures if not figure.is_chance] == []


def test_noise_destroys_the_edit_before_it_hides_who_was_edited(bench: Bench) -> None:
    """ε = 1000, no promise worth the name; 8 members against 16 others, standard error under chance 0.128."""
    source = np.random.default_rng(0).bytes
    found = measure_defence(bench, DiscreteGaussianNoise(epsilon=1000.0, source=source), seed=0)
    assert value(found, "ES") <= 0.25
    assert value(found, "AUC") >= 0.95
    assert value(found, "AUC bound") > 0.999
    assert found.null is not None
    assert found.null.figure("AUC").is_chance


def test_too_few_records_are_refused(bench: Bench) -> None:
    with pytest.raises(TooFewRequests):
        Bench.prepare(bench.laboratory, num_clients=2, edits_per_client=4, decoys_per_client=4, num_others=17)
