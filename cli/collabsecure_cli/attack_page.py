"""What a run of the attack suite found, for people: one page that needs no network, no script and nothing beside it."""

import base64
import hashlib
import re
from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files
from itertools import groupby
from typing import Final

import collabsecure
from collabsecure.attacks.attack import Figure, Finding
from collabsecure.attacks.registry import attack_named
from collabsecure.attacks.suite import VIEWS, View
from collabsecure_cli.attack_claims import Claim, is_defended, learns, number
from collabsecure_cli.attack_figures import plots
from collabsecure_cli.attack_plots import Plot, Row, rows_svg, svg
from collabsecure_cli.attack_report import AttackReport
from collabsecure_cli.durations import in_words

_TEMPLATE: Final = (files("collabsecure_cli") / "attack_page.html").read_text(encoding="utf-8")
_VERDICTS = {
    True: ("Holds in this run", "calm"),
    False: ("Refuted by this run", "bad"),
    None: ("Not decided by this run", "wait"),
}
_HELD = {True: "holds", False: "does not hold", None: "not decided"}
_NEWS = {True: "good", False: "bad", None: "calm"}
_DEFENDED = View(
    name="defended",
    title="The sum, defended",
    who="As the sum.",
    what="Defences beneath secure summation, each in a session of its own: what they leave of the edit (ES, PS, NS and "
    "their harmonic mean, Score), and what the sums and the model's behaviour still tell.",
)
_QUESTIONS = {  # of what is tried that is no `Attack`, or one for a single case
    "attribution by topic": "Who contributed what, to one who knows who edits what kind of facts?",
    "grouping": "Which edits came from one client, to one who knows all of them?",
    "distinguishing": "Which of two inputs did a client upload?",
    "uniformity": "Do an upload's numbers differ from random ones?",
    "seed search": "Do masks come from a short seed?",
    "decryptions": "Do encrypted sums and their decryptions give the secret key?",
    "defence": "What do defences leave of the edit, and of the leak?",
}
_FIRST = ("ES", "Score", "AUC")  # of a defence's figures
_MOST_ROWS = 200  # of one plot's data
_MOST_FIGURES = 3  # of a finding that are shown at once


def page(report: AttackReport) -> str:
    """The page. Names that come from files are escaped; its policy lets it load and run nothing."""
    verdict, tone = ("Nothing: controls failed", "bad") if report.failures else _VERDICTS[report.sentence.holds]
    values = {
        "policy": f"default-src 'none'; style-src {_style_hash()}; base-uri 'none'; form-action 'none'",
        "title": escape(report.target),
        "heading": f"What sharing edits of <bdi>{escape(report.target)}</bdi> gives away",
        "about": escape(_about(report)),
        "alarms": _alarm("This run proves nothing.", report.failures)
        + _alarm("What should give nothing away did.", report.broken),
        "tone": tone,
        "verdict": verdict,
        "sentence": escape(report.sentence.claim),
        "because": "".join(f"<p>{_because(part)}</p>" for part in report.because),
        "claims": _claims(report.claims),
        "figures": _figures(report.findings),
        "views": _views(report.findings),
        "left_out": _left_out(report.left_out),
        "command": escape(report.command),
        "seed": str(report.seed),
        "version": escape(collabsecure.__version__),
        "written": escape(report.written),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda match: values[match[1]], _TEMPLATE)  # once: values are not looked into


def _style_hash() -> str:
    (style,) = re.findall(r"<style>(.*?)</style>", _TEMPLATE, re.DOTALL)
    return f"'sha256-{base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()}'"


def _about(report: AttackReport) -> str:
    attacks = len({finding.attack for finding in report.findings})
    settings = len(report.findings)
    tried = "A real session" if report.suite == "session" else f"Suite “{report.suite}”"
    seen = {finding.view for finding in report.findings}
    on = ", ".join(view for view in report.views if view in seen)
    drawn = sum(finding.setting.keys == "synthetic" for finding in report.findings)
    nothing = ", ".join(view for view in report.views if view not in seen)
    return (
        f"{tried}: {attacks} attacks, {settings} findings on {on or 'no view'}"
        f"{f', {drawn} of them with synthetic keys, not the model’s' if drawn else ''}"
        f"{f' (nothing on {nothing})' if nothing else ''}; {in_words(report.seconds)} of work."
    )


def _alarm(head: str, reasons: Sequence[str]) -> str:
    if not reasons:
        return ""
    items = "".join(f"<li>{escape(reason)}</li>" for reason in reasons)
    return f'<section class="alarm" role="alert"><b>{head}</b><ul>{items}</ul></section>'


def _because(claim: Claim) -> str:
    return f"<b>{escape(claim.claim)}</b> {_held(claim)} {_sentence(claim.says)}"


def _claims(claims: Sequence[Claim]) -> str:
    """One by one those that something in the run is about; the others together, for they say nothing."""
    parts = [_claim(claim) for claim in claims if claim.tried]
    untried = [f"<p>{escape(claim.claim)}</p>" for claim in claims if not claim.tried]
    if untried:
        chip = '<span class="chip" data-tone="wait">not tested</span>'
        parts.append(f"<li>{chip}<div><b>Nothing in this run is about</b>{''.join(untried)}</div></li>")
    return "\n".join(parts)


def _claim(claim: Claim) -> str:
    return f"<li>{_held(claim)}<div><b>{escape(claim.claim)}</b><p>{_sentence(claim.says)}</p></div></li>"


def _held(claim: Claim) -> str:
    tone = "wait" if claim.holds is None else _NEWS[claim.is_good_news]
    return f'<span class="chip" data-tone="{tone}">{_HELD[claim.holds]}</span>'


def _sentence(text: str) -> str:
    return escape(text[:1].upper() + text[1:])


def _figures(findings: Sequence[Finding]) -> str:
    drawn = [_figure(plot.title, plot.says, svg(plot), _data(plot)) for plot in plots(findings)]
    rows = _silence(findings)
    if rows:
        title = "Do masked and encrypted uploads give anything away?"
        says = (
            "The share of rounds in which somebody who has chosen two inputs says rightly which of them was uploaded; "
            "grey is where guessing lies. Controls leave the protection out or do it wrongly, and must be found out "
            "(triangles); what is protected must stay in the grey."
        )
        drawn.append(_figure(title, says, rows_svg("silence", title, says, rows), ""))
    if not drawn:
        return ""
    return f'<h2>In pictures</h2>\n<div class="plots">\n{"".join(drawn)}</div>'


def _figure(title: str, says: str, drawing: str, data: str) -> str:
    caption = f"<figcaption><h3>{escape(title)}</h3><p>{escape(says)}</p></figcaption>"
    return f'<figure class="card">{caption}{drawing}{data}</figure>\n'


def _data(plot: Plot) -> str:
    """A plot's numbers, for those who cannot see it or want them."""
    rows = [
        f"<tr><td>{escape(series.label.replace(chr(10), ' '))}</td><td>{x:.4g}</td><td>{y:.4g}</td></tr>"
        for series in plot.series
        for x, y in list(zip(series.x, series.y, strict=True))[: _MOST_ROWS // len(plot.series)]
        if series.dots
    ]
    if not rows:
        return ""
    head = f"<tr><th>what</th><th>{escape(plot.x.label)}</th><th>{escape(plot.y.label)}</th></tr>"
    table = f"<table><thead>{head}</thead><tbody>{''.join(rows)}</tbody></table>"
    return f'<details><summary>Numbers</summary><div class="data">{table}</div></details>'


def _silence(findings: Sequence[Finding]) -> list[Row]:
    """Distinguishing games on uploads, the controls first."""
    rows = []
    of_uploads = [each for each in findings if each.view in ("masked", "ckks-aggregator") and each.must is not None]
    for finding in sorted(of_uploads, key=lambda each: not each.must):
        figure = next((figure for figure in finding.score.figures if figure.name == "win rate"), None)
        if figure is not None and figure.chance is not None and figure.error is not None:
            kind = "control" if finding.must else {"masked": "masked"}.get(finding.view, "encrypted")
            rows.append(
                Row(
                    label=f"{kind}: {finding.setting.note or 'edits of two clients'}",
                    value=figure.value,
                    chance=figure.chance,
                    error=figure.error,
                    tone=2 if finding.must else 4,
                )
            )
    return rows


def _views(findings: Sequence[Finding]) -> str:
    parts = []
    known = {view.name: view for view in (*VIEWS, _DEFENDED)}
    shown_as = {finding: _DEFENDED.name if is_defended(finding) else finding.view for finding in findings}
    for name in dict.fromkeys([*known, *shown_as.values()]):
        of_view = [finding for finding in findings if shown_as[finding] == name]
        if of_view:
            parts.append(_view(known.get(name, View(name=name, title=name, who="", what="")), of_view))
    return "<h2>View by view</h2>\n" + "\n".join(parts) if parts else ""


def _view(view: View, findings: Sequence[Finding]) -> str:
    who = f"<dl><dt>Who has it</dt><dd>{escape(view.who)}</dd><dt>What it is</dt><dd>{escape(view.what)}</dd></dl>"
    order = list(dict.fromkeys(finding.attack for finding in findings))
    rows: list[str] = []
    in_order = sorted(findings, key=lambda each: (order.index(each.attack), each.must is not None, not each.must))
    for name, group in groupby(in_order, lambda each: each.attack):
        tried = list(group)
        said = {finding.score.says for finding in tried}
        in_common = said.pop() if len(said) == 1 else ""  # what is true of all of them is said once
        rows.append(_attack_row(name, in_common))
        rows += (_row(finding, says="" if in_common else finding.score.says) for finding in tried)
    head = "<tr><th>Setting</th><th>Found</th><th>On other subjects</th><th>Reading</th></tr>"
    return (
        f'<section class="card view" id="view-{escape(view.name)}"><h3>{escape(view.title)}</h3>'
        f"{who if view.who else ''}"
        f"<table><thead>{head}</thead><tbody>{''.join(rows)}</tbody></table></section>"
    )


def _attack_row(name: str, says: str) -> str:
    attack = attack_named(name)
    said = f"<small>{_sentence(says)}</small>" if says else ""
    if attack is None:
        asked = escape(_QUESTIONS.get(name, name))
        return f'<tr class="attack"><th colspan="4" scope="colgroup"><b>{asked}</b>{said}</th></tr>'
    needs = "; ".join(assumption.value for assumption in attack.assumes) or "nothing beside the view and the model"
    return (
        f'<tr class="attack"><th colspan="4" scope="colgroup"><b>{escape(attack.title)}</b>'
        f"<small>{escape(attack.name)}. Needs {escape(needs)}. {escape(attack.source)}</small>{said}</th></tr>"
    )


def _row(finding: Finding, *, says: str) -> str:
    setting = finding.setting
    size = f"{setting.num_clients} × {setting.edits_per_client} edits" if setting.edits_per_client else "–"
    more = ", ".join(filter(None, (setting.keys, f"d = {setting.d_in}" if setting.d_in else "", setting.note)))
    said = f"<p>{_sentence(says)}</p>" if says else ""
    null = "" if finding.null is None else _told(finding.null.figures[:_MOST_FIGURES])
    figures = finding.score.figures
    if is_defended(finding):
        first = [figure for name in _FIRST for figure in figures if figure.name == name]
        figures = (*first, *(figure for figure in figures if figure.name not in _FIRST))
    shown, more_figures = figures[:_MOST_FIGURES], figures[_MOST_FIGURES:]
    details = f"<details><summary>more</summary>{_told(more_figures, strong=True)}</details>" if more_figures else ""
    mark, tone = _reading(finding)
    return (
        f"<tr><td>{size} <small>{escape(more)}</small>{said}</td>"
        f'<td class="figures">{_told(shown, strong=True)}{details}</td><td class="null">{null}</td>'
        f'<td><span class="chip" data-tone="{tone}">{mark}</span></td></tr>'
    )


def _reading(finding: Finding) -> tuple[str, str]:
    """What a row comes to, and how that is to be taken."""
    found = learns(finding)
    if finding.must is True:
        return ("control fired", "good") if found else ("control failed", "bad")
    if finding.must is False:
        return ("leak", "bad") if found else ("silent", "good")
    if found is None:
        has_chance = any(figure.is_chance is not None for figure in finding.score.figures)
        return ("too few to tell" if has_chance else "measured", "calm")
    return ("leak", "bad") if found else ("may be chance", "calm")


def _told(figures: Iterable[Figure], *, strong: bool = False) -> str:
    """Figures with their standard errors; one that is only known for chance stands beside what chance gave."""
    parts = []
    for figure in figures:
        value = f"<b>{number(figure.value)}</b>" if strong else number(figure.value)
        has_error = figure.error is not None and figure.error >= 5e-4 and not (strong and figure.chance is not None)
        error = f"\u00a0±\u00a0{figure.error:.2g}" if has_error else ""
        parts.append(f"<span>{escape(figure.name)} {value}{error}</span>")
    return "".join(parts)


def _left_out(reasons: Sequence[str]) -> str:
    if not reasons:
        return ""
    items = "".join(f"<li>{escape(reason)}</li>" for reason in reasons)
    return f"<p>Asked for, and left out:</p><ul>{items}</ul>"
