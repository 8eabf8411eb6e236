"""More of `attacks`: what a malicious server may try once inputs are on their way, and by retrying."""

from adversary import Attacker
from attacks import ALL, OTHER_LINK, attack
from harness import LENIENT, identity, make_session

from collabsecure_protocols import Client, Ledger, Policy, Session
from collabsecure_protocols.keys import SIGNATURE_BYTES

# n = 5: t = 4, and one client may collude. Client 3 has uploaded; the server would like it both alive and gone.
WITHOUT_3 = (1, 2, 4, 5)


# Survivors.


@attack("sends different survivor sets to different clients", "V25")
def splits_survivors() -> Attacker:
    a = Attacker(corrupt={5}).collect()
    a.to_all(lambda _: a.survivors(0), (1, 2, 3))
    a.to_all(lambda _: a.survivors(0, WITHOUT_3), (4,))
    signed = a.signatures(0)
    a.to_all(lambda _: a.confirmations(0, signed | {5: a.sign_view(5, 0, ALL)}), (1, 2, 3))
    a.to_all(lambda _: a.confirmations(0, signed | {5: a.sign_view(5, 0, WITHOUT_3)}), (4,))
    return a


@attack("gathers the quorum of one set and shows another set to one client", "V25", shows=True)
def splits_off_one() -> Attacker:
    a = Attacker(corrupt={5}).collect()
    a.to_all(lambda _: a.survivors(0), (1, 2, 3))
    a.to_all(lambda _: a.survivors(0, WITHOUT_3), (4,))
    signed = {number: a.signatures(0)[number] for number in (1, 2, 3)} | {5: a.sign_view(5, 0, ALL)}
    a.to_all(lambda _: a.confirmations(0, signed), (1, 2, 3, 4))
    return a


@attack("asks for the other share of a peer by a second survivor set", "V04")
def second_survivors() -> Attacker:
    a = Attacker().confirm()
    a.to_all(lambda _: a.survivors(0, WITHOUT_3))
    return a


@attack("asks for the other share of a peer after the first", "V04", shows=True)
def second_survivors_after_unmask() -> Attacker:
    return _ask_again(Attacker().unmask())


@attack("asks for the other share of a peer through a restart after unmask", "V04", shows=True)
def second_survivors_after_restart() -> Attacker:
    return _ask_again(_restart(Attacker().unmask()))


@attack("asks for the other share of a peer through a restart before unmask", "V04", shows=True)
def second_survivors_after_early_restart() -> Attacker:
    return _ask_again(_restart(Attacker().confirm()))


@attack("asks for the other share of a peer through the end of the sum", "V20", shows=True)
def second_survivors_after_finish() -> Attacker:
    return _ask_again(Attacker().complete())


def _restart(a: Attacker) -> Attacker:
    for number, client in a.clients.items():
        a.clients[number] = Client.restore(client.save(), a.session, identity(number), policy=LENIENT)
    return a


def _ask_again(a: Attacker) -> Attacker:
    for payload in (a.start_sum(0), a.survivors(0, WITHOUT_3), a.confirmations(0, a.signatures(0))):
        a.to_all(lambda _, payload=payload: payload)
    return a


@attack("names fewer survivors than the floor", "V23")
def too_few_survivors() -> Attacker:
    a = Attacker().collect()
    a.to_all(lambda _: a.survivors(0, (1, 2, 3)), (1, 2, 3))
    return a


@attack("names a survivor that is no participant", "V23")
def ghost_survivor() -> Attacker:
    a = Attacker().share_keys()
    a.to_all(lambda number: a.deliver(number, participants=(1, 2, 3, 4)), (1, 2, 3, 4))
    a.to_all(lambda _: a.start_sum(0), (1, 2, 3, 4))
    a.to_all(lambda _: a.survivors(0, ALL), (1, 2, 3, 4))
    return a


@attack("names a client that has not uploaded as a survivor", "V23")
def names_silent_client() -> Attacker:
    a = Attacker(values=lambda *_: {}).collect()  # every upload fails before its first chunk
    a.to_all(lambda _: a.survivors(0))
    return a


@attack("finishes a sum over other survivors than were signed", "V24", shows=True)
def finishes_over_others() -> Attacker:
    a = Attacker().unmask()
    a.to_all(lambda _: a.finish(0, WITHOUT_3))
    return a


@attack("finishes another sum than the one that goes on", "V20")
def finishes_another() -> Attacker:
    a = Attacker().confirm()
    a.to_all(lambda _: a.finish(1))
    return a


@attack("finishes a sum that is over once more", "V20", shows=True)
def finishes_again() -> Attacker:
    a = Attacker().complete()
    a.to_all(lambda _: a.finish(0, WITHOUT_3), (3,))
    return a


@attack("tells a client that sits out of the survivors of a sum that is over", "V20", shows=True)
def survivors_of_an_old_sum() -> Attacker:
    a = Attacker().complete()
    a.to_all(lambda _: a.survivors(0, WITHOUT_3), (3,))
    return a


@attack("finishes a sum over clients that are no participants", "V24")
def finishes_over_ghosts() -> Attacker:
    a = Attacker().share_keys()
    a.to_all(lambda number: a.deliver(number, participants=WITHOUT_3), WITHOUT_3)
    a.to_all(lambda number: a.finish(0, set(ALL) - {number}), WITHOUT_3)
    return a


# The two floors apart: where the session asks for more survivors than shares, and where few neighbours are left.

ALL_FIVE = make_session(min_survivors=5)
REGULAR = make_session(9, 1, degree=4, threshold=4, min_survivors=5)  # far below any policy's bounds


class NoPolicy(Policy):
    def check(self, session: Session) -> None:
        pass


def _thinned(a: Attacker) -> tuple[int, ...]:
    """All clients but two of client 1's neighbours: many enough, but three with shares around client 1."""
    return tuple(sorted(set(a.everybody) - set(a.neighbors(0, 1)[:2])))


@attack("shrinks the directory below the survivors' floor", "V12")
def directory_below_survivors() -> Attacker:
    a = Attacker(session=ALL_FIVE).advertise()
    a.to_all(lambda number: a.directory(number, advertisers=WITHOUT_3), WITHOUT_3)
    return a


@attack("shrinks the participants below the survivors' floor", "V13")
def participants_below_survivors() -> Attacker:
    a = Attacker(session=ALL_FIVE).share_keys()
    a.to_all(lambda number: a.deliver(number, participants=WITHOUT_3), WITHOUT_3)
    return a


@attack("names survivors below the floor, but enough to open them", "V23")
def survivors_below_floor() -> Attacker:
    a = Attacker(session=ALL_FIVE).collect()
    a.to_all(lambda _: a.survivors(0, WITHOUT_3), WITHOUT_3)
    return a


@attack("leaves a client of the k-regular graph few neighbours with keys", "V12")
def few_keys_around_one() -> Attacker:
    a = Attacker(session=REGULAR, policy=NoPolicy()).advertise()
    a.to(1, a.directory(1, advertisers=_thinned(a)))
    return a


@attack("leaves a client of the k-regular graph few neighbours with shares", "V13")
def few_shares_around_one() -> Attacker:
    a = Attacker(session=REGULAR, policy=NoPolicy()).share_keys()
    a.to(1, a.deliver(1, participants=_thinned(a)))
    return a


@attack("leaves a client of the k-regular graph few surviving neighbours", "V23")
def few_survivors_around_one() -> Attacker:
    a = Attacker(session=REGULAR, policy=NoPolicy()).collect()
    a.to(1, a.survivors(0, _thinned(a)))
    return a


# Confirmations.


@attack("forges confirmations with its own key", "V25")
def forges_confirmations() -> Attacker:
    a = Attacker().confirm()
    a.to_all(lambda _: a.confirmations(0, {n: a.sign_view(n, 0, ALL, signer="server") for n in ALL}))
    return a


@attack("alters one confirmation", "V25")
def alters_confirmation() -> Attacker:
    a = Attacker().confirm()
    a.to_all(lambda _: a.confirmations(0, a.signatures(0) | {3: bytes(SIGNATURE_BYTES)}))
    return a


@attack("counts one confirmation several times", "V25")
def repeats_confirmation() -> Attacker:
    a = Attacker().confirm()
    a.to_all(lambda _: a.confirmations(0, [(1, a.signatures(0)[1])] * 4))
    return a


@attack("counts one client's confirmation under several names", "V25")
def renames_confirmation() -> Attacker:
    a = Attacker().confirm()
    a.to_all(lambda _: a.confirmations(0, dict.fromkeys((1, 2, 3, 4), a.signatures(0)[1])))
    return a


@attack("passes on fewer confirmations than the threshold", "V25")
def too_few_confirmations() -> Attacker:
    a = Attacker().confirm()
    a.to_all(lambda _: a.confirmations(0, {n: a.signatures(0)[n] for n in (1, 2, 3)}))
    return a


@attack("adds the confirmation of a colluding client that did not survive", "V25")
def confirmation_of_the_dropped() -> Attacker:
    a = Attacker(corrupt={5}).collect()
    alive = (1, 2, 3, 4)
    a.to_all(lambda _: a.survivors(0, alive), alive)
    signed = {n: a.signatures(0)[n] for n in (1, 2, 3)} | {5: a.sign_view(5, 0, alive)}
    a.to_all(lambda _: a.confirmations(0, signed), alive)
    return a


@attack("adds the confirmation of a client beyond the roster", "V25")
def confirmation_of_nobody() -> Attacker:
    a = Attacker().confirm()
    a.to_all(lambda _: a.confirmations(0, {n: a.signatures(0)[n] for n in (1, 2, 3)} | {65535: bytes(64)}))
    return a


@attack("adds its own confirmation", "V25")
def confirmation_of_server() -> Attacker:
    a = Attacker().confirm()
    mine = {0: a.sign_view(0, 0, ALL, signer="server")}
    a.to_all(lambda _: a.confirmations(0, {n: a.signatures(0)[n] for n in (1, 2, 3)} | mine))
    return a


# Previous results and retries.


@attack("binds the sum to another previous result than the clients know", "V21")
def wrong_previous_result() -> Attacker:
    return Attacker().collect(link=OTHER_LINK)


@attack("sends different previous results to different clients", "V25")
def splits_links() -> Attacker:
    a = Attacker(links=dict.fromkeys((1, 2), OTHER_LINK)).set_up()
    a.to_all(lambda number: a.start_sum(0, OTHER_LINK if number in (1, 2) else bytes(32)))
    return _confirm_all(a)


def _confirm_all(a: Attacker) -> Attacker:
    a.to_all(lambda _: a.survivors(0))
    a.to_all(lambda _: a.confirmations(0, a.signatures(0)))
    return a


@attack("retries an opened sum with one client fewer, in a new session", "V34")
def retries_with_one_fewer() -> Attacker:
    first = Attacker().complete(0)
    ledgers = {number: client.ledger for number, client in first.clients.items()}
    assert all(isinstance(ledger, Ledger) and ledger.opened for ledger in ledgers.values())
    retry = Attacker(session=make_session(session_id=b"the next session"), ledgers=ledgers).share_keys()
    retry.to_all(lambda number: retry.deliver(number, participants=(1, 2, 3, 4)), (1, 2, 3, 4))
    retry.to_all(lambda _: retry.start_sum(0), (1, 2, 3, 4))
    return retry
