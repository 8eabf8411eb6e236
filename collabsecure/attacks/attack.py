"""What an attack is, and what comes of it.

An attack is two functions: `guess`, which gets a view and public knowledge, and `score`, which alone gets the truth.
One file holds one attack; `registry.ATTACKS` lists them. Adding one is such a file, a line there, and a page in
docs/privacy-evaluation.md.
"""

import enum
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import numpy as np
from jaxtyping import Float64

from collabsecure.attacks.case import Case, Shown
from collabsecure.attacks.knowledge import Public, Setting, Truth

GuessT = TypeVar("GuessT")


class Assumption(enum.Enum):
    """What an adversary must have beside its view and the public model."""

    CANDIDATES = "a list of candidates, with all edits on it (a closed world) unless the setting says how many"
    TEMPLATES = "the session's context templates"
    LOWER_LAYERS = "the update of the layers below, which every client gets"
    POPULATION = "keys of public subjects, to know how keys are spread"
    TOPICS = "who edits what kind of facts"
    CHOSEN_INPUT = "the power to choose what a client uploads"


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One number that came of an attack."""

    name: str  # "AUC", "mean |cos|"; one name for one thing everywhere
    value: float
    error: float | None = None  # standard error; where `chance` is given, under chance
    chance: float | None = None  # what comes of an attack that learns nothing

    @property
    def is_chance(self) -> bool | None:
        """Whether it is within four standard errors of chance; None where that is not known."""
        if self.chance is None or self.error is None:
            return None
        return abs(self.value - self.chance) <= 4 * self.error


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Curve:
    """A line in a plot; curves of one plot are drawn together."""

    plot: str  # "ROC", "spectrum"
    label: str
    x: Float64[np.ndarray, " points"]
    y: Float64[np.ndarray, " points"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Score:
    """How good a guess was."""

    figures: tuple[Figure, ...]
    curves: tuple[Curve, ...] = ()
    says: str = ""  # the result in plain words, where figures do not speak for themselves

    def figure(self, name: str) -> Figure:
        """The figure of a name.

        Raises:
            KeyError: there is none.
        """
        for figure in self.figures:
            if figure.name == name:
                return figure
        raise KeyError(name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Attack(Generic[GuessT]):
    """An attack."""

    name: str  # "membership"
    title: str  # "Which candidates were edited?"
    source: str  # paper and section, or the reasoning
    assumes: tuple[Assumption, ...]
    accepts: tuple[type, ...]  # types of views
    guess: Callable[[Any, Public, np.random.Generator], GuessT]  # the view is of one of the types in `accepts`
    score: Callable[[GuessT, Public, Truth], Score]

    def run(self, view: object, public: Public, truth: Truth, *, seed: int) -> Score:
        """Guess from the view and score the guess.

        Raises:
            TypeError: the attack does not know what to do with such a view.
        """
        if not isinstance(view, self.accepts):
            expected = ", ".join(kind.__name__ for kind in self.accepts)
            raise TypeError(f"{self.name}: found {type(view).__name__}; expected {expected}")
        return self.score(self.guess(view, public, np.random.default_rng(seed)), public, truth)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Finding:
    """An attack on a view in a setting, as it comes into the report."""

    attack: str
    view: str  # "plain", "sum", …: the names of --views
    setting: Setting
    score: Score
    null: Score | None = None  # the same attack on a view of other subjects' edits: what chance gives
    must: bool | None = None  # True: must succeed, or the suite proves nothing; False: must fail; None: it is measured
    seconds: float = 0.0


def measure(
    attack: Attack[Any], name: str, case: Case, show: Callable[[Shown], object], *, seed: int, must: bool | None = None
) -> Finding:
    """Run an attack on what `show` makes of a case, and on its null: the same, in which none of the candidates is."""
    start = time.monotonic()
    score = attack.run(show(case.real), case.real.public, case.truth, seed=seed)
    null = attack.run(show(case.null), case.null.public, case.truth, seed=seed)
    finding = Finding(attack=attack.name, view=name, setting=case.setting, score=score, null=null, must=must)
    return replace(finding, seconds=time.monotonic() - start)
