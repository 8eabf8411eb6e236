"""The paper's claim (appendix B.2) holds as far as it goes: a Gram matrix alone has any number of roots."""

import numpy as np
import pytest

from collabsecure.attacks import ambiguity
from collabsecure.attacks.attack import Finding, measure
from collabsecure.attacks.cases.synthetic import synthetic_case
from collabsecure.attacks.roots import cholesky_root, eigen_root, random_orthogonal


@pytest.fixture(scope="module")
def finding() -> Finding:
    case = synthetic_case(d_in=1024, num_clients=1, edits_per_client=20, num_others=0, seed=0)
    return measure(ambiguity.ATTACK, "plain", case, lambda shown: shown.plain(1), seed=0)


def test_a_random_rotation_has_the_same_gram_matrix(finding: Finding) -> None:
    assert finding.score.figure("Gram error").value < 1e-13


def test_no_root_is_the_keys(finding: Finding) -> None:
    for of in ("", "eigen root: ", "Cholesky root: "):
        assert finding.score.figure(f"{of}mean |cos|").value < 0.7
        assert finding.score.figure(f"{of}mean |cos| beyond mean and top components").value < 0.6


def test_roots_have_the_same_gram_matrix() -> None:
    rng = np.random.default_rng(1)
    keys = rng.standard_normal((9, 4))
    root = eigen_root(keys @ keys.T)
    for other in (root, cholesky_root(root), root @ random_orthogonal(4, rng)):
        assert np.allclose(other @ other.T, keys @ keys.T, atol=1e-12)
    assert np.array_equal(np.triu(cholesky_root(root)[:4], 1), np.zeros((4, 4)))
