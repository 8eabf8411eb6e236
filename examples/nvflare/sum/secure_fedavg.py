"""Federated averaging in NVFlare, whose server sees the sum of the sites' models and none of them.

python secure_fedavg.py --session session.json --key server.key --out model.npz --sockets sockets/ --simulate sim/
"""

import argparse
import hashlib
from pathlib import Path

import numpy as np
from nvflare.collab import CollabRecipe, collab
from nvflare.recipe import PocEnv, ProdEnv, SimEnv

from collabsecure.integrations.nvflare import SOCKET, ClientActions, SecureSum
from collabsecure_cli.identity import load_identity
from collabsecure_cli.session import load_session


class Site(ClientActions):
    """What each site does: train on data of its own, and give the result to its daemon instead of the server."""

    @collab.publish
    def train(self, model: np.ndarray, number: int) -> None:
        """One round, of which the server hears that it is done."""
        features, targets = data(int(collab.site_name.removeprefix("site-")) - 1)
        trained = descend(model, features, targets)
        examples = np.array([len(targets)])
        self.give(f"round {number}", {"model": trained * examples, "examples": examples}, link=digest(model))


class Coordinator:
    """The server's side; its files are on the server's machine."""

    def __init__(self, session_file: str, key_file: str, out: str, patience: float) -> None:
        self.session_file, self.key_file, self.out, self.patience = session_file, key_file, out, patience

    @collab.main
    def main(self) -> None:
        """Run the session's rounds."""
        session, key = load_session(Path(self.session_file)), load_identity(Path(self.key_file))
        sums = SecureSum(
            collab.clients,
            session,
            key,
            request_seconds=min(60.0, self.patience / 2),
            phase_seconds=self.patience,
            upload_seconds=self.patience,
        )
        model = np.zeros(8)
        for number, spec in enumerate(session.sums, 1):
            collab.clients(timeout=self.patience).train(model, number)  # who fails has nothing to add to the sum
            total = sums.run(spec.name, link=digest(model)).arrays
            model = total["model"] / total["examples"]
            print(f"Round {number}: {np.round(model, 3)}", flush=True)
        np.savez(self.out, model=model)


def digest(model: np.ndarray) -> bytes:
    """What a site's values follow: its daemon adds them to no sum that follows another model."""
    return hashlib.sha256(model.tobytes()).digest()


def data(site: int) -> tuple[np.ndarray, np.ndarray]:
    """Made up, of course: 100 examples and more of one line in 8 dimensions, and noise."""
    rng = np.random.default_rng(site)
    features = rng.normal(size=(100 + 20 * site, 8))
    return features, features @ np.arange(8.0) + rng.normal(scale=0.1, size=len(features))


def descend(model: np.ndarray, features: np.ndarray, targets: np.ndarray, steps: int = 20) -> np.ndarray:
    """Least squares by gradient descent."""
    for _ in range(steps):
        model = model - 0.1 * features.T @ (features @ model - targets) / len(targets)
    return model


def main() -> None:
    """Make the job and run it somewhere."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--session", type=Path, required=True)
    parser.add_argument("--key", type=Path, required=True, help="the session's server's")
    parser.add_argument("--out", type=Path, required=True, help="where the model goes, .npz")
    parser.add_argument("--sockets", type=Path, help="folder of the daemons' SITE.sock, for sites on one machine")
    parser.add_argument("--patience", type=float, default=600.0, help="seconds that a site has for each step")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--simulate", type=Path, metavar="FOLDER", help="in NVFlare's simulator")
    where.add_argument("--startup-kit", type=Path, help="of an admin who may submit jobs, to a running NVFlare")
    given = parser.parse_args()
    sites = [f"site-{number}" for number in load_session(given.session).client_ids]
    recipe = CollabRecipe(
        "secure-fedavg",
        server=Coordinator(
            str(given.session.resolve()), str(given.key.resolve()), str(given.out.resolve()), given.patience
        ),
        client=Site(),
        min_clients=len(sites),
    )
    if given.sockets:
        recipe.set_per_site_config({site: {SOCKET: str(given.sockets.resolve() / f"{site}.sock")} for site in sites})
    if given.simulate:
        environment = SimEnv(clients=sites, workspace_root=str(given.simulate))
    elif given.startup_kit:
        environment = ProdEnv(startup_kit_location=str(given.startup_kit))
    else:
        environment = PocEnv(clients=sites)
    print("The job's folder is", recipe.run(environment).get_result())


if __name__ == "__main__":
    main()
