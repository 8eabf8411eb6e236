"""What must be refused in the transcript of three clients and one sum: each check of secagg.md, broken every way."""

from forge import bits, signed, u16

OTHER = bytes(range(32))  # another transcript, link, view or secret
SMALL_ORDER = (  # the u-coordinates of points of order 2, 1 (at infinity) and 8 (RFC 7748, section 6.1)
    bytes(32),
    b"\1" + bytes(31),
    bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
)


def envelopes(b):
    """V01 to V08 on the way to the server and to a client."""
    up, down = b.step("AdvertiseKeys", sender=1), b.step("KeyDirectory", receiver=1)
    for place, who in ((up, "client"), (down, "server")):
        b.instead(f"V01 version 2 from the {who}", place, version=2)
        short, original = b.payload(place)[:99], b.message(place)
        b.refuse(
            "V02 99 bytes, one less than an envelope", place, short, sender=original["from"], receiver=original["to"]
        )
        b.instead(f"V02 one byte more than the longest {original['name']}", place, b.body(place) + b"\0")
        b.instead("V03 the transcript of another session", place, transcript=OTHER)
        b.instead("V04 type 0", place, name=0)
        b.instead("V04 type 13", place, name=13)
        flipped = bytearray(b.payload(place))
        flipped[-10] ^= 4
        b.refuse("V06 a bit of the signature flipped", place, flipped, sender=original["from"], receiver=original["to"])
        b.instead("V06 signed by another client", place, signer=3)
        b.instead("V07 one byte short", place, b.body(place)[:-1])
    b.instead("V04 ShareKeys while keys are advertised", up, b.body(b.step("ShareKeys", sender=1)), name="ShareKeys")
    b.instead("V04 a message that only the server sends", up, u16(0) + OTHER, name="StartSum")
    b.instead("V04 StartSum in the set-up", down, u16(0) + OTHER, name="StartSum")
    b.instead("V04 a message that only clients send", down, u16(0) + OTHER, name="ConsistencyCheck")
    other = b.payload(b.step("AdvertiseKeys", sender=2))
    b.refuse("V05 client 2's message, handed in as client 1's", up, other, sender=1, receiver=0)
    b.instead("V05 a client's message, handed in as the server's", down, claimed=2)
    again = b.step("AdvertiseKeys", sender=2)
    b.refuse(
        "V08 other keys from a client that has advertised keys",
        again,
        signed(b.session, "AdvertiseKeys", 1, OTHER + b.body(up)[32:]),
        sender=1,
        receiver=0,
    )


def keys(b):
    """V10 to V13, on three clients: t = 3, and at least 3 survivors."""
    up, down = b.step("AdvertiseKeys", sender=1), b.step("KeyDirectory", receiver=1)
    for point in SMALL_ORDER:
        b.instead("V10 a channel key of low order", up, point + b.body(up)[32:])
        b.instead("V10 a mask key of low order", up, b.body(up)[:32] + point + b.body(up)[64:])
    body, width = b.body(down), 2 + 96 + 64
    first, second = body[1 : 1 + width], body[1 + width :]  # clients 2 and 3

    def advert(keys, **forged):
        return u16(2) + keys + signed(b.session, "AdvertiseKeys", 2, keys, **forged)[-64:]

    own = first[2:98]
    low = (advert(SMALL_ORDER[0] + own[32:]), advert(own[:32] + SMALL_ORDER[2] + own[64:]))
    for entry, what in zip(low, ("channel", "mask"), strict=True):
        b.instead(f"V10 a neighbour's {what} key of low order, signed by it", down, body[:1] + entry + second)
    b.instead("V11 a neighbour's keys replaced by the server", down, body[:1] + u16(2) + OTHER + first[34:] + second)
    b.instead("V11 keys signed by another client", down, body[:1] + advert(own, signer=3) + second)
    stale = advert(own, transcript=OTHER)
    b.instead("V11 keys that their owner signed for another session", down, body[:1] + stale + second)
    b.instead("V12 a directory without its receiver", down, bits(2, 3) + first + second)
    b.instead("V12 fewer clients than min survivors", down, bits(1, 2) + first)
    b.instead("V07 neighbours not ascending", down, body[:1] + second + first)
    b.instead("V07 a bitmap beyond the roster", down, bits(1, 2, 3, 4) + first + second)
    b.instead("V07 a neighbour of the bitmap missing", down, body[:1] + first)
    b.instead("V07 shares for one holder missing", b.step("ShareKeys", sender=1), b.body(down)[:146])
    shares = b.step("DeliverShares", receiver=1)
    body = b.body(shares)
    b.instead("V13 participants without the receiver", shares, bits(2, 3) + body[1:])
    b.instead("V13 fewer participants than min survivors", shares, bits(1, 2) + body[1:147])
    b.instead("V07 a dealer's shares missing", shares, body[:147])
    b.instead("V07 a bitmap beyond the roster", shares, bits(1, 2, 3, 8) + body[1:])


def sums(b):
    """V20 to V27 in one sum of three clients; V32 and V33 in a client's own values; V04 when all is over."""
    start, own = b.step("StartSum", receiver=1), b.local(1)
    b.instead("V20 a sum beyond the session's", start, u16(1) + bytes(32))
    b.instead("V07 a link one byte short", start, u16(0) + bytes(31))
    b.instead("V04 Confirmations before a sum has started", start, u16(0, 0), name="Confirmations")
    b.instead("V07 an Abort without a known reason", start, bytes([9, 3]) + u16(0, 0, 0) + bits(), name="Abort")
    b.instead("V07 an Abort in no known phase", start, bytes([1, 8]) + u16(0, 0, 0) + bits(), name="Abort")
    survivors = u16(0) + bits(1, 2, 3)
    b.early("V23 survivors that name a client before its upload", own, "Survivors", survivors, receiver=1)
    b.early("V24 the end of a sum with a client before its upload", own, "FinishSum", survivors, receiver=1)
    b.input("V32 not a number", own, {"cross": lambda flat: ["nan", *flat[1:]]})
    b.input("V32 infinity", own, {"count": lambda flat: [*flat[:-1], "-inf"]})
    b.input("V32 a value that rounds to the limit and one", own, {"count": lambda flat: [4 + 1 / 256, *flat[1:]]})
    b.input(
        "V32 a value within the bound that its exponents take beyond it", own, {"cross": lambda f: [*f[:2], 1, *f[3:]]}
    )
    b.input("V21 another link than the server's", own, {}, link=OTHER, culprits=[0])
    b.input("V33 other values under masks that were used", own + 1, {"cross": lambda flat: [-value for value in flat]})
    chunk, second = b.step("MaskedInput", sender=1), b.step("MaskedInput", sender=1, nth=1)
    body, link = b.body(chunk), bytes(32)
    b.instead("V20 masked input of another sum", chunk, u16(1) + body[2:])
    b.instead("V21 masked input bound to another link", chunk, body[:6] + OTHER + body[38:])
    b.instead("V22 the second chunk before the first", chunk, b.body(second))
    b.instead("V22 a chunk one value short", chunk, body[:-6])
    b.instead("V02 a chunk longer than the session's longest", chunk, body + bytes(6))
    b.instead("V07 a chunk without a whole header", chunk, body[:37])
    b.instead("V22 the first chunk again, with other values", second, body[:-1] + bytes([body[-1] ^ 1]))
    late = signed(b.session, "MaskedInput", 1, u16(0) + b"\0\0\0\2" + link)
    after = b.step("MaskedInput", sender=2)
    b.refuse("V08 a third chunk of two", after, late, sender=1, receiver=0)
    told = b.step("Survivors", receiver=1)
    b.instead("V20 survivors of another sum", told, u16(1) + bits(1, 2, 3))
    b.instead("V23 fewer survivors than the session's floor", told, u16(0) + bits(1, 2))
    b.instead("V23 fewer survivors than the floor, without the receiver", told, u16(0) + bits(2, 3))
    b.instead("V07 survivors beyond the roster", told, u16(0) + bits(1, 2, 3, 7))
    check = b.step("ConsistencyCheck", sender=1)
    b.instead("V20 a confirmation of another sum", check, u16(1) + b.body(check)[2:])
    b.instead("V24 a confirmation of another view", check, u16(0) + OTHER)
    b.instead("V07 half a view", check, b.body(check)[:18])
    confirmations(b)
    shares(b)
    end = b.step("FinishSum", receiver=1)
    b.instead("V24 other survivors at the end than were confirmed", end, u16(0) + bits(1, 2))
    b.instead("V20 the end of another sum", end, u16(1) + bits(1, 2, 3))
    over = len(b.vector["steps"])
    b.early("V04 StartSum when all is over", over, "StartSum", u16(0) + bytes(32), receiver=1)
    b.early("V04 Abort when all is over", over, "Abort", bytes([4, 5]) + u16(3, 3, 0) + bits(), receiver=1)
    last = signed(b.session, "Unmask", 1, b.body(b.step("Unmask", sender=1))[:-1])
    b.refuse("V04 shares when all is over", over, last, sender=1, receiver=0)


def confirmations(b):
    """V25: t = 3 of three clients must have signed what the receiver signed."""
    place = b.step("Confirmations", receiver=1)
    body = b.body(place)
    one, two, three = (body[4 + 66 * at : 70 + 66 * at] for at in range(3))

    def forged(client, body, **more):
        return u16(client) + signed(b.session, "ConsistencyCheck", client, body, **more)[-64:]

    view = b.body(b.step("ConsistencyCheck", sender=3))
    b.instead("V20 confirmations of another sum", place, u16(1) + body[2:])
    b.instead("V25 fewer than the threshold", place, u16(0, 2) + one + two)
    b.instead("V25 one that repeats", place, u16(0, 3) + one + two + two)
    b.instead("V25 not ascending", place, u16(0, 3) + one + three + two)
    b.instead("V25 a client signs another view", place, u16(0, 3) + one + two + forged(3, u16(0) + OTHER))
    b.instead("V25 signed by another client", place, u16(0, 3) + one + two + forged(3, view, signer=2))
    b.instead("V25 signed in another session", place, u16(0, 3) + one + two + forged(3, view, transcript=OTHER))
    b.instead("V25 a client beyond the roster", place, u16(0, 3) + one + two + u16(4) + three[2:])
    b.instead("V25 the server as a client", place, u16(0, 3) + u16(0) + one[2:] + two + three)
    b.instead("V07 fewer confirmations than announced", place, u16(0, 3) + one + two)
    b.instead("V07 more confirmations than announced", place, u16(0, 2) + one + two + three)


def shares(b):
    """V26 and V27: all three survived, so that seeds' shares are called for."""
    place = b.step("Unmask", sender=1)
    body = b.body(place)
    own, rest = body[2:36], body[36:]
    b.instead("V20 shares of another sum", place, u16(1) + own + rest)
    b.instead("V07 a share of an unknown kind", place, u16(0) + b"\3" + own[1:] + rest)
    b.instead("V07 an absent share that is there", place, u16(0) + b"\0" + own[1:] + rest)
    b.instead("V07 a share missing", place, u16(0) + own + rest[:34])
    b.instead("V26 the mask key's share of a survivor", place, u16(0) + b"\2" + own[1:] + rest)
    b.instead("V27 a bit of a share flipped", place, u16(0) + own[:-1] + bytes([own[-1] ^ 1]) + rest)
    b.instead("V27 a share that is no field element", place, u16(0) + b"\1" + b"\xff" * 33 + rest)
    b.instead("V27 another dealer's share", place, u16(0) + rest[:34] + rest)
