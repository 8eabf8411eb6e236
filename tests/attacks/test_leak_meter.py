"""The leak meter's curves against what the attacks do, seed by seed, on keys that they were fitted to and on others.

Made-up keys: d = 256, d_model = 64, a tenth of the edits on the list beside 300 others, mean of seeds 11 and 12 (the
fit used 0 to 2). Real ones, mostly of subjects that the small world's model has not read of, give the lower curves.
"""

import numpy as np
import pytest

from collabsecure.attacks.attack import Attack, measure
from collabsecure.attacks.cases.open_world import shorten_list
from collabsecure.attacks.cases.small_world import small_world
from collabsecure.attacks.cases.synthetic import synthetic_case
from collabsecure.attacks.membership import ATTACK as ON_SUM
from collabsecure.attacks.membership import Suspicion
from collabsecure.attacks.published_delta import ATTACK as ON_DELTA
from collabsecure.attacks.published_delta import Shares
from collabsecure.leak_meter import LeakMeter

D_IN, D_MODEL = 256, 64


def measured(attack: Attack[Suspicion] | Attack[Shares], view: str, edits: int) -> float:
    found = []
    for seed in (11, 12):
        case = synthetic_case(d_in=D_IN, num_clients=1, edits_per_client=edits, num_others=300, seed=seed)
        finding = measure(
            attack,
            view,
            shorten_list(case, 0.1),
            lambda shown: shown.summed() if view == "sum" else shown.published(),
            seed=0,
        )
        assert finding.null is not None
        assert finding.null.figure("AUC").is_chance
        found.append(finding.score.figure("AUC").value)
    return float(np.mean(found))


@pytest.mark.parametrize("ratio", [0.9, 1.3, 3.3, 6.0])
def test_sums_give_away_what_the_meter_says(ratio: float) -> None:
    meter = LeakMeter(total_edits=round(ratio * D_IN), d_model=D_MODEL, d_in=D_IN)
    lower, higher = meter.sum_auc
    found = measured(ON_SUM, "sum", meter.total_edits)
    assert found >= lower - 0.02
    assert found == pytest.approx(higher, abs=0.06)


@pytest.mark.parametrize("ratio", [0.5, 1.0, 2.0, 2.6, 3.3])
def test_the_update_alone_gives_away_what_the_meter_says(ratio: float) -> None:
    meter = LeakMeter(total_edits=round(ratio * D_MODEL), d_model=D_MODEL, d_in=D_IN)
    found = measured(ON_DELTA, "delta", meter.total_edits)
    lower, higher = meter.delta_auc
    assert found >= lower - 0.02
    assert found == pytest.approx(higher, abs=0.06)


def test_a_meter_never_rises_with_the_number_of_edits() -> None:
    meters = [LeakMeter(total_edits=edits, d_model=D_MODEL, d_in=D_IN) for edits in range(1, 4000, 7)]
    for values in (
        [m.delta_auc[1] for m in meters],
        [m.sum_auc[0] for m in meters],
        [m.sum_auc[1] for m in meters],
        [m.delta_auc[0] for m in meters],
    ):
        assert values[0] == 1.0
        assert all(0.5 <= value <= 1 for value in values)
        assert (np.diff(values) <= 0).all()


def test_that_it_knows_the_most_edits_and_fewer_give_more_away_is_said() -> None:
    meter = LeakMeter(total_edits=2000, d_model=D_MODEL, d_in=D_IN)
    assert "At most 2000 edits" in meter.lines()[0]
    assert "Fewer edits give more away." in meter.lines()[-1]
    assert "Fewer edits give more away." in str(meter.to_json()["note"])
    assert max(map(len, meter.lines())) <= 120


@pytest.mark.slow
@pytest.mark.parametrize("ratio", [1.3, 2.0])
def test_the_small_worlds_keys_give_away_the_lower_of_the_two(ratio: float) -> None:
    """Seed 3, 480 records among 2700 subjects of which the model has not read, 66 or 102 of them on the list."""
    laboratory = small_world(seed=3, unheard_of=2700)
    edits = round(ratio * 512)
    case = shorten_list(laboratory.case(1, edits, with_values=False), 0.1)
    finding = measure(ON_SUM, "sum", case, lambda shown: shown.summed(), seed=0)
    assert finding.null is not None
    assert finding.null.figure("AUC").is_chance
    lower, _ = LeakMeter(total_edits=edits, d_model=128, d_in=512).sum_auc
    assert finding.score.figure("AUC").value == pytest.approx(lower, abs=0.06)


@pytest.mark.slow
def test_the_small_worlds_updates_give_away_the_lower_of_the_two() -> None:
    """Seed 3, 480 records and 400 subjects of which the model has not read, 24 of 240 edits on the list (SE 0.06)."""
    laboratory = small_world(seed=3, unheard_of=400)
    case = shorten_list(laboratory.case(1, 240, layers=[0]), 0.1)
    finding = measure(ON_DELTA, "delta", case, lambda shown: shown.published(), seed=0)
    assert finding.null is not None
    assert finding.null.figure("AUC").is_chance
    lower, _ = LeakMeter(total_edits=240, d_model=128, d_in=512).delta_auc
    assert finding.score.figure("AUC").value >= lower - 0.06
