"""Members of a list are told from others by K Kᵀ: of a client, of a sum, of hundreds of edits beyond d.

Real keys are the small world's (d = 512, seed 0), made-up ones `synthetic` (seed 1, d = 256 or 512). Each AUC is held
against that of the same attack on other subjects' edits.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from collabsecure.attacks.attack import Finding, measure
from collabsecure.attacks.case import Case, Shown
from collabsecure.attacks.cases.editing import Laboratory
from collabsecure.attacks.cases.open_world import shorten_list
from collabsecure.attacks.cases.small_world import small_world, with_other_relations
from collabsecure.attacks.cases.synthetic import synthetic_case
from collabsecure.attacks.membership import ATTACK, Suspicion
from collabsecure.attacks.plan_variants import of_variants
from collabsecure.attacks.views import SumOnly
from collabsecure.templates import CLEAN


@pytest.fixture(scope="module")
def laboratory() -> Laboratory:
    """120 records of the small world; 60 of its public subjects' facts."""
    whole = small_world(seed=0)
    return replace(whole, requests=whole.requests[:120], reference=whole.reference[:60])


def found(case: Case, show: Callable[[Shown], object] = Shown.summed) -> Finding:
    finding = measure(ATTACK, "sum", case, show, seed=0)
    assert finding.null is not None
    for name in ("AUC", "AUC by leverage alone"):
        assert finding.null.figure(name).is_chance, finding.null
    return finding


def value(finding: Finding, name: str) -> float:
    return finding.score.figure(name).value


def test_one_clients_members_lie_in_the_span_and_nobody_else(laboratory: Laboratory) -> None:
    finding = found(laboratory.case(1, 40, with_values=False), lambda shown: shown.plain(1))
    assert value(finding, "AUC") >= 0.999
    assert value(finding, "TPR at 0.1% FPR") == 1.0
    assert value(finding, "largest residual of a member") < 1e-9
    assert value(finding, "smallest residual of another") > 1e-2


def test_a_sum_of_four_clients_is_as_one_client_with_four_times_the_edits(laboratory: Laboratory) -> None:
    def suspicion(case: Case) -> Suspicion:
        return ATTACK.guess(case.real.summed(), case.real.public, np.random.default_rng(0))

    four, one = (suspicion(laboratory.case(*of, with_values=False)) for of in ((4, 10), (1, 40)))
    np.testing.assert_allclose(four.scores, one.scores, rtol=0, atol=1e-9)
    members = slice(40)  # leverages of others are those of what rounding left
    np.testing.assert_allclose(four.leverages[members], one.leverages[members], rtol=1e-5)
    np.testing.assert_allclose(four.layers[0].counts[members], 1.0, atol=1e-3)


def test_the_same_subjects_with_another_relation_are_told_apart(laboratory: Laboratory) -> None:
    """Non-members are 20 other subjects' facts and 40 more, of them and of the members."""
    both = with_other_relations(replace(laboratory, requests=laboratory.requests[:60]))
    finding = found(both.case(1, 20, with_values=False), lambda shown: shown.plain(1))
    assert value(finding, "AUC") >= 0.999
    assert value(finding, "largest residual of a member") < 1e-9


def test_members_are_found_without_the_sessions_contexts(laboratory: Laboratory) -> None:
    """The adversary takes prompts as they stand, where keys are means over six contexts: residuals are small, not 0."""
    finding = found(laboratory.case(1, 20, with_values=False, guessed_templates=CLEAN), lambda shown: shown.plain(1))
    assert value(finding, "AUC") >= 0.999
    assert value(finding, "largest residual of a member") > 1e-3


def test_the_suite_makes_it_harder_and_members_are_found_all_the_same(laboratory: Laboratory) -> None:
    (experiment,) = of_variants(lambda: laboratory, len(laboratory.requests), ("plain",), 0).experiments
    findings = list(experiment.run())
    assert len(findings) == 4
    for finding in findings:
        assert finding.null is not None
        assert value(finding, "AUC") >= 0.999
        assert finding.null.figure("AUC").is_chance


def test_both_layers_of_a_session_tell(two_layers: Case) -> None:
    """Keys of the second are those of the model with the first one's update, which every client gets."""
    finding = found(two_layers)
    assert len(two_layers.real.summed().layers) == 2
    assert value(finding, "AUC") == 1.0
    assert value(finding, "largest residual of a member") < 1e-9


def test_colluders_edits_are_taken_out_of_the_sum(two_layers: Case) -> None:
    """Of two clients, one colludes: what is left are the other's edits, and the colluder's are members no longer."""
    view = two_layers.real.summed(colluders=[1])
    suspicion: Suspicion = ATTACK.guess(view, two_layers.real.public, np.random.default_rng(0))
    assert suspicion.clients == (2,)
    assert suspicion.residuals[2:4].max() < 1e-9
    assert suspicion.residuals[:2].min() > 1e-2
    assert ATTACK.score(suspicion, two_layers.real.public, two_layers.truth).figure("AUC").value == 1.0


@pytest.mark.parametrize(("kind", "edits", "bar"), [(np.float32, 40, 0.999), (np.float16, 40, 0.999)])
def test_rounded_uploads_tell_as_well(laboratory: Laboratory, kind: type, edits: int, bar: float) -> None:
    def rounded(shown: Shown) -> SumOnly:
        view = shown.summed()
        layers = {
            layer: replace(each, gram=each.gram.astype(kind).astype(np.float64)) for layer, each in view.layers.items()
        }
        return replace(view, layers=layers)

    assert value(found(laboratory.case(1, edits, with_values=False), rounded), "AUC") >= bar


@pytest.mark.parametrize(
    ("ratio", "share", "bar", "leverage"),  # edits for each entry of a key; of the edits, on the list; AUC; of leverage
    [
        (0.65, 0.1, 0.999, 0.999),
        (1.3, 0.1, 0.999, 0.999),
        (2.0, 0.1, 0.99, 0.9),
        (3.3, 1.0, 0.999, 0.7),
        (3.3, 0.1, 0.9, 0.7),
        (6.0, 1.0, 0.999, 0.55),
    ],
)
def test_members_are_found_where_edits_outnumber_a_keys_entries(
    ratio: float, share: float, bar: float, leverage: float
) -> None:
    """Made-up keys, d = 256: a list with all edits on it finds them all; with a tenth, more than leverage alone."""
    case = synthetic_case(
        d_in=256, num_clients=1, edits_per_client=round(ratio * 256), num_others=400, seed=1, num_reference=300
    )
    finding = found(shorten_list(case, share))
    assert value(finding, "AUC") >= bar
    assert value(finding, "AUC by leverage alone") >= leverage
    if ratio > 2:
        assert value(finding, "AUC") > value(finding, "AUC by leverage alone") + 0.1


@pytest.mark.slow
@pytest.mark.parametrize(("edits", "share", "bar"), [(666, 1.0, 0.999), (666, 0.1, 0.95), (1024, 1.0, 0.999)])
def test_members_are_found_where_real_edits_outnumber_a_keys_entries(edits: int, share: float, bar: float) -> None:
    """The small world's model, d = 512, 480 records among 2700 subjects that it has never read of."""
    laboratory = small_world(seed=0, unheard_of=2700)
    assert value(found(shorten_list(laboratory.case(1, edits, with_values=False), share)), "AUC") >= bar
