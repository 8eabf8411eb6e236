"""Every attack of a malicious server ends in a typed refusal, and nobody's second secret is opened (P1, P3, P4)."""

import attacks_on_sums  # noqa: F401 (enters its scenarios in the list)
import pytest
from adversary import kind_of
from attacks import ATTACKS

from collabsecure_protocols.envelope import MessageType


@pytest.mark.parametrize("attack", ATTACKS, ids=str)
def test_attack_is_refused_and_no_secret_share_is_shown(attack):
    attacker = attack.run()
    assert attack.check in {refusal.check for refusal in attacker.refused}, attacker.refused
    unmasked = {number for number, payload in attacker.sent if kind_of(payload) is MessageType.UNMASK}
    assert bool(unmasked) == attack.shows
    kinds = {}
    for share in attacker.shown():  # P3, holder by holder …
        assert kinds.setdefault((share.holder, share.dealer, share.sum_index), share.kind) is share.kind
    assert all(len(opened) == 1 for opened in attacker.opened().values())  # … and with what corrupt clients hold
