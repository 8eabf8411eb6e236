"""Uploads of a real session, whose edits need not be of the same kind as the other candidates.

Synthetic keys, d_in = 256, where not said otherwise, and the protocol's own masks; five clients with 12 edits each.
"""

from dataclasses import replace

import numpy as np
import pytest
from summed_case import summed_case

from collabsecure.attacks.attack import Score
from collabsecure.attacks.cases.masking import Parties, aggregated
from collabsecure.attacks.cases.small_world import small_world
from collabsecure.attacks.cases.weak_masking import unmasked
from collabsecure.attacks.knowledge import Public
from collabsecure.attacks.membership import ATTACK
from collabsecure.attacks.real_session import against, at_random, attack_state
from collabsecure.attacks.uniformity import examine
from collabsecure.attacks.views import AggregatorState, EncryptedUpload, MaskedUpload, PlainUpload


def scored(upload: MaskedUpload | EncryptedUpload, longer: float) -> Score:
    """Membership of the first client's edits, the keys of which are longer than all others'."""
    case = summed_case()
    truth, public = case.truth.of_client(1), case.real.public
    own = public.layers[0].candidates.copy()
    own[:, truth.candidate] *= longer
    listed = Public(layers={0: replace(public.layers[0], candidates=own)}, names=public.names)
    return ATTACK.run(PlainUpload(layers=upload.layers), listed, truth, seed=1)


def test_edits_of_another_kind_are_no_leak_of_a_masked_upload() -> None:
    upload = aggregated(summed_case().real).uploads[1]
    assert isinstance(upload, MaskedUpload)
    raw = scored(upload, 1.5)
    assert raw.figure("AUC by leverage alone").is_chance is False  # and the mask is as it should be
    score, null = against(raw, scored(at_random(upload, np.random.default_rng(0)), 1.5))
    assert all(figure.is_chance is not False for figure in score.figures)
    assert all(figure.chance is None for figure in null.figures)


def test_an_upload_without_a_mask_is_told_from_random_numbers() -> None:
    case = summed_case()
    upload = unmasked(Parties.of(case.real), case.real.uploads[1][0])
    score, _ = against(scored(upload, 1.0), scored(at_random(upload, np.random.default_rng(0)), 1.0))
    assert score.figure("AUC").is_chance is False


def test_an_upload_without_a_mask_is_no_random_numbers_whatever_is_in_it() -> None:
    case = summed_case()
    bare = unmasked(Parties.of(case.real), case.real.uploads[1][0])
    for upload, is_random in ((bare, False), (aggregated(case.real).uploads[1], True)):
        assert isinstance(upload, MaskedUpload)
        finding = examine(upload, None, view="masked", setting=case.setting, must=False)
        assert finding.score.figures[0].is_chance is is_random


def test_uploads_in_a_state_folder_are_examined_and_say_nothing() -> None:
    """Three clients with 10 edits each, layer 0: the first 30 of the small world's requests."""
    whole = small_world(seed=0)
    laboratory = replace(whole, requests=whole.requests[:120], reference=whole.reference[:40])
    case = laboratory.case(3, 10, with_values=False)
    state = AggregatorState(uploads={1: aggregated(case.real).uploads[1]})
    found = {finding.attack: finding for finding in attack_state(state, laboratory, num_edited=30, seed=0)}
    assert found.keys() == {"uniformity", "membership"}
    for finding in found.values():
        assert finding.must is False
        assert all(figure.is_chance is not False for figure in finding.score.figures)
    bare = unmasked(Parties.of(case.real), case.real.uploads[1][0])
    open_upload = AggregatorState(uploads={1: bare})
    told = {finding.attack: finding for finding in attack_state(open_upload, laboratory, num_edited=30, seed=0)}
    assert told["uniformity"].score.figures[0].is_chance is False


def test_random_numbers_have_the_form_of_what_was_encrypted() -> None:
    pytest.importorskip("tenseal")
    upload = aggregated(summed_case().real, scheme="ckks").uploads[1]
    assert isinstance(upload, EncryptedUpload)
    nothing = at_random(upload, np.random.default_rng(0))
    assert {name: words.shape for name, words in nothing.words.items()} == {
        name: words.shape for name, words in upload.words.items()
    }
    assert nothing.layers.keys() == upload.layers.keys()
