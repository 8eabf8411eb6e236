"""Secret matrices come off: an orthogonal one entirely, a Gaussian one as far as it takes. Seeds in each test."""

import numpy as np
import pytest
from jaxtyping import Float64

from collabsecure.attacks.cases.small_world import small_world
from collabsecure.attacks.knowledge import PublicLayer
from collabsecure.attacks.scoring import auc
from collabsecure.defences.blinding import (
    BlindedSum,
    Blinding,
    Mixing,
    SecretKind,
    games_won,
    outside_span,
    undo_orthogonal,
)
from collabsecure.defences.defence import Edits, Layer, SecureSum
from collabsecure.keys import compute_keys
from collabsecure.merge import equilibration
from collabsecure.statistics import gram
from collabsecure.templates import ContextTemplates

EDITS, OTHERS = 20, 40


@pytest.fixture(scope="module")
def keys() -> Float64[np.ndarray, "d_in subjects"]:
    """The small world's first layer: 20 edited, 40 others, 20 of the null, 60 public subjects'."""
    laboratory = small_world(seed=0)
    subjects = [*laboratory.requests[: 2 * EDITS + OTHERS], *laboratory.reference[:60]]
    return compute_keys(laboratory.model, subjects, ContextTemplates(groups=(("{}",),)), 0)


@pytest.fixture(scope="module")
def layer() -> Layer:
    moment = small_world(seed=0).second_moments[0]
    return Layer(
        number=0,
        left=1,
        num_layers=1,
        second_moment=moment,
        scales=equilibration(moment),
        d_out=32,
        num_clients=1,
        edits_per_client=EDITS,
        key_bound=1.0,
        residual_bound=1.0,
    )


@pytest.fixture(scope="module")
def public(keys: Float64[np.ndarray, "d_in subjects"], layer: Layer) -> PublicLayer:
    return PublicLayer(
        second_moment=layer.second_moment,
        candidates=keys[:, : EDITS + OTHERS],
        reference=keys[:, 2 * EDITS + OTHERS :],
    )


def client(keys: Float64[np.ndarray, "d_in edits"], d_out: int) -> Edits:
    return Edits(
        keys=keys,
        residuals=np.random.default_rng(1).normal(size=(d_out, keys.shape[1])),
        decoy_keys=np.empty((len(keys), 0)),
        decoy_residuals=np.empty((d_out, 0)),
    )


def found_by(
    defence: Blinding | Mixing, edited: Float64[np.ndarray, "d_in edits"], layer: Layer, public: PublicLayer
) -> float:
    total = defence.upload(client(edited, layer.d_out), layer, np.random.default_rng(2))
    suspicion = defence.suspicion(total, layer, public)
    return auc(suspicion[:EDITS], suspicion[EDITS:]).value


@pytest.mark.parametrize("kind", list(SecretKind))
def test_the_edit_is_the_same_once_the_secret_is_taken_off(
    keys: Float64[np.ndarray, "d_in subjects"], layer: Layer, kind: SecretKind
) -> None:
    edits, rng = client(keys[:, :EDITS], layer.d_out), np.random.default_rng(3)
    clear, blind = SecureSum(), Blinding(kind=kind)
    expected = clear.merge(clear.upload(edits, layer, rng), layer)
    found = blind.merge(blind.upload(edits, layer, rng), layer)
    np.testing.assert_allclose(found, expected, atol=1e-6 * np.abs(expected).max())


def test_an_orthogonal_secret_is_undone_to_rounding(
    keys: Float64[np.ndarray, "d_in subjects"], layer: Layer, public: PublicLayer
) -> None:
    secret = SecretKind.ORTHOGONAL.draw(len(keys), np.random.default_rng(4))
    edited = keys[:, :EDITS]
    seen = BlindedSum(
        gram=gram(secret @ edited),
        cross=np.zeros((layer.d_out, len(keys))),
        second_moment=secret @ layer.second_moment @ secret.T,
    )
    assert np.linalg.norm(seen.gram - gram(edited)) > 0.5 * np.linalg.norm(gram(edited))
    undone = undo_orthogonal(seen, layer, public)
    assert np.linalg.norm(undone - gram(edited)) < 1e-9 * np.linalg.norm(gram(edited))


def test_members_behind_an_orthogonal_secret_are_found(
    keys: Float64[np.ndarray, "d_in subjects"], layer: Layer, public: PublicLayer
) -> None:
    """20 members, 40 others; standard error under chance 0.079."""
    blind = Blinding(kind=SecretKind.ORTHOGONAL)
    assert found_by(blind, keys[:, :EDITS], layer, public) == 1.0
    assert abs(found_by(blind, keys[:, EDITS + OTHERS :][:, :EDITS], layer, public) - 0.5) < 4 * 0.079


def test_the_same_attack_does_not_undo_a_gaussian_secret(
    keys: Float64[np.ndarray, "d_in subjects"], layer: Layer, public: PublicLayer
) -> None:
    assert abs(found_by(Blinding(kind=SecretKind.GAUSSIAN), keys[:, :EDITS], layer, public) - 0.5) < 4 * 0.079


@pytest.mark.parametrize(
    ("kind", "moment_is_sent", "games", "least"),
    [
        (SecretKind.ORTHOGONAL, True, 10, 10),
        (SecretKind.ORTHOGONAL, False, 10, 10),
        (SecretKind.GAUSSIAN, True, 10, 10),
        (SecretKind.GAUSSIAN, False, 20, 15),
    ],
)
def test_of_two_sets_of_edits_the_spectrum_says_which_was_blinded(
    keys: Float64[np.ndarray, "d_in subjects"],
    layer: Layer,
    kind: SecretKind,
    moment_is_sent: bool,
    games: int,
    least: int,
) -> None:
    """20 edits; chance wins 10 of 10 games with probability 0.001, and 15 or more of 20 with 0.021. Seed 5."""
    won = games_won(
        kind,
        keys[:, :EDITS],
        keys[:, EDITS : 2 * EDITS],
        layer.second_moment,
        moment_is_sent=moment_is_sent,
        num_games=games,
        rng=np.random.default_rng(5),
    )
    assert won >= least


@pytest.mark.parametrize("kind", list(SecretKind))
def test_guessed_edits_show_in_the_cross_term_whatever_blinds_the_keys(
    keys: Float64[np.ndarray, "d_in subjects"], layer: Layer, kind: SecretKind
) -> None:
    """20 edits, d_out = 32; 200 residuals of edits that nobody made; seed 6."""
    edits, blind = client(keys[:, :EDITS], layer.d_out), Blinding(kind=kind)
    total = blind.upload(edits, layer, np.random.default_rng(6))
    assert outside_span(total.cross, edits.residuals).max() < 1e-6
    assert outside_span(total.cross, np.random.default_rng(7).normal(size=(layer.d_out, 200))).min() > 0.1


def test_mixing_edits_with_an_orthogonal_secret_changes_nothing(
    keys: Float64[np.ndarray, "d_in subjects"], layer: Layer, public: PublicLayer
) -> None:
    edits, rng = client(keys[:, :EDITS], layer.d_out), np.random.default_rng(8)
    plain = SecureSum().upload(edits, layer, rng)
    mixed = Mixing(kind=SecretKind.ORTHOGONAL).upload(edits, layer, rng)
    np.testing.assert_allclose(mixed.gram, plain.gram, atol=1e-12 * np.abs(plain.gram).max())
    np.testing.assert_allclose(mixed.cross, plain.cross, atol=1e-12 * np.abs(plain.cross).max())


@pytest.mark.parametrize("kind", list(SecretKind))
def test_mixing_edits_leaves_their_span_and_so_all_members(
    keys: Float64[np.ndarray, "d_in subjects"], layer: Layer, public: PublicLayer, kind: SecretKind
) -> None:
    assert found_by(Mixing(kind=kind), keys[:, :EDITS], layer, public) == 1.0
    assert abs(found_by(Mixing(kind=kind), keys[:, EDITS + OTHERS :][:, :EDITS], layer, public) - 0.5) < 4 * 0.079
