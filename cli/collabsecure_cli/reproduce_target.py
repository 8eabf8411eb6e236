"""What the experiments are done on: the small world, or a model with records of one's own."""

from __future__ import annotations

import hashlib
import json
import os
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from collabsecure.agreement import Flow
from collabsecure.edits import EditRequest, load_requests
from collabsecure.errors import TooFewRequests
from collabsecure.statistics import SecondMoment, find_second_moments
from collabsecure_cli.attack_target import Target
from collabsecure_cli.drafting import draft_session
from collabsecure_cli.options import ModelChoice
from collabsecure_cli.progress import progress_bar
from collabsecure_cli.roster import Roster
from collabsecure_protocols import Identity, Policy

if TYPE_CHECKING:
    from collabsecure.hyperparameters import Hyperparameters
    from collabsecure.layers import EditableModel
    from collabsecure.reproduction.manifest import Manifest
    from collabsecure.reproduction.methods import Cohort
    from collabsecure.secure_summation import SecureSummation
    from collabsecure.simulation import Client
    from collabsecure.templates import ContextTemplates
    from collabsecure_cli.written_texts import WrittenTexts

Data = Literal["counterfact", "zsre"]  # whose form the small world's records have


@dataclass(frozen=True, kw_only=True, eq=False)
class Ground:
    """A model and records, loaded."""

    name: str
    model: EditableModel
    hyperparameters: Hyperparameters
    templates: ContextTemplates
    second_moments: Mapping[int, np.ndarray]  # layer → C, weighted
    requests: list[EditRequest]

    @classmethod
    def load(cls, target: Target, *, data: Data) -> Ground:
        """Load what the command line says.

        The small world's records are in the order that the seed says, and the same edits in either form.
        """
        if target.records is None or target.hparams is None or target.second_moment is None:
            import torch

            from collabsecure.attacks.cases.small_world import small_world

            torch.set_num_threads(1)  # more would wait for each other longer than they compute
            world = small_world(seed=target.seed)
            return cls(
                name=target.name,
                model=world.model,
                hyperparameters=world.hyperparameters,
                templates=world.templates,
                second_moments=world.second_moments,
                requests=_in_zsres_form(target.seed) if data == "zsre" else list(world.requests),
            )
        from collabsecure.hyperparameters import Hyperparameters
        from collabsecure.templates import sample_templates

        requests = load_requests(target.records)
        hyperparameters = Hyperparameters.from_json(target.hparams)
        model = ModelChoice(name=target.name, revision=None, device=target.device).load()
        modules = [model.architecture.projection_of(layer) for layer in hyperparameters.layers]
        files = find_second_moments(target.second_moment, modules)
        return cls(
            name=target.name,
            model=model,
            hyperparameters=hyperparameters,
            templates=sample_templates(model, target.seed),
            second_moments={
                layer: SecondMoment.load_npz(path).weighted(hyperparameters.second_moment_weight)
                for layer, path in zip(hyperparameters.layers, files, strict=True)
            },
            requests=requests,
        )

    def cohort(self, *, num_clients: int, edits_per_client: int, cache: Path) -> Cohort:
        """The first records, dealt out to clients whose sums are secure; values are kept in `cache`.

        Raises:
            TooFewRequests: there are not so many records.
        """
        from collabsecure.reproduction.experiments import deal
        from collabsecure.reproduction.methods import Cohort
        from collabsecure.values import optimise_values

        needed = num_clients * edits_per_client
        if len(self.requests) < needed:
            raise TooFewRequests(num_requests=len(self.requests), num_clients=num_clients)
        with progress_bar("optimise values", needed) as advance:
            values = optimise_values(
                self.model,
                self.requests[:needed],
                self.templates,
                self.hyperparameters,
                cache=cache,
                progress=advance,
            )
        clients = deal(self.requests, values, num_clients=num_clients, edits_per_client=edits_per_client)
        return Cohort(
            model=self.model,
            clients=clients,
            templates=self.templates,
            second_moments=self.second_moments,
            summation=lambda flow: self._secure_sum(clients, flow),
        )

    @property
    def data(self) -> str:
        """The data set as tables name it: "MCF", or "zsRE" where no record has a true target."""
        from collabsecure.evaluate.cases import default_metrics

        return "zsRE" if default_metrics(self.requests) == "zsre" else "MCF"

    @property
    def key(self) -> tuple[str, ...]:
        """What two runs must have in common for the one to go on from the other's rows."""
        return tuple(f"{name} {digest}" for name, digest in self.digests.items())

    @cached_property
    def digests(self) -> dict[str, str]:
        """What all figures hang on → its SHA-256: rows of another run count only if these are the same."""
        from collabsecure.reproduction.manifest import moments_digest, records_digest

        hyperparameters = json.dumps(asdict(self.hyperparameters), sort_keys=True)
        return {
            "weights": self.model.weights_digest(),
            "second moments": moments_digest(self.second_moments),
            "hyper-parameters": hashlib.sha256(hyperparameters.encode()).hexdigest(),
            "contexts": hashlib.sha256(self.templates.to_json().encode()).hexdigest(),
            f"records ({self.data})": records_digest(self.requests),
        }

    def manifest(
        self, command: Sequence[str], *, seed: int, texts: WrittenTexts | None, settings: Mapping[str, object]
    ) -> Manifest:
        """What the figures of a command hang on; `texts` if some are written for them."""
        import torch

        from collabsecure.reproduction.manifest import manifest_of

        device = self.model.device
        return manifest_of(
            command,
            device=torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
            seeds={"contexts and order": seed, "intervals": 0} | ({} if texts is None else {"texts": texts.seed}),
            settings={"model": self.name, **asdict(self.hyperparameters), **settings},
            digests=self.digests if texts is None else {**self.digests, "snippets": texts.digest},
        )

    def _secure_sum(self, clients: Mapping[int, Client], flow: Flow) -> SecureSummation:
        from collabsecure.secure_summation import SecureSummation

        identities = {f"client-{number}": Identity.generate(os.urandom) for number in clients}
        server = Identity.generate(os.urandom)
        session = draft_session(
            self.model,
            name=self.name,
            revision=None,
            task="reproduction",
            roster=Roster(
                server_name="server",
                server_key=server.public,
                clients={name: identity.public for name, identity in identities.items()},
            ),
            hyperparameters=self.hyperparameters,
            templates=self.templates,
            second_moments=self.second_moments,
            max_edits=max(len(client.requests) for client in clients.values()),
            flow=flow,
        )
        policy = Policy(transcript=session.transcript, accept_honest_but_curious=not session.is_complete)
        return SecureSummation(session, list(identities.values()), server, policy=policy)


def _in_zsres_form(seed: int) -> list[EditRequest]:
    from collabsecure.edits.forms import RecordForm, parse_record
    from collabsecure.world.facts import Facts
    from collabsecure.world.names import shuffled
    from collabsecure.world.zsre import zsre_json

    records = enumerate(json.loads(zsre_json(Facts.make())))
    requests = [parse_record(record, form=RecordForm.ZSRE, index=index) for index, record in records]
    return shuffled(requests, random.Random(seed))  # noqa: S311 - the order of CounterFact's form, to compare with
