"""Flower's own: one round of FedAvg whose aggregation is SecAgg+, and what it took."""

import json
import time

import numpy as np
from flwr.app import Context
from flwr.common import ndarrays_to_parameters
from flwr.server import LegacyContext, ServerConfig
from flwr.server.strategy import FedAvg
from flwr.server.workflow import DefaultWorkflow, SecAggPlusWorkflow
from flwr.serverapp import Grid, ServerApp

from .counting import count_replies
from .values import farthest

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    nodes, received = int(context.run_config["nodes"]), count_replies(grid)
    while len(list(grid.get_node_ids())) < nodes:
        time.sleep(0.5)
    strategy = FedAvg(
        fraction_evaluate=0.0,
        min_fit_clients=nodes,
        min_available_clients=nodes,
        initial_parameters=ndarrays_to_parameters([np.zeros(1)]),  # nothing to speak of goes the other way
    )
    legacy = LegacyContext(context=context, config=ServerConfig(num_rounds=1), strategy=strategy)
    threshold = min(2 * nodes // 3 + 1, nodes - 1)  # it takes none as high as the number of shares
    secagg = SecAggPlusWorkflow(num_shares=nodes, reconstruction_threshold=threshold, max_weight=1.0)
    timed = Timed(secagg)
    DefaultWorkflow(fit_workflow=timed)(grid, legacy)
    arrays = legacy.state.array_records["parameters"].to_numpy_ndarrays()
    error = farthest({str(number): array * nodes for number, array in enumerate(arrays)}, nodes)
    print("MEASURED", json.dumps({"seconds": timed.seconds, "bytes": received(), "error": error}), flush=True)


class Timed:
    """A workflow, and how long it took."""

    def __init__(self, workflow: SecAggPlusWorkflow) -> None:
        self._workflow, self.seconds = workflow, 0.0

    def __call__(self, grid: Grid, context: Context) -> None:
        """Run it."""
        started = time.monotonic()
        self._workflow(grid, context)
        self.seconds = time.monotonic() - started
