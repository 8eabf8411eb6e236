"""A small world to try everything on: made-up facts in CounterFact's form, and a GPT-2 that knows them.

`python -m collabsecure.world --out DIR` makes all of it again from a seed; what it made ships with the package.
"""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """Where the parts lie."""

    model: Path  # Hugging Face directory
    records: Path  # multi_counterfact's form
    texts: Path  # what the model was trained on, one text a line
    hyperparameters: Path  # MEMIT's JSON: layers, λ and all else that editing works well with here
    templates: Path  # contexts sampled from the model, `ContextTemplates` as JSON
    second_moments: Path  # folder of MEMIT's .npz files, one for each layer that may be edited

    @classmethod
    def at(cls, folder: Path) -> "World":
        """The world in a folder that `python -m collabsecure.world` has written."""
        return cls(
            model=folder / "model",
            records=folder / "records.json",
            texts=folder / "texts.txt",
            hyperparameters=folder / "hyperparameters.json",
            templates=folder / "templates.json",
            second_moments=folder / "second_moments",
        )


def load_world() -> World:
    """The world that ships with the package."""
    return World.at(Path(__file__).parent / "data")
