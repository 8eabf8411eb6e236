"""Processes watched from outside, every 50 ms: memory, CPU time, and the disk under a folder. Linux's /proc."""

import os
from dataclasses import dataclass
from pathlib import Path

INTERVAL = 0.05  # seconds between looks

_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """One process at one moment; bytes and seconds."""

    time: float  # time.monotonic()
    anonymous: int  # RssAnon: memory that is no file's
    peak: int  # VmHWM: the most so far, pages of mapped files included
    cpu: float
    main_cpu: float  # of its main thread


def look(pid: int, time: float) -> Look | None:
    """A process as it is now; None if it is gone."""
    try:
        now = memory(pid)
        process, main = (_cpu(Path(f"/proc/{pid}") / part) for part in ("stat", f"task/{pid}/stat"))
    except (FileNotFoundError, ProcessLookupError):
        return None
    if "RssAnon" not in now:  # ended, not yet waited for
        return None
    return Look(
        time=time,
        anonymous=now["RssAnon"],
        peak=now["VmHWM"],
        cpu=process,
        main_cpu=main,
    )


def _cpu(stat: Path) -> float:
    """User and system time, fields 14 and 15; the name in the second may hold anything."""
    user, system = stat.read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / _TICKS


def cores_seconds() -> tuple[float, float, float]:
    """Seconds of all cores together since the system began: at work, idle, idle while somebody waits for the disk."""
    user, nice, system, idle, waiting, *others = map(int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9])
    return (user + nice + system + sum(others)) / _TICKS, idle / _TICKS, waiting / _TICKS


def memory(pid: int) -> dict[str, int]:
    """The memory that /proc tells of a process, in bytes by name."""
    lines = (line.split() for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return {words[0][:-1]: 1024 * int(words[1]) for words in lines if words[-1] == "kB"}


def disk_bytes(folder: Path) -> int:
    """What the files under a folder take on the disk."""
    found = 0
    for path in folder.rglob("*"):
        try:
            found += 512 * path.lstat().st_blocks
        except FileNotFoundError:  # renamed or deleted meanwhile
            continue
    return found
