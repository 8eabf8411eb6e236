"""What the suite tries on which view, in what order, and what it is expected to take.

A plan is a sequence of experiments, each of which can be done by itself and gives findings: so an interrupted run goes
on after the last one that was finished. PyTorch is only imported by experiments that need a model.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from collabsecure.attacks.attack import Finding
from collabsecure_protocols.encryption_parameters import Scheme


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """Numbers of clients and of edits of each, all combined."""

    clients: tuple[int, ...]
    edits_per_client: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Suite:
    """How much is tried."""

    name: str
    grid: Grid  # where none is asked for
    most_values: int  # edits in a case for which values, and so an update, are computed
    reconstructed: tuple[int, ...]  # numbers of edits whose keys are looked for in K Kᵀ
    key_length: int  # of synthetic keys for that
    crowds: tuple[float, ...]  # n / d of sums of synthetic keys
    rounds: int  # of games with what is masked or encrypted
    schemes: tuple[Scheme, ...]  # of encrypted uploads
    defended: Grid  # clients and edits of the session that defences are tried on, one of each
    decoys: int  # requests kept for them, for each client


SUITES = {
    suite.name: suite
    for suite in (
        Suite(
            name="quick",
            grid=Grid(clients=(1, 5), edits_per_client=(5, 20)),
            most_values=25,
            reconstructed=(10, 20, 50),
            key_length=1024,
            crowds=(0.1, 0.65, 1.3, 2.0, 3.3),
            rounds=80,
            schemes=("ckks",),
            defended=Grid(clients=(3,), edits_per_client=(5,)),
            decoys=8,
        ),
        Suite(
            name="full",
            grid=Grid(clients=(1, 2, 5, 10), edits_per_client=(5, 20, 100)),
            most_values=160,
            reconstructed=(10, 20, 50, 100, 200),
            key_length=1536,
            crowds=(0.1, 0.2, 0.65, 1.3, 2.0, 3.3, 5.0),
            rounds=200,
            schemes=("bfv", "ckks"),
            defended=Grid(clients=(5,), edits_per_client=(10,)),
            decoys=20,
        ),
    )
}
