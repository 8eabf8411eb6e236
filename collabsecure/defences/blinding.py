"""Blinding with a secret matrix P that all clients share and the server has not; and what the server gets all the same.

Keys are turned into P K before anything is computed: the server adds up P G Pᵀ and X Pᵀ, is told P C Pᵀ, solves, and
clients take P off again: Δ = Δ′ P, exactly. One client that colludes has P. Without any:

- P C Pᵀ and P G Pᵀ have the generalised eigenvalues of C and G, for any P. Of two sets of edits that somebody thinks
  of, these say which it was. Without P C Pᵀ, an orthogonal P still leaves G's own, and a Gaussian P leaves them
  blurred: rows of P K are d samples of N(0, KᵀK).
- The columns of X Pᵀ span those of R. Up to d_out edits, a guessed edit's residual lies in that span or does not.
- With an orthogonal P, C's eigenvectors give P away but for d signs, and the signs come from how keys of public
  subjects correlate. Then everything is as if there were no P.

Blinding from the other side, K P and R P, changes nothing at all where P is orthogonal: K P Pᵀ Kᵀ = K Kᵀ. NumPy, SciPy.
"""

import enum
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64
from scipy.linalg import eigh

from collabsecure.attacks.knowledge import PublicLayer
from collabsecure.defences.defence import Edits, Layer, explained
from collabsecure.merge import merge_delta
from collabsecure.statistics import Statistics, cross, gram

_ROUNDS = 50  # of sign synchronisation
_REFINED = 8  # times at most that signs are found anew from those who look like members


class SecretKind(enum.Enum):
    """How P is drawn."""

    ORTHOGONAL = "orthogonal"
    GAUSSIAN = "Gaussian"

    def draw(self, size: int, rng: np.random.Generator) -> Float64[np.ndarray, "size size"]:
        """Uniform over the orthogonal group, or entries of variance 1/size, so that E[P Pᵀ] = I."""
        entries: Float64[np.ndarray, "size size"] = rng.normal(size=(size, size)) / np.sqrt(size)
        if self is SecretKind.GAUSSIAN:
            return entries
        orthogonal, triangular = np.linalg.qr(entries)
        uniform: Float64[np.ndarray, "size size"] = orthogonal * np.sign(triangular.diagonal())
        return uniform


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BlindedSum:
    """All that the server has of one layer."""

    gram: Float64[np.ndarray, "d_in d_in"]  # P G Pᵀ
    cross: Float64[np.ndarray, "d_out d_in"]  # X Pᵀ
    second_moment: Float64[np.ndarray, "d_in d_in"]  # P C Pᵀ, without which it could not solve


def spectrum(
    gram: Float64[np.ndarray, "d_in d_in"], second_moment: Float64[np.ndarray, "d_in d_in"] | None, count: int
) -> Float64[np.ndarray, " {count}"]:
    """The largest eigenvalues of G, or of C⁻¹ G where a C is given; rising. No blinding changes the latter."""
    size = len(gram)
    largest: Float64[np.ndarray, " {count}"]
    largest = eigh(gram, second_moment, eigvals_only=True, subset_by_index=(size - count, size - 1))
    return largest


def games_won(
    kind: SecretKind,
    first: Float64[np.ndarray, "d_in edits"],
    second: Float64[np.ndarray, "d_in edits"],
    second_moment: Float64[np.ndarray, "d_in d_in"],
    *,
    moment_is_sent: bool,
    num_games: int,
    rng: np.random.Generator,
) -> int:
    """The distinguishing game: how often an adversary that chose two sets of keys says whose blinded G it is shown.

    It goes by the spectrum: of C⁻¹G where P C Pᵀ is sent, else of G. Chance wins half of the games.
    """
    root = _root(second_moment) if moment_is_sent else None
    count = first.shape[1]
    known = [np.log(spectrum(gram(keys), second_moment if moment_is_sent else None, count)) for keys in (first, second)]
    won = 0
    for hidden in rng.integers(2, size=num_games):
        secret = kind.draw(len(second_moment), rng)
        told = None if root is None else gram(secret @ root)
        seen = np.log(spectrum(gram(secret @ (first, second)[hidden]), told, count))
        won += int(np.argmin([np.linalg.norm(seen - guess) for guess in known]) == hidden)
    return won


def outside_span(
    blinded_cross: Float64[np.ndarray, "d_out d_in"], residuals: Float64[np.ndarray, "d_out num"]
) -> Float64[np.ndarray, " num"]:
    """The share of each residual that is outside the columns of X Pᵀ: 0 for those who are in the sum.

    An adversary gets a guessed edit's residual by computing that edit's value on the public model.
    """
    left, values, _ = np.linalg.svd(blinded_cross, full_matrices=False)
    basis = left[:, values > 1e-9 * values[0]]
    rest = residuals - basis @ (basis.T @ residuals)
    share: Float64[np.ndarray, " num"] = np.linalg.norm(rest, axis=0) / np.linalg.norm(residuals, axis=0)
    return share


def undo_orthogonal(seen: BlindedSum, layer: Layer, public: PublicLayer) -> Float64[np.ndarray, "d_in d_in"]:
    """G as it was before an orthogonal P, from eigenvectors of C and P C Pᵀ, and signs by synchronisation.

    In C's eigenbasis G differs from what was seen only by signs, dᵢ dⱼ. Public subjects say how keys are expected to
    correlate there, so d is close to the leading eigenvector of (seen ∘ expected). Then the candidates that look most
    like members take the public subjects' place, several times. With the edits on the list all signs come out right
    (small world, 10 to 60 edits); without them, G comes back to within 8% for 60 edits, and 79% for 10.
    """
    _, vectors = np.linalg.eigh(layer.second_moment)
    _, turned = np.linalg.eigh(seen.second_moment)
    gram_seen = _correlations(turned.T @ seen.gram @ turned)
    reference, candidates = vectors.T @ public.reference, vectors.T @ public.candidates
    expected = _correlations(reference @ reference.T)
    raw = turned.T @ seen.gram @ turned
    num_edits = int(np.linalg.matrix_rank(seen.gram, hermitian=True))
    signs = _synchronised(gram_seen * expected)
    for _ in range(_REFINED):
        basis = np.linalg.eigh(signs[:, None] * raw * signs)[1]
        inside = np.linalg.norm(basis[:, -num_edits:].T @ candidates, axis=0) / np.linalg.norm(candidates, axis=0)
        likely = candidates[:, np.argsort(inside)[-num_edits:]]
        before, signs = signs, _synchronised(gram_seen * _correlations(likely @ likely.T))
        if np.array_equal(before, signs):
            break
    found: Float64[np.ndarray, "d_in d_in"] = vectors @ (signs[:, None] * raw * signs) @ vectors.T
    return found


def _correlations(matrix: Float64[np.ndarray, "d d"]) -> Float64[np.ndarray, "d d"]:
    scale = np.sqrt(np.maximum(matrix.diagonal(), np.finfo(np.float64).tiny))
    result: Float64[np.ndarray, "d d"] = matrix / scale[:, None] / scale
    np.fill_diagonal(result, 0.0)
    return result


def _synchronised(agreement: Float64[np.ndarray, "d d"]) -> Float64[np.ndarray, " d"]:
    """Signs d that make Σ dᵢ dⱼ Aᵢⱼ large: from the leading eigenvector, then sign by sign until nothing changes."""
    signs: Float64[np.ndarray, " d"] = np.sign(np.linalg.eigh(agreement)[1][:, -1])
    for _ in range(_ROUNDS):
        better = np.sign(agreement @ signs)
        if np.array_equal(better, signs):
            break
        signs = np.where(better == 0, signs, better)
    return signs


def _root(matrix: Float64[np.ndarray, "d d"]) -> Float64[np.ndarray, "d d"]:
    """F with F Fᵀ = matrix, so that P C Pᵀ comes out symmetric."""
    factor: Float64[np.ndarray, "d d"] = np.linalg.cholesky(matrix)
    return factor


@dataclass(frozen=True, slots=True, kw_only=True)
class Blinding:
    """The defence: a P for each layer, drawn from what the clients share."""

    kind: SecretKind
    shared_seed: int = 0

    @property
    def label(self) -> str:
        """Name and strength."""
        return f"keys blinded by a secret {self.kind.value} matrix"

    @property
    def decoys_per_client(self) -> int:
        """None."""
        return 0

    def _secret(self, layer: Layer) -> Float64[np.ndarray, "d_in d_in"]:
        return self.kind.draw(len(layer.scales), np.random.default_rng((self.shared_seed, layer.number)))

    def seen(self, total: Statistics, layer: Layer) -> BlindedSum:
        """What the server has."""
        secret = self._secret(layer)
        return BlindedSum(gram=total.gram, cross=total.cross, second_moment=gram(secret @ _root(layer.second_moment)))

    def upload(self, edits: Edits, layer: Layer, rng: np.random.Generator) -> Statistics:
        """P K Kᵀ Pᵀ and R Kᵀ Pᵀ."""
        keys = self._secret(layer) @ edits.keys
        return Statistics(gram=gram(keys), cross=cross(edits.residuals, keys))

    def merge(self, total: Statistics, layer: Layer) -> Float64[np.ndarray, "d_out d_in"]:
        """The server's solve, then the clients' unblinding: Δ′ P."""
        seen = self.seen(total, layer)
        delta: Float64[np.ndarray, "d_out d_in"]
        delta = merge_delta(seen.second_moment, seen.gram, seen.cross) @ self._secret(layer)
        return delta

    def suspicion(self, total: Statistics, layer: Layer, public: PublicLayer) -> Float64[np.ndarray, " num_candidates"]:
        """Undo P as if it were orthogonal, then see how much of a candidate's key lies in the span."""
        undone = undo_orthogonal(self.seen(total, layer), layer, public)
        return explained(Statistics(gram=undone, cross=total.cross), layer, public)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixing:
    """Blinding from the other side: each client mixes its edits, K P and R P, with a P of its own."""

    kind: SecretKind

    @property
    def label(self) -> str:
        """Name and strength."""
        return f"edits mixed by a secret {self.kind.value} matrix"

    @property
    def decoys_per_client(self) -> int:
        """None."""
        return 0

    def upload(self, edits: Edits, layer: Layer, rng: np.random.Generator) -> Statistics:
        """K P Pᵀ Kᵀ and R P Pᵀ Kᵀ: what it was, for an orthogonal P, and in the same span for any."""
        secret = self.kind.draw(edits.keys.shape[1], rng)
        keys = edits.keys @ secret
        return Statistics(gram=gram(keys), cross=cross(edits.residuals @ secret, keys))

    def merge(self, total: Statistics, layer: Layer) -> Float64[np.ndarray, "d_out d_in"]:
        """CollabEdit eq. 3."""
        return merge_delta(layer.second_moment, total.gram, total.cross)

    def suspicion(self, total: Statistics, layer: Layer, public: PublicLayer) -> Float64[np.ndarray, " num_candidates"]:
        """How much of a candidate's key lies in the span of the sum."""
        return explained(total, layer, public)
