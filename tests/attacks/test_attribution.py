"""From a sum nobody can be named; from plain uploads everybody; and who knows the topics needs no sum.

60 edits of five clients (tests/attacks/summed_case.py), so a standard error of 5% under chance.
"""

import numpy as np
import pytest
from summed_case import NUM_CLIENTS, masked_state, summed_case

from collabsecure.attacks import attribution
from collabsecure.attacks.attack import measure
from collabsecure.attacks.case import Shown
from collabsecure.attacks.views import AggregatorState

CASE = summed_case()


def attributed(view, attack=attribution.ATTACK, seed=1):
    return attack.run(view, CASE.real.public, CASE.truth, seed=seed).figure("attributed")


def test_plain_uploads_name_the_client_of_every_edit():
    def everybodys(shown: Shown):
        return AggregatorState(uploads={client: shown.plain(client) for client in shown.uploads})

    found = measure(attribution.ATTACK, "plain", CASE, everybodys, seed=1)
    assert found.score.figure("attributed").value == 1.0
    assert found.null.figure("attributed").is_chance


def test_a_sum_names_nobody():
    figure = attributed(CASE.real.summed())
    assert figure.chance == 1 / NUM_CLIENTS
    assert figure.is_chance


def test_a_sum_is_the_same_whoever_contributed_what():
    """Why nothing better than chance can come of it: there is nothing else in the view."""
    order = [3, 5, 1, 2, 4]
    dealt_otherwise = Shown(
        public=CASE.real.public,
        uploads={client: CASE.real.uploads[other] for client, other in enumerate(order, 1)},
        deltas=CASE.real.deltas,
    )
    before, after = CASE.real.summed().layers[0], dealt_otherwise.summed().layers[0]
    assert np.allclose(before.gram, after.gram, rtol=0, atol=1e-12)
    assert np.allclose(before.cross, after.cross, rtol=0, atol=1e-12)


def test_masked_uploads_beside_the_sum_name_nobody():
    assert attributed(masked_state()).is_chance


def test_who_knows_the_topics_names_the_client():
    figure = attributed(CASE.real.summed(), attribution.one_topic_each(CASE))
    assert (figure.value, figure.chance) == (1.0, 1 / NUM_CLIENTS)


def test_a_topic_that_two_edit_leaves_the_two():
    figure = attributed(CASE.real.summed(), attribution.one_topic_each(CASE, sharing=2))
    assert figure.is_chance is False
    # Of clients 1 to 4, one in two; client 5 has its topic alone.
    assert figure.value == pytest.approx(0.6, abs=4 * 0.5 * np.sqrt(48) / 60)
