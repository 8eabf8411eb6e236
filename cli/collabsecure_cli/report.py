"""What a session leaves behind: `merged/` with the update, and a report for people and for programs."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float64

import collabsecure
from collabsecure.agreement import Agreement
from collabsecure.deltas import Delta, Provenance, save_delta
from collabsecure.errors import BadFile
from collabsecure.files import folder_complete_or_absent, refuse_existing
from collabsecure.leak_meter import LeakMeter
from collabsecure_cli.promises import HONEST
from collabsecure_cli.results import Results
from collabsecure_cli.session_words import leak_of
from collabsecure_protocols import Session

DELTA, REPORT_JSON, REPORT_MD = "delta.safetensors", "report.json", "report.md"
_WHO_SAW = {
    False: "The server saw the sums over the clients in them, and who took part; no single upload.",
    True: "The server saw who took part, and the updates; the key holder saw the sums over the clients in them.",
}
_OWN = {DELTA, REPORT_JSON, REPORT_MD}


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A finished session, as one of its parties saw it."""

    session: Session
    agreement: Agreement
    party: str  # who writes it: a client's name or the server's
    survivors: Mapping[int, tuple[int, ...]]  # layer → clients whose edits are in its Δ
    norms: Mapping[int, float]  # layer → ‖Δ‖, Frobenius
    digests: Mapping[int, bytes]  # layer → digest of Δ, as it was signed; parties that compare them have one update
    figures: Mapping[str, float | int | str]  # what this party measured: bytes, seconds

    @property
    def leak(self) -> LeakMeter:
        """What the largest sum gives away; how many edits are in it, the parties know no better than its size."""
        return leak_of(self.session, self.agreement, max(map(len, self.survivors.values())))

    def to_json(self) -> dict[str, object]:
        """The report for programs."""
        names = self.agreement.client_names
        return {
            "format": "collabsecure report 1",
            "collabsecure_version": collabsecure.__version__,
            "session": self.session.transcript.hex(),
            "task": self.session.task,
            "written_by": self.party,
            "model": self.agreement.model,
            "revision": self.agreement.revision,
            "weights_digest": self.agreement.weights_digest,
            "flow": self.agreement.flow,
            "encryption": self.session.encryption,
            "threshold": self.session.threshold,
            "min_survivors": self.session.min_survivors,
            "layers": {
                str(layer): {
                    "survivors": [names[client - 1] for client in self.survivors[layer]],
                    "delta_norm": self.norms[layer],
                    "delta_digest": self.digests[layer].hex(),
                }
                for layer in self.agreement.layers
            },
            "figures": dict(self.figures),
            "leak": self.leak.to_json(),
        }

    def _encrypted(self) -> str:
        return f" and encrypted ({self.session.encryption})" if self.session.is_encrypted else ""

    def to_markdown(self) -> str:
        """The report for people."""
        names, n = self.agreement.client_names, self.session.num_clients
        rows = [
            f"| {layer} | {len(self.survivors[layer])} of {n} | {_absent(names, self.survivors[layer])} "
            f"| {self.norms[layer]:.4g} |"
            for layer in self.agreement.layers
        ]
        figures = [f"- {name.replace('_', ' ')}: {value}" for name, value in self.figures.items()]
        revision = f", revision {self.agreement.revision}" if self.agreement.revision else ""
        return "\n".join(
            [
                f"# {self.session.task}",
                "",
                f"{self.agreement.model}{revision}, layers {', '.join(map(str, self.agreement.layers))},",
                f"edited together by {n} clients through the masked{self._encrypted()} secure sum",
                f"({self.agreement.flow}).",
                f"Session `{self.session.transcript.hex()}`; collabsecure {collabsecure.__version__};",
                f"written by {self.party}.",
                "",
                "| layer | in the sum | not in it | ‖Δ‖ |",
                "|---|---|---|---|",
                *rows,
                "",
                *(f"- digest of layer {layer}: `{self.digests[layer].hex()}`" for layer in self.agreement.layers),
                *figures,
                "",
                "Parties whose digests are the same have the same update.",
                _WHO_SAW[self.session.is_encrypted],
                "Every client got the updates.",
                "",
                f"**{' '.join(HONEST.split())}**",
                "",
                *(f"- {line}" for line in self.leak.lines()),
                "",
            ]
        )


def refuse_foreign(out: Path, session: Session, *, force: bool) -> bool:
    """Whether `out` holds this session's result already; with `force`, another's may be there, but nothing else.

    Raises:
        BadFile: something else is there.
    """
    try:
        found = json.loads((out / REPORT_JSON).read_bytes())
        if isinstance(found, dict) and found.get("session") == session.transcript.hex():
            return True
    except (OSError, ValueError, RecursionError):
        pass
    if not force:
        refuse_existing(out)
    elif out.is_symlink() or out.is_file() or (out.is_dir() and not {path.name for path in out.iterdir()} <= _OWN):
        raise BadFile(
            out,
            found="something that no session has left there",
            expected="an earlier result, which --force replaces, or nothing",
            remedy="Give another --out",
        )
    return False


def write_merged(out: Path, results: Results, report: Report, *, force: bool) -> None:
    """Write `merged/`: complete, or not at all.

    Raises:
        BadFile: `out` is taken and `force` is not set, or it cannot be written.
    """
    agreement = report.agreement
    provenance = Provenance(
        model=agreement.model,
        revision=agreement.revision,
        weights_digest=agreement.weights_digest,
        weights_dtype=agreement.weights_dtype,
        mode="masked" if report.session.encryption == "none" else f"masked, {report.session.encryption}",
        session=report.session.transcript.hex(),
        survivors=report.survivors,
        flow=agreement.flow,
    )
    deltas = {layer: results.load(layer) for layer in agreement.layers}
    with folder_complete_or_absent(out, force=force) as folder:
        save_delta(folder / DELTA, Delta(layers=deltas, provenance=provenance))
        content = json.dumps(report.to_json(), indent=1, ensure_ascii=False) + "\n"
        (folder / REPORT_JSON).write_text(content, encoding="utf-8")
        (folder / REPORT_MD).write_text(report.to_markdown(), encoding="utf-8")


def norms(results: Results) -> dict[int, float]:
    """‖Δ‖ of every layer, Frobenius."""

    def norm(delta: Float64[np.ndarray, "d_out d_in"]) -> float:
        return float(np.linalg.norm(delta))

    return {layer: norm(results.load(layer)) for layer in results.agreement.layers}


def _absent(names: Sequence[str], survivors: Sequence[int]) -> str:
    absent = ", ".join(name for number, name in enumerate(names, 1) if number not in survivors)
    return absent.replace("|", "\\|") or "–"  # a name is no column
