"""The server: time per chunk and per mask to take off, and memory that does not grow with the clients.

`python -m benchmarks.server` takes a minute.
"""

import argparse
import hashlib
import sys
import time
import tracemalloc
from collections.abc import Sequence

import numpy as np

from benchmarks.network import Network, make_session, make_tensor
from benchmarks.report import Figure, show
from collabsecure_protocols.tensors import CHUNK_VALUES

CHUNKS = 2  # per client
KEPT_BAR = 0.01  # × one client's packed values: what the server keeps of an upload
TRANSIENT_BAR = 2.0  # × one chunk's bytes: what it needs meanwhile


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.server", description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, nargs="+", default=[10, 100], help="(default: 10 100)")
    parser.add_argument("--quick", action="store_true", help="5 and 10 clients")
    arguments = parser.parse_args(argv)
    sizes = [5, 10] if arguments.quick else arguments.clients
    figures = times(10)
    for clients in sizes:
        figures += memory(clients)
    return show(f"Server, one core, CPU time; {CHUNKS} chunks of {CHUNK_VALUES} values a client, 48 bits", figures)


def times(clients: int) -> list[Figure]:
    """Least time of a chunk, against hashing it, and the masks' removal, per survivor and value."""
    network = _asked(clients)
    values, chunk_times, hash_times, replies = _values(), [], [], []
    for number in network.clients:
        for payload in network.chunks(number, values):
            start = time.process_time()
            hashlib.sha256(payload).digest()
            hash_times.append(time.process_time() - start)
            start = time.process_time()
            replies += network.to_server(number, payload)
            chunk_times.append(time.process_time() - start)
    network.deliver(replies)
    first, again = (_decode(network) for _ in range(2))  # the first time takes the masks off
    per_value = 1e9 / CHUNKS / CHUNK_VALUES
    chunk, hashed = min(chunk_times), min(hash_times)
    return [
        Figure(
            what="a chunk: check, hash, verify, add",
            value=f"{chunk * 1e3:.2f} ms, {chunk / CHUNK_VALUES * 1e9:.2f} ns a value",
            ratio=chunk / hashed,
            baseline="its SHA-256 alone",
        ),
        Figure(
            what="taking masks off, nobody dropped",
            value=f"{(first - again) / clients * per_value:.2f} ns a value and survivor",
        ),
        Figure(what="decoding", value=f"{again * per_value:.2f} ns a value"),
    ]


def memory(clients: int) -> list[Figure]:
    """What the server keeps of all uploads together, and the most that it needs to take one chunk."""
    network = _asked(clients)
    values, kept, transient, size = _values(), 0, 0, 0
    tracemalloc.start()
    for number in network.clients:
        for payload in network.chunks(number, values):
            size = max(size, len(payload))
            before = tracemalloc.get_traced_memory()[0]
            tracemalloc.reset_peak()
            network.to_server(number, payload)
            after, peak = tracemalloc.get_traced_memory()
            kept, transient = kept + after - before, max(transient, peak - before)
    tracemalloc.stop()
    return [
        Figure(
            what=f"{clients} clients: kept of an upload, beside one running sum",
            value=f"{kept / clients / 1e3:.2f} kB",
            ratio=kept / clients / (CHUNKS * size),
            baseline="one upload",
            bar=KEPT_BAR,
        ),
        Figure(
            what=f"{clients} clients: most needed for a chunk",
            value=f"{transient / 1e3:.1f} kB",
            ratio=transient / size,
            baseline="the chunk",
            bar=TRANSIENT_BAR,
        ),
    ]


def _decode(network: Network) -> float:
    start = time.process_time()
    network.server.decode("x")
    return time.process_time() - start


def _values() -> dict[str, np.ndarray]:
    return {"x": np.linspace(-1, 1, CHUNKS * CHUNK_VALUES)}


def _asked(clients: int) -> Network:
    """A network whose clients are asked for input."""
    network = Network(make_session(clients, [make_tensor("x", (CHUNKS * CHUNK_VALUES,), clients=clients)]))
    network.set_up()
    network.start_sum()
    return network


if __name__ == "__main__":
    sys.exit(main())
