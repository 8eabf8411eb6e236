"""Cases from random keys in the likeness of a transformer's, for sizes that no small model has. NumPy only.

A key is what stands behind an MLP's GELU at the last token of a subject, averaged over contexts. So these are: a hidden
state h goes through a random W and a bias into GPT-2's GELU, and

    h = what all subjects share + some factors of falling weight + what its last token gives it + its own,

with each context adding something of its own before the average (½ clean, ⅒ for each of five prefixes). Subjects that
end with one token have almost one key, as real ones do. Ordinary text, of which C is made, has the same factors about
another mean. Of 480 subjects, percentiles after the colon (see tests/attacks/test_synthetic_keys.py):

|                                | small world, layer 0   | small world, layer 1   | synthetic, d_in = 1024 |
|--------------------------------|------------------------|------------------------|------------------------|
| least entry                    | −0.170                 | −0.170                 | −0.170                 |
| entries above 0                | 0.57                   | 0.25                   | 0.25                   |
| by neuron: 10, 50, 90          | 0.20, 0.60, 0.87       | 0.04, 0.22, 0.50       | 0.01, 0.18, 0.64       |
| skewness by neuron: 5, 50, 95  | 0.7, 1.3, 2.5          | 0.9, 1.5, 3.2          | 0.5, 2.4, 4.7          |
| cosine of two: 5, 50, 95, 100  | 0.22, 0.42, 0.63, 0.99 | 0.08, 0.31, 0.59, 0.97 | 0.15, 0.36, 0.54, 0.94 |
| singular values 2, 3, 10 ÷ 1st | 0.39, 0.35, 0.21       | 0.55, 0.48, 0.26       | 0.51, 0.36, 0.17       |
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from collabsecure.attacks.case import Case, Shown
from collabsecure.attacks.knowledge import Public, PublicLayer, Setting, Truth
from collabsecure.merge import merge_delta
from collabsecure.statistics import Statistics, cross, gram

KEYS = "synthetic"
LAYER = 0

_NUM_TOKENS = 400  # last tokens that subjects have
_SECOND_MOMENT_WEIGHT = 600.0  # λ, as the small world's
_TEXT_TOKENS_PER_DIMENSION = 3  # of ordinary text, for C
_GAIN, _GAINS_SPREAD = 0.6, 0.3  # of W's rows, and the standard deviation of their logarithms
_BIAS, _BIASES_SPREAD = -0.55, 0.35  # below 0: most neurons are off
_SHARED, _TOKENS, _OWN, _CONTEXTS = 0.7, 0.35, 0.05, 0.3  # weights of h's parts; factors have what is left of 1
_FACTORS_DECAY = 0.55  # the j-th factor weighs j^(−this)
_BY_TOKEN = 0.7  # of a subject's factors, how much comes of its last token
_TEXT_MEAN = 0.6  # cosine between ordinary text's mean and subjects'


def gelu(inputs: Float64[np.ndarray, "*shape"]) -> Float64[np.ndarray, "*shape"]:
    """GPT-2's `gelu_new`; its least value is −0.17004.

    >>> gelu(np.array([-10.0, -0.75, 0.0, 1.0])).round(4)
    array([-0.    , -0.17  ,  0.    ,  0.8412])
    """
    outputs: Float64[np.ndarray, "*shape"] = (
        inputs / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (inputs + 0.044715 * inputs * inputs * inputs)))
    )
    return outputs


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Population:
    """The model's first projection and how hidden states are spread: what keys are drawn from."""

    projection: Float64[np.ndarray, "d_in d_model"]  # W
    bias: Float64[np.ndarray, "d_in 1"]
    mean: Float64[np.ndarray, "d_model 1"]  # of subjects' hidden states
    text_mean: Float64[np.ndarray, "d_model 1"]
    factors: Float64[np.ndarray, "d_model rank"]
    tokens: Float64[np.ndarray, "d_model num_tokens"]  # what a last token gives a hidden state
    contexts: Float64[np.ndarray, "d_model prefixes"]  # what a prefix gives it

    @classmethod
    def draw(cls, d_in: int, d_model: int, rng: np.random.Generator) -> "Population":
        """A population of a model that does not exist."""
        rank = max(2, d_model // 8)
        gains = _GAIN * np.exp(_GAINS_SPREAD * rng.standard_normal((d_in, 1)))
        factors = rng.standard_normal((d_model, rank)) * np.arange(1, rank + 1) ** -_FACTORS_DECAY
        factors *= math.sqrt((1 - _TOKENS - _OWN) * d_model) / np.linalg.norm(factors)
        mean = _SHARED * rng.standard_normal((d_model, 1))
        other = _SHARED * rng.standard_normal((d_model, 1))
        return cls(
            projection=gains * rng.standard_normal((d_in, d_model)) / math.sqrt(d_model),
            bias=_BIAS + _BIASES_SPREAD * rng.standard_normal((d_in, 1)),
            mean=mean,
            text_mean=_TEXT_MEAN * mean + math.sqrt(1 - _TEXT_MEAN**2) * other,
            factors=factors,
            tokens=math.sqrt(_TOKENS) * rng.standard_normal((d_model, _NUM_TOKENS))
            + math.sqrt(_BY_TOKEN) * factors @ rng.standard_normal((rank, _NUM_TOKENS)),
            contexts=_CONTEXTS / math.sqrt(2) * rng.standard_normal((d_model, 5)),
        )

    def keys(self, num: int, rng: np.random.Generator) -> Float64[np.ndarray, "d_in num"]:
        """Keys of as many subjects: each the average over contexts of GELU(W h + b)."""
        hidden = self.mean + self._spread(num, rng)
        keys = 0.5 * self._activations(hidden)
        for context in self.contexts.T:
            own = _CONTEXTS / math.sqrt(2) * rng.standard_normal(hidden.shape)
            keys += 0.1 * self._activations(hidden + context[:, None] + own)
        return keys

    def text_keys(self, num: int, rng: np.random.Generator) -> Float64[np.ndarray, "d_in num"]:
        """Keys at as many tokens of ordinary text."""
        return self._activations(self.text_mean + self._spread(num, rng))

    def _spread(self, num: int, rng: np.random.Generator) -> Float64[np.ndarray, "d_model num"]:
        d_model, rank = self.factors.shape
        last = rng.integers(self.tokens.shape[1], size=num)
        hidden: Float64[np.ndarray, "d_model num"] = (
            self.tokens[:, last]
            + math.sqrt(1 - _BY_TOKEN) * self.factors @ rng.standard_normal((rank, num))
            + math.sqrt(_OWN) * rng.standard_normal((d_model, num))
        )
        return hidden

    def _activations(self, hidden: Float64[np.ndarray, "d_model num"]) -> Float64[np.ndarray, "d_in num"]:
        return gelu(self.projection @ hidden + self.bias)


def synthetic_case(
    *,
    d_in: int,
    num_clients: int,
    edits_per_client: int,
    num_others: int,
    seed: int,
    d_out: int | None = None,
    num_reference: int = 500,
) -> Case:
    """An edit of one layer by clients that have random keys and residuals.

    Candidates are the members, client by client, then `num_others` that nobody edits; the null edits as many other
    subjects. `d_out` (the model's width) is d_in / 4 where not said.
    """
    rng = np.random.default_rng(seed)
    width = d_out or max(1, d_in // 4)
    population = Population.draw(d_in, width, rng)
    total = num_clients * edits_per_client
    text = population.text_keys(_TEXT_TOKENS_PER_DIMENSION * d_in, rng)
    second_moment = _SECOND_MOMENT_WEIGHT / text.shape[1] * gram(text)
    members = population.keys(total, rng)
    residuals = _residuals(width, total, rng)
    public = Public(
        layers={
            LAYER: PublicLayer(
                second_moment=second_moment,
                reference=population.keys(num_reference, rng),
                candidates=np.concatenate((members, population.keys(num_others, rng)), axis=1),
            )
        },
        names=tuple(f"subject {number}" for number in range(1, total + num_others + 1)),
    )
    return Case(
        setting=Setting(
            keys=KEYS,
            layers=(LAYER,),
            d_in=d_in,
            d_out=width,
            num_clients=num_clients,
            edits_per_client=edits_per_client,
        ),
        truth=Truth(
            keys={LAYER: members},
            residuals={LAYER: residuals},
            client=np.repeat(np.arange(1, num_clients + 1), edits_per_client),
            candidate=np.arange(total),
            objects=("",) * total,
        ),
        real=_shown(public, members, residuals, num_clients),
        null=_shown(public, population.keys(total, rng), _residuals(width, total, rng), num_clients),
    )


def _residuals(d_out: int, num: int, rng: np.random.Generator) -> Float64[np.ndarray, "d_out num"]:
    residuals: Float64[np.ndarray, "d_out num"] = rng.standard_normal((d_out, num)) / math.sqrt(d_out)
    return residuals


def _shown(
    public: Public,
    keys: Float64[np.ndarray, "d_in num_edits"],
    residuals: Float64[np.ndarray, "d_out num_edits"],
    num_clients: int,
) -> Shown:
    parts = zip(np.split(keys, num_clients, axis=1), np.split(residuals, num_clients, axis=1), strict=True)
    uploads = {
        client: {LAYER: Statistics(gram=gram(k), cross=cross(r, k))} for client, (k, r) in enumerate(parts, start=1)
    }
    delta = merge_delta(
        public.layers[LAYER].second_moment,
        np.sum([upload[LAYER].gram for upload in uploads.values()], axis=0),
        np.sum([upload[LAYER].cross for upload in uploads.values()], axis=0),
    )
    return Shown(public=public, uploads=uploads, deltas={LAYER: delta})
