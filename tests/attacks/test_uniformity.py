"""The tests of uniformity have the p-values that they say, and see what they are for."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import kstest
from summed_case import masked_state, summed_case

from collabsecure.attacks.uniformity import checks, examine

CASE = summed_case()
OWN = CASE.real.uploads[1]


def examined(words):
    upload = replace(masked_state().uploads[1], words=words)
    return examine(upload, OWN, view="made up", setting=CASE.setting).score


def uniform(seed):
    rng = np.random.default_rng(seed)
    return {
        name: rng.integers(0, 1 << 48, len(found), np.uint64) for name, found in masked_state().uploads[1].words.items()
    }


def test_p_values_of_uniform_numbers_are_uniform():
    """Seeds 0 to 19, 114 tests each: Kolmogorov–Smirnov over all of them."""
    upload = masked_state().uploads[1]
    found = [[one.p for one in checks(replace(upload, words=uniform(seed)), OWN)] for seed in range(20)]
    assert {len(one) for one in found} == {2 * (6 + 48 + 3)}
    assert kstest(np.concatenate(found), "uniform").pvalue > 1e-3


def test_after_correction_uniform_numbers_seldom_deviate():
    """Of 20 uploads, 2.3 standard errors (a corrected p of 2%) are passed by at most two."""
    deviations = [examined(uniform(seed)).figure("strongest deviation").value for seed in range(20)]
    assert sum(deviation > 2.3 for deviation in deviations) <= 2


def biased_bit(words):
    words["gram 0"][::20] |= np.uint64(1 << 17)


def biased_byte(words):
    words["cross 0"][::30] &= np.uint64(~(0xFF << 16) & (1 << 48) - 1)


def repeated(words):
    words["gram 0"][1::2] = words["gram 0"][:-1:2][: len(words["gram 0"][1::2])]


def follows_input(words):
    """A hundredth of the ring, in step with what was masked."""
    cross = OWN[0].cross.ravel()
    words["cross 0"] += np.rint((1 << 48) / 20 * cross / np.abs(cross).std()).astype(np.int64).view(np.uint64)
    words["cross 0"] &= np.uint64((1 << 48) - 1)
    words["cross 0"] >>= np.uint64(1)


@pytest.mark.parametrize("change", [biased_bit, biased_byte, repeated, follows_input])
def test_it_sees_numbers_that_are_not_uniform(change):
    words = uniform(1)
    change(words)
    assert examined(words).figure("strongest deviation").is_chance is False
