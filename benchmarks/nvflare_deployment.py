"""A secure sum in NVFlare's proof of concept, with everything on this machine.

`python -m benchmarks.nvflare_deployment --values 100000000 --sites 3 6` takes some minutes. The server, the sites,
their jobs and the daemons are processes, over mutual TLS.
"""

import argparse
import json
import os
import re
import sys
import tempfile
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmarks.daemons import start_daemons
from benchmarks.report import machine

ROOT = Path(__file__).parent.parent
sys.path += [str(ROOT / "tests" / "cli"), str(ROOT / "tests" / "integrations")]
from flare_processes import Flare, processes  # noqa: E402 (the tests' own)
from flower_processes import peak_bytes  # noqa: E402

JOB = ROOT / "benchmarks" / "nvflare_job.py"
RUN_SECONDS = 3600.0


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.nvflare_deployment", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--values", type=int, default=10_000_000, help="of each site (default: 10 million)")
    parser.add_argument("--sites", type=int, nargs="+", default=[3], help="in turn (default: 3)")
    parser.add_argument("--quick", action="store_true", help="100 000 values")
    arguments = parser.parse_args(argv)
    values = 100_000 if arguments.quick else arguments.values
    for sites in arguments.sites:
        with tempfile.TemporaryDirectory(prefix="nvflare-") as folder:
            found = measure(Path(folder), sites, values)
        print(f"\ncollabsecure in NVFlare: {sites} sites, {values / 1e6:g}M values each")
        print(f"  time of the sum               {found['seconds']:.1f} s")
        print(f"  largest error of the sum      {found['error']:.1e}")
        for what, size in sorted(found["peaks"].items()):
            print(f"  most memory of {what:19}{size / 1e6:.0f} MB", flush=True)
    print(machine())
    return 0


def measure(folder: Path, sites: int, values: int) -> dict[str, Any]:
    """One run; its figures, and the most memory of each kind of process."""
    (folder / "staging").mkdir()
    daemons = start_daemons(folder, sites, values)
    peaks: dict[str, int] = {}
    over = threading.Event()
    try:
        with Flare(folder / "nvflare", sites) as flare:
            flare.environment["PYTHONPATH"] = str(ROOT)  # the job takes its values from another benchmark's
            watching = threading.Thread(target=watch, args=(flare.kits, [each.pid for each in daemons], peaks, over))
            watching.start()
            try:
                flare.start(JOB, folder, sites, values).wait(RUN_SECONDS)
            finally:
                over.set()
                watching.join()
            said = flare.said("server")
    finally:
        for daemon in daemons:
            daemon.kill()
            daemon.wait()
    measured = re.search(r"MEASURED (\{.*?\})", said)
    if measured is None:
        raise SystemExit(f"the job measured nothing:\n{said}")
    found = json.loads(measured[1])
    if found["survivors"] != sites:
        raise SystemExit(f"only {found['survivors']} of {sites} sites are in the sum:\n{said}")
    return found | {"peaks": peaks}


def watch(kits: Path, daemons: list[int], peaks: dict[str, int], over: threading.Event) -> None:
    """The most memory of each kind of process, by the system's own mark, until it is over."""
    while not over.wait(0.2):
        found = {"a daemon": set(daemons)}
        for who, folder, job in (("the server", "server", "runner_process"), ("a site", "site-", "worker_process")):
            path = f"{kits}{os.sep}{folder}"
            jobs = set(processes(path, (job,)))
            found |= {f"{who}'s job": jobs, who: set(processes(path, ())) - jobs}
        for what, of_a_kind in found.items():
            for pid in of_a_kind:
                with suppress(OSError):  # it has ended
                    peaks[what] = max(peaks.get(what, 0), peak_bytes(pid))


if __name__ == "__main__":
    sys.exit(main())
