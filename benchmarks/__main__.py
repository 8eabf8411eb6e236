"""All benchmarks in turn, or those named: `python -m benchmarks [NAME…] [--quick]`."""

import argparse
import subprocess
import sys
from collections.abc import Sequence

from benchmarks.report import machine

# name → arguments with --quick, which takes smaller sizes; bars are for the full sizes
QUICK: dict[str, list[str]] = {
    "stages": ["--quick"],
    "memory": ["--quick"],
    "server": ["--quick"],
    "flower": ["--quick"],
    "flower_deployment": ["--quick"],
    "nvflare_deployment": ["--quick"],
    "clients": ["--quick"],
    "encryption": ["--quick"],
    "merge": ["--d-in", "1024", "--d-out", "256", "--repeats", "2"],
    "session": ["--quick"],
    "values": ["--threads", "2", "--together", "8", "--alone", "1"],
}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(QUICK)} (default: all)")
    parser.add_argument("--quick", action="store_true", help="small sizes; bars are for the full ones")
    arguments = parser.parse_args(argv)
    unknown = [name for name in arguments.names if name not in QUICK]
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}; there are {', '.join(QUICK)}")
    print(machine())
    failed = []
    for name in arguments.names or QUICK:
        print(f"\n== {name}", flush=True)
        command = [sys.executable, "-m", f"benchmarks.{name}", *(QUICK[name] if arguments.quick else [])]
        if subprocess.run(command, check=False).returncode:  # in a process of its own: nobody inherits memory
            failed.append(name)
    print(f"\nBars missed in: {', '.join(failed)}" if failed else "\nAll bars met")
    if failed and arguments.quick:
        print("but these were small sizes, for which the bars are not meant")
    return 1 if failed and not arguments.quick else 0


if __name__ == "__main__":
    sys.exit(main())
