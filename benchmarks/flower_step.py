"""Flower's SecAgg+ client step, run by `benchmarks.flower` in a process of its own; imports nothing of ours.

Real set-up between all clients by the functions of Flower's mod; then, for every line on standard input, one client's
masked input as the mod makes it: from Flower's Parameters to the bytes of the masked arrays. Answers in JSON lines.
"""

import importlib
import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from flwr.common import ndarrays_to_parameters
from flwr.common.secure_aggregation.secaggplus_constants import Key

mod = importlib.import_module("flwr.client.mod.secure_aggregation.secaggplus_mod")  # the package hides it by a function

CLIP, WEIGHT = 8.0, 1000
TARGET_BITS = 22  # Flower's default: steps in the clipping range


def main() -> None:
    """Arguments: clients, threshold, values, bits of the modulus."""
    clients, threshold, values, bits = (int(argument) for argument in sys.argv[1:])
    state, inbox = set_up(clients, threshold, bits)
    parameters = ndarrays_to_parameters([np.random.default_rng(0).uniform(-1, 1, values)])
    for _ in sys.stdin:
        before, wall, cpu = peak_bytes(), time.perf_counter(), time.process_time()
        sent = mod._collect_masked_vectors(state, dict(inbox), WEIGHT, parameters)
        figures = {
            "wall": time.perf_counter() - wall,
            "cpu": time.process_time() - cpu,
            "memory": peak_bytes() - before,  # grows in the first step only
            "bytes": sum(len(array) for array in sent[Key.MASKED_PARAMETERS]),
        }
        print(json.dumps(figures), flush=True)


def set_up(clients: int, threshold: int, bits: int) -> tuple[Any, dict[str, Any]]:
    """Client 0 after the mod's set-up and share-keys stages, and the shares that the others sent it."""
    settings = {
        Key.SAMPLE_NUMBER: clients,
        Key.SHARE_NUMBER: clients,
        Key.THRESHOLD: threshold,
        Key.CLIPPING_RANGE: CLIP,
        Key.TARGET_RANGE: 1 << TARGET_BITS,
        Key.MOD_RANGE: 1 << bits,
        Key.MAX_WEIGHT: float(WEIGHT),
    }
    states, keys = [], {}
    for number in range(clients):
        state = mod.SecAggPlusState()
        state.nid = number
        public = mod._setup(state, dict(settings))
        keys[str(number)] = [public[Key.PUBLIC_KEY_1], public[Key.PUBLIC_KEY_2]]
        states.append(state)
    sources, ciphertexts = [], []
    for state in states:
        shares = mod._share_keys(state, dict(keys))
        if state.nid:
            sources.append(state.nid)
            ciphertexts.append(shares[Key.CIPHERTEXT_LIST][shares[Key.DESTINATION_LIST].index(0)])
    return states[0], {Key.SOURCE_LIST: sources, Key.CIPHERTEXT_LIST: ciphertexts}


def peak_bytes() -> int:
    """The same as `benchmarks.report.peak_bytes`."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), peak)


if __name__ == "__main__":
    main()
