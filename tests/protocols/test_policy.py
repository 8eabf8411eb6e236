"""P6: the client sets the floors and pins the parameters; below them, it does not even advertise a key (V31)."""

import pytest
from harness import LENIENT, identity, make_session, seeded, tensor
from substitutes import GOOD, SUBSTITUTES, changed

from collabsecure_protocols import (
    Client,
    InvalidSession,
    LocalProtocolError,
    Policy,
    PolicyRefusal,
    choose,
    survivor_floor,
)
from collabsecure_protocols.policy import corruption_bound

PINNED = Policy(transcript=GOOD.transcript)
LARGE = choose(1000, num_sums=2)


def join(session, policy):
    return Client(session, identity(1), policy=policy, rng=seeded("client 1"))


@pytest.mark.parametrize("what", SUBSTITUTES)
def test_pinned_descriptor_admits_no_substitute(what):  # secagg.md V31
    assert SUBSTITUTES[what].transcript != GOOD.transcript
    with pytest.raises(PolicyRefusal, match=r"V31: the session's descriptor"):
        join(SUBSTITUTES[what], PINNED)


def test_pinned_descriptor_admits_itself():
    assert join(GOOD, PINNED).start()


# (session, policy, what the refusal speaks of)
REFUSED = {
    "threshold of half the clients": (make_session(threshold=3), LENIENT, "threshold 3 of 5, this client's floor is 4"),
    "threshold of two thirds": (make_session(6, threshold=4), LENIENT, "threshold 4 of 6, this client's floor is 5"),
    "two clients": (make_session(2, threshold=2, min_survivors=2), LENIENT, "2 clients on the roster"),
    "fewer clients than this one wants": (GOOD, Policy(min_clients=6), "5 clients on the roster"),
    "fewer survivors than this one wants": (GOOD, Policy(min_survivors=5), "sums of 4 survivors"),
    "another roster": (GOOD, Policy(roster=GOOD.roster[::-1]), "roster"),
    "another server": (GOOD, Policy(server_key=identity("mine").public), "server key"),
    "another model": (GOOD, Policy(parameters=(("model digest", "ffff"),)), "'model digest' is '6b86b273'"),
    "no such parameter": (GOOD, Policy(parameters=(("revision", "main"),)), "'revision' is None"),
    "k-regular graph, unasked": (make_session(101), Policy(), "honest-but-curious"),
    "degree below the bounds": (make_session(101, degree=40, threshold=21), LENIENT, "do not withstand"),
    "threshold below the bounds": (make_session(101, degree=72, threshold=36), LENIENT, "do not withstand"),
    "as many sums as the bounds do not allow": (make_session(101, 1000, degree=72), LENIENT, "do not withstand"),
    "more corrupt clients than it was made for": (
        make_session(101),
        Policy(accept_honest_but_curious=True, corrupt_fraction=0.3),
        "do not withstand",
    ),
    "more dropouts than its graph withstands": (
        make_session(1000, degree=LARGE.degree, threshold=LARGE.threshold, min_survivors=799),
        LENIENT,
        "sums of 799 survivors, this client's floor is 800",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_session_below_the_policy_is_refused_before_a_key_is_made(what):  # secagg.md V31
    session, policy, text = REFUSED[what]

    def no_randomness(_):
        raise AssertionError("keys are made before the policy has spoken")

    with pytest.raises(PolicyRefusal, match="V31") as refusal:
        Client(session, identity(1), policy=policy, rng=no_randomness)
    assert text in str(refusal.value)


@pytest.mark.parametrize("n", [3, 4, 5, 6, 7, 100, 101, 1000])
def test_default_session_meets_the_default_policy(n):
    policy = Policy(accept_honest_but_curious=n > 100)
    assert join(make_session(n, 1, tensors=[tensor(n=n)]), policy).start()


def test_floors_leave_two_honest_survivors_and_no_two_quorums():
    """The spec's arguments: fewer than a third collude, 2t > n + c, and the floor counts two beside all colluders."""
    for n in range(3, 1000):
        threshold, colluders = 2 * n // 3 + 1, corruption_bound(n)
        assert 3 * colluders < n <= 3 * (colluders + 1)
        assert 2 * threshold > n + colluders
        assert threshold >= survivor_floor(n, n - 1) == colluders + 2


def test_policy_cannot_be_lowered_beyond_three():
    for fields in ({"min_clients": 2}, {"min_survivors": 2}):
        with pytest.raises(LocalProtocolError, match="at least 3"):
            Policy(**fields)


def test_restored_client_checks_its_policy_again():
    blob = join(GOOD, LENIENT).save()
    with pytest.raises(PolicyRefusal, match="V31"):
        Client.restore(blob, GOOD, identity(1), policy=Policy(min_survivors=5))


def test_identity_that_is_not_on_the_roster_cannot_join():
    with pytest.raises(InvalidSession, match="V31"):
        Client(GOOD, identity("stranger"), policy=LENIENT, rng=seeded("stranger"))


def test_one_key_does_not_stand_for_two_clients():  # secagg.md V30: a sybil by the same key
    for roster in ((*GOOD.roster[:4], GOOD.roster[0]), (*GOOD.roster[:4], GOOD.server_key)):
        with pytest.raises(InvalidSession, match="same identity key"):
            changed(roster=roster)


@pytest.mark.parametrize(("name", "whose"), [("server", ", the server's;"), ("stranger", ";")])
def test_an_identity_off_the_roster_is_told_which_key_it_is(name, whose):  # secagg.md V31
    party = identity(name)
    with pytest.raises(InvalidSession, match=f"V31: found identity ed25519:{party.public.hex()}{whose} expected one"):
        Client(GOOD, party, policy=Policy(), rng=seeded("client 1"))
