"""What each node does: bring bytes to its daemon, which has the key, the model and the edits, and take its answers."""

from flwr.clientapp import ClientApp

from collabsecure.integrations import flower

app = ClientApp()
flower.register(app)
