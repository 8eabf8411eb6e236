"""What a run's figures hang on, so that another can tell whether theirs should be the same.

Versions, seeds, and digests of the weights and records that were used, as JSON beside the results. No time, user,
host or path is in it but those in the command's own words.
"""

import hashlib
import json
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import collabsecure
from collabsecure.edits import EditRequest
from collabsecure.files import complete_or_absent

FORMAT = "collabsecure reproduction manifest 1"
_PACKAGES = ("datasets", "matplotlib", "numpy", "safetensors", "scipy", "tokenizers", "torch", "transformers")


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """One run, and what it ran with."""

    command: tuple[str, ...]  # as it was typed, word by word
    device: str  # "cpu", or a GPU's name
    seeds: Mapping[str, int]  # what is drawn → its seed
    weights: Mapping[str, str]  # model → digest of all its weights, `EditableModel.weights_digest`
    records: Mapping[str, str]  # data set → `records_digest`
    snippets: str | None  # digest of what written texts were held against; None if none were
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
            "weights_sha256": dict(self.weights),
            "records_sha256": dict(self.records),
            "snippets_sha256": self.snippets,
            "python": self.python,
            "platform": self.platform,
            "packages": dict(self.packages),
        }


def manifest_of(
    command: Sequence[str],
    *,
    device: str,
    seeds: Mapping[str, int],
    weights: Mapping[str, str],
    records: Mapping[str, str],
    snippets: str | None = None,
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
        weights=weights,
        records=records,
        snippets=snippets,
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


def write_manifest(path: Path, manifest: Manifest) -> None:
    """Write a manifest as JSON, in place of what is there; complete, or not at all.

    Raises:
        BadFile: it cannot be written.
    """
    with complete_or_absent(path, force=True) as temporary:
        temporary.write_text(json.dumps(manifest.to_json(), ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
