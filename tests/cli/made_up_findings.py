"""Findings of a run that never was, as the real attacks would give them."""

import numpy as np

from collabsecure.attacks.attack import Curve, Figure, Finding, Score
from collabsecure.attacks.knowledge import Setting
from collabsecure.attacks.scoring import auc, roc, true_positives_at
from collabsecure_cli.attack_report import AttackReport


def setting(num_clients=1, edits_per_client=20, *, keys="small world", d_in=512, note=""):
    return Setting(
        keys=keys,
        layers=(0,),
        d_in=d_in,
        d_out=d_in // 4,
        num_clients=num_clients,
        edits_per_client=edits_per_client,
        note=note,
    )


def told_apart(attack, view, of, *, shift, seed=0, more=(), must=None, num_others=300):
    """A finding in which members score `shift` standard deviations above others, with its null."""
    rng = np.random.default_rng(seed)
    scores = []
    for by in (shift, 0.0):
        members, others = rng.standard_normal(of.total_edits) + by, rng.standard_normal(num_others)
        figures = (auc(members, others).figure, true_positives_at(0.001, members, others), *more)
        scores.append(Score(figures=figures, curves=(roc(members, others, "residual"),)))
    return Finding(attack=attack, view=view, setting=of, score=scores[0], null=scores[1], must=must, seconds=1.0)


def game(view, note, *, value, must, attack="distinguishing", seed=0):
    figure = Figure(name="win rate", value=value, error=0.02, chance=0.5)
    of = setting(3, 0, keys="", d_in=0, note=note)
    return Finding(attack=attack, view=view, setting=of, score=Score(figures=(figure,)), must=must)


def cosines(attack, of, value):
    return Finding(
        attack=attack, view="plain", setting=of, score=Score(figures=(Figure(name="mean |cos|", value=value),))
    )


def rank(of, seed=0):
    heights = np.concatenate((np.geomspace(1, 1e-3, of.total_edits), np.geomspace(1e-16, 1e-17, 512 - of.total_edits)))
    spectrum = Curve(plot="spectrum", label="float64", x=np.arange(1.0, 513.0), y=heights)
    figures = (Figure(name="edits counted", value=float(of.total_edits)),)
    return Finding(attack="rank", view="plain", setting=of, score=Score(figures=figures, curves=(spectrum,)))


def findings():
    """About what a quick run gives."""
    synthetic = [setting(10, edits, keys="synthetic", d_in=256) for edits in (5, 17, 33, 51, 84)]
    attributed = Figure(name="attributed", value=0.21, error=0.04, chance=0.2)
    return (
        *(rank(setting(1, edits)) for edits in (5, 20, 100)),
        *(cosines("reconstruction", setting(1, m, keys="synthetic", d_in=1024), v) for m, v in ((10, 0.9999), (20, 0.9998), (50, 0.997), (100, 0.93), (200, 0.84))),  # noqa: E501
        *(cosines("fastica", setting(1, m, keys="synthetic", d_in=1024), v) for m, v in ((10, 0.99), (20, 0.95), (50, 0.81), (100, 0.6), (200, 0.51))),  # noqa: E501
        *(cosines("ambiguity", setting(1, m, keys="synthetic", d_in=1024), v) for m, v in ((10, 0.56), (50, 0.5), (200, 0.45))),  # noqa: E501
        *(told_apart("membership", "plain", setting(1, edits), shift=12.0, seed=edits) for edits in (5, 20, 100)),
        *(told_apart("membership", "sum", setting(5, edits), shift=12.0, seed=edits) for edits in (5, 20)),
        *(told_apart("membership", "sum", of, shift=shift, seed=7) for of, shift in zip(synthetic, (9, 7, 4, 2.7, 1.5), strict=True)),  # noqa: E501
        *(told_apart("published delta", "delta", setting(5, edits), shift=shift, seed=edits) for edits, shift in ((5, 10), (20, 8), (40, 2.8))),  # noqa: E501
        Finding(attack="attribution", view="sum", setting=setting(5, 20), score=Score(figures=(attributed,))),
        game("masked", "no mask", value=1.0, must=True),
        game("masked", "real Gaussian masks, 100 × the signal", value=0.81, must=True),
        game("masked", "a ring mask used twice", value=1.0, must=True),
        game("masked", "as the protocol does it", value=0.51, must=False),
        game("ckks-aggregator", "bfv ciphertexts", value=0.48, must=False),
        *(told_apart("membership", "sum", setting(5, 20, note=f"noise: σ = {sigma}"), shift=shift, seed=9, more=(Figure(name="ES", value=es),)) for sigma, shift, es in ((0, 9, 0.86), (1, 8, 0.63), (10, 5, 0.2), (100, 0.3, 0.02))),  # noqa: E501
        *(told_apart("membership", "sum", setting(5, 20, note=f"decoys: {share}"), shift=shift, seed=9, more=(Figure(name="ES", value=es),)) for share, shift, es in ((1, 5, 0.85), (4, 3, 0.8))),  # noqa: E501
    )  # fmt: skip


def report(some=None, **changes):
    values = {
        "suite": "quick",
        "target": "the small world's GPT-2",
        "views": ("plain", "masked", "ckks-aggregator", "sum", "delta"),
        "seed": 0,
        "command": "collabsecure attack --suite quick --out report",
        "findings": findings() if some is None else tuple(some),
        "left_out": ("10 clients × 100 edits: needs 3,000 records, the small world has 480",),
        "seconds": 118.0,
        "written": "2025-01-01 12:00 UTC",
    }
    return AttackReport(**{**values, **changes})
