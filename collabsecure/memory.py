"""How much fits at once, and what to do when it was too much."""

import gc
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import torch

from collabsecure.errors import OutOfMemory

Item = TypeVar("Item")

_SHARE = 0.5  # of what is free: estimates are rough, and other programs want to live
_SIGNS = ("can't allocate memory", "not enough memory", "out of memory")  # torch's, on CPU, CPU on Windows, MPS


def free_bytes(device: torch.device) -> int:
    """Memory that could be had on a device now, in bytes."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return free + unused
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable")) * 1024
    except OSError:  # no Linux
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def fitting(bytes_per_item: int, device: torch.device, *, most: int) -> int:
    """How many items may go together: at least one, at most `most`."""
    return max(1, min(most, int(_SHARE * free_bytes(device)) // bytes_per_item))


def run_in_batches(items: Sequence[Item], batch_size: int, run: Callable[[Sequence[Item]], None]) -> None:
    """Run over all items, `batch_size` at a time, and half as many from where memory runs out.

    Raises:
        OutOfMemory: one item alone was too much.
    """
    start = 0
    while start < len(items):
        batch = items[start : start + batch_size]
        try:
            run(batch)
        except RuntimeError as error:
            if not _is_out_of_memory(error):
                raise
            if len(batch) == 1:
                raise OutOfMemory(f"one edit request at a time is too much: {str(error).splitlines()[0]}") from error
            batch_size = len(batch) // 2
        else:
            start += len(batch)
            continue
        # Here the error, and with it the tensors of the frames it came through, is gone.
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _is_out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or any(sign in str(error) for sign in _SIGNS)
