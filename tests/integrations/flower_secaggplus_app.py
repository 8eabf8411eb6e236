"""Flower's own SecAgg+ as its documentation has it used: a mod around a NumPyClient, and the workflow of the server."""

import numpy as np
from flwr.client import NumPyClient
from flwr.client.mod import secaggplus_mod
from flwr.clientapp import ClientApp
from flwr.common import ndarrays_to_parameters
from flwr.server import LegacyContext, ServerConfig
from flwr.server.strategy import FedAvg
from flwr.server.workflow import DefaultWorkflow, SecAggPlusWorkflow


class Fixed(NumPyClient):
    """Every round's result is the same array."""

    def __init__(self, array, examples):
        self._array, self._examples = array, examples

    def fit(self, parameters, config):
        return [self._array], self._examples, {}


def client_app(array_of, examples=1):
    """`array_of(context)` is what the node gives."""
    return ClientApp(client_fn=lambda context: Fixed(array_of(context), examples).to_client(), mods=[secaggplus_mod])


def average(grid, context, *, nodes, shape, rounds=1, threshold=None, timeout=60.0, **options):
    """Run the workflow; the average of the last round, or None if it halted."""
    strategy = FedAvg(
        fraction_evaluate=0.0,
        min_fit_clients=nodes,
        min_available_clients=nodes,
        initial_parameters=ndarrays_to_parameters([np.full(shape, np.nan)]),
    )
    legacy = LegacyContext(context=context, config=ServerConfig(num_rounds=rounds), strategy=strategy)
    secagg = SecAggPlusWorkflow(
        num_shares=nodes, reconstruction_threshold=threshold or 2 * nodes // 3 + 1, timeout=timeout, **options
    )
    DefaultWorkflow(fit_workflow=secagg)(grid, legacy)
    (array,) = legacy.state.array_records["parameters"].to_numpy_ndarrays()
    return None if np.isnan(array).all() else array
