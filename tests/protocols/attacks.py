"""What a malicious server may try, one named scenario each: what it does, and the check that must stop it.

`attacks_on_sums` goes on where the inputs are on their way.
"""

from collections.abc import Callable
from dataclasses import dataclass

from adversary import Attacker
from harness import LENIENT, identity, make_session, seeded

from collabsecure_protocols import Client
from collabsecure_protocols.envelope import MessageType, seal
from collabsecure_protocols.keys import Label, digest
from collabsecure_protocols.messages import SignedAdvert, StartSum

ALL = (1, 2, 3, 4, 5)
LOW_ORDER = (1).to_bytes(32, "little")  # the X25519 point of order one
OTHER_LINK = digest(Label.VIEW, b"another previous result")


@dataclass(frozen=True, kw_only=True)
class Attack:
    """One scenario."""

    name: str
    check: str
    run: Callable[[], Attacker]
    shows: bool  # shares of one kind are out, since a survivor set was honestly confirmed before or after

    def __str__(self) -> str:
        return self.name.replace(" ", "-")


ATTACKS: list[Attack] = []


def attack(name: str, check: str, *, shows: bool = False):
    """Enter a scenario in the list."""

    def enter(run: Callable[[], Attacker]) -> Callable[[], Attacker]:
        ATTACKS.append(Attack(name=name, check=check, run=run, shows=shows))
        return run

    return enter


def signed_as(a: Attacker, signer: object, client: int, body: bytes) -> SignedAdvert:
    """Somebody's signature under a client's name."""
    payload = seal(a.session, identity(signer), MessageType.ADVERTISE_KEYS, client, body)
    return SignedAdvert(client_id=client, body=body, signature=payload[-64:])


def advert_of(session, number: int) -> SignedAdvert:
    """The same client's genuine keys in another session."""
    (event,) = Client(session, identity(number), policy=LENIENT, rng=seeded("elsewhere")).start()
    return SignedAdvert(client_id=number, body=event.payload[36:-64], signature=event.payload[-64:])


# Keys.


@attack("drops a client's keys but says that it advertised", "V07")
def drops_keys() -> Attacker:
    a = Attacker().advertise()
    del a.adverts[3]
    a.to_all(lambda number: a.directory(number, advertisers=ALL))
    return a


@attack("forges a client's keys with its own signature", "V11")
def forges_keys() -> Attacker:
    a = Attacker().advertise()
    mine = signed_as(a, "server", 3, advert_of(make_session(session_id=b"x" * 16), 3).body)
    a.to_all(lambda number: a.directory(number, adverts={3: mine}))
    return a


@attack("alters one mask key in a client's advert", "V11")
def alters_keys() -> Attacker:
    a = Attacker().advertise()
    keys = bytearray(a.adverts[3].body)
    keys[40] ^= 1
    changed = SignedAdvert(client_id=3, body=bytes(keys), signature=a.adverts[3].signature)
    a.to_all(lambda number: a.directory(number, adverts={3: changed}))
    return a


@attack("substitutes the client's own keys of another session", "V11")
def substitutes_keys() -> Attacker:
    a = Attacker().advertise()
    older = advert_of(make_session(session_id=b"an older session"), 3)
    a.to_all(lambda number: a.directory(number, adverts={3: older}))
    return a


@attack("passes one client's keys off as another's", "V11")
def swaps_keys() -> Attacker:
    a = Attacker().advertise()
    copy = SignedAdvert(client_id=4, body=a.adverts[3].body, signature=a.adverts[3].signature)
    a.to_all(lambda number: a.directory(number, adverts={4: copy}))
    return a


@attack("lists one client's keys twice", "V07")
def lists_twice() -> Attacker:
    a = Attacker().advertise()
    a.to_all(lambda number: a.directory(number, adverts={4: a.adverts[3]}))
    return a


@attack("has a colluding client advertise a channel key of low order", "V10")
def low_order_channel_key() -> Attacker:
    return _low_order(lambda keys: LOW_ORDER + keys[32:])


@attack("has a colluding client advertise a mask key of low order", "V10")
def low_order_mask_key() -> Attacker:
    return _low_order(lambda keys: keys[:96] + LOW_ORDER + keys[128:])


def _low_order(change: Callable[[bytes], bytes]) -> Attacker:
    a = Attacker(corrupt={5}).advertise()
    bad = signed_as(a, 5, 5, change(a.adverts[5].body))
    a.to_all(lambda number: a.directory(number, adverts={5: bad}), a.honest)
    return a


@attack("leaves the receiver out of the directory", "V12")
def left_out_of_directory() -> Attacker:
    a = Attacker().advertise()
    a.to_all(lambda number: a.directory(number, advertisers=set(ALL) - {number}))
    return a


@attack("shrinks the directory to fewer than the floor", "V12")
def shrinks_directory() -> Attacker:
    a = Attacker().advertise()
    a.to_all(lambda number: a.directory(number, advertisers={1, 2, 3}), {1, 2, 3})
    return a


@attack("sends a second directory after the first", "V04")
def second_directory() -> Attacker:
    a = Attacker().share_keys()
    a.to_all(lambda number: a.directory(number, advertisers={1, 2, 3, 4}))
    return a


@attack("sets bits beyond the roster", "V07")
def bits_beyond_roster() -> Attacker:
    a = Attacker().advertise()
    body = a.directory(1)[36:-64]
    a.to_all(lambda _: a.seal(MessageType.KEY_DIRECTORY, bytes([body[0] | 1 << 5]) + body[1:]))
    return a


@attack("appends bytes to a directory", "V07")
def appends_to_directory() -> Attacker:
    a = Attacker().advertise()
    a.to_all(lambda n: a.seal(MessageType.KEY_DIRECTORY, a.directory(n, advertisers=(1, 2, 3, 4))[36:-64] + b"\0"))
    return a


# Participants.


@attack("leaves the receiver out of the participants", "V13")
def left_out_of_participants() -> Attacker:
    a = Attacker().share_keys()
    a.to_all(lambda number: a.deliver(number, participants=set(ALL) - {number}))
    return a


@attack("adds a participant that never advertised", "V13")
def ghost_participant() -> Attacker:
    a = Attacker().advertise()
    a.to_all(lambda number: a.directory(number, advertisers={1, 2, 3, 4}), {1, 2, 3, 4})
    a.to_all(lambda number: a.deliver(number, participants=ALL), {1, 2, 3, 4})
    return a


@attack("shrinks the participants to fewer than the floor", "V13")
def shrinks_participants() -> Attacker:
    a = Attacker().share_keys()
    a.to_all(lambda number: a.deliver(number, participants={1, 2, 3}), {1, 2, 3})
    return a


@attack("tells clients different participants", "V25")
def splits_participants() -> Attacker:
    a = Attacker().share_keys()
    a.to_all(lambda number: a.deliver(number, participants=(1, 2, 3, 4)), (1, 2))
    a.to_all(lambda number: a.deliver(number, participants=ALL), (3, 4, 5))
    return _confirm_all(a.collect(), members=(1, 2, 3, 4))


@attack("tells clients different directories, then different participants", "V25")
def splits_directories() -> Attacker:
    a = Attacker().advertise()
    a.to_all(lambda number: a.directory(number, advertisers=(1, 2, 3, 4)), (1, 2))
    a.to_all(a.directory, (3, 4, 5))
    a.to_all(lambda number: a.deliver(number, participants=(1, 2, 3, 4)), (1, 2))
    a.to_all(lambda number: a.deliver(number, participants=ALL), (3, 4, 5))
    return _confirm_all(a.collect(), members=(1, 2, 3, 4))


def _confirm_all(a: Attacker, members=ALL, index: int = 0) -> Attacker:
    """Survivors to all, then every signature to all, whatever it signs."""
    a.to_all(lambda _: a.survivors(index, members))
    signatures = {number: signed for number, signed in a.signatures(index).items() if number in members}
    a.to_all(lambda _: a.confirmations(index, signatures), members)
    return a


# Order and replays.


@attack("starts a sum before the set-up is over", "V04")
def starts_early() -> Attacker:
    a = Attacker().share_keys()
    a.to_all(lambda _: a.start_sum(0))
    return a


@attack("delivers shares before the directory", "V04")
def delivers_early() -> Attacker:
    a = Attacker().advertise()
    a.to_all(lambda number: a.deliver(number, participants=ALL))
    return a


@attack("announces survivors before anybody has contributed", "V23")
def survivors_early() -> Attacker:
    a = Attacker().set_up()
    a.to_all(lambda _: a.survivors(0))
    return a


@attack("asks for shares before announcing survivors", "V04")
def confirmations_early() -> Attacker:
    a = Attacker(corrupt={5}).collect()
    a.to_all(lambda _: a.confirmations(0, {5: a.sign_view(5, 0, ALL)}), a.honest)
    return a


@attack("finishes a sum with clients that have not uploaded", "V24")
def finishes_early() -> Attacker:
    a = Attacker(values=lambda *_: {}).collect()  # every upload fails before its first chunk
    a.to_all(lambda _: a.finish(0))
    return a


@attack("starts a sum that is over again", "V20", shows=True)
def replays_sum() -> Attacker:
    a = Attacker().complete(0)
    a.to_all(lambda _: a.start_sum(0, OTHER_LINK))
    return a


@attack("replays the survivors of an old sum in a new one", "V20", shows=True)
def replays_survivors() -> Attacker:
    a = Attacker().complete(0).collect(1)
    a.to_all(lambda _: a.survivors(0))
    return a


@attack("replays the confirmations of an old sum in a new one", "V20", shows=True)
def replays_confirmations() -> Attacker:
    a = Attacker().complete(0).confirm(1)
    a.to_all(lambda _: a.confirmations(0, a.signatures(0)))
    return a


@attack("passes an old sum's signatures off as the new one's", "V25", shows=True)
def relabels_confirmations() -> Attacker:
    a = Attacker().complete(0).confirm(1)
    a.to_all(lambda _: a.confirmations(1, a.signatures(0)))
    return a


@attack("skips to the last sum and comes back", "V20")
def comes_back() -> Attacker:
    a = Attacker().collect(1)
    a.to_all(lambda _: a.start_sum(0))
    return a


@attack("sends what it signed for another session", "V03")
def another_session() -> Attacker:
    a = Attacker().set_up()
    other = make_session(session_id=b"another session!")
    body = StartSum(sum_index=0, link=bytes(32)).encode()
    a.to_all(lambda _: seal(other, identity("server"), MessageType.START_SUM, 0, body))
    return a


@attack("lets a client speak as the server", "V06")
def client_as_server() -> Attacker:
    a = Attacker().set_up()
    body = StartSum(sum_index=0, link=bytes(32)).encode()
    a.to_all(lambda _: seal(a.session, identity(5), MessageType.START_SUM, 0, body))
    return a


@attack("reflects a client's own message to it", "V05")
def reflects() -> Attacker:
    a = Attacker().advertise()
    sent = dict(a.sent)
    a.to_all(lambda number: sent[number])
    return a


@attack("signs bytes that its key never signed", "V06")
def bad_signature() -> Attacker:
    a = Attacker().set_up()
    a.to_all(lambda _: a.start_sum(0)[:-64] + bytes(64))
    return a
