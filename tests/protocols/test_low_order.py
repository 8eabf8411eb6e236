"""Public keys of low order: the table against X25519 itself. secagg.md V10."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collabsecure_protocols.keys import _LOW_ORDER, _PRIME, Secret, is_low_order

PRIVATES = [Secret(bytes([number]) * 32) for number in (1, 7, 255)]


def agrees_on_zero(public):
    return all(private.agree(public) is None for private in PRIVATES)


@pytest.mark.parametrize("number", sorted(_LOW_ORDER))
@pytest.mark.parametrize("high_bit", [0, 2**255])
def test_every_listed_point_gives_zero_with_any_private_key(number, high_bit):
    """secagg.md V10."""
    public = (number + high_bit).to_bytes(32, "little")
    assert agrees_on_zero(public)
    assert is_low_order(public)


@pytest.mark.parametrize("number", sorted(_LOW_ORDER))
def test_their_neighbours_are_told_apart(number):
    for near in (number - 1, number + 1):
        public = (near % 2**255).to_bytes(32, "little")
        assert is_low_order(public) == agrees_on_zero(public)


@pytest.mark.parametrize("number", range(_PRIME, 2**255))
def test_numbers_that_wrap_around_the_field_are_told_apart(number):
    public = number.to_bytes(32, "little")
    assert is_low_order(public) == agrees_on_zero(public)


@given(st.binary(min_size=32, max_size=32))
def test_any_other_key_agrees(public):
    assert is_low_order(public) == agrees_on_zero(public)
