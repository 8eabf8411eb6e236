"""A node's values go to its daemon when the sum needs them."""

from flwr.clientapp import ClientApp

from collabsecure.integrations import flower

from .values import PARTS, Parts

app = ClientApp()
flower.register(
    app,
    values=lambda context, _: Parts(
        int(context.node_config["partition-id"]), int(context.run_config["values"]) // PARTS
    ),
)
