"""Every attack of a malicious server ends in a typed refusal, and nobody's second secret is opened (P1, P3, P4)."""

import attacks_on_sums  # noqa: F401 (enters its scenarios in the list)
import pytest
from adversary import Attacker, kind_of
from attacks import ATTACKS
from harness import encoded, make_session, make_values
from substitutes import GOOD, SUBSTITUTES
from unmasking import Wiretap

from collabsecure_protocols import dealing
from collabsecure_protocols.envelope import MessageType
from collabsecure_protocols.messages import ShareKind


def unmasked(attacker):
    return {number for number, payload in attacker.sent if kind_of(payload) is MessageType.UNMASK}


@pytest.mark.parametrize("attack", ATTACKS, ids=str)
def test_attack_is_refused_and_no_secret_share_is_shown(attack):
    attacker = attack.run()
    assert attack.check in {refusal.check for refusal in attacker.refused}, attacker.refused
    assert bool(unmasked(attacker)) == attack.shows
    kinds = {}
    for share in attacker.shown():  # P3, holder by holder …
        assert kinds.setdefault((share.holder, share.dealer, share.sum_index), share.kind) is share.kind
    assert all(len(opened) == 1 for opened in attacker.opened().values())  # … and with what corrupt clients hold


SAME_PARTIES = [
    what
    for what, session in SUBSTITUTES.items()
    if (session.roster, session.server_key) == (GOOD.roster, GOOD.server_key)
]


@pytest.mark.parametrize("what", SAME_PARTIES)
def test_client_with_another_descriptor_is_alone(what):  # secagg.md V03, P4
    """The server gives client 2 another descriptor than the others, where no policy pins it, and serves both."""
    a, other = Attacker(session=GOOD).advertise(), Attacker(session=SUBSTITUTES[what]).advertise()
    a.to_all(lambda n: a.directory(n, adverts={2: other.adverts[2]}), (1, 3, 4, 5))
    other.to(2, other.directory(2, adverts={n: a.adverts[n] for n in (1, 3, 4, 5)}))
    other.to(2, a.directory(2))
    assert {refusal.client for refusal in a.refused} == {1, 3, 4, 5}
    assert {refusal.check for refusal in a.refused} <= {"V11", "V02", "V07"}  # V11, or of another length already
    assert other.refused[0].check in {"V11", "V02", "V07"}
    assert other.refused[1].check in {"V03", "V02"}


def test_input_of_a_client_that_is_falsely_declared_dropped_stays_masked():  # P1
    """The server has client 3's whole upload, says that it dropped, and opens its mask key: the self mask stays on."""
    a = Attacker().collect()
    seed = dealing.sum_secrets(a.session, 0, 3, a.clients[3]._data.sum_secrets[0]).self_seed
    survivors = (1, 2, 4, 5)
    a.to_all(lambda _: a.survivors(0, survivors))
    a.to_all(lambda _: a.confirmations(0, a.signatures(0)), survivors)
    assert unmasked(a) == set(survivors)
    tap = Wiretap(session=a.session, sent=a.sent)
    assert not tap.shares(3, 0, ShareKind.SELF_SEED)
    key, values = tap.opened(3, 0, ShareKind.MASK_KEY), make_values(a.session, 3, 0)
    plain = [encoded(tensor, values[tensor.name]) for tensor in a.session.sums[0].tensors]
    found = tap.stripped(3, 0, key=key)
    assert not {value for tensor in found for value in tensor} & {value for tensor in plain for value in tensor}
    assert tap.stripped(3, 0, key=key, seed=seed) == plain  # the seed, which nobody has shown, is all that hides it


def test_client_keeps_nothing_that_opens_a_sum_that_is_over():
    """Who steals the state after a sum, and has all messages, finds none of its secrets and no channel key."""
    a = Attacker()
    secrets = [(client._data.channel, client._data.sum_secrets[0]) for client in a.clients.values()]
    a.complete()
    for client, (channel, secret) in zip(a.clients.values(), secrets, strict=True):
        state = client.save()
        sum_secrets = dealing.sum_secrets(a.session, 0, client.client_id, secret)
        for gone in (channel, secret, sum_secrets.self_seed, sum_secrets.mask_key):
            assert gone.reveal() not in state
        shares = {share.share for share in a.shown() if share.sum_index == 0}
        assert not any(share in state for share in shares)


def test_sum_over_the_retry_of_an_aborted_session_is_under_other_masks():
    """Nothing of an upload that was made before an abort cancels against the same input's upload to the retry."""
    first, retry = Attacker().collect(), Attacker(session=make_session(session_id=b"the next session")).collect()
    for n in first.everybody:
        before, after = (Wiretap(session=a.session, sent=a.sent).uploaded(n, 0) for a in (first, retry))
        assert not {value for tensor in before for value in tensor} & {value for tensor in after for value in tensor}
