"""Members of a list are told from others by nothing but the published Δ. Small world (d_out 128), synthetic (64)."""

import numpy as np
import pytest

from collabsecure.attacks.attack import Finding, measure
from collabsecure.attacks.case import Case
from collabsecure.attacks.cases.open_world import shorten_list
from collabsecure.attacks.cases.small_world import small_world
from collabsecure.attacks.cases.synthetic import synthetic_case
from collabsecure.attacks.published_delta import ATTACK


def found(case: Case) -> Finding:
    finding = measure(ATTACK, "delta", case, lambda shown: shown.published(), seed=0)
    assert finding.null is not None
    for name in ("AUC", "AUC whitened by C alone"):
        assert finding.null.figure(name).is_chance, finding.null
    return finding


def value(finding: Finding, name: str) -> float:
    return finding.score.figure(name).value


def test_real_edits_of_both_layers_are_found_from_the_edited_model(two_layers: Case) -> None:
    finding = found(two_layers)
    assert value(finding, "AUC") >= 0.999
    assert value(finding, "TPR at 0.1% FPR") == 1.0
    assert value(finding, "independent rows of ΔC") == 4


@pytest.mark.parametrize(
    ("edits", "share", "bar"),  # d_out = 64; of the edits, on the list; AUC
    [(20, 1.0, 0.999), (64, 1.0, 0.999), (64, 0.1, 0.999), (128, 1.0, 0.99), (96, 0.3, 0.95)],
)
def test_edits_are_found_up_to_the_models_width_and_beyond(edits: int, share: float, bar: float) -> None:
    """Made-up keys, d = 256, 400 subjects that nobody edits."""
    case = synthetic_case(d_in=256, num_clients=1, edits_per_client=edits, num_others=400, seed=1, num_reference=200)
    finding = found(shorten_list(case, share))
    assert value(finding, "AUC") >= bar
    assert value(finding, "independent rows of ΔC") == min(edits, 64)


def test_members_have_their_whole_key_in_the_row_space_up_to_the_models_width() -> None:
    case = synthetic_case(d_in=256, num_clients=1, edits_per_client=64, num_others=100, seed=2, num_reference=100)
    guess = ATTACK.guess(case.real.published(), case.real.public, np.random.default_rng(0))
    assert guess.layers[0][:64].min() > 1 - 1e-9
    assert guess.layers[0][64:].max() < 0.95


@pytest.mark.slow
def test_real_edits_are_found_at_the_models_width_and_less_surely_beyond() -> None:
    """The small world's 480 records and 500 subjects that it has not read of; the lower of the edited layers alone."""
    laboratory = small_world(seed=0, unheard_of=500)
    for edits, share, bar in ((128, 1.0, 0.999), (128, 0.1, 0.999), (256, 1.0, 0.9), (256, 0.3, 0.85)):
        case = laboratory.case(1, edits, layers=[0])
        assert value(found(shorten_list(case, share)), "AUC") >= bar
