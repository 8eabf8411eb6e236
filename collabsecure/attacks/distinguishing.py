"""A game: the adversary chooses two inputs, a client masks one of them anew in each round, and it guesses which.

Indistinguishability under chosen plaintexts, as a test. The adversary has rounds in which it is told the answer, and
takes from them the statistic and the threshold that do best; it is scored on other rounds. So many statistics may be
tried, and a win rate of ½ is still what comes of knowing nothing. For masks that are Gaussian noise, the correlation
with the difference of the two inputs, over σ² of each tensor, is the likelihood ratio: no adversary does better, and it
wins with probability Φ(‖x₁ − x₀‖/2σ), which grows with the number of coordinates, whatever σ is.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, UInt8

from collabsecure.attacks.attack import Figure, Finding, Score
from collabsecure.attacks.knowledge import PublicLayer, Setting
from collabsecure.attacks.views import EncryptedUpload, MaskedUpload, PlainUpload
from collabsecure.merge import equilibration
from collabsecure.statistics import Statistics
from collabsecure_protocols.encryption_parameters import DATA_PRIME

NAME = "distinguishing"

_LEAST = 1e-300  # instead of 0, of which nothing can be a multiple

Channel = Callable[[Statistics], PlainUpload | MaskedUpload | EncryptedUpload]  # what the server sees of one input


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Game:
    """Two inputs to one layer, and how many rounds there are."""

    layer: int
    public: PublicLayer
    inputs: tuple[Statistics, Statistics]
    training: int = 60  # rounds whose answer the adversary is told, half of each input
    rounds: int = 120

    def play(self, channel: Channel, *, view: str, setting: Setting, seed: int, must: bool | None = None) -> Finding:
        """The win rate over the rounds, against ½."""
        start = time.monotonic()
        rng = np.random.default_rng(seed)
        known = np.arange(self.training) % 2 == 1
        hidden = rng.integers(0, 2, self.rounds).astype(bool)
        look = _Look.at(self)
        rule = _learn(np.array([look(channel(self.inputs[int(which)])) for which in known]), known)
        guesses = [rule.guess(look(channel(self.inputs[int(which)]))) for which in hidden]
        won = float(np.mean(np.array(guesses) == hidden))
        says = f"the adversary's best statistic was {_STATISTICS[rule.statistic]}"
        win_rate = Figure(name="win rate", value=won, error=0.5 / math.sqrt(self.rounds), chance=0.5)
        return Finding(
            attack=NAME,
            view=view,
            setting=setting,
            score=Score(figures=(win_rate,), says=says),
            must=must,
            seconds=time.monotonic() - start,
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Look:
    """What the adversary looks at, in units in which all columns are about as large."""

    layer: int
    scale: Float64[np.ndarray, "d_in d_in"]  # of the Gram matrix; its upper triangle is 0 below the diagonal
    columns: Float64[np.ndarray, " d_in"]
    inputs: tuple[Statistics, Statistics]  # equilibrated
    difference: Statistics

    @classmethod
    def at(cls, game: Game) -> "_Look":
        columns = 2.0 ** np.rint(np.log2(equilibration(game.public.second_moment)))  # as a session's tensors have it
        scale = np.triu(columns * columns[:, None])
        first, second = (Statistics(gram=one.gram * scale, cross=one.cross * columns) for one in game.inputs)
        difference = Statistics(gram=second.gram - first.gram, cross=second.cross - first.cross)
        return cls(layer=game.layer, scale=scale, columns=columns, inputs=(first, second), difference=difference)

    def __call__(self, view: PlainUpload | MaskedUpload | EncryptedUpload) -> Float64[np.ndarray, " statistics"]:
        found = view.layers[self.layer]
        gram, cross = found.gram * self.scale, found.cross * self.columns
        first, difference = self.inputs[0], self.difference
        by_gram, by_cross = np.vdot(gram, difference.gram), np.vdot(cross, difference.cross)
        in_gram, in_cross = np.vdot(gram, gram), np.vdot(cross, cross)
        raw = _bytes(view)
        counts = np.bincount(raw, minlength=256)
        return np.array(
            [
                by_gram / max(in_gram, _LEAST) + by_cross / max(in_cross, _LEAST),
                by_gram,
                by_cross,
                np.vdot(gram, first.gram) + np.vdot(cross, first.cross),
                in_gram + in_cross,
                np.abs(gram).sum() + np.abs(cross).sum(),
                gram.sum() + cross.sum(),
                gram.trace(),
                counts @ np.bitwise_count(np.arange(256)),
                ((counts - counts.mean()) ** 2).sum(),
            ]
        )


_STATISTICS: Sequence[str] = (
    "correlation with the difference of the inputs, each tensor by its spread",
    "that of the Gram matrix alone",
    "that of the cross term alone",
    "correlation with the first input",
    "the norm",
    "the mean magnitude",
    "the mean",
    "the Gram matrix's trace",
    "the share of bits that are set",
    "how unevenly bytes are spread",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rule:
    """Guess the second input where a statistic is on one side of a threshold."""

    statistic: int
    threshold: float
    above: bool

    def guess(self, statistics: Float64[np.ndarray, " statistics"]) -> bool:
        return bool(statistics[self.statistic] > self.threshold) == self.above


def _learn(statistics: Float64[np.ndarray, "rounds statistics"], answers: Bool[np.ndarray, " rounds"]) -> _Rule:
    """Midway between the two means, on the statistic that gets most of these rounds right.

    That is the first, which is best against noise, unless another does better by a standard error.
    """
    means = np.stack((statistics[~answers].mean(axis=0), statistics[answers].mean(axis=0)))
    thresholds, above = means.mean(axis=0), means[1] > means[0]
    right = (((statistics > thresholds) == above) == answers[:, None]).mean(axis=0)
    right[0] += 0.5 / math.sqrt(len(answers))
    best = int(np.argmax(right))
    return _Rule(statistic=best, threshold=float(thresholds[best]), above=bool(above[best]))


def _bytes(view: PlainUpload | MaskedUpload | EncryptedUpload) -> UInt8[np.ndarray, " bytes"]:
    """What travels, but for the bytes that are always 0."""
    if isinstance(view, PlainUpload):
        flat = [part.ravel().view(np.uint8) for own in view.layers.values() for part in (own.gram, own.cross)]
        return np.concatenate(flat)
    bits = DATA_PRIME.bit_length() if isinstance(view, EncryptedUpload) else view.session.sums[0].tensors[0].bits
    whole = np.concatenate(list(view.words.values())).view(np.uint8).reshape(-1, 8)
    return whole[:, : bits // 8].ravel()
