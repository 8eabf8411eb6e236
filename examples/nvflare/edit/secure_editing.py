"""A collaborative editing session over NVFlare, whose sites need not run any code of the job's.

python secure_editing.py --session session.json --ca ca.pem --simulate simulation/
"""

import argparse
import shutil
from pathlib import Path

from nvflare.collab import CollabRecipe, collab
from nvflare.recipe import PocEnv, ProdEnv, SimEnv

from collabsecure.integrations.nvflare import SOCKET, ClientActions, Tunnel
from collabsecure_cli.session import load_session


class Coordinator:
    """Carries between the sites' daemons and `collabsecure aggregate`; its files are on the server's machine."""

    def __init__(self, session_file: str, aggregator: str, ca_file: str, patience: float) -> None:
        self.session_file, self.aggregator, self.ca_file, self.patience = session_file, aggregator, ca_file, patience

    @collab.main
    def main(self) -> None:
        """Run until all of them have the result."""
        session, ca = load_session(Path(self.session_file)), Path(self.ca_file) if self.ca_file else None
        carried = Tunnel(collab.clients, self.aggregator, session=session, ca=ca, patience=self.patience).run()
        print("Done with clients", ", ".join(map(str, carried.over)), flush=True)


def main() -> None:
    """Make the job and run it somewhere."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--session", type=Path, required=True)
    parser.add_argument(
        "--aggregator", default="https://127.0.0.1:8443", help="what `collabsecure aggregate` listens on"
    )
    parser.add_argument("--ca", type=Path, help="who signed its certificate; by default the system's authorities")
    parser.add_argument("--patience", type=float, default=600.0, help="seconds without an answer of its, until the end")
    parser.add_argument("--sites", nargs="+", help="by default site-1, site-2 … as many as the session has clients")
    parser.add_argument("--sockets", type=Path, help="folder of the daemons' SITE.sock, for sites on one machine")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--simulate", type=Path, metavar="FOLDER", help="in NVFlare's simulator")
    where.add_argument("--startup-kit", type=Path, help="of an admin who may submit jobs, to a running NVFlare")
    where.add_argument("--write", type=Path, metavar="FOLDER", help="write the job, with no code for the sites")
    given = parser.parse_args()
    sites = given.sites or [f"site-{number}" for number in load_session(given.session).client_ids]
    ca_file = str(given.ca.resolve()) if given.ca else ""
    recipe = CollabRecipe(
        "secure-editing",
        server=Coordinator(str(given.session.resolve()), given.aggregator, ca_file, given.patience),
        client=ClientActions(),
        min_clients=len(sites),
    )
    sockets = given.sockets.resolve() if given.sockets else None
    recipe.set_per_site_config({site: {SOCKET: str(sockets / f"{site}.sock")} if sockets else {} for site in sites})
    if given.write:
        write(recipe, given.write)
        return
    if given.simulate:
        environment = SimEnv(clients=sites, workspace_root=str(given.simulate))
    elif given.startup_kit:
        environment = ProdEnv(startup_kit_location=str(given.startup_kit))
    else:
        environment = PocEnv(clients=sites)
    print("The job's folder is", recipe.run(environment).get_result())


def write(recipe: CollabRecipe, folder: Path) -> None:
    """Write the job without the copies of installed files that NVFlare adds, so that sites which allow none take it."""
    recipe.export(str(folder))
    for app in (folder / recipe.job_name).glob("app_*"):
        if app.name != "app_server":
            shutil.rmtree(app / "custom")
    print("The job is", folder / recipe.job_name)


if __name__ == "__main__":
    main()
