"""What must be refused where clients drop out, between sums, on the k-regular graph and in a later session."""

import base64

import refused
from bench import Bench
from forge import bits, signed, u16
from refused import OTHER
from replay import Second
from slow_primitives import PRIME, SEED


def between_sums(b):
    """V20 and V24 over two sums; V08, V24, V25 and V26 around client 4, no survivor of the first."""
    place = b.step("KeyDirectory", receiver=1)
    b.instead("V12 a directory without its receiver, but enough others", place, bits(2, 3, 4) + b.body(place)[1:])
    place = b.step("DeliverShares", receiver=1)
    b.instead("V13 participants without the receiver, but enough others", place, bits(2, 3, 4) + b.body(place)[1:])
    check, unmask = b.step("ConsistencyCheck", sender=1), b.step("Unmask", sender=1)
    view = signed(b.session, "ConsistencyCheck", 4, b.body(check))
    b.refuse("V08 a confirmation from a client that did not survive", check, view, sender=4, receiver=0)
    told = b.step("Survivors", receiver=1)
    b.instead("V20 survivors of a sum that has not started", told, u16(1) + bits(1, 2, 3))
    b.early("V04 Confirmations before survivors", told, "Confirmations", u16(0, 0), receiver=1)
    place = b.step("Confirmations", receiver=1)
    b.instead("V25 a client that did not survive", place, u16(0, 4) + b.body(place)[4:202] + u16(4) + view[-64:])
    body = b.body(unmask)  # dealers 1, 2, 3 and 4
    b.instead("V26 the seed's share of a client that dropped out", unmask, body[:104] + b"\1" + body[105:])
    b.instead("V27 another kind of share under the right kind", unmask, body[:104] + b"\2" + body[3:36])
    end = b.step("FinishSum", receiver=4)
    b.instead("V24 other survivors at the end than a client that was left out knows", end, u16(0) + bits(1, 2, 3, 4))
    end = b.step("FinishSum", receiver=2)
    b.instead("V24 other survivors at the end than were confirmed", end, u16(0) + bits(1, 2, 3, 4))
    start = b.step("StartSum", receiver=1, nth=1)
    b.instead("V20 a sum that is over starts again", start, u16(0) + OTHER)
    b.instead("V20 survivors of a sum that is over", start, u16(0) + bits(2, 3, 4), name="Survivors")
    b.instead("V20 a sum that is over ends again, differently", start, u16(0) + bits(2, 3, 4), name="FinishSum")
    chunk = b.step("MaskedInput", sender=1, nth=2)
    b.refuse(
        "V20 masked input of the sum before", chunk, b.payload(b.step("MaskedInput", sender=1)), sender=1, receiver=0
    )
    for name in ("Survivors", "Confirmations", "FinishSum"):
        old, place = b.step(name, receiver=1), b.step(name, receiver=1, nth=1)
        b.refuse(f"V20 the {name} of the sum before", place, b.payload(old), sender=0, receiver=1)
    for name in ("ConsistencyCheck", "Unmask"):
        old, place = b.step(name, sender=1), b.step(name, sender=1, nth=1)
        late = b.step(name, sender=3, nth=1)
        b.instead(f"V20 the {name} of the sum before, of another client", late, b.body(b.step(name, sender=3)))
        b.refuse(f"V20 the {name} of the sum before", place, b.payload(old), sender=1, receiver=0)
    b.input("V21 no link where the sum has one", b.local(1, 1), {}, link=bytes(32), culprits=[0])


def advertised_by_three(b):
    """V13 where client 4 is not in U1; V08 where it speaks all the same."""
    place = b.step("DeliverShares", receiver=1)
    body = b.body(place)
    b.instead("V13 a participant that advertised no keys", place, bits(1, 2, 3, 4) + body[1:] + body[-146:])
    own = b.step("ShareKeys", sender=1)
    late = signed(b.session, "ShareKeys", 4, b.body(own))
    b.refuse("V08 shares from a client that advertised no keys", own, late, sender=4, receiver=0)


def shared_by_three(b):
    """V08, V23 and V24 where client 4 is not in U2."""
    chunk = b.step("MaskedInput", sender=1)
    late = signed(b.session, "MaskedInput", 4, b.body(chunk))
    b.refuse("V08 masked input from a client that shared no keys", chunk, late, sender=4, receiver=0)
    told = b.step("Survivors", receiver=1)
    b.instead("V23 survivors that are no participants", told, u16(0) + bits(1, 2, 3, 4))
    b.early(
        "V24 the end with survivors that are no participants", told, "FinishSum", u16(0) + bits(1, 2, 3, 4), receiver=1
    )


def confirmed_by_three(b):
    """V08: client 4 has not confirmed, so nobody has asked it for shares."""
    place = b.step("Unmask", sender=1)
    late = signed(b.session, "Unmask", 4, b.body(place))
    b.refuse("V08 shares from a client that has not confirmed", place, late, sender=4, receiver=0)


def opened_before(b):
    """V34, and V20, V23, V24 for a client that sits out."""
    start, told = b.step("StartSum", receiver=2), b.step("Survivors", receiver=1)
    lost = next(m for m in b.vector["messages"] if (m["name"], m["to"]) == ("StartSum", 1))
    b.early(
        "V34 a contribution that was opened before",
        start,
        "StartSum",
        base64.b64decode(lost["bytes"])[36:-64],
        receiver=1,
        culprits=[],
    )
    b.instead("V20 survivors of a sum beyond the session's", told, u16(1) + bits(2, 3, 4))
    b.instead("V23 survivors with a client that sits the sum out", told, u16(0) + bits(1, 2, 3, 4))
    b.instead(
        "V23 fewer survivors than the floor, in a sum that goes on without the receiver", told, u16(0) + bits(2, 3)
    )
    b.early("V20 the end of a sum beyond the session's", told, "FinishSum", u16(1) + bits(2, 3, 4), receiver=1)
    b.early("V24 the end of a sum with a client that sat it out", told, "FinishSum", u16(0) + bits(1, 2, 3), receiver=1)


def share_beyond_the_field(b):
    """V27: client 3, in league with its dealer, shows the share that its commitment matches and that is no element."""
    place, at = b.step("Unmask", sender=3), 2 + 34  # client 2 is the second dealer
    body = b.body(place)
    assert body[at : at + 34] == bytes(34)  # an honest client 3 has no share to show
    everybody = [{**one, "scripted": False} for one in b.vector["clients"]]
    element = Second({**b.vector, "clients": everybody}).clients[2].share(0, SEED, 3)
    share = (int.from_bytes(element, "big") + PRIME).to_bytes(33, "big")
    b.instead("V27 a share as committed to, but not below p", place, body[:at] + b"\1" + share + body[at + 34 :])


def nine_on_a_ring(b):
    """V12, V13, V23 and V25 where min survivors are enough, but not around one client: degree 4, t = 3."""
    near, size = [set(b.session.neighbours(tau, 1)) for tau in (0, 1)], 2
    alone = bits(1, *(far := [u for u in range(2, 9) if u not in near[0]]), size=size)
    assert len(far) >= 4  # with client 1 no fewer than min survivors
    few = bits(1, *sorted(near[0])[:3], size=size)  # with client 1 fewer than min survivors, of 5
    place = b.step("KeyDirectory", receiver=1)
    entries = {int.from_bytes(entry[:2], "big"): entry for entry in cut(b.body(place)[size:], 2 + 32 + 2 * 64 + 64)}
    listed = b"".join(entry for u, entry in entries.items() if u in far)
    b.instead("V12 fewer holders than the threshold around the receiver", place, alone + listed)
    listed = b"".join(entries[u] for u in sorted(near[0])[:3])
    b.instead("V12 fewer clients than min survivors, but enough around the receiver", place, few + listed)
    place = b.step("DeliverShares", receiver=1)
    dealt = iter(cut(b.body(place)[size:], 146))
    by_dealer = [[(u, next(dealt)) for u in sorted(around) if u != 9] for around in near]
    kept = b"".join(entry for entries in by_dealer for u, entry in entries if u in far)
    b.instead("V13 fewer holders than the threshold around the receiver", place, alone + kept)
    kept = b"".join(entry for entries in by_dealer for u, entry in entries if u in sorted(near[0])[:3])
    b.instead("V13 fewer participants than min survivors, but enough around the receiver", place, few + kept)
    place = b.step("Survivors", receiver=1)
    b.instead("V23 fewer survivors than the threshold around the receiver", place, u16(0) + alone)
    place = b.step("Confirmations", receiver=1)
    check = next(
        b.step("ConsistencyCheck", sender=u) for u in far if u not in (2, 8, 9)
    )  # of a survivor that is no neighbour
    stranger = u16(b.message(check)["from"]) + b.payload(check)[-64:]
    entries = cut(b.body(place)[4:], 66)
    body = u16(0, len(entries)) + b"".join(sorted([*entries[1:], stranger]))
    b.instead("V25 a survivor that is no neighbour, in the place of one that is", place, body)


def cut(data, size):
    return [data[at : at + size] for at in range(0, len(data), size)]


BY_SCENARIO = {
    "complete_three": (refused.envelopes, refused.keys, refused.sums),
    "complete_four": (between_sums,),
    "dropped_advertise_keys": (advertised_by_three,),
    "dropped_share_keys": (shared_by_three,),
    "dropped_consistency_check": (confirmed_by_three,),
    "opened_before": (opened_before,),
    "share_beyond_the_field": (share_beyond_the_field,),
    "regular_nine": (nine_on_a_ring,),
}


def apply(name, vector, session):
    """Put the refused messages into a recorded transcript."""
    bench = Bench(vector, session)
    for breach in BY_SCENARIO.get(name, ()):
        breach(bench)
    if bench.refused:
        vector["refused"] = sorted(bench.refused, key=lambda bad: bad["before"])
