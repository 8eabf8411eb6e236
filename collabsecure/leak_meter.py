"""How much a session of some size gives away to whoever has a list of candidates. Needs nothing but Python.

What attacks.membership (against the sums) and attacks.published_delta (against the update alone) reached, as curves
over the number of edits in a sum, n:

- n < d_in (the length of a key): the sums tell members from others without a mistake; n ≤ d_model: so does Δ alone.
- A list with all edits on it tells them from the sums at any n, while it is shorter than about d_in²/4.
- Else it depends on how keys are spread. With a tenth of the edits on the list, the difference between members' and
  others' scores is, in standard deviations,

      against the sums:     4.4 (n/d_in)^−1.2 for keys of the small world's model, 7.2 (n/d_in)^−0.9 for synthetic ones,
      against Δ alone:      4.6 exp(−(n/d_model − 1))               and 4.6 exp(−((n/d_model − 1)/2.4)²),

  and of two Gaussians that far apart AUC = Φ(difference/√2). Fitted for n/d_in from 1.3 to 10 and n/d_model to 4;
  tests/attacks/test_leak_meter.py measures them again.

All of these are lower bounds: they are what our attacks do, not what can be done. And parties know no more than how
many edits there may be: where clients have fewer, or collude and take theirs off, more is given away than that says.
"""

import math
from dataclasses import dataclass
from statistics import NormalDist

_MEASURED_WIDTHS = 4  # n / d_model, up to which the curves of Δ alone were fitted
_HOW_MEASURED = (
    "Lower bounds, measured on a small model's keys and made-up ones (docs/privacy-evaluation.md); others may do more.",
    "AUC: how often an edit is ranked above a candidate that is none; 0.50 is guessing. Fewer edits give more away.",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LeakMeter:
    """What is known of a sum is its size; what follows from that for a list of candidates.

    >>> meter = LeakMeter(total_edits=1500, d_model=1600, d_in=6400)
    >>> meter.delta_auc, meter.sum_auc
    ((1.0, 1.0), (1.0, 1.0))

    Raises:
        ValueError: a number is below 1.
    """

    total_edits: int  # in the sum, or the most that there can be
    d_model: int
    d_in: int  # length of a key

    def __post_init__(self) -> None:
        if min(self.total_edits, self.d_model, self.d_in) < 1:
            raise ValueError(f"found {self.total_edits} edits, d_model {self.d_model}, d_in {self.d_in}; expected ≥ 1")

    @property
    def edits_per_width(self) -> float:
        """Edits for each dimension of the model, n / d_model."""
        return self.total_edits / self.d_model

    @property
    def edits_per_key_entry(self) -> float:
        """Edits for each entry of a key, n / d_in."""
        return self.total_edits / self.d_in

    @property
    def longest_sure_list(self) -> int:
        """As many candidates, all edits among them, are told apart by a sum of any number of edits."""
        return self.d_in**2 // 4

    @property
    def sum_auc(self) -> tuple[float, float]:
        """AUC of a list with a tenth of the edits on it, against the sums: for two kinds of keys, the lower first.

        >>> lower, higher = LeakMeter(total_edits=2000, d_model=256, d_in=1000).sum_auc
        >>> round(lower, 2), round(higher, 2)
        (0.91, 1.0)
        """
        ratio = self.edits_per_key_entry
        if ratio < 1:
            return 1.0, 1.0
        return _auc(4.4 * ratio**-1.2), _auc(7.2 * ratio**-0.9)

    @property
    def delta_auc(self) -> tuple[float, float]:
        """AUC of such a list against the update alone, for the same two.

        >>> lower, higher = LeakMeter(total_edits=260, d_model=100, d_in=400).delta_auc
        >>> round(lower, 2), round(higher, 2)
        (0.74, 0.98)
        """
        beyond = self.edits_per_width - 1
        if beyond <= 0:
            return 1.0, 1.0
        either = _auc(4.6 * math.exp(-beyond)), _auc(4.6 * math.exp(-((beyond / 2.4) ** 2)))
        return min(either), max(either)

    def to_json(self) -> dict[str, object]:
        """For programs."""
        return {
            "edits_in_a_sum_at_most": self.total_edits,
            "d_model": self.d_model,
            "d_in": self.d_in,
            "edits_per_d_model": round(self.edits_per_width, 4),
            "edits_per_d_in": round(self.edits_per_key_entry, 4),
            "auc_against_the_sums_all_listed": 1.0,
            "longest_list_for_that": self.longest_sure_list,
            "auc_against_the_sums_a_tenth_listed": [round(value, 3) for value in self.sum_auc],
            "auc_against_the_update_a_tenth_listed": [round(value, 3) for value in self.delta_auc],
            "note": " ".join(_HOW_MEASURED),
        }

    def lines(self) -> list[str]:
        """For people: what somebody with a list of candidates finds out.

        >>> for line in LeakMeter(total_edits=2000, d_model=1000, d_in=1000).lines()[:3]:
        ...     print(line)
        At most 2000 edits in a sum, that is 2 × the model's width (1000) and 2 × a key's entries (1000).
        Sums and a list of candidates: AUC 1.00 with all edits on it (to 250000 candidates), 0.91 to 1.00 with a tenth.
        The edited model alone and such a list: AUC 0.88 to 1.00 with a tenth of the edits on it, more with all.
        """
        width, entries = f"{self.edits_per_width:.2g}", f"{self.edits_per_key_entry:.2g}"
        sums, alone = _words(self.sum_auc), f"AUC {_words(self.delta_auc)}"
        if self.sum_auc != (1.0, 1.0):
            sums = f"1.00 with all edits on it (to {self.longest_sure_list} candidates), {sums} with a tenth"
        if self.edits_per_width > _MEASURED_WIDTHS:
            alone = "our attack tells few edits, which proves nothing about others"
        elif self.delta_auc != (1.0, 1.0):
            alone += " with a tenth of the edits on it, more with all"
        size = f"{width} × the model's width ({self.d_model}) and {entries} × a key's entries ({self.d_in})"
        return [
            f"At most {self.total_edits} edits in a sum, that is {size}.",
            f"Sums and a list of candidates: AUC {sums}.",
            f"The edited model alone and such a list: {alone}.",
            *_HOW_MEASURED,
        ]


def _auc(difference: float) -> float:
    return NormalDist().cdf(difference / math.sqrt(2))


def _words(bounds: tuple[float, float]) -> str:
    lower, higher = (f"{value:.2f}" for value in bounds)
    return lower if lower == higher else f"{lower} to {higher}"
