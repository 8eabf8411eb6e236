"""The Gram matrix says how many edits were made: exactly."""

from dataclasses import replace

import numpy as np
import pytest

from collabsecure.attacks import rank
from collabsecure.attacks.attack import measure
from collabsecure.attacks.cases.synthetic import Population, synthetic_case

D_IN = 768


@pytest.fixture(scope="module")
def keys() -> np.ndarray:
    rng = np.random.default_rng(0)
    return Population.draw(D_IN, 192, rng).keys(500, rng)


@pytest.mark.parametrize("num_edits", [5, 20, 100, 300, 500])
def test_exact_in_float64_and_in_float32(keys: np.ndarray, num_edits: int) -> None:
    mine = keys[:, :num_edits]
    single = mine.astype(np.float32)
    grams = {
        "float64": mine @ mine.T,
        "rounded to float32": (mine @ mine.T).astype(np.float32).astype(np.float64),
        "computed in float32": (single @ single.T).astype(np.float64),
    }
    found = {how: rank.count_edits(rank.spectrum(gram)) for how, gram in grams.items()}
    assert found == dict.fromkeys(grams, num_edits)


def test_a_full_rank_is_all_that_d_edits_or_more_show(keys: np.ndarray) -> None:
    few = keys[:100]
    assert rank.count_edits(rank.spectrum(few[:, :99] @ few[:, :99].T)) == 99
    assert rank.count_edits(rank.spectrum(few[:, :100] @ few[:, :100].T)) == 100
    assert rank.count_edits(rank.spectrum(few @ few.T)) == 100


def test_nothing_is_found_in_nothing() -> None:
    assert rank.count_edits(rank.spectrum(np.zeros((3, 3)))) == 0


def test_one_upload_and_a_sum() -> None:
    case = synthetic_case(d_in=96, num_clients=3, edits_per_client=7, num_others=5, num_reference=5, seed=2)
    alone = replace(case, truth=case.truth.of_client(1))
    one = measure(rank.ATTACK, "plain", alone, lambda shown: shown.plain(1), seed=0)
    every = measure(rank.ATTACK, "sum", case, lambda shown: shown.summed(), seed=0)
    assert one.score.figure("edits found").value == 7
    assert every.score.figure("edits found").value == 21
    assert all(found.score.figure("edits found beyond those there are").value == 0 for found in (one, every))
    (curve,) = every.score.curves
    assert curve.plot == "spectrum"
    assert curve.y[20] > 1e-6 > 1e-12 > curve.y[21] > 0
