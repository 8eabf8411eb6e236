"""A job of one secure sum, for `benchmarks.nvflare_deployment`, and what it took."""

import argparse
import json
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from nvflare.collab import CollabRecipe, collab
from nvflare.recipe import ProdEnv

from benchmarks.flower_app.summing.values import PARTS, Parts, farthest
from collabsecure.integrations.nvflare import SOCKET, ClientActions, SecureSum
from collabsecure_cli.identity import load_identity
from collabsecure_cli.session import load_session


class Site(ClientActions):
    """Its values go to its daemon when the sum needs them."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def values(self, sum_name: str) -> Mapping[str, NDArray[np.generic]]:
        """Made up, by the site's number."""
        return Parts(int(collab.site_name.removeprefix("site-")) - 1, self.size)


class Coordinator:
    """The server's side; `folder` has what it needs."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    @collab.main  # type: ignore[untyped-decorator]
    def main(self) -> None:
        """Sum."""
        folder = Path(self.folder)
        sums = SecureSum(
            collab.clients,
            load_session(folder / "session.json"),
            load_identity(folder / "server.key"),
            staging=folder / "staging",
        )
        started = time.monotonic()
        result = sums.run()
        measured = {"seconds": time.monotonic() - started, "survivors": len(result.survivors)}
        measured["error"] = farthest(result.arrays, len(result.survivors))
        print("MEASURED", json.dumps(measured), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("sites", type=int)
    parser.add_argument("values", type=int)
    parser.add_argument("--startup-kit", type=Path, required=True)
    given = parser.parse_args()
    recipe = CollabRecipe(
        "summing",
        server=Coordinator(str(given.folder)),
        client=Site(given.values // PARTS),
        min_clients=given.sites,
    )
    sites = enumerate(f"site-{number + 1}" for number in range(given.sites))
    recipe.set_per_site_config({site: {SOCKET: str(given.folder / f"{number}.sock")} for number, site in sites})
    recipe.run(ProdEnv(startup_kit_location=str(given.startup_kit))).get_result()


if __name__ == "__main__":
    main()
