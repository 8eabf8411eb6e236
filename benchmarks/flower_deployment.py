"""A secure sum in Flower as it is deployed, ours and its own SecAgg+, with everything on this machine.

`python -m benchmarks.flower_deployment --values 100000000 --clients 3 6 --sides ours` takes a quarter of an hour. A
SuperLink, SuperNodes, daemons and apps are processes, over TLS, with node authentication.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.daemons import start_daemons
from benchmarks.report import machine

ROOT = Path(__file__).parent.parent
sys.path += [str(ROOT / "tests" / "cli"), str(ROOT / "tests" / "integrations")]
from flower_processes import Deployment  # noqa: E402 (the tests' own)

APP = ROOT / "benchmarks" / "flower_app"
RUN_SECONDS = 3600.0


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.flower_deployment", description=__doc__.splitlines()[0])
    parser.add_argument("--values", type=int, default=10_000_000, help="of each client (default: 10 million)")
    parser.add_argument("--clients", type=int, nargs="+", default=[3], help="in turn (default: 3)")
    parser.add_argument("--sides", nargs="+", choices=["ours", "secagg"], default=["ours", "secagg"])
    parser.add_argument("--shard-bytes", type=int, default=128 << 20, help="of ours, in one reply (default: 128 MiB)")
    parser.add_argument("--at-once", type=int, default=2, help="clients of ours that upload at a time (default: 2)")
    parser.add_argument("--quick", action="store_true", help="100 000 values")
    arguments = parser.parse_args(argv)
    values = 100_000 if arguments.quick else arguments.values
    for clients in arguments.clients:
        for side in arguments.sides:
            with tempfile.TemporaryDirectory(prefix="flower-") as folder:
                settings = {"shard-bytes": arguments.shard_bytes, "at-once": arguments.at_once}
                show(side, clients, values, measure(Path(folder), side, clients, values, settings))
    print(machine())
    return 0


def show(side: str, clients: int, values: int, found: dict[str, Any]) -> None:
    name = "collabsecure" if side == "ours" else "Flower SecAgg+"
    print(f"\n{name}: {clients} clients, {values / 1e6:g}M values each", flush=True)
    print(f"  time of the sum               {found['seconds']:.1f} s")
    sent = found["bytes"] / clients
    print(f"  replies' bytes, a client      {sent / 1e6:.1f} MB, {sent / values:.2f} a value")
    print(f"  largest error of the sum      {found['error']:.1e}")
    for what, size in sorted(found["peaks"].items()):
        print(f"  most memory of {what:15}{size / 1e6:.0f} MB")


def measure(folder: Path, side: str, clients: int, values: int, settings: dict[str, Any]) -> dict[str, Any]:
    """One run; its figures, and the most memory of each kind of process."""
    app = folder / "app"
    shutil.copytree(APP, app)
    project = app / "pyproject.toml"
    project.write_text(project.read_text().replace("SIDE", side))
    config: dict[str, Any] = {"values": values, "nodes": clients}
    sockets = [str(folder / f"{node}.sock") for node in range(clients)]
    nodes = [{"partition-id": str(node), "collabsecure-socket": socket} for node, socket in enumerate(sockets)]
    daemons: list[subprocess.Popen[bytes]] = []
    try:
        if side == "ours":
            daemons = start_daemons(folder, clients, values)
            (folder / "staging").mkdir()
            files = {"session": "session.json", "key": "server.key", "staging": "staging"}
            config |= settings | {what: str(folder / name) for what, name in files.items()}
        with Deployment(folder / "flower", nodes) as deployment:
            deployment.watched += [daemon.pid for daemon in daemons]
            status, log = deployment.wait(deployment.run(app, config), RUN_SECONDS)
    finally:
        for daemon in daemons:
            daemon.kill()
            daemon.wait()
    measured = re.search(r"^MEASURED (.*)$", log, re.M)
    if measured is None:
        raise SystemExit(f"{side}: the run is {status}, and measured nothing:\n{log}")
    return json.loads(measured[1]) | {"peaks": kinds(deployment.peaks)}


def kinds(peaks: dict[tuple[str, str], int]) -> dict[str, int]:
    names = {"flower-superlink": "SuperLink", "flwr-serverapp": "ServerApp"}
    names |= {"flower-supernode": "a SuperNode", "flwr-clientapp": "a ClientApp", "collabsecure": "a daemon"}
    found: dict[str, int] = {}
    for (_, what), size in peaks.items():
        if what in names:
            found[names[what]] = max(found.get(names[what], 0), size)
    return found


if __name__ == "__main__":
    sys.exit(main())
