"""Whether what a server sees of an upload could be told from uniformly random numbers, or follows the input.

A masked integer is uniform mod 2^bits whatever was masked. So over all numbers of an upload: χ² of the bytes at each
place, the balance of each bit, the correlation of neighbours, and that with the input. Every test has a p-value; the
least one counts, corrected for how many there are (Bonferroni, Holm's first step). An upload of n numbers is a sample
of n: no rounds are needed.
"""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, UInt64
from scipy.stats import chi2, norm

from collabsecure.attacks.attack import Figure, Finding, Score
from collabsecure.attacks.knowledge import Setting
from collabsecure.attacks.views import EncryptedUpload, Layers, MaskedUpload
from collabsecure.sessions import gram_name, layer_of
from collabsecure.statistics import pack_upper
from collabsecure_protocols.encryption_parameters import DATA_PRIME

NAME = "uniformity"


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One test of one tensor's numbers."""

    name: str
    p: float  # how often uniform numbers look like this, or worse


def checks(upload: MaskedUpload | EncryptedUpload, contributed: Layers | None) -> Iterator[Check]:
    """All tests of an upload; `contributed` is what was masked, where that is known."""
    bits = {tensor.name: tensor.bits for spec in upload.session.sums for tensor in spec.tensors}
    for name, words in upload.words.items():
        width = DATA_PRIME.bit_length() if isinstance(upload, EncryptedUpload) else bits[name]
        yield from _of_bytes(name, words, width)
        yield from _of_bits(name, words, width)
        centred = words.astype(np.float64) - 2.0 ** (width - 1)
        yield Check(name=f"{name}: neighbours", p=_correlation(centred[:-1], centred[1:]))
        if contributed is None:
            continue
        own = contributed[layer_of(name)]
        values = pack_upper(own.gram) if name == gram_name(layer_of(name)) else own.cross.ravel()
        yield Check(name=f"{name}: the input", p=_correlation(centred[: len(values)], values))
        yield Check(name=f"{name}: magnitudes", p=_correlation(np.abs(centred[: len(values)]), np.abs(values)))


def examine(
    upload: MaskedUpload | EncryptedUpload,
    contributed: Layers | None,
    *,
    view: str,
    setting: Setting,
    must: bool | None = None,
) -> Finding:
    """The strongest deviation, in standard errors of a normal with the corrected p-value: 0 where that is 1."""
    start = time.monotonic()
    found = list(checks(upload, contributed))
    worst = min(found, key=lambda check: check.p)
    corrected = min(1.0, worst.p * len(found))
    deviation = float(norm.isf(max(corrected, 1e-300) / 2))
    return Finding(
        attack=NAME,
        view=view,
        setting=setting,
        score=Score(
            figures=(
                Figure(name="strongest deviation", value=deviation, error=1.0, chance=0.0),
                Figure(name="p, corrected", value=corrected),
                Figure(name="tests", value=float(len(found))),
            ),
            says=f"{worst.name} deviates most",
        ),
        must=must,
        seconds=time.monotonic() - start,
    )


def _of_bytes(name: str, words: UInt64[np.ndarray, " n"], width: int) -> Iterator[Check]:
    every = words.view(np.uint8).reshape(-1, 8)
    for place in range(width // 8):
        counts = np.bincount(every[:, place], minlength=256)
        expected = len(words) / 256
        yield Check(name=f"{name}: byte {place}", p=float(chi2.sf(((counts - expected) ** 2).sum() / expected, df=255)))


def _of_bits(name: str, words: UInt64[np.ndarray, " n"], width: int) -> Iterator[Check]:
    for place in range(width):
        ones = int(np.count_nonzero(words & np.uint64(1 << place)))
        yield Check(
            name=f"{name}: bit {place}", p=float(2 * norm.sf(abs(2 * ones - len(words)) / math.sqrt(len(words))))
        )


def _correlation(left: Float64[np.ndarray, " n"], right: Float64[np.ndarray, " n"]) -> float:
    """Two-sided, of Pearson's r under independence: r·√n is normal."""
    left, right = left - left.mean(), right - right.mean()
    sizes = np.linalg.norm(left) * np.linalg.norm(right)
    r = float(left @ right / sizes) if sizes > 0 else 0.0
    return float(2 * norm.sf(abs(r) * math.sqrt(len(left))))
