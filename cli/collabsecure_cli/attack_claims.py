"""What a run of the suite says about the claims that it was made to test, in words and with its own numbers.

A claim holds, does not hold, or is not decided; what was not tested is never taken to hold. Nor does a claim that
nobody can find something out hold because our attacks did not: that is told, and decides nothing, unless there is a
reason for it (a sum has no order) or a control that would have been found out. A run whose controls failed says
nothing, and says so first.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from collabsecure.attacks.attack import Figure, Finding

SENTENCE = "Secure summation hides who edited, not what was edited, from anyone with a candidate list."
_CERTAIN = 0.99  # of a cosine or an AUC: what we call recovered or told apart
_CLOSE = 0.9
_RATES = ("AUC", "attributed", "win rate")  # figures that cannot be above 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A statement, and what became of it."""

    claim: str
    holds: bool | None  # None: nothing in this run decides it
    says: str  # why, with numbers
    comforts: bool | None = None  # whether it would be good news for those who edit; None: neither
    tried: bool = True  # whether there is anything in this run about it

    @property
    def is_good_news(self) -> bool | None:
        """Whether what became of it is; None where it is not decided, or is neither."""
        return None if self.holds is None or self.comforts is None else self.holds == self.comforts


def learns(finding: Finding) -> bool | None:
    """Whether an attack found out something; None where none of its figures could say so.

    That is where there is no chance to compare with, or where so few edits were tried that not even a perfect attack is
    four standard errors from it.
    """
    known = [figure.is_chance for figure in finding.score.figures if is_telling(figure)]
    return not all(known) if known else None


def is_telling(figure: Figure) -> bool:
    """Whether some value of a figure would not be chance.

    >>> is_telling(Figure(name="AUC", value=1.0, error=0.13, chance=0.5))  # of five edits
    False
    """
    if figure.chance is None or figure.error is None:
        return False
    if figure.name.startswith(_RATES):
        return 4 * figure.error < max(figure.chance, 1 - figure.chance)
    return True


def null_is_chance(finding: Finding) -> bool:
    """Whether the attack found nothing where there was nothing to find."""
    return finding.null is None or all(figure.is_chance is not False for figure in finding.null.figures)


def is_defended(finding: Finding) -> bool:
    """Whether it is about a defence: then it says what is left of the edit, too."""
    return any(figure.name == "ES" for figure in finding.score.figures)


def failures(findings: Iterable[Finding]) -> tuple[str, ...]:
    """Why a run proves nothing: controls that did not fire, attacks that found what was not there."""
    found = []
    for finding in findings:
        where = f"{finding.attack} on {finding.view}, {in_words(finding)}"
        if finding.must is True and learns(finding) is not True:
            found.append(f"a control did not fire: {where}: {_leading(finding)}")
        if not null_is_chance(finding) and finding.null is not None:
            wrong = next(figure for figure in finding.null.figures if figure.is_chance is False)
            found.append(f"an attack found what is not there: {where}: {told(wrong)} on other subjects' edits")
    return tuple(found)


def broken(findings: Iterable[Finding]) -> tuple[str, ...]:
    """Which promises did not hold: views that should give nothing away, and did."""
    return tuple(
        f"{finding.attack} on {finding.view}, {in_words(finding)}: {_leading(finding)}"
        for finding in findings
        if finding.must is False and learns(finding)
    )


def in_words(finding: Finding) -> str:
    """The setting of a finding.

    >>> from collabsecure.attacks.attack import Score
    >>> from collabsecure.attacks.knowledge import Setting
    >>> setting = Setting(keys="synthetic", layers=(0,), d_in=512, d_out=128, num_clients=5, edits_per_client=20)
    >>> in_words(Finding(attack="rank", view="sum", setting=setting, score=Score(figures=())))
    '5 clients × 20 edits, d = 512, synthetic'
    """
    setting = finding.setting
    clients = f"{setting.num_clients} {'client' if setting.num_clients == 1 else 'clients'}"
    edits = f"{setting.edits_per_client} {'edit' if setting.edits_per_client == 1 else 'edits'}"
    parts = [f"{clients} × {edits}", f"d = {setting.d_in}", setting.keys, setting.note]
    return ", ".join(filter(None, parts))


def told(figure: Figure) -> str:
    """A figure in one breath.

    >>> told(Figure(name="AUC", value=0.5, error=0.01, chance=0.5))
    'AUC 0.500 (chance 0.5 ± 0.04)'
    """
    if figure.chance is not None and figure.error is not None:
        return f"{figure.name} {number(figure.value)} (chance {figure.chance:.3g} ± {4 * figure.error:.2g})"
    return f"{figure.name} {number(figure.value)}"


def number(value: float) -> str:
    """A figure's value as one reads it.

    >>> number(0.9987), number(100.0), number(0.0), number(3.2e-14), number(float("nan"))
    ('0.999', '100', '0', '3.2e-14', '–')
    """
    if math.isnan(value):
        return "–"
    if value == round(value) and abs(value) != 1 and abs(value) < 1e6:
        return f"{value:.0f}"
    return f"{value:.3f}" if 5e-4 <= abs(value) < 1000 else f"{value:.1e}"


def sentence(findings: Sequence[Finding]) -> Claim:
    """The sentence that the suite is there to prove or refute."""
    who, what = hides_who(findings), shows_what(findings)
    if who.holds is None or what.holds is None:
        holds = None if who.holds is not False and what.holds is not False else False
    else:
        holds = who.holds and what.holds
    return Claim(claim=SENTENCE, holds=holds, says=f"Who: {who.says} What: {what.says}")


def hides_who(findings: Sequence[Finding]) -> Claim:
    """Attribution of what is in a sum."""
    claim = "A secure sum does not say whose edit is whose."
    found = [each for each in findings if each.attack == "attribution" and each.view == "sum"]
    tested = [each for each in found if learns(each) is not None]
    if not tested:
        return _untested(claim, comforts=True)
    hidden = [each for each in tested if not learns(each)]
    worst = max(tested, key=_above_chance)
    at = _figure_of_chance(worst)
    says = (
        "a sum is the same whoever contributed which part of it, so who knows no more can but guess, and in "
        f"{len(hidden)} of {len(tested)} sums got no further; the best try: {told(at)}, {in_words(worst)}."
    )
    return Claim(claim=claim, holds=len(hidden) == len(tested), says=says, comforts=True)


def _topics_tell(findings: Sequence[Finding]) -> Claim:
    claim = "Who knows who edits what kind of facts learns from a sum whose edits are whose."
    found = [
        each for each in _with(findings, "attribution by topic", "attributed", view="sum") if learns(each) is not None
    ]
    if not found:
        return _untested(claim, comforts=False)
    says = "; ".join(f"{told(each.score.figure('attributed'))}, {each.setting.note}" for each in found)
    return Claim(claim=claim, holds=any(learns(each) for each in found), says=f"{says}.", comforts=False)


def _edits_are_apart(findings: Sequence[Finding]) -> Claim:
    claim = "A secure sum does not say which edits came from one client."
    found = _with(findings, "grouping", "AUC", view="sum")
    if not found:
        return _untested(claim, comforts=True)
    told_apart = "; ".join(f"AUC {number(_value(each, 'AUC'))} ({each.setting.note})" for each in found)
    says = (
        "to one who knows all edits, and their keys to the last bit, its rounding errors tell right sets from sets "
        f"with one edit of another client: {told_apart}. Whose a set is they do not tell."
    )
    return Claim(claim=claim, holds=not any(learns(each) for each in found), says=says, comforts=True)


def shows_what(findings: Sequence[Finding]) -> Claim:
    """Membership in a sum."""
    claim = "A sum tells which candidates were edited."
    tried = _with(findings, "membership", "AUC", view="sum")
    found = [each for each in tried if learns(each) is not None]
    if not found:
        return _too_few(claim, tried, "AUC", comforts=False)
    leaking = [each for each in found if learns(each)]
    values = [_value(each, "AUC") for each in found]
    nulls = [_value_of_null(each, "AUC") for each in found if each.null is not None]
    sizes = [each.setting.total_edits / each.setting.d_in for each in found]
    says = (
        f"in {len(leaking)} of {len(found)} sums of n = {_range(sizes)} × d edits the edited candidates stand out, "
        f"AUC {_range(values)}; on sums of other edits {_range(nulls)}."
    )
    return Claim(claim=claim, holds=len(leaking) > len(found) / 2, says=says, comforts=False)


def claims(findings: Sequence[Finding]) -> tuple[Claim, ...]:
    """What a run says, claim by claim: first the paper's (CollabEdit, appendix B.2), then ours."""
    return (
        _is_ambiguous(findings),
        _is_safe(findings),
        hides_who(findings),
        _topics_tell(findings),
        _edits_are_apart(findings),
        shows_what(findings),
        _crowds_hide(findings),
        _values_follow(findings),
        _uploads_are_silent(findings),
        _differences_tell(findings),
        _published_tells(findings),
    )


def _is_ambiguous(findings: Sequence[Finding]) -> Claim:
    claim = "The paper: K W′ for any orthogonal W′ has the same Gram matrix as K."
    found = _with(findings, "ambiguity", "Gram error")
    if not found:
        return _untested(claim)
    worst = max(_value(each, "Gram error") for each in found)
    return Claim(claim=claim, holds=worst < 1e-10, says=f"relative difference at most {number(worst)}.")


def _is_safe(findings: Sequence[Finding]) -> Claim:
    claim = "The paper: so K cannot be recovered from K Kᵀ."
    found = _with(findings, "reconstruction", "mean |cos|", view="plain")
    if not found:
        return _untested(claim, comforts=True)
    best = max(found, key=lambda each: _value(each, "mean |cos|"))
    recovered = [each for each in found if _value(each, "mean |cos|") >= _CERTAIN]
    says = (
        f"from K Kᵀ alone keys came back with mean |cos| {number(_value(best, 'mean |cos|'))} ({in_words(best)}); "
        f"with {_CERTAIN} or more in {len(recovered)} of {len(found)} cases."
    )
    weak = _with(findings, "fastica", "mean |cos|", view="plain")
    if weak:
        says += f" FastICA alone, the weak attack, comes to {_range_of(weak, 'mean |cos|')}."
    return _unless(claim, refuted=bool(recovered), says=says)


def _crowds_hide(findings: Sequence[Finding]) -> Claim:
    claim = "With more edits than a key has entries (n > d), a sum hides which they are."
    found = [
        each
        for each in _with(findings, "membership", "AUC", view="sum")
        if each.setting.total_edits > each.setting.d_in
    ]
    if not found:
        return _untested(claim, comforts=True)
    told_apart = "; ".join(
        f"{number(_value(each, 'AUC'))} at n = {each.setting.total_edits / each.setting.d_in:.2g} d"
        + (f" ({each.setting.note})" if each.setting.note else "")
        for each in found
    )
    return _unless(claim, refuted=any(learns(each) for each in found), says=f"AUC {told_apart}.")


def _values_follow(findings: Sequence[Finding]) -> Claim:
    claim = "Who knows a candidate was edited also reads what to."
    open_to_it = [each for each in findings if each.view in ("plain", "sum")]
    found = _with(open_to_it, "value recovery", "mean cos")
    if not found:
        return _untested(claim, comforts=False)
    best = max(found, key=lambda each: _value(each, "mean cos"))
    says = f"cosine with the true residual {_range_of(found, 'mean cos')}. {best.score.says}".strip()
    return Claim(claim=claim, holds=_value(best, "mean cos") >= _CLOSE, says=says, comforts=False)


def _uploads_are_silent(findings: Sequence[Finding]) -> Claim:
    claim = "Masked and encrypted uploads look the same whatever is in them."
    found = [each for each in findings if each.view in ("masked", "ckks-aggregator") and each.must is False]
    tested = [each for each in found if learns(each) is not None]
    controls = [each for each in findings if each.view in ("masked", "ckks-aggregator") and each.must is True]
    if not tested:
        return _untested(claim, comforts=True)
    silent = [each for each in tested if not learns(each)]
    fired = [each for each in controls if learns(each)]
    if not controls:
        says = f"{len(silent)} of {len(tested)} tests found nothing; there were no controls."
        return _unless(claim, refuted=len(silent) < len(tested), says=says)
    says = (
        f"{len(silent)} of {len(tested)} tests found nothing, and {len(fired)} of {len(controls)} controls, in which "
        "the protection is left out or done wrongly, were found out."
    )
    return Claim(
        claim=claim, holds=len(silent) == len(tested) and len(fired) == len(controls), says=says, comforts=True
    )


def _differences_tell(findings: Sequence[Finding]) -> Claim:
    claim = "Two sums that differ by one client give that client's Gram matrix."
    found = _with(findings, "differencing", "relative error of the Gram matrix")
    if not found:
        return _untested(claim, comforts=False)
    worst = max(_value(each, "relative error of the Gram matrix") for each in found)
    says = f"the difference is that client's to {number(worst)}, relatively."
    asked = [each for each in findings if each.attack == "differencing" and each.must is False]
    if asked:
        refused = not any(learns(each) for each in asked)
        says += " Clients that are asked for such a sum refuse." if refused else " Clients gave such a sum."
    return Claim(claim=claim, holds=worst < 1e-3, says=says, comforts=False)


def _published_tells(findings: Sequence[Finding]) -> Claim:
    claim = "The published model tells by itself which candidates were edited, whatever the protocol."
    tried = _with(findings, "published delta", "AUC", view="delta")
    found = [each for each in tried if learns(each) is not None]
    if not found:
        return _too_few(claim, tried, "AUC", comforts=False)
    leaking = [each for each in found if learns(each)]

    def size(finding: Finding) -> float:
        return finding.setting.total_edits / finding.setting.d_out

    says = f"AUC {_range_of(found, 'AUC')} at n = {_range([size(each) for each in found])} × d_model edits"
    if leaking:
        furthest = max(leaking, key=size)
        says += f"; above chance up to n = {number(size(furthest))} × d_model (AUC {number(_value(furthest, 'AUC'))})"
    return Claim(claim=claim, holds=len(leaking) > len(found) / 2, says=f"{says}.", comforts=False)


def _with(findings: Sequence[Finding], attack: str, figure: str, *, view: str | None = None) -> list[Finding]:
    """What an attack measured of undefended views, where it has such a figure."""
    return [
        each
        for each in findings
        if each.attack == attack
        and each.must is None
        and not is_defended(each)
        and view in (None, each.view)
        and any(known.name == figure for known in each.score.figures)
    ]


def _untested(claim: str, *, comforts: bool | None = None) -> Claim:
    return Claim(claim=claim, holds=None, says="not tested in this run.", comforts=comforts, tried=False)


def _too_few(claim: str, found: Sequence[Finding], name: str, *, comforts: bool) -> Claim:
    """A claim about which there are only figures that nothing can be told from, if any."""
    if not found:
        return _untested(claim, comforts=comforts)
    says = (
        f"tried, and {name} {_range_of(found, name)} came of it; but by our measure, four standard errors, no {name} "
        "of so few edits is told from luck. That is no sign of safety."
    )
    return Claim(claim=claim, holds=None, says=says, comforts=comforts)


def _unless(claim: str, *, refuted: bool, says: str) -> Claim:
    """A claim of safety that an attack can refute, and that no attack's failure proves."""
    if refuted:
        return Claim(claim=claim, holds=False, says=says, comforts=True)
    return Claim(claim=claim, holds=None, says=f"not refuted, which is no proof: {says}", comforts=True)


def _range_of(findings: Sequence[Finding], name: str) -> str:
    return _range([_value(each, name) for each in findings])


def _range(values: Sequence[float]) -> str:
    if not values:
        return "–"
    low, high = number(min(values)), number(max(values))
    return low if low == high else f"{low} to {high}"


def _value(finding: Finding, name: str) -> float:
    return finding.score.figure(name).value


def _value_of_null(finding: Finding, name: str) -> float:
    return finding.null.figure(name).value if finding.null is not None else float("nan")


def _figure_of_chance(finding: Finding) -> Figure:
    return next(figure for figure in finding.score.figures if is_telling(figure))


def _above_chance(finding: Finding) -> float:
    figure = _figure_of_chance(finding)
    return (figure.value - (figure.chance or 0.0)) / (figure.error or 1.0)


def _leading(finding: Finding) -> str:
    return told(finding.score.figures[0]) if finding.score.figures else "no figure"
