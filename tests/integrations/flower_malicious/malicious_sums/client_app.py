"""Does as the honest example's, but that whoever wrote it has shipped whatever else he likes beside."""

import numpy as np
from flwr.clientapp import ClientApp

from collabsecure.integrations import flower

app = ClientApp()
flower.register(app, values=lambda context, name: {"model": np.full(8, 2.0), "examples": np.ones(1)})
