"""What a run's figures hang on, so that another can tell whether theirs should be the same.

Versions, seeds, settings, and digests of what was used: weights, second moments, contexts, records. As JSON beside the
results; no time, user, host or path is in it but those in the command's own words.
"""

import hashlib
import json
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
from jaxtyping import Float64

import collabsecure
from collabsecure.edits import EditRequest
from collabsecure.evaluate.intervals import RESAMPLES
from collabsecure.files import complete_or_absent

FORMAT = "collabsecure reproduction manifest 2"
_PACKAGES = ("datasets", "matplotlib", "numpy", "safetensors", "scipy", "tokenizers", "torch", "transformers")


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """One run, and what it ran with."""

    command: tuple[str, ...]  # word by word, what was left to defaults included
    device: str  # "cpu", or a GPU's name
    seeds: Mapping[str, int]  # what is drawn → its seed
    settings: Mapping[str, object]  # hyper-parameters with λ, and what else is set
    digests: Mapping[str, str]  # what was used → SHA-256 in hexadecimal
    python: str
    platform: str  # system, release, machine
    packages: Mapping[str, str]  # those of them that are installed → version

    def to_json(self) -> dict[str, object]:
        """The manifest as `json.dumps` takes it."""
        return {
            "format": FORMAT,
            "command": list(self.command),
            "device": self.device,
            "seeds": dict(self.seeds),
            "settings": dict(self.settings),
            "bootstrap_resamples": RESAMPLES,
            "sha256": dict(self.digests),
            "python": self.python,
            "platform": self.platform,
            "packages": dict(self.packages),
        }


def manifest_of(
    command: Sequence[str],
    *,
    device: str,
    seeds: Mapping[str, int],
    settings: Mapping[str, object],
    digests: Mapping[str, str],
) -> Manifest:
    """Describe a run on this machine: what it was told, with the versions that are installed here."""
    packages = {"collabsecure": collabsecure.__version__}
    for package in _PACKAGES:
        try:
            packages[package] = version(package)
        except PackageNotFoundError:  # an extra that was not asked for
            continue
    return Manifest(
        command=tuple(command),
        device=device,
        seeds=seeds,
        settings=settings,
        digests=digests,
        python=f"{platform.python_implementation()} {platform.python_version()}",
        platform=platform.platform(),
        packages=packages,
    )


def records_digest(requests: Iterable[EditRequest]) -> str:
    """SHA-256 in hexadecimal over records in their order, all their fields as JSON, one a line.

    >>> records_digest([EditRequest(prompt="{} is", subject="Norland", target_new="cold", case_id=0)])[:16]
    '138c3963404dbaa8'
    """
    digest = hashlib.sha256()
    for request in requests:
        digest.update(json.dumps(asdict(request), ensure_ascii=False, sort_keys=True).encode() + b"\n")
    return digest.hexdigest()


def moments_digest(second_moments: Mapping[int, Float64[np.ndarray, "_ _"]]) -> str:
    """SHA-256 in hexadecimal over each layer's number and its C, weighted, as little-endian float64.

    >>> moments_digest({13: np.eye(2)})[:16], moments_digest({13: 2 * np.eye(2)})[:16]
    ('d04c832ac01b5e06', '6df8e9fb52df744d')
    """
    digest = hashlib.sha256()
    for layer, moment in sorted(second_moments.items()):
        digest.update(f"layer {layer} {moment.shape}\n".encode())
        digest.update(np.ascontiguousarray(moment, "<f8").data)
    return digest.hexdigest()


def write_manifest(path: Path, manifest: Manifest) -> None:
    """Write a manifest as JSON, in place of what is there; complete, or not at all.

    Raises:
        BadFile: it cannot be written.
    """
    with complete_or_absent(path, force=True) as temporary:
        temporary.write_text(json.dumps(manifest.to_json(), ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def digests_in(path: Path) -> dict[str, str]:
    """The digests of a manifest that was written; none where there is no such file, or another."""
    try:
        found = json.loads(path.read_bytes())
        return dict(found["sha256"]) if found["format"] == FORMAT else {}
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return {}
