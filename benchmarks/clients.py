"""Many clients and short vectors: set-up, bytes, and whether the server's cost per client stays flat.

`python -m benchmarks.clients` takes some minutes; it plays every client itself.
"""

import argparse
import sys
from collections.abc import Sequence

import numpy as np

from benchmarks.network import Network, make_session, make_tensor
from benchmarks.report import Figure, show

VALUES = 1000  # short: what is measured is the protocol, not the vector
FLAT_BAR = 1.25  # × the server's cost per client at a quarter of the clients, per neighbour


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.clients", description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, nargs="+", default=[10, 100, 250, 1000])
    parser.add_argument("--quick", action="store_true", help="10 and 100 clients")
    arguments = parser.parse_args(argv)
    figures: list[Figure] = []
    server: dict[int, float] = {}
    for clients in [10, 100] if arguments.quick else arguments.clients:
        lines, server[clients] = measure(clients)
        figures += lines
    most = max(server)
    if most // 4 in server:
        ratio = server[most] / server[most // 4]
        baseline = f"the same with {most // 4} clients"
        what = f"n = {most}: server's cost per client and neighbour"
        figures.append(
            Figure(what=what, value=f"{server[most] * 1e6:.0f} µs", ratio=ratio, baseline=baseline, bar=FLAT_BAR)
        )
    return show(f"One sum of {VALUES} values, a tenth drops before its input: CPU time and bytes", figures)


def measure(clients: int) -> tuple[list[Figure], float]:
    """One session with a dropout; its figures, and the server's seconds per client and neighbour in all."""
    session = make_session(clients, [make_tensor("x", (VALUES,), clients=clients)])
    network = Network(session)
    network.set_up()
    set_up = network.on_clients.take() / clients, network.on_server.take() / clients
    set_up_bytes = max(network.bytes_of.values())
    silent = range(1, clients + 1, 10)
    values = {"x": np.linspace(-1, 1, VALUES)}
    network.start_sum(silent=silent)
    network.upload(values, silent=silent)
    expected = (clients - len(silent)) * values["x"]
    with network.on_server:
        total = network.server.decode("x")
    assert np.abs(total - expected).max() < 1e-6
    in_sum = network.on_clients.take() / clients, network.on_server.take() / clients
    sum_bytes = max(network.bytes_of.values()) - set_up_bytes - 6 * VALUES
    lines = [
        ("set-up, a client", set_up[0], f", {set_up_bytes / 1e3:.1f} kB"),
        ("set-up, server, per client", set_up[1], ""),
        ("sum, a client, bytes beside its values", in_sum[0], f", {sum_bytes / 1e3:.1f} kB"),
        ("sum, server, per client", in_sum[1], ""),
    ]
    everybody = (sum(set_up) + sum(in_sum)) * clients
    figures = [Figure(what=f"n = {clients}, degree {session.degree}, threshold {session.threshold}", value="")]
    figures += [Figure(what=f"  {what}", value=f"{seconds * 1e3:.2f} ms{more}") for what, seconds, more in lines]
    figures.append(Figure(what="  all parties together", value=f"{everybody:.1f} s"))
    return figures, (set_up[1] + in_sum[1]) / session.degree


if __name__ == "__main__":
    sys.exit(main())
