"""A server with colluding clients has the sum of the honest ones; with all but one, everything of that one."""

import numpy as np
import pytest
from summed_case import summed_case

from collabsecure.attacks import attribution, membership
from collabsecure.attacks.attack import measure
from collabsecure.attacks.cases.masking import aggregated
from collabsecure.attacks.uniformity import examine
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


@pytest.mark.parametrize("colluders", [(), (2,), (2, 3, 4)])
def test_an_upload_stays_uniform_while_one_other_client_is_honest(colluders):
    """Its self mask is off, which the server learns, and the masks shared with colluders; one is left and is enough."""
    upload = aggregated(CASE.real, colluders=colluders).uploads[1]
    found = examine(upload, CASE.real.uploads[1], view="masked", setting=CASE.setting)
    assert found.score.figures[0].is_chance


def test_an_upload_opens_if_all_others_collude():
    upload = aggregated(CASE.real, colluders=(2, 3, 4, 5)).uploads[1]
    opened, own = upload.layers[0], CASE.real.uploads[1][0]
    assert np.linalg.norm(opened.gram - own.gram) < 1e-10 * np.linalg.norm(own.gram)
    assert np.linalg.norm(opened.cross - own.cross) < 1e-9 * np.linalg.norm(own.cross)


@pytest.mark.parametrize("colluders", [(1, 4), (1, 2, 3, 5)])
def test_the_honest_clients_edits_are_told_from_candidates_as_from_any_sum(colluders):
    found = measure(
        membership.ATTACK, "sum", CASE, lambda shown: shown.summed(colluders=colluders).of_the_others, seed=1
    )
    assert found.score.figure("AUC").value > 0.999
    assert found.null.figure("AUC").is_chance
