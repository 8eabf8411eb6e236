"""The coordinating end's memory does not grow with the number of clients; their 64 MB are in files meanwhile."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

RUN = Path(__file__).with_name("memory_run.py")
VALUES = (64 << 20) // 6  # of six bytes each
SHARD_BYTES = 16 << 20


@pytest.mark.slow
def test_memory_is_the_same_for_three_and_for_eight_clients_of_64_megabytes() -> None:
    figures = [measured(clients) for clients in (3, 8)]
    assert all(found["exact"] and found["survivors"] == found["clients"] for found in figures)
    assert abs(figures[1]["peak_bytes"] - figures[0]["peak_bytes"]) < SHARD_BYTES


def measured(clients: int) -> dict:
    command = [sys.executable, str(RUN), str(clients), str(VALUES), str(SHARD_BYTES)]
    path = f"{RUN.parent}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    run = subprocess.run(
        command, capture_output=True, text=True, timeout=500, check=True, env={**os.environ, "PYTHONPATH": path}
    )
    return json.loads(run.stdout)
