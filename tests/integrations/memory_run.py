"""One sum with every node in a process of its own, on a pipe; prints the coordinating process's peak memory.

python tests/integrations/memory_run.py CLIENTS VALUES SHARD_BYTES → JSON: bytes, seconds, whether it is exact
"""

import json
import os
import resource
import selectors
import struct
import subprocess
import sys
import time
from collections.abc import Sequence

import numpy as np
from memory_host import identity, made_session

from collabsecure.integrations.host import Arrived, Node, respond
from collabsecure.integrations.node import SumNode
from collabsecure.integrations.sessions import Summand
from collabsecure.integrations.stores import MemoryStore
from collabsecure.integrations.sums import SecureSum
from collabsecure_protocols import Policy, Session


def session_of(clients: int, values: int) -> Session:
    return made_session(clients, {"one": {"x": Summand(shape=(values,), bound=64.0)}})


def values_of(client: int, values: int) -> np.ndarray:
    return np.resize(np.arange(101, dtype=np.float32) % (client + 7), values)


def read(source: object) -> bytes:
    (length,) = struct.unpack(">Q", source.read(8))
    return source.read(length)


def write(sink: object, data: bytes) -> None:
    sink.write(struct.pack(">Q", len(data)))
    sink.write(data)
    sink.flush()


class PipedHost:
    """`host.Host` over processes."""

    def __init__(self, clients: int, values: int) -> None:
        command = [sys.executable, __file__, "node", str(clients), str(values)]
        self.processes = {
            client: subprocess.Popen([*command, str(client)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            for client in range(1, clients + 1)
        }
        self._ready = selectors.DefaultSelector()
        for client, process in self.processes.items():
            self._ready.register(process.stdout, selectors.EVENT_READ, client)

    def nodes(self) -> Sequence[Node]:
        return tuple(self.processes)

    def send(self, node: Node, request: bytes) -> None:
        write(self.processes[node].stdin, request)

    def receive(self, seconds: float) -> Sequence[Arrived]:
        for key, _ in self._ready.select(seconds):
            return (Arrived(node=key.data, reply=read(key.fileobj)),)
        return ()


def run_node(clients: int, values: int, client: int) -> None:
    session = session_of(clients, values)
    node = SumNode(session, identity(client), policy=Policy(), store=MemoryStore(), rng=os.urandom)
    while True:
        try:
            request = read(sys.stdin.buffer)
        except struct.error:
            return
        write(sys.stdout.buffer, respond(node, request, lambda _: {"x": values_of(client, values)}))


def run(clients: int, values: int, shard_bytes: int) -> None:
    host = PipedHost(clients, values)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.monotonic()
    result = SecureSum(host, session_of(clients, values), identity(0), shard_bytes=shard_bytes).run()
    seconds = time.monotonic() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    expected = sum(values_of(client, values).astype(float) for client in range(1, clients + 1))
    for process in host.processes.values():
        process.stdin.close()
        process.wait()
    figures = {
        "clients": clients,
        "survivors": len(result.survivors),
        "exact": bool(np.array_equal(result.arrays["x"], expected)),
        "bytes_received": result.bytes_received,
        "seconds": round(seconds, 2),
        "peak_bytes": 1024 * peak,
        "peak_bytes_before": 1024 * before,
    }
    print(json.dumps(figures))  # noqa: T201


if __name__ == "__main__":
    if sys.argv[1] == "node":
        run_node(*map(int, sys.argv[2:]))
    else:
        run(*map(int, sys.argv[1:]))
