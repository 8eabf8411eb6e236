"""Federated averaging whose server sees the sum of the nodes' models, and none of them."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from collabsecure.integrations import flower
from collabsecure_cli.identity import load_identity
from collabsecure_cli.session import load_session

app = ServerApp()


class SecureFedAvg(FedAvg):
    """FedAvg with its average taken from a secure sum."""

    def __init__(self, sums: flower.SecureSum, nodes: int) -> None:
        super().__init__(fraction_evaluate=0.0, min_train_nodes=nodes, min_available_nodes=nodes)
        self.sums = sums

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Remember which model the nodes are sent."""
        self.link = hashlib.sha256(arrays["model"].numpy().tobytes()).digest()
        return super().configure_train(server_round, arrays, config, grid)

    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> tuple[ArrayRecord, MetricRecord]:
        """Sum what the nodes' daemons were given."""
        self._check_and_log_replies(replies, is_train=True, validate=False)
        result = self.sums.run(f"round {server_round}", link=self.link)
        model = result.arrays["model"] / result.arrays["examples"]
        return ArrayRecord({"model": Array(model)}), MetricRecord({"clients": len(result.survivors)})


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the session's rounds."""
    config = context.run_config
    session = load_session(Path(str(config["session"])))
    sums = flower.SecureSum(
        grid,
        session,
        load_identity(Path(str(config["key"]))),
        phase_seconds=float(config["phase-seconds"]),
        upload_seconds=float(config["upload-seconds"]),
        request_seconds=float(config["request-seconds"]),
        tell=lambda line: print(line, flush=True),
    )
    strategy = SecureFedAvg(sums, session.num_clients)
    start = ArrayRecord({"model": Array(np.zeros(8))})
    result = strategy.start(grid, start, num_rounds=int(config["rounds"]), timeout=float(config["train-seconds"]))
    model = result.arrays["model"].numpy()
    print("The model is", np.round(model, 3), flush=True)
    if config["out"]:
        np.savez(str(config["out"]), model=model)
