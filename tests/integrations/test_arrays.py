"""An array is taken as it is, or refused with what was found."""

import numpy as np
import pytest

from collabsecure.integrations.arrays import real
from collabsecure_protocols import ValueRefused


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ([[0.0, 1.0]], "expected a NumPy array, found list"),
        (None, "expected a NumPy array, found NoneType"),
        (7, "expected a NumPy array, found int"),
        (np.array(["7"]), "expected real numbers, found <U1"),
        (np.array([None]), "expected real numbers, found object"),
        (np.zeros(2, complex), "expected real numbers, found complex128"),
        (np.array([(1 << 53) + 1]), "integers beyond 2"),
        (np.array([1 << 63], np.uint64), "integers beyond 2"),
    ],
    ids=lambda case: None if isinstance(case, str) else repr(case),
)
def test_what_has_no_float64_is_refused_by_name(given, found):
    with pytest.raises(ValueRefused, match=f"tensor 'weights': {found}"):
        real("weights", given)


@pytest.mark.parametrize("dtype", [np.float64, ">f4", np.float16, np.int8, np.uint64, np.bool_])
def test_all_kinds_of_real_numbers_are_taken(dtype):
    given = np.ones((2, 3), dtype).T
    assert real("weights", given) is given
    assert real("weights", given[0, 0]).shape == ()
