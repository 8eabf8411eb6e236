"""Finished values on disk, one file each, so that an interrupted run goes on where it was.

A file's name is a digest of everything its value depends on: the model, the hyper-parameters of the optimisation and
the request in its contexts, as tokens. A change in any of them is another name; nothing is ever out of date. A file
that cannot be read back is as good as none: its value is computed again and the file replaced.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from jaxtyping import Float64
from safetensors import SafetensorError
from safetensors.numpy import load_file

from collabsecure.files import unwritable, write_safetensors
from collabsecure.hyperparameters import Hyperparameters
from collabsecure.layers import EditableModel
from collabsecure.prompts import TokenizedPrompt

_VERSION = 1  # of what a value means; a change in the method is a new number


class ValueCache:
    """Values of one model and one set of hyper-parameters, in a directory that may hold others'.

    Raises:
        BadFile: the directory cannot be made.
    """

    def __init__(self, directory: Path, model: EditableModel, hyperparameters: Hyperparameters) -> None:
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise unwritable(directory, error) from error
        self._directory = directory
        self._shape = (model.d_model,)
        # Neither λ nor the other edited layers have a part in z.
        settings = asdict(hyperparameters) | {"layers": hyperparameters.layers[-1:], "second_moment_weight": None}
        self._context = json.dumps([_VERSION, model.weights_digest(), settings], sort_keys=True)

    def load(self, prompts: Sequence[TokenizedPrompt]) -> Float64[np.ndarray, " d_model"] | None:
        """The value of a request, given as all its prompts, if it is there."""
        try:
            value = load_file(self._path(prompts))["value"]
        except (OSError, SafetensorError, KeyError, ValueError):
            return None
        intact = value.shape == self._shape and value.dtype == np.float64 and np.isfinite(value).all()
        return value if intact else None

    def store(self, prompts: Sequence[TokenizedPrompt], value: Float64[np.ndarray, " d_model"]) -> None:
        """Keep a value.

        Raises:
            BadFile: it cannot be written.
        """
        write_safetensors(self._path(prompts), {"value": value}, {}, force=True)

    def _path(self, prompts: Sequence[TokenizedPrompt]) -> Path:
        request = [[prompt.tokens, prompt.subject_last, prompt.num_target] for prompt in prompts]
        digest = hashlib.sha256(f"{self._context}\n{json.dumps(request)}".encode()).hexdigest()
        return self._directory / f"{digest}.safetensors"
