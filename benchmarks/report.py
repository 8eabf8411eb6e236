"""What all benchmarks share: figures against bars, timing in turns, peak memory, and a word about the machine."""

import os
import platform
import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cryptography
import numpy as np
from cryptography.hazmat.backends.openssl import backend


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One measured line; without a bar it only informs."""

    what: str
    value: str  # with its unit
    ratio: float | None = None
    baseline: str = ""  # what the ratio is to
    bar: float | None = None
    at_least: bool = False  # the bar is a floor, not a ceiling

    @property
    def met(self) -> bool:
        """Whether the ratio keeps the bar; true without one."""
        if self.bar is None or self.ratio is None:
            return self.bar is None
        return self.ratio >= self.bar if self.at_least else self.ratio <= self.bar

    def cells(self) -> tuple[str, ...]:
        """The line, as `show` prints it."""
        ratio = "" if self.ratio is None else f"{self.ratio:.2f}" if self.ratio < 99 else f"{self.ratio:.0f}"
        bar = "" if self.bar is None else f"{'≥' if self.at_least else '≤'} {self.bar:g}"
        return self.what, self.value, ratio, self.baseline, bar, "" if self.bar is None else "yes" if self.met else "NO"


def show(title: str, figures: Sequence[Figure]) -> int:
    """Print a table; 0 if all bars are met, else 1, for `sys.exit`."""
    lines = [("what", "figure", "ratio", "baseline", "bar", "met"), *(figure.cells() for figure in figures)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    print(f"\n{title}")
    for line in lines:
        print("  " + "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    sys.stdout.flush()
    return 0 if all(figure.met for figure in figures) else 1


def machine() -> str:
    """Processor, cores and versions; nothing that names a host or a person."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        named = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = named[0] if named else model
    return (
        f"{model}, {os.cpu_count()} cores; {platform.system()}, Python {platform.python_version()}, "
        f"NumPy {np.__version__}, cryptography {cryptography.__version__} with {backend.openssl_version_text()}"
    )


def least(
    works: Mapping[str, Callable[[], object]], *, repeats: int, clock: Callable[[], float] = time.process_time
) -> dict[str, float]:
    """Each work's least seconds over `repeats` rounds. All take a turn in each round: a noisy minute hits all alike."""
    best = dict.fromkeys(works, float("inf"))
    for _ in range(repeats):
        for name, work in works.items():
            start = clock()
            work()
            best[name] = min(best[name], clock() - start)
    return best


def resident_bytes() -> int:
    """The memory that this process has now, or where the system does not tell, the most that it has had."""
    return _from_status("VmRSS") or peak_bytes()


def peak_bytes() -> int:
    """The most memory that this process has had so far."""
    # Linux starts a child's ru_maxrss from its parent's; VmHWM is the child's own.
    unit = 1 if sys.platform == "darwin" else 1024
    return _from_status("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _from_status(name: str) -> int:
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:")), 0)
