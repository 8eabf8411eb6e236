import hashlib
import json
import platform
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import collabsecure
from collabsecure.edits import EditRequest
from collabsecure.reproduction import manifest as manifests
from collabsecure.reproduction.manifest import manifest_of, records_digest, write_manifest

ONE = EditRequest(prompt="{} is", subject="Nørland", target_new="cold", case_id=0)
TWO = replace(ONE, case_id=1, paraphrases=("How is Nørland? It is",))


def test_a_manifest_says_what_ran_on_what(tmp_path: Path):
    manifest = manifest_of(
        ["collabsecure", "reproduce", "table1"],
        device="cpu",
        seeds={"values": 3, "intervals": 0},
        settings={"model": "gpt2-xl", "second_moment_weight": 20_000},
        digests={"weights": "00ff", "records (MCF)": records_digest([ONE])},
    )
    for _ in range(2):  # a run that goes on writes it again
        write_manifest(tmp_path / "manifest.json", manifest)
    read = json.loads((tmp_path / "manifest.json").read_text())
    assert read["format"] == "collabsecure reproduction manifest 2"
    assert read["command"] == ["collabsecure", "reproduce", "table1"]
    assert read["seeds"] == {"values": 3, "intervals": 0}
    assert read["settings"] == {"model": "gpt2-xl", "second_moment_weight": 20_000}
    assert read["bootstrap_resamples"] == 2000
    assert read["sha256"] == {"weights": "00ff", "records (MCF)": records_digest([ONE])}
    assert read["python"].endswith(platform.python_version())
    assert read["packages"]["collabsecure"] == collabsecure.__version__
    assert read["packages"]["numpy"] == np.__version__
    assert {"torch", "transformers", "matplotlib"} <= set(read["packages"])


def test_a_package_that_is_not_installed_is_left_out(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(manifests, "_PACKAGES", ("numpy", "no-such-package-of-ours"))
    manifest = manifest_of([], device="cpu", seeds={}, settings={}, digests={})
    assert set(manifest.packages) == {"collabsecure", "numpy"}


def test_the_records_digest_is_sha256_of_json_lines():
    line = (
        '{"case_id": 0, "generation_prompts": [], "neighborhood": [], "paraphrases": [], "prompt": "{} is", '
        '"relation": null, "subject": "Nørland", "target_new": "cold", "target_true": null}\n'
    )
    assert records_digest([ONE]) == hashlib.sha256(line.encode()).hexdigest()


def test_other_records_or_another_order_give_another_digest():
    digests = {records_digest(records) for records in ([], [ONE], [TWO], [ONE, TWO], [TWO, ONE], [ONE, ONE])}
    assert len(digests) == 6
