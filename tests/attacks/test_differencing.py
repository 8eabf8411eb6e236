"""Two sums that differ by one client are that client's statistics; clients refuse to give the second."""

import pytest
from summed_case import summed_case

from collabsecure.attacks import differencing, membership
from collabsecure.attacks.attack import measure
from collabsecure.attacks.cases.masking import retried
from collabsecure.attacks.views import STATISTICS, TwoSums
from collabsecure_protocols import PolicyRefusal

CASE = summed_case()
WITHOUT_3 = (1, 2, 4, 5)


def test_raw_sums_give_one_clients_statistics_to_the_last_bits():
    found = measure(
        differencing.ATTACK,
        "two sums",
        CASE,
        lambda shown: TwoSums(first=shown.summed(), second=shown.summed(WITHOUT_3)),
        seed=1,
    )
    assert found.score.figure("relative error of the Gram matrix").value < 1e-14
    assert found.score.figure("relative error of the cross term").value < 1e-14
    assert found.null.figure("relative error of the Gram matrix").value > 0.5


def test_the_difference_tells_which_edits_are_the_clients():
    found = measure(
        membership.ATTACK,
        "two sums",
        CASE,
        lambda shown: TwoSums(first=shown.summed(), second=shown.summed(WITHOUT_3)).difference,
        seed=1,
    )
    assert found.score.figure("AUC").value > 0.999
    assert found.null.figure("AUC").is_chance


def test_the_protocol_would_give_them_to_a_server_whose_clients_forget():
    """Real sessions, five clients and then four; all that is between the difference and the truth is fixed point."""
    view = retried(CASE.real, 3, remember=False)
    assert view.missing == (3,)
    assert isinstance(view, STATISTICS)
    score = differencing.ATTACK.run(view, CASE.real.public, CASE.truth, seed=1)
    assert score.figure("relative error of the Gram matrix").value < 1e-10


def test_clients_that_remember_refuse():
    with pytest.raises(PolicyRefusal, match="V34"):
        retried(CASE.real, 3)
    finding = differencing.attempt(lambda: retried(CASE.real, 3), setting=CASE.setting)
    assert finding.must is False
    assert finding.score.figures[0].is_chance
    assert "V34" in finding.score.says


def test_the_attempt_would_tell_if_they_did_not():
    finding = differencing.attempt(lambda: retried(CASE.real, 3, remember=False), setting=CASE.setting)
    assert finding.score.figures[0].is_chance is False
