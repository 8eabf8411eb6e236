"""Rounding tells which edits are one client's: to whom keys are exact, and of coarse fixed points to others, too.

Five clients with 12 edits each; each true set against 20 in which one edit is another client's. Seeds 1.
"""

import math
from dataclasses import replace

import numpy as np
import pytest
from summed_case import NUM_CLIENTS, masked_state, summed_case

from collabsecure.attacks import grouping
from collabsecure.attacks.attack import measure
from collabsecure.attacks.cases.masking import aggregated

CASE = summed_case()
ATTACK = grouping.of_each(CASE, wrong=20, seed=1)
FLOAT32 = 2.0**-24


def found(view, error=0.0):
    """With keys that are off by a relative error in each entry."""
    layer = CASE.real.public.layers[0]
    noise = np.random.default_rng(1).standard_normal(layer.candidates.shape)
    public = replace(CASE.real.public, layers={0: replace(layer, candidates=layer.candidates * (1 + error * noise))})
    return ATTACK.run(view, public, CASE.truth, seed=1)


def test_the_rounding_of_a_sum_tells_each_clients_set_from_one_with_one_edit_changed():
    finding = measure(ATTACK, "sum", CASE, lambda shown: aggregated(shown).summed, seed=1)
    assert finding.score.figure("AUC").value == 1.0
    assert finding.null.figure("AUC").is_chance
    assert finding.score.figures[0].is_chance is False
    assert finding.null.figures[0].is_chance
    entries = 256 * 257 / 2
    expected = math.sqrt(entries / NUM_CLIENTS)
    assert finding.score.figure("standard errors of a right set").value == pytest.approx(expected, abs=3)


def test_a_sum_without_fixed_point_does_not():
    assert found(CASE.real.summed()).figure("AUC").is_chance


def test_keys_in_float32_are_too_coarse_at_48_bits():
    assert found(masked_state().summed, FLOAT32).figure("AUC").is_chance


@pytest.mark.parametrize(("bits", "margin"), [(40, 1024.0), (32, 1.0)])
def test_keys_in_float32_are_good_enough_where_the_fixed_point_is_coarse(bits, margin):
    assert found(aggregated(CASE.real, bits=bits, margin=margin).summed, FLOAT32).figure("AUC").value == 1.0
