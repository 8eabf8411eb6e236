"""What a run of the attack suite found, for programs: `report.json`. `attack_page` makes the same for people."""

from collections.abc import Sequence
from dataclasses import dataclass

import collabsecure
from collabsecure.attacks.attack import Finding
from collabsecure.attacks.record import finding_to_json
from collabsecure_cli.attack_claims import Claim, broken, claims, failures, hides_who, sentence, shows_what

FORMAT = "collabsecure attack report 1"


@dataclass(frozen=True, slots=True, kw_only=True)
class AttackReport:
    """A whole run."""

    suite: str
    target: str  # what was attacked: a model's name, or a session
    views: tuple[str, ...]
    seed: int
    command: str  # that makes it again
    findings: tuple[Finding, ...]
    left_out: tuple[str, ...]  # what was asked for and could not be tried
    seconds: float  # that the experiments took, together
    written: str  # date and time

    @property
    def sentence(self) -> Claim:
        """The sentence that the suite is there to prove or refute."""
        return sentence(self.findings)

    @property
    def because(self) -> tuple[Claim, Claim]:
        """The two halves of the sentence: who, and what."""
        return hides_who(self.findings), shows_what(self.findings)

    @property
    def claims(self) -> tuple[Claim, ...]:
        """All that the run says about what is claimed."""
        return claims(self.findings)

    @property
    def failures(self) -> tuple[str, ...]:
        """Why the run proves nothing, if it does not."""
        return failures(self.findings)

    @property
    def broken(self) -> tuple[str, ...]:
        """Promises that did not hold."""
        return broken(self.findings)

    def summary(self) -> dict[str, object]:
        """The verdict alone."""
        return {
            "format": FORMAT,
            "collabsecure_version": collabsecure.__version__,
            "written": self.written,
            "suite": self.suite,
            "target": self.target,
            "views": list(self.views),
            "seed": self.seed,
            "command": self.command,
            "seconds": round(self.seconds, 1),
            "verdict": {
                "sentence": _claim(self.sentence),
                "controls_failed": list(self.failures),
                "promises_broken": list(self.broken),
                "claims": [_claim(claim) for claim in self.claims],
            },
            "left_out": list(self.left_out),
        }

    def to_json(self) -> dict[str, object]:
        """The report for programs; no number in it is NaN or infinite."""
        return {**self.summary(), "findings": [finding_to_json(finding) for finding in self.findings]}

    def to_text(self) -> str:
        """The verdict for a terminal."""
        lines = [*_alarms(self.failures, self.broken), f"{_MARKS[self.sentence.holds]} {self.sentence.claim}"]
        lines += [f"  {self.sentence.says}", ""]
        tried = [claim for claim in self.claims if claim.tried]
        lines += [f"{_MARKS[claim.holds]} {claim.claim}\n  {claim.says}" for claim in tried]
        if len(tried) < len(self.claims):
            lines.append(f"Claims that this run does not test: {len(self.claims) - len(tried)}; the report lists them.")
        return "\n".join(lines)


_MARKS = {True: "[holds]", False: "[does not hold]", None: "[not decided]"}


def _alarms(failures: Sequence[str], broken: Sequence[str]) -> list[str]:
    lines = []
    if failures:
        lines += ["This run proves nothing:", *(f"  {reason}" for reason in failures), ""]
    if broken:
        lines += ["What should give nothing away did:", *(f"  {what}" for what in broken), ""]
    return lines


def _claim(claim: Claim) -> dict[str, object]:
    return {"claim": claim.claim, "holds": claim.holds, "says": claim.says}
