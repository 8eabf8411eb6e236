"""Unrounded decryptions give the key away, and with it uploads; rounded ones do not. One fresh key, seed 1."""

import pytest

from collabsecure.attacks import decryptions


def test_rounding_is_what_keeps_the_key():
    pytest.importorskip("tenseal")
    unrounded, rounded = decryptions.findings(seed=1)
    assert (unrounded.must, rounded.must) == (True, False)
    assert [figure.value for figure in unrounded.score.figures] == [1.0, 1.0]
    assert rounded.score.figure("secret keys found").value == 0.0
    assert rounded.score.figure("share of an upload opened").value < 0.01
