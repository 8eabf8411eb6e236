"""The example of real size, at a size for tests."""

import runpy
from pathlib import Path

import pytest

from collabsecure.layers import EditableModel

EXAMPLE = Path(__file__).parents[1] / "examples" / "gpt2_xl.py"


def test_the_example_edits_and_reports_its_memory(
    tiny_editable: EditableModel, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    # It names a model of the hub; here that name loads a small one.
    monkeypatch.setattr(EditableModel, "load", lambda name: tiny_editable if name == "gpt2-xl" else None)
    example = runpy.run_path(str(EXAMPLE))
    before = tiny_editable.weights_digest()
    assert example["main"](["--layers", "0", "1"]) == 0
    output = capsys.readouterr().out
    assert "layer 1: ‖Δ‖/‖W‖" in output
    assert output.splitlines()[-1].startswith("peak memory ")
    assert tiny_editable.weights_digest() == before


def test_its_random_model_has_the_real_ones_shape():
    example = runpy.run_path(str(EXAMPLE))
    config = example["make_config"]()
    assert (config.n_embd, config.n_layer, config.n_head, config.vocab_size) == (1600, 48, 25, 50257)
