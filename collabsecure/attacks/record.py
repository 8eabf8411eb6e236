"""Findings as JSON and back: what a report holds, and what an interrupted run leaves. NumPy only.

JSON knows no infinities and no NaN, so a number that is none is null there.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict

import numpy as np

from collabsecure.attacks.attack import Curve, Figure, Finding, Score
from collabsecure.attacks.knowledge import Setting


def finding_to_json(finding: Finding) -> dict[str, object]:
    """All of a finding, as `json.dumps` takes it."""
    return {
        "attack": finding.attack,
        "view": finding.view,
        "setting": {**asdict(finding.setting), "layers": list(finding.setting.layers)},
        "score": _score_to_json(finding.score),
        "null": None if finding.null is None else _score_to_json(finding.null),
        "must": finding.must,
        "seconds": finding.seconds,
    }


def finding_from_json(data: object) -> Finding:
    """What `finding_to_json` wrote.

    Raises:
        ValueError: it is something else.
    """
    try:
        fields = _object(data)
        setting = _object(fields.pop("setting"))
        null = fields.pop("null")
        return Finding(
            setting=Setting(**{**setting, "layers": tuple(setting["layers"])}),
            score=_score_from_json(fields.pop("score")),
            null=None if null is None else _score_from_json(null),
            **fields,
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f"found a finding with {error}; expected what this version writes") from error


def _score_to_json(score: Score) -> dict[str, object]:
    return {
        "figures": [
            {
                "name": figure.name,
                "value": _number(figure.value),
                "error": None if figure.error is None else _number(figure.error),
                "chance": None if figure.chance is None else _number(figure.chance),
                "is_chance": None if figure.is_chance is None else bool(figure.is_chance),
            }
            for figure in score.figures
        ],
        "curves": [
            {
                "plot": curve.plot,
                "label": curve.label,
                "x": [_number(value) for value in curve.x],
                "y": [_number(value) for value in curve.y],
            }
            for curve in score.curves
        ],
        "says": score.says,
    }


def _score_from_json(data: object) -> Score:
    fields = _object(data)
    figures = []
    for each in fields.pop("figures"):
        parts = _object(each)
        parts.pop("is_chance")  # follows from the others
        value = parts.pop("value")
        figures.append(Figure(value=math.nan if value is None else float(value), **parts))
    curves = []
    for each in fields.pop("curves"):
        parts = _object(each)
        # float64 makes NaN of None.
        x, y = (np.array(parts.pop(axis), dtype=np.float64) for axis in "xy")
        curves.append(Curve(x=x, y=y, **parts))
    return Score(figures=tuple(figures), curves=tuple(curves), **fields)


def _object(data: object) -> dict:  # type: ignore[type-arg]  # JSON's, whose values the constructors take as they are
    if not isinstance(data, Mapping):
        raise TypeError(f"{type(data).__name__} in place of an object")
    return dict(data)


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
