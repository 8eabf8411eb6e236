"""The list of attacks is whole, and every attack says what it needs."""

import importlib
import pkgutil

import pytest

from collabsecure import attacks
from collabsecure.attacks.attack import Attack
from collabsecure.attacks.cases.synthetic import synthetic_case
from collabsecure.attacks.registry import ATTACKS, attack_named

CASE = synthetic_case(d_in=16, num_clients=1, edits_per_client=2, num_others=4, num_reference=20, seed=0)


def test_every_file_with_an_attack_is_listed():
    found = []
    for module in pkgutil.iter_modules(attacks.__path__, "collabsecure.attacks."):
        attack = getattr(importlib.import_module(module.name), "ATTACK", None)
        if isinstance(attack, Attack):
            found.append(attack.name)
    assert sorted(found) == sorted(attack.name for attack in ATTACKS)


def test_names_are_of_one_attack_each():
    names = [attack.name for attack in ATTACKS]
    assert len(set(names)) == len(names)
    assert all(attack_named(name).name == name for name in names)
    assert attack_named("no such attack") is None


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_an_attack_says_what_it_asks_where_it_is_from_and_what_it_takes(attack):
    assert attack.title.endswith("?") or "?" in attack.title
    assert attack.source
    assert attack.accepts
    with pytest.raises(TypeError, match="found object; expected"):
        attack.run(object(), CASE.real.public, CASE.truth, seed=0)
