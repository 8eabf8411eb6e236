"""A server with colluding clients has the sum of the honest ones; with all but one, everything of that one."""

import numpy as np
import pytest
from summed_case import summed_case

from collabsecure.attacks import attribution
from collabsecure.statistics import cross, gram

CASE = summed_case()


@pytest.mark.parametrize("colluders", [(), (2,), (1, 4), (1, 2, 3, 5)])
def test_what_is_left_of_a_sum_is_exactly_the_honest_clients(colluders):
    left = CASE.real.summed(colluders=colluders).of_the_others
    honest = np.isin(CASE.truth.client, left.survivors)
    assert set(left.survivors) == {1, 2, 3, 4, 5} - set(colluders)
    keys, residuals = CASE.truth.keys[0][:, honest], CASE.truth.residuals[0][:, honest]
    assert np.linalg.norm(left.layers[0].gram - gram(keys)) < 1e-12 * np.linalg.norm(gram(keys))
    assert np.linalg.norm(left.layers[0].cross - cross(residuals, keys)) < 1e-12 * np.linalg.norm(
        cross(residuals, keys)
    )


@pytest.mark.parametrize(("colluders", "chance"), [((1, 3), 1 / 3), ((1, 2, 4), 1 / 2)])
def test_colluders_leave_fewer_to_choose_from_and_no_more(colluders, chance):
    view = CASE.real.summed(colluders=colluders)
    figure = attribution.ATTACK.run(view, CASE.real.public, CASE.truth, seed=1).figure("attributed")
    assert figure.chance == chance
    assert figure.is_chance


def test_with_all_others_colluding_everything_is_known_of_the_one_left():
    """What the promise leaves out: it needs two honest clients among the survivors."""
    view = CASE.real.summed(colluders=(1, 2, 3, 5))
    assert attribution.ATTACK.run(view, CASE.real.public, CASE.truth, seed=1).figure("attributed").value == 1.0
