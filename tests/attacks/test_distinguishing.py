"""The game's win rate is what theory says where theory says something, and ½ where nothing can be known."""

import math

import numpy as np
import pytest
from scipy.stats import norm
from summed_case import summed_case

from collabsecure.attacks.cases.masking import Parties
from collabsecure.attacks.cases.weak_masking import gaussian, unmasked
from collabsecure.attacks.distinguishing import Game
from collabsecure.attacks.views import PlainUpload
from collabsecure.statistics import Statistics

CASE = summed_case()
FIRST, SECOND = CASE.real.uploads[1][0], CASE.real.uploads[2][0]  # two clients'


def game(**how):
    return Game(layer=0, public=CASE.real.public.layers[0], inputs=(FIRST, SECOND), **how)


def win_rate(channel, seed=1, **how):
    found = game(**how).play(channel, view="made up", setting=CASE.setting, seed=seed)
    return found.score.figure("win rate")


def test_what_does_not_depend_on_the_input_is_won_half_the_time():
    rng = np.random.default_rng(1)
    noise = lambda _: PlainUpload(  # noqa: E731
        layers={0: Statistics(gram=rng.standard_normal((256, 256)), cross=rng.standard_normal((64, 256)))}
    )
    figure = win_rate(noise, training=50, rounds=130)
    assert figure.is_chance
    assert figure.error == pytest.approx(0.5 / math.sqrt(130))


@pytest.mark.parametrize("times", [100, 300])
def test_against_gaussian_masks_the_adversary_wins_as_often_as_the_likelihood_ratio_would(times):
    """Φ(‖x₁ − x₀‖/2σ), over the numbers that travel: at 100 times the input still far from ½. Seed 5, 130 rounds."""
    parties, rng = Parties.of(CASE.real, num_clients=3), np.random.default_rng(5)
    figure = win_rate(
        lambda chosen: gaussian(parties, chosen, times=times, signal=FIRST, rng=rng), training=50, rounds=130
    )
    tensor = parties.session.sums[0].tensors[0]
    columns = np.ldexp(1.0, np.array(tensor.row_exponents))
    gram, of = (SECOND.gram - FIRST.gram) * columns * columns[:, None], FIRST.gram * columns * columns[:, None]
    cross, of_cross = (SECOND.cross - FIRST.cross) * columns, FIRST.cross * columns
    distance = np.sum(np.triu(gram) ** 2) / np.mean(of**2) + np.sum(cross**2) / np.mean(of_cross**2)
    expected = norm.cdf(math.sqrt(distance) / (2 * times))
    assert expected > (0.75 if times == 100 else 0.55)
    # It has its threshold, and which statistic to use, from 50 rounds: it may win somewhat less.
    assert expected - 0.1 < figure.value < expected + 4 * 0.5 / math.sqrt(130)


def test_one_round_is_enough_to_learn_from_where_nothing_is_hidden():
    parties = Parties.of(CASE.real, num_clients=3)
    assert win_rate(lambda chosen: unmasked(parties, chosen), training=2, rounds=40).value == 1.0
