"""Masked and encrypted uploads say nothing of what is in them, and every control that should fire does.

One case: synthetic keys, d_in = 256, d_out = 64, five clients with 12 edits each; the protocol's own masks under fresh
randomness, so that no two runs of these tests are of the same numbers. A bar of four standard errors is missed by
chance once in 16 000 times; there are some twenty such figures here.
"""

import numpy as np
import pytest
from summed_case import masked_state, summed_case

from collabsecure.attacks import masked_uploads
from collabsecure.attacks.attack import Assumption, Attack, Score, measure
from collabsecure.attacks.cases.masking import aggregated
from collabsecure.attacks.registry import ATTACKS
from collabsecure.attacks.scoring import auc
from collabsecure.attacks.views import STATISTICS, EncryptedUpload, MaskedUpload

EFFORT = masked_uploads.Effort(training=16, rounds=64)


def _in_span(view, public, rng):
    """How much of each candidate's key a client's Gram matrix holds: enough of an attack for an open upload."""
    vectors = np.linalg.eigh(view.layers[0].gram)[1][:, -12:]
    keys = public.layers[0].candidates
    return np.linalg.norm(vectors.T @ keys, axis=0) / np.linalg.norm(keys, axis=0)


def _membership(held, public, truth):
    members = truth.of_client(1).candidate
    others = np.setdiff1d(np.arange(len(held)), truth.candidate)
    return Score(figures=(auc(held[members], held[others]).figure,))


SPAN = Attack(
    name="span",
    title="Which candidates' keys are in the span?",
    source="test",
    assumes=(Assumption.CANDIDATES,),
    accepts=STATISTICS,
    guess=_in_span,
    score=_membership,
)


def test_an_attack_that_opens_a_plain_upload_is_at_chance_on_a_masked_one():
    plain = measure(SPAN, "plain", summed_case(), lambda shown: shown.plain(1), seed=1)
    assert plain.score.figure("AUC").value > 0.999
    assert plain.null.figure("AUC").is_chance
    masked = measure(SPAN, "masked", summed_case(), lambda shown: aggregated(shown).uploads[1], seed=1)
    assert masked.score.figure("AUC").is_chance
    assert masked.null.figure("AUC").is_chance


def test_an_attack_that_opens_a_plain_upload_is_at_chance_on_an_encrypted_one():
    pytest.importorskip("tenseal")
    state = aggregated(summed_case().real, scheme="ckks")
    assert state.summed is None  # the key holder's
    upload = state.uploads[1]
    assert isinstance(upload, EncryptedUpload)
    assert SPAN.run(upload, summed_case().real.public, summed_case().truth, seed=1).figure("AUC").is_chance


def test_no_attack_on_plain_uploads_finds_anything_in_a_masked_one():
    found = {one.attack: one for one in masked_uploads.everything(summed_case(), ATTACKS, seed=1)}
    assert found.keys() >= {"rank", "reconstruction", "membership", "value recovery"}
    for finding in found.values():
        for score in (finding.score, finding.null):
            for figure in score.figures:
                assert figure.is_chance in (True, None), (finding.attack, figure)
                # Of two directions in 256 dimensions that have nothing to do with each other, |cos| is 0.05.
                assert figure.name not in ("mean |cos|", "mean cos") or figure.value < 0.1, (finding.attack, figure)


def test_the_sum_that_the_server_learns_is_the_sum():
    state, shown = masked_state(), summed_case().real
    assert [name for name, _ in state.parts()] == ["masked"] * 5 + ["sum", "delta"]
    found, true = state.summed.layers[0], shown.summed().layers[0]
    assert np.linalg.norm(found.gram - true.gram) < 1e-11 * np.linalg.norm(true.gram)
    assert np.linalg.norm(found.cross - true.cross) < 1e-10 * np.linalg.norm(true.cross)


def test_an_upload_cut_short_has_the_tensors_that_are_whole():
    upload = masked_state().uploads[1]
    assert upload.words.keys() == {"gram 0", "cross 0"}
    assert MaskedUpload.read(upload.session, []).layers == {}


def test_real_masks_leave_every_guess_at_chance():
    found = list(masked_uploads.findings(summed_case(), seed=3, effort=EFFORT))
    assert [finding.attack for finding in found] == ["uniformity", "distinguishing", "distinguishing", "seed search"]
    for finding in found:
        assert finding.must is False
        assert finding.score.figures[0].is_chance, finding


def test_ciphertexts_are_uniform_numbers():
    pytest.importorskip("tenseal")
    finding = next(masked_uploads.findings(summed_case(), seed=3, scheme="ckks"))
    assert finding.attack == "uniformity"
    assert finding.score.figures[0].is_chance, finding


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["ckks", "bfv"])
def test_encryption_leaves_every_guess_at_chance(scheme):
    pytest.importorskip("tenseal")
    found = list(masked_uploads.findings(summed_case(), seed=3, effort=EFFORT, scheme=scheme))
    assert [finding.attack for finding in found] == ["uniformity", "distinguishing", "distinguishing"]
    for finding in found:
        assert finding.score.figures[0].is_chance, finding


@pytest.mark.parametrize("scheme", ["bfv", "ckks"])
def test_ciphertexts_that_are_none_are_found_out(scheme):
    pytest.importorskip("tenseal")
    found = list(masked_uploads.controls_of_encryption(summed_case(), seed=3, effort=EFFORT, scheme=scheme))
    assert {finding.attack for finding in found} == {"uniformity", "distinguishing"}
    for finding in found:
        assert finding.must is True
        assert finding.score.figures[0].is_chance is False


def test_every_control_fires():
    found = list(masked_uploads.controls(summed_case(), seed=3, effort=EFFORT))
    must = [finding for finding in found if finding.must]
    assert [(finding.attack, finding.view.removeprefix("control: ")) for finding in must] == [
        ("uniformity", "no masks"),
        ("distinguishing", "no masks"),
        ("membership", "no masks"),
        ("attribution", "no masks"),
        ("distinguishing", "Gaussian masks, 1 × the input"),
        ("distinguishing", "Gaussian masks, 10 × the input"),
        ("distinguishing", "Gaussian masks, 100 × the input"),
        ("distinguishing", "a mask used twice"),
        ("seed search", "a mask from a 16-bit seed"),
    ]
    for finding in must:
        assert finding.score.figures[0].is_chance is False, finding


def test_a_mask_from_a_short_seed_passes_every_test_of_uniformity():
    """So these tests do not replace a proof: a weak key schedule would pass them, too."""
    found = masked_uploads.controls(summed_case(), seed=4, effort=masked_uploads.Effort(training=2, rounds=2))
    (finding,) = (one for one in found if one.attack == "uniformity" and "seed" in one.view)
    assert finding.must is None
    assert finding.score.figures[0].is_chance
