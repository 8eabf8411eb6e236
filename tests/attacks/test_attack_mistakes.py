"""Four mistakes that make an attack look better or worse than it is, each shown, and that ours does not make it.

Made-up keys (`synthetic`), d = 128. In all of these the view is of other subjects' edits, or members are known: what an
honest attack must get is known beforehand.
"""

from dataclasses import replace

import numpy as np
import pytest
from scipy.linalg import cholesky, solve_triangular

from collabsecure.attacks.attack import measure
from collabsecure.attacks.candidates import alike, told_apart
from collabsecure.attacks.case import Case, Shown
from collabsecure.attacks.cases.open_world import shorten_list
from collabsecure.attacks.cases.synthetic import synthetic_case
from collabsecure.attacks.knowledge import Public
from collabsecure.attacks.membership import ATTACK
from collabsecure.attacks.published_delta import ATTACK as ON_DELTA
from collabsecure.attacks.scoring import Auc, auc

D = 128
MEMBERS, OTHERS = 60, 200


def made_up(seed: int) -> Case:
    return synthetic_case(
        d_in=D, num_clients=1, edits_per_client=MEMBERS, num_others=OTHERS, seed=seed, num_reference=100
    )


def with_copies_of_members(case: Case) -> Case:
    """The same list, in which whoever is a member stands thrice, as a subject with three prompts of one key does."""

    def copied(shown: Shown) -> Shown:
        order = np.concatenate((np.arange(MEMBERS + OTHERS), np.arange(MEMBERS), np.arange(MEMBERS)))
        layers = {
            layer: replace(each, candidates=each.candidates[:, order]) for layer, each in shown.public.layers.items()
        }
        names = tuple(shown.public.names[place] for place in order)
        return replace(shown, public=Public(layers=layers, names=names))

    return replace(case, real=copied(case.real), null=copied(case.null))


@pytest.mark.parametrize("seed", [1, 2])
def test_whitening_by_a_list_with_copies_of_members_finds_them_where_nobody_edited_them(seed: int) -> None:
    """The wrong way: whiten by Σ k kᵀ over the list as it is, then the length that is left outside of G's span.

    On the null, in which no candidate was edited: what stands thrice is made shorter, whatever G is.
    """
    case = with_copies_of_members(made_up(seed))
    pool = case.null.public.layers[0].candidates
    factor = cholesky(pool @ pool.T, lower=True)
    whitened = solve_triangular(factor, pool, lower=True)
    gram = case.null.summed().layers[0].gram
    outside = np.linalg.qr(solve_triangular(factor, np.linalg.eigh(gram)[1][:, -MEMBERS:], lower=True), "complete")[0]
    residuals = np.linalg.norm(outside[:, MEMBERS:].T @ whitened, axis=0)
    wrong = auc(-residuals[:MEMBERS], -residuals[MEMBERS : MEMBERS + OTHERS])
    assert wrong.value > 0.7
    assert not wrong.is_chance
    for attack, show, bar in ((ATTACK, Shown.summed, 0.999), (ON_DELTA, Shown.published, 0.98)):
        finding = measure(attack, "", case, show, seed=0)
        assert finding.null is not None
        assert finding.null.figure("AUC").is_chance
        assert finding.score.figure("AUC").value >= bar


def test_a_statistic_chosen_by_the_tests_labels_finds_members_where_there_are_none() -> None:
    """The best of 500 directions on the null, by the AUC that it is reported with; on fresh subjects it is chance."""
    rng = np.random.default_rng(0)
    keys = made_up(3).null.public.layers[0].candidates
    fresh = made_up(4).null.public.layers[0].candidates
    directions = rng.standard_normal((500, D))

    def of(direction: np.ndarray, candidates: np.ndarray) -> Auc:
        scores = direction @ candidates
        return auc(scores[:MEMBERS], scores[MEMBERS:])

    best = max(directions, key=lambda direction: of(direction, keys).value)
    assert of(best, keys).value > 0.6
    assert of(best, fresh).is_chance


def test_copies_of_members_counted_as_others_hide_a_perfect_attack() -> None:
    """Each member's other prompts have its key: an attack on keys cannot tell them apart, and is not asked to."""
    case = with_copies_of_members(made_up(5))
    public = case.real.public
    suspicion = ATTACK.guess(case.real.summed(), public, np.random.default_rng(0))
    members = case.truth.is_member(len(public.names))
    counted_apart = auc(suspicion.scores[members], suspicion.scores[~members])
    assert counted_apart.value < 0.9
    figures, _ = told_apart(suspicion.scores, members, alike(public.layers[0].candidates), "")
    assert figures[0].value == 1.0


def test_keys_that_differ_only_by_rounding_are_one_and_others_are_not() -> None:
    keys = made_up(6).real.public.layers[0].candidates
    rounded = keys[:, :5] * (1 + 1e-13)
    near = keys[:, 5:10] * (1 + 1e-6)
    groups = alike(np.concatenate((keys, rounded, near), axis=1))
    np.testing.assert_array_equal(groups[: MEMBERS + OTHERS], np.arange(MEMBERS + OTHERS))
    np.testing.assert_array_equal(groups[-10:-5], np.arange(5))
    np.testing.assert_array_equal(groups[-5:], np.arange(MEMBERS + OTHERS + 5)[-5:] + 5)


def test_a_list_with_all_edits_on_it_says_nothing_of_what_one_without_can_do() -> None:
    """700 edits of d = 128: the closed world's AUC is 1, the open one's (a tenth is listed) far from it."""
    case = synthetic_case(d_in=D, num_clients=1, edits_per_client=700, num_others=OTHERS, seed=7, num_reference=100)
    closed, opened = (
        measure(ATTACK, "sum", shorten_list(case, share), lambda shown: shown.summed(), seed=0) for share in (1.0, 0.1)
    )
    for finding in (closed, opened):
        assert finding.null is not None
        assert finding.null.figure("AUC").is_chance
    assert closed.score.figure("AUC").value >= 0.999
    assert 0.55 < opened.score.figure("AUC").value < 0.9
    assert "10% of the edits" in opened.setting.note
