"""A real session as a target of attacks: its file, what its aggregator has on the disk, and what was edited."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from collabsecure.agreement import Agreement
from collabsecure.attacks.attack import Finding
from collabsecure.attacks.suite import Experiment, Plan
from collabsecure.edits import EditRequest, load_requests
from collabsecure.errors import BadFile, NotAModel
from collabsecure.files import file_digest
from collabsecure_cli.attack_target import contents, one_for_each_subject
from collabsecure_cli.moments import SessionMoments
from collabsecure_cli.progress import say
from collabsecure_cli.session import load_session

if TYPE_CHECKING:
    from collabsecure.attacks.cases.editing import Laboratory
    from collabsecure_protocols import Session

_LEAST_OTHERS = 30  # candidates that were not edited; with fewer no figure means anything
_SECONDS = 60.0
_NOT_OF_A_SESSION = (
    "whose edits are whose, what each was edited to, other sizes, controls and defences: "
    "without --session-state these are tried, on sessions made for it"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionTarget:
    """A session, a state folder, and what those who edited know."""

    session: Session
    state: Path
    model: str | None  # where the session's model is, if not where the session says
    edited: Path
    records: Path
    second_moment: Path
    device: str | None
    seed: int

    @classmethod
    def of(
        cls,
        state: Path,
        *,
        session: Path | None,
        model: str | None,
        edited: Path | None,
        records: Path | None,
        second_moment: Path | None,
        device: str | None,
        seed: int,
    ) -> SessionTarget:
        """What the command line says.

        Raises:
            click.UsageError: something is missing.
        """
        if session is None or edited is None or records is None or second_moment is None:
            raise click.UsageError(
                "With --session-state, also give --session, --edited, --records and --second-moment."
            )
        return cls(
            session=load_session(session),
            state=state,
            model=model,
            edited=edited,
            records=records,
            second_moment=second_moment,
            device=device,
            seed=seed,
        )

    @property
    def name(self) -> str:
        """In words."""
        return f"the session “{self.session.task}”"

    @property
    def identity(self) -> tuple[str, ...]:
        """What two runs must have in common to be of one target."""
        folders = [self.state, self.second_moment, *([Path(self.model)] if self.model else [])]
        found = [file for folder in folders for file in contents(folder)]
        digests = map(file_digest, (self.edited, self.records))
        return (self.session.transcript.hex(), self.model or "", *digests, *found, str(self.seed))

    def plan(self, views: tuple[str, ...]) -> Plan:
        """One experiment, on those views that are there."""
        return Plan(
            experiments=(Experiment(name=f"what is in {self.state}", seconds=_SECONDS, run=partial(self._run, views)),),
            left_out=(_NOT_OF_A_SESSION,),
        )

    def _run(self, views: tuple[str, ...]) -> Iterator[Finding]:
        from collabsecure.attacks.real_session import attack_state
        from collabsecure_cli.session_views import read_state

        state = read_state(self.session, self.state)
        found = [name for name, _ in state.parts()]
        counted = [f"{found.count(name)} × {name}" for name in dict.fromkeys(found)]
        if not set(found) & set(views):
            raise BadFile(
                self.state,
                found=f"{' and '.join(counted) or 'no sum, no update and no upload'} to attack",
                expected=f"something for --views {','.join(views)}",
            )
        say(f"Found {', '.join(counted)}")
        edited = load_requests(self.edited)
        findings = attack_state(
            state,
            self._laboratory(edited),
            num_edited=len(edited),
            seed=self.seed,
            note=f"a session of {self.session.num_clients} clients",
        )
        yield from (finding for finding in findings if finding.view in views)

    def _laboratory(self, edited: list[EditRequest]) -> Laboratory:
        from collabsecure.attacks.cases.editing import Laboratory
        from collabsecure.templates import ContextTemplates
        from collabsecure_cli.contribution import load_model

        agreement = Agreement.of(self.session)
        subjects = {request.subject.casefold() for request in edited}
        others = one_for_each_subject(load_requests(self.records), seed=self.seed)
        others = [request for request in others if request.subject.casefold() not in subjects]
        if len(others) < 2 * _LEAST_OTHERS:
            raise BadFile(
                self.records,
                found=f"{len(others)} subjects that were not edited",
                expected=f"at least {2 * _LEAST_OTHERS}: half for a list that hides the edits, half as public ones",
            )
        half = len(others) // 2
        model = self.model or agreement.model
        say(f"Loading {model}…")
        try:
            loaded = load_model(agreement, model, agreement.revision, self.device)
        except NotAModel as error:
            if self.model is not None:
                raise
            raise NotAModel(f"{error}. Say with --model where the session's model is") from error
        return Laboratory(
            name=agreement.model,
            model=loaded,
            hyperparameters=agreement.hyperparameters,
            templates=ContextTemplates.from_json(agreement.templates),
            second_moments=SessionMoments(self.second_moment, agreement),
            requests=[*edited, *others[:half]],
            reference=others[half:],
        )
