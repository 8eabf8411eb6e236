"""Flower's own: the node's values are what its fit gives, and the mod does the rest."""

from flwr.app import Context
from flwr.client import Client, NumPyClient
from flwr.client.mod import secaggplus_mod
from flwr.clientapp import ClientApp
from flwr.common import NDArrays, Scalar

from .values import PARTS, part


class Fixed(NumPyClient):
    """A client whose training is to make its values up."""

    def __init__(self, node: int, size: int) -> None:
        self._node, self._size = node, size

    def fit(self, parameters: NDArrays, config: dict[str, Scalar]) -> tuple[NDArrays, int, dict[str, Scalar]]:
        """The node's values, as one example's."""
        return [part(self._node, number, self._size) for number in range(PARTS)], 1, {}


def client_fn(context: Context) -> Client:
    size = int(context.run_config["values"]) // PARTS
    return Fixed(int(context.node_config["partition-id"]), size).to_client()


app = ClientApp(client_fn=client_fn, mods=[secaggplus_mod])
