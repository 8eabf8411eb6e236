"""What the suite tries on which view, in what order, and what it is expected to take.

A plan is a sequence of experiments, each of which can be done by itself and gives findings: so an interrupted run goes
on after the last one that was finished. PyTorch is only imported by experiments that need a model.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from collabsecure.attacks.attack import Finding


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """A view in words."""

    name: str
    title: str
    who: str  # has it
    what: str  # it is


VIEWS = (
    View(
        name="plain",
        title="A plain upload",
        who="The server of CollabEdit without protection, from each client; or whoever else gets hold of one upload.",
        what="K Kᵀ and R Kᵀ of one client.",
    ),
    View(
        name="masked",
        title="A masked upload",
        who="The server of a session, from each client, before the sum is unmasked.",
        what="The same, in fixed point and with pairwise masks.",
    ),
    View(
        name="ckks-aggregator",
        title="An encrypted upload",
        who="The aggregator of an encrypted session, from each client.",
        what="Ciphertexts of masked integers, and no key.",
    ),
    View(
        name="sum",
        title="The sum",
        who="The server of a masked session, or the key holder of an encrypted one, when the session is over.",
        what="Σ K Kᵀ and Σ R Kᵀ over the clients that stayed, and who they were.",
    ),
    View(
        name="delta",
        title="The published update",
        who="Everybody who gets the edited model and has the one before: every client, and whoever it is released to.",
        what="Δ of each edited layer.",
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """A part of a plan."""

    name: str  # no other of the plan has it
    view: str
    seconds: float  # that it takes on two cores, about
    run: Callable[[], Iterator[Finding]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What will be tried, and what was asked for and cannot be."""

    experiments: tuple[Experiment, ...]
    left_out: tuple[str, ...] = ()

    @property
    def seconds(self) -> float:
        """What all of it takes on two cores, about."""
        return sum(experiment.seconds for experiment in self.experiments)
