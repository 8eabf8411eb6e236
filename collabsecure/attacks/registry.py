"""All attacks. A new one is a file with a constant `ATTACK`, and a line here. NumPy and SciPy only."""

from typing import Any

from collabsecure.attacks import (
    ambiguity,
    attribution,
    behaviour,
    differencing,
    independent_components,
    membership,
    published_delta,
    rank,
    reconstruction,
    value_recovery,
)
from collabsecure.attacks.attack import Attack

ATTACKS: tuple[Attack[Any], ...] = (
    rank.ATTACK,
    ambiguity.ATTACK,
    independent_components.ATTACK,
    reconstruction.ATTACK,
    membership.ATTACK,
    value_recovery.ATTACK,
    attribution.ATTACK,
    differencing.ATTACK,
    published_delta.ATTACK,
    behaviour.ATTACK,
)


def attack_named(name: str) -> Attack[Any] | None:
    """The attack of a name, if there is one."""
    return next((attack for attack in ATTACKS if attack.name == name), None)
