"""P7: what was opened once is not contributed again, in any session, whatever the server withholds (V34, V36)."""

import pytest
from adversary import Attacker, kind_of
from harness import LENIENT, identity, make_session, seeded

from collabsecure_protocols import Client, ClientState, Ledger, PolicyRefusal
from collabsecure_protocols.envelope import MessageType
from collabsecure_protocols.wire import Malformed

OTHER = make_session(session_id=b"the next session")
OPENED = (b"tests", "layer 0")


def ledgers_of(attacker):
    return {number: client.ledger for number, client in attacker.clients.items()}


def unmasked(attacker):
    return {number for number, payload in attacker.sent if kind_of(payload) is MessageType.UNMASK}


def test_sum_is_entered_when_the_shares_leave_and_not_before():
    a = Attacker().confirm()
    assert all(OPENED not in ledger.opened for ledger in ledgers_of(a).values())
    signatures = a.signatures(0)
    a.to_all(lambda _: a.confirmations(0, signatures))
    assert all(OPENED in ledger.opened for ledger in ledgers_of(a).values())


def test_sum_aborted_before_the_shares_may_be_run_again():
    first = Attacker().confirm()
    retry = Attacker(session=OTHER, ledgers=ledgers_of(first)).unmask()
    assert not retry.refused
    assert unmasked(retry) == set(retry.honest)


def test_sum_that_finished_with_a_client_whose_shares_were_not_asked_for_is_entered_too():  # secagg.md V34
    """The others' shares have opened it all the same."""
    a = Attacker().confirm()
    signatures = a.signatures(0)
    a.to_all(lambda _: a.confirmations(0, signatures), (1, 2, 3, 4))
    a.to_all(lambda _: a.finish(0))
    assert OPENED in a.clients[5].ledger.opened


def test_sum_that_finished_without_a_client_is_not_entered():
    a = Attacker().collect()
    a.to_all(lambda _: a.survivors(0, (1, 2, 3, 4)))
    a.to_all(lambda _: a.finish(0, (1, 2, 3, 4)), (5,))
    assert OPENED not in a.clients[5].ledger.opened


@pytest.mark.parametrize("told_survivors", [False, True])
def test_sum_that_went_on_in_silence_is_entered_if_all_of_the_input_was_out(told_survivors):  # secagg.md V34
    """Client 5 is next told of sum 1: sum 0 may have been opened with it, so it does not say that it was left out."""
    a = Attacker().collect()
    if told_survivors:
        a.to_all(lambda _: a.survivors(0))
    events = a.to(5, a.start_sum(1))
    assert OPENED in a.clients[5].ledger.opened
    assert [type(event).__name__ for event in events] == ["NeedInput"]


def test_refused_sum_is_sat_out_and_the_next_one_taken_part_in():
    first = Attacker().complete(0)
    second = Attacker(session=OTHER, ledgers={1: first.clients[1].ledger}).collect()
    assert [(refusal.client, refusal.check) for refusal in second.refused] == [(1, "V34")]
    others = (2, 3, 4, 5)
    second.to_all(lambda _: second.survivors(0, others))
    second.to_all(lambda _: second.confirmations(0, second.signatures(0)), others)
    second.to_all(lambda _: second.finish(0, others))
    second.to_all(lambda _: second.start_sum(1))
    assert second.clients[1].state is ClientState.CONTRIBUTING
    assert len(second.refused) == 1


@pytest.mark.parametrize("seen", ["survivors", "confirmations"])
def test_two_sessions_at_once_do_not_open_one_contribution_twice(seen):  # secagg.md V34
    """Both have the inputs before either is opened; a client learns of one before it signs, or shows, the other."""
    first = Attacker().confirm()
    second = Attacker(session=OTHER).collect() if seen == "survivors" else Attacker(session=OTHER).confirm()
    first.to_all(lambda _: first.confirmations(0, first.signatures(0)))
    for number, client in second.clients.items():
        client.learn(first.clients[number].ledger)
    if seen == "survivors":
        second.to_all(lambda _: second.survivors(0, (1, 2, 3, 4)), (1, 2, 3, 4))
    second.to_all(lambda _: second.confirmations(0, second.signatures(0)), (1, 2, 3, 4))
    assert {refusal.client for refusal in second.refused if refusal.check == "V34"} == {1, 2, 3, 4}
    assert not unmasked(second)


def test_restored_client_learns_what_was_opened_meanwhile():
    blob = Attacker(session=OTHER).confirm().clients[1].save()
    ledger = Ledger(frozenset({OPENED}))
    client = Client.restore(blob, OTHER, identity(1), policy=LENIENT, ledger=ledger)
    assert OPENED in client.ledger.opened


def test_restored_client_contributes_under_the_name_it_was_made_with():
    """A host that forgot the name would get another ledger entry, and V34 would not hold."""
    ledger = Ledger(frozenset({(b"digest of the data", "layer 0")}))
    made = Client(
        OTHER, identity(1), policy=LENIENT, rng=seeded("1"), ledger=ledger, contribution=b"digest of the data"
    )
    a = Attacker(session=OTHER)
    a.clients[1] = Client.restore(made.save(), OTHER, identity(1), policy=LENIENT)
    a.collect()
    assert [(refusal.client, refusal.check) for refusal in a.refused] == [(1, "V34")]


def test_session_begun_before_is_not_begun_again_with_new_keys():  # secagg.md V36
    """Else the signatures of the first run, which bind the session only, would count in the second."""
    a = Attacker().confirm()
    ledger = a.clients[1].ledger
    with pytest.raises(PolicyRefusal, match="V36"):
        Client(a.session, identity(1), policy=LENIENT, rng=seeded("again"), ledger=ledger)
    assert Client.restore(a.clients[1].save(), a.session, identity(1), policy=LENIENT, ledger=ledger)
    assert Client(OTHER, identity(1), policy=LENIENT, rng=seeded("again"), ledger=ledger).start()


def test_session_that_was_not_started_may_be_begun_later():
    session = make_session()
    client = Client(session, identity(1), policy=LENIENT, rng=seeded("once"))
    assert Client(session, identity(1), policy=LENIENT, rng=seeded("twice"), ledger=client.ledger).start()


def test_ledger_survives_its_bytes():
    ledger = Ledger().adding(b"b", "x").adding(b"a", "y").beginning(b"t" * 32)
    assert Ledger.decode(ledger.encode()) == ledger
    assert Ledger.decode((ledger | Ledger().adding(b"c", "z")).encode()) == ledger.adding(b"c", "z")


@pytest.mark.parametrize("change", [lambda data: data[:-1], lambda data: data + b"\0", lambda data: data[::-1]])
def test_damaged_ledger_is_refused(change):
    with pytest.raises(Malformed):
        Ledger.decode(change(Ledger().adding(b"a", "x").adding(b"b", "x").beginning(b"t" * 32).encode()))
