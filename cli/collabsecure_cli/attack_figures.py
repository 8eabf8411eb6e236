"""Which plots a run's findings make: each takes all findings, and gives a plot or nothing.

A view has one colour in all plots where views are compared; where attacks are, each has its own.
"""

import math
import re
import textwrap
from collections.abc import Callable, Sequence
from itertools import groupby

import numpy as np
from jaxtyping import Float64

from collabsecure.attacks.attack import Curve, Figure, Finding, Score
from collabsecure_cli.attack_claims import in_words, is_defended, learns
from collabsecure_cli.attack_plots import Axis, Band, Plot, Series, in_percent, logarithmic, power_of_ten

_TONES = {"plain": 1, "sum": 2, "delta": 3, "masked": 4, "ckks-aggregator": 5}
_SHORT = {"plain": "plain upload", "sum": "sum", "delta": "published Δ"}
_MOST_LINES = 6  # in one plot
_ON_SUMS = ("AUC", "AUC by guessed residuals", "AUC by what is written")  # of figures of defences
_MOST_LETTERS = 18  # of a line of a name
_MOST_POINTS = 240  # of one line; more are not seen
_UNIT = Axis(label="", low=0.0, high=1.0, ticks=(0.0, 0.25, 0.5, 0.75, 1.0))
_AUC = Axis(label="AUC", low=0.4, high=1.0, ticks=(0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0))


def plots(findings: Sequence[Finding]) -> tuple[Plot, ...]:
    """All plots that there is something for."""
    makers: tuple[Callable[[Sequence[Finding]], Plot | None], ...] = (
        _roc,
        _membership_by_size,
        _delta_by_size,
        _cosines,
        _spectra,
        _trade_off,
    )
    return tuple(plot for maker in makers if (plot := maker(findings)) is not None)


def _roc(findings: Sequence[Finding]) -> Plot | None:
    """For each view its largest case in which something was found, and one null."""
    series: list[Series] = []
    null: Curve | None = None
    undefended = [each for each in findings if each.must is None and not is_defended(each)]
    with_curves = [each for each in undefended if _curve(each.score, "ROC") is not None]
    usual = [each for each in with_curves if not each.setting.note]
    wanted = [each for each in usual if each.attack in ("membership", "published delta", "behaviour")]
    wanted.sort(key=lambda each: (_place(each.view), _edits(each)))
    for view, group in groupby(wanted, lambda each: each.view):
        of_view = list(group)
        finding = next((each for each in reversed(of_view) if learns(each)), of_view[-1])
        curve = _curve(finding.score, "ROC")
        if curve is not None and len(series) < _MOST_LINES:
            label = f"{_SHORT.get(view, view)},\nn = {_ratio(_edits(finding) / finding.setting.d_in)} d"
            series.append(_line(curve, label, _TONES.get(view, 6)))
        if finding.null is not None:
            null = _curve(finding.null, "ROC") or null
    if not series:
        return None
    if null is not None:
        series.append(_line(null, "other subjects\n(null)", 0))
    least = min(float(each.x[each.x > 0].min(initial=1.0)) for each in series)
    low = 10.0 ** math.floor(math.log10(max(least, 1e-6)))
    x = logarithmic("candidates wrongly accused (false positives)", low, 1.0, in_percent)
    y = logarithmic("edits found (true positives)", low, 1.0, in_percent)
    return Plot(
        slug="roc",
        title="How many edits are found, for how many wrongly accused?",
        says="Both axes are logarithmic: what counts is the left edge, where hardly anybody is accused wrongly. "
        "An attack that knows nothing stays on the diagonal; one that knows all, at the top.",
        x=x,
        y=y,
        series=tuple(_thinned(each, low) for each in series),
        diagonal="guessing",
    )


def _membership_by_size(findings: Sequence[Finding]) -> Plot | None:
    return _by_size(
        [each for each in findings if each.attack == "membership" and each.view in ("plain", "sum")],
        slug="size",
        title="Do more edits hide each other?",
        says="How well a list of candidates is told apart, against the number n of edits in what is seen, as a "
        "multiple of a key's length d. Grey: the same attack on other subjects' edits, and where chance lies.",
        x_label="edits in the sum / length of a key (n / d)",
        per=lambda each: each.setting.d_in,
        weaker=("AUC by leverage alone", "by leverage alone"),
    )


def _delta_by_size(findings: Sequence[Finding]) -> Plot | None:
    return _by_size(
        [each for each in findings if each.attack == "published delta" and each.view == "delta"],
        slug="delta",
        title="What does the published model alone tell?",
        says="The same against the update that everybody gets with the edited model. It has as many directions as the "
        "model is wide (d_model): up to so many edits it tells them all apart, and beyond that less and less.",
        x_label="edits in the update / width of the model (n / d_model)",
        per=lambda each: each.setting.d_out,
        weaker=("AUC whitened by C alone", "whitened by C"),
    )


def _by_size(
    findings: Sequence[Finding],
    *,
    slug: str,
    title: str,
    says: str,
    x_label: str,
    per: Callable[[Finding], int],
    weaker: tuple[str, str],
) -> Plot | None:
    """AUC against size, where there are two at least.

    Of the kind of case with most sizes, a weaker attack's AUC as well (figure's name, label).
    """
    undefended = [each for each in findings if each.must is None and not is_defended(each)]
    usable = [each for each in undefended if _figure(each.score, "AUC") is not None]

    def kind(each: Finding) -> tuple[str, str, str]:
        return each.view, each.setting.keys, each.setting.note

    usable.sort(key=lambda each: (kind(each), _edits(each)))
    groups = [list(group) for _, group in groupby(usable, kind)][: _MOST_LINES - 1]
    if len({_edits(each) / per(each) for group in groups for each in group}) < 2:
        return None  # one size says nothing about sizes

    def drawn(group: Sequence[Finding], figure: str, label: str, tone: int) -> Series:
        return Series(
            label=label,
            x=np.array([_edits(each) / per(each) for each in group]),
            y=np.array([_value(each.score, figure) for each in group]),
            tone=tone,
            dots=True,
            names=tuple(in_words(each) for each in group),
        )

    series: list[Series] = []
    for number, group in enumerate(groups):
        view, keys, note = kind(group[0])
        words = [f"{keys} keys"] if not note else textwrap.wrap(note, _MOST_LETTERS)
        label = "\n".join((_SHORT.get(view, view) + ("," if note else ""), *words))
        series.append(drawn(group, "AUC", label, number + 1))
    longest = max(groups, key=lambda group: _edits(group[-1]) / per(group[-1]))
    if all(_figure(each.score, weaker[0]) is not None for each in longest):
        series.append(drawn(longest, weaker[0], f"the same,\n{weaker[1]}", len(groups) + 1))
    all_x = np.concatenate([each.x for each in series])
    axis = logarithmic(x_label, float(all_x.min()), float(all_x.max()))
    usual = [each for each in usable if not each.setting.note] or usable
    with_null = ((each, _figure(each.null, "AUC")) for each in usual if each.null is not None)
    nulls = sorted(
        ((_edits(each) / per(each), null) for each, null in with_null if null is not None), key=lambda pair: pair[0]
    )
    bands = (_chance(nulls, axis),) if nulls else ()
    if nulls:
        x, y = np.array([x for x, _ in nulls]), np.array([figure.value for _, figure in nulls])
        series.append(Series(label="other subjects\n(null)", x=x, y=y, tone=0, dots=True, line=False))
    lowest = min(float(each.y.min()) for each in series)
    bottom = min(0.4, math.floor(10 * lowest) / 10)
    ticks = tuple(round(bottom + step / 10, 1) for step in range(round((1 - bottom) * 10) + 1))
    y_axis = Axis(label="AUC (0.5 is guessing)", low=bottom, high=1.0, ticks=ticks)
    return Plot(slug=slug, title=title, says=says, x=axis, y=y_axis, series=tuple(series), bands=bands)


def _chance(nulls: Sequence[tuple[float, Figure]], axis: Axis) -> Band:
    """Four standard errors about ½, which are the fewer the more edits there are."""
    widest: dict[float, float] = {}
    for at, figure in nulls:
        widest[at] = max(widest.get(at, 0.0), 4 * (figure.error or 0.0))
    x = np.array(sorted(widest))
    reach = np.array([widest[at] for at in x])
    x, reach = np.array([axis.low, *x, axis.high]), np.array([reach[0], *reach, reach[-1]])
    return Band(label="chance ± 4 standard errors", x=x, low=0.5 - reach, high=0.5 + reach)


def _cosines(findings: Sequence[Finding]) -> Plot | None:
    """Blind attacks on K Kᵀ: how near what they find is to the true keys."""
    usable = [
        each
        for each in findings
        if each.view == "plain"
        and each.must is None
        and not is_defended(each)
        and _figure(each.score, "mean |cos|") is not None
    ]
    usable.sort(key=lambda each: (each.setting.keys, each.attack, _edits(each)))
    groups = [list(group) for _, group in groupby(usable, lambda each: (each.setting.keys, each.attack))]
    if not groups:
        return None
    longest = max(groups, key=len)[0].setting.keys  # weaker attacks are shown where most sizes were tried
    groups = [group for group in groups if group[0].setting.keys == longest or group[0].attack == "reconstruction"]
    groups.sort(key=lambda group: -_value(group[-1].score, "mean |cos|"))
    series = [
        Series(
            label=f"{group[0].attack},\n{group[0].setting.keys} keys",
            x=np.array([_edits(each) / each.setting.d_in for each in group]),
            y=np.array([_value(each.score, "mean |cos|") for each in group]),
            tone=number + 1,
            dots=True,
            names=tuple(in_words(each) for each in group),
        )
        for number, group in enumerate(groups[: _MOST_LINES - 1])
    ]
    nulls = [
        (_edits(each) / each.setting.d_in, figure.value)
        for group in groups
        for each in group
        if each.attack == "reconstruction" and each.null is not None
        if (figure := _figure(each.null, "mean |cos|")) is not None
    ]
    if nulls:
        x, y = np.array([x for x, _ in nulls]), np.array([y for _, y in nulls])
        series.append(Series(label="other subjects\n(null)", x=x, y=y, tone=0, dots=True, line=False))
    all_x = np.concatenate([each.x for each in series])
    return Plot(
        slug="cosines",
        title="Do keys come back from K Kᵀ alone?",
        says="Mean |cos| between each true key and the one found for it, against a client's edits M as a share of a "
        "key's length d. Keys of one model are alike, so what knows nothing does not come to 0: "
        "grey is how near the attack comes to keys that are not in it.",
        x=logarithmic("edits of one client / length of a key (M / d)", float(all_x.min()), float(all_x.max())),
        y=Axis(label="mean |cos| with the true keys", low=_UNIT.low, high=_UNIT.high, ticks=_UNIT.ticks),
        series=tuple(series),
    )


def _spectra(findings: Sequence[Finding]) -> Plot | None:
    """Eigenvalues of Gram matrices: the number of edits is where they fall."""
    found: dict[int, Curve] = {}
    for finding in findings:
        curve = _curve(finding.score, "spectrum")
        if curve is not None and finding.must is None and finding.view in ("plain", "sum"):
            found.setdefault(_edits(finding), curve)
    if not found:
        return None
    chosen: list[int] = []
    for edits in sorted(found):
        if not chosen or edits >= 2 * chosen[-1]:  # names of nearer ones would lie on each other
            chosen.append(edits)
    if len(chosen) > _MOST_LINES - 2:
        chosen = [chosen[round(place)] for place in np.linspace(0, len(chosen) - 1, _MOST_LINES - 2)]
    series = []
    for number, edits in enumerate(chosen):
        curve = found[edits]
        heights = np.maximum(curve.y / curve.y.max(), 1e-18)
        at = (float(edits), 10.0 ** (-5 - 2 * (number % 3)))
        series.append(Series(label=f"{edits} edits", x=curve.x, y=heights, tone=number + 1, label_at=at))
    longest = max(float(each.x.max()) for each in series)
    lowest = min(float(each.y.min()) for each in series)
    return Plot(
        slug="spectra",
        title="How many edits are in it?",
        says="Eigenvalues of the Gram matrix, the largest first, as shares of the largest. They fall to rounding after "
        "as many as there are edits: so the number of edits is no secret.",
        x=Axis(label="number of the eigenvalue", low=1.0, high=longest, ticks=(1.0, 10.0, 100.0, 1000.0), log=True),
        y=logarithmic("eigenvalue / largest", lowest, 1.0, power_of_ten),
        series=tuple(series),
    )


def _trade_off(findings: Sequence[Finding]) -> Plot | None:
    """Defences: what is left of the edit against what is left of the leak."""
    points = [
        (quality, leak, each)
        for each in findings
        if (quality := _figure(each.score, "ES")) is not None and (leak := _largest_leak(each.score)) is not None
    ]
    if not points:
        return None
    series = []
    by_kind = sorted(points, key=lambda point: (_kind_of_defence(point[2]), point[0].value))
    for number, (kind, group) in enumerate(groupby(by_kind, lambda point: _kind_of_defence(point[2]))):
        members = list(group)
        series.append(
            Series(
                label="\n".join(textwrap.wrap(kind, _MOST_LETTERS)),
                x=np.array([quality.value for quality, _, _ in members]),
                y=np.array([leak.value for _, leak, _ in members]),
                tone=number % 6 + 1,
                dots=True,
                line=len(members) > 2,
                names=tuple(each.setting.note or in_words(each) for _, _, each in members),
            )
        )
    return Plot(
        slug="defences",
        title="What does hiding cost?",
        says="Each point is a defence: to the right the edits work, at the bottom no attack on the sums tells "
        "edits from others, the best one counting. A good defence would be at the bottom right; what an edit gives "
        "away by working stays.",
        x=Axis(label="edits that work (ES)", low=0.0, high=1.0, ticks=_UNIT.ticks, tell=in_percent),
        y=Axis(label="largest AUC (0.5 is guessing)", low=_AUC.low, high=_AUC.high, ticks=_AUC.ticks),
        series=tuple(series),
        levels=((0.5, "guessing"),),
    )


def _largest_leak(score: Score) -> Figure | None:
    """The best of the attacks on sums: a defence that stops one of them has not stopped them."""
    on_sums = [figure for figure in score.figures if figure.name in _ON_SUMS and math.isfinite(figure.value)]
    return max(on_sums, key=lambda figure: figure.value, default=None)


def _kind_of_defence(finding: Finding) -> str:
    """The name of a defence without its strength: "discrete Gaussian noise, ε = 10"."""
    return re.split(r"[:,]| by a ", finding.setting.note)[0] or "none"


def _place(view: str) -> int:
    return _TONES.get(view, 99)


def _edits(finding: Finding) -> int:
    return finding.setting.total_edits


def _curve(score: Score, plot: str) -> Curve | None:
    return next((curve for curve in score.curves if curve.plot == plot), None)


def _figure(score: Score, name: str) -> Figure | None:
    return next((figure for figure in score.figures if figure.name == name and math.isfinite(figure.value)), None)


def _value(score: Score, name: str) -> float:
    return score.figure(name).value


def _line(curve: Curve, label: str, tone: int) -> Series:
    return Series(label=label, x=curve.x, y=curve.y, tone=tone)


def _thinned(series: Series, low: float) -> Series:
    """A ROC curve's points that a logarithmic plot from `low` on can show; false positives of 0 go to its edge."""
    x, y = np.maximum(series.x, low), np.maximum(series.y, low)
    last_of_x = np.append(np.diff(x) > 0, True)  # of several points above each other, the highest
    x, y = x[last_of_x], y[last_of_x]
    if x[0] > low:
        x, y = np.insert(x, 0, low), np.insert(y, 0, low)
    return _thinned_line(Series(label=series.label, x=x, y=y, tone=series.tone), np.log(x / x[0] + 1e-9))


def _thinned_line(series: Series, along: Float64[np.ndarray, " points"] | None = None) -> Series:
    """Points that are far enough from the one before to be seen."""
    if len(series.x) <= _MOST_POINTS:
        return series
    at = series.x if along is None else along
    slots = np.floor((at - at[0]) / (at[-1] - at[0]) * _MOST_POINTS)
    steep = np.abs(np.diff(np.log(np.maximum(series.y, 1e-300)), prepend=np.log(series.y[0]))) > 1
    keep = np.append(np.diff(slots) > 0, True) | steep | np.append(steep[1:], False)
    return Series(label=series.label, x=series.x[keep], y=series.y[keep], tone=series.tone)


def _ratio(value: float) -> str:
    return f"{value:.2g}"
