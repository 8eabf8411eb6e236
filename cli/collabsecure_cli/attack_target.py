"""What the attack suite is let loose on: the small world, or a model with records of one's own."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from collabsecure.edits import EditRequest, load_requests
from collabsecure.errors import BadFile
from collabsecure.files import file_digest, unreadable
from collabsecure.statistics import SecondMoment, find_second_moments
from collabsecure_cli.options import ModelChoice

if TYPE_CHECKING:
    from collabsecure.attacks.cases.editing import Laboratory

_MOST_REQUESTS = 2000  # subjects that may be edited, or be candidates; computing more keys than these takes long
_MOST_REFERENCES = 1000  # subjects that are public
_REFERENCE_SHARE = 3  # one of so many subjects is public


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A model and records, not loaded yet."""

    model: str | None  # None: the small world's
    records: Path | None
    hparams: Path | None
    second_moment: Path | None
    device: str | None
    seed: int

    @classmethod
    def of(
        cls,
        model: str | None,
        records: Path | None,
        hparams: Path | None,
        second_moment: Path | None,
        *,
        device: str | None,
        seed: int,
    ) -> Target:
        """What the command line says.

        Raises:
            click.UsageError: a model comes without what belongs to it, or the other way round.
        """
        parts = (records, hparams, second_moment)
        if model is None and any(parts):
            raise click.UsageError("--records, --hparams and --second-moment belong to a --model.")
        if model is not None and not all(parts):
            raise click.UsageError("With --model, also give --records, --hparams and --second-moment.")
        return cls(model=model, records=records, hparams=hparams, second_moment=second_moment, device=device, seed=seed)

    @property
    def name(self) -> str:
        """In words."""
        return self.model or "the small world's GPT-2"

    @property
    def identity(self) -> tuple[str, ...]:
        """What two runs must have in common to be of one target."""
        files = [path for path in (self.records, self.hparams) if path is not None]
        folders = [path for path in (Path(self.model or ""), self.second_moment) if path is not None and path != Path()]
        found = [file for folder in folders for file in contents(folder)]
        return (self.model or "", *map(file_digest, files), str(self.second_moment or ""), *found, str(self.seed))

    def num_requests(self) -> int:
        """How many subjects may be edited, or be candidates."""
        if self.records is None:
            from collabsecure.world import load_world

            return len(load_requests(load_world().records))
        return len(self._dealt()[0])

    def laboratory(self, cache: Path) -> Laboratory:
        """Everything loaded; values are kept in `cache`."""
        if self.model is None:
            import torch

            from collabsecure.attacks.cases.small_world import small_world

            torch.set_num_threads(1)  # more would wait for each other longer than they compute
            return small_world(seed=self.seed, cache=cache)
        return self._own(cache)

    def _own(self, cache: Path) -> Laboratory:
        from collabsecure.attacks.cases.editing import Laboratory
        from collabsecure.hyperparameters import Hyperparameters
        from collabsecure.templates import sample_templates

        if self.model is None or self.hparams is None or self.second_moment is None:
            raise TypeError("found no model; expected what Target.of lets through")
        hyperparameters = Hyperparameters.from_json(self.hparams)
        requests, reference = self._dealt()
        model = ModelChoice(name=self.model, revision=None, device=self.device).load()
        modules = [model.architecture.projection_of(layer) for layer in hyperparameters.layers]
        files = find_second_moments(self.second_moment, modules)
        return Laboratory(
            name=self.model,
            model=model,
            hyperparameters=hyperparameters,
            templates=sample_templates(model, self.seed),
            second_moments={
                layer: SecondMoment.load_npz(path).weighted(hyperparameters.second_moment_weight)
                for layer, path in zip(hyperparameters.layers, files, strict=True)
            },
            requests=requests,
            reference=reference,
            cache=cache,
        )

    def _dealt(self) -> tuple[Sequence[EditRequest], Sequence[EditRequest]]:
        """One record for each subject: those that may be edited, and public ones."""
        if self.records is None:
            raise TypeError("found no records; expected what Target.of lets through")
        requests = one_for_each_subject(load_requests(self.records), seed=self.seed)
        num_public = min(len(requests) // _REFERENCE_SHARE, _MOST_REFERENCES)
        if num_public < 1:
            raise BadFile(
                self.records,
                found=f"{len(requests)} subjects",
                expected=f"at least {_REFERENCE_SHARE}: some to edit, some for candidates, some that are public",
            )
        return requests[num_public:][:_MOST_REQUESTS], requests[:num_public]


def contents(folder: Path) -> list[str]:
    """What files are in a folder, by name and SHA-256. No folder has none, so a model on a hub is known by its name.

    Raises:
        BadFile: it cannot be read, or changes just now.
    """
    try:
        files = sorted(file for file in folder.rglob("*") if file.is_file()) if folder.is_dir() else []
    except OSError as error:
        raise unreadable(folder, error) from error
    return [f"{file.relative_to(folder)} {file_digest(file)}" for file in files]


def one_for_each_subject(requests: Sequence[EditRequest], *, seed: int) -> list[EditRequest]:
    """A record for each subject, in an order that the seed says.

    A subject that stands in two records would be among the candidates twice, or a public one that is edited: both make
    chance look like a leak.
    """
    by_subject = {request.subject.casefold(): request for request in requests}
    found = sorted(by_subject.values(), key=lambda request: request.text)
    random.Random(seed).shuffle(found)  # noqa: S311 - who is a member must be the same each time
    return found
