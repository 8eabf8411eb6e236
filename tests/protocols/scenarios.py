"""Which sessions are recorded: every graph, ring and shape once, a dropout in every phase, every way to abort."""

import base64

from forge import signed
from recorded import LINK, Scenario, descriptor, tensor
from replay import Second
from slow_primitives import PRIME, SEED

from collabsecure_protocols import ClientId
from collabsecure_protocols.graph import neighbors_of

CROSS = tensor("cross", (2, 3), row_exponents=(1, -1), column_exponents=(0, 0, 2))
GRAM = tensor("gram", (3, 3), bits=40, symmetric=True, row_exponents=(2, 0, -1))
COUNT = tensor("count", (5,), bits=32, fraction_bits=8, column_exponents=(0, 1, 0, -1, 3))
BOX = tensor("box", (2, 2, 3), bits=64, fraction_bits=40)
LONG = tensor("long", (131_075,), bits=32, fraction_bits=8)
THREE = descriptor(3, [[COUNT, GRAM]])
FOUR = descriptor(4, [[COUNT, GRAM]])
RING = descriptor(5, [[COUNT]], degree=2, threshold=2, min_survivors=2)
RING_NEIGHBOURS = neighbors_of(RING, 0, ClientId(1))


def loses(*names, sender=(), receiver=()):
    """Whether a message is one of these kinds, from or to one of these clients."""
    return lambda message: message.name in names and (message.sender in sender or message.receiver in receiver)


def five_lose(message):
    """Client 5 is away in sum 0; in sum 1 client 1 misses Survivors; in sum 2 client 3 shows no shares."""
    return (
        (message.sum == 0 and message.client == 5)
        or (message.sum == 1 and message.name == "Survivors" and message.receiver == 1)
        or (message.sum == 2 and message.name == "Unmask" and message.sender == 3)
        or (message.sum == 2 and message.name == "FinishSum" and message.receiver == 2)
    )


def nine_lose(message):
    """Client 9 never shares keys; clients drop out of masked input, of the consistency check and of unmasking."""
    return (
        (message.name == "ShareKeys" and message.sender == 9)
        or (message.name == "MaskedInput" and (message.sum, message.sender) in ((0, 2), (1, 6)))
        or (message.name == "ConsistencyCheck" and (message.sum, message.sender) == (0, 8))
        or (message.name == "Unmask" and (message.sum, message.sender) == (1, 2))
    )


def spoilt_ciphertext(message, recorder):
    """Client 2's shares for client 3 do not decrypt."""
    if (message.name, message.sender) != ("ShareKeys", 2):
        return message.payload
    body = bytearray(message.payload[36:-64])
    body[-147] ^= 1  # the last byte of the entry for holder 3; that for holder 4 has 146 bytes
    return signed(recorder.scenario.session, "ShareKeys", 2, bytes(body))


def dealt_by_other_rules(change):
    """Client 2 deals as `change` makes it, with commitments and ciphertexts to match."""

    def altered(message, recorder):
        if (message.name, message.sender) != ("ShareKeys", 2):
            return message.payload
        dealer = Second(recorder.vector).clients[2]
        dealer.start()
        change(dealer)
        sent = recorder.vector["messages"]
        directory = next(m for m in sent if (m["name"], m["to"]) == ("KeyDirectory", 2))
        return dealer.receive(base64.b64decode(directory["bytes"]))[0][1]

    return altered


def another_seed(dealer):
    dealer.seeds[0] = bytes(range(32))


def seed_beyond_32_bytes(dealer):
    dealer.seeds[0] = (2**256 + 5).to_bytes(33, "big")  # an element of the field all the same


def another_key(dealer):
    dealer.keys[0] = bytes(range(32))


def share_beyond_the_field(dealer):
    """Client 3 gets its share of the seed plus p: the same element, in another form."""
    as_dealt = dealer.share

    def share(tau, kind, holder):
        value = int.from_bytes(as_dealt(tau, kind, holder), "big")
        return (value + PRIME * (holder == 3 and kind == SEED)).to_bytes(33, "big")

    dealer.share = share


SCENARIOS = {
    "complete_three": Scenario(
        description="three clients, one sum of two dense tensors in 48 and 32 bits, nobody drops out",
        session=descriptor(3, [[CROSS, COUNT]]),
    ),
    "complete_four": Scenario(
        description="two sums, the second linked; client 4's upload to the first is lost, and client 2's last shares",
        session=descriptor(4, [[GRAM, CROSS], [BOX, COUNT]]),
        links={1: LINK},
        lost=lambda message: (
            (message.sum == 0 and loses("MaskedInput", sender=[4])(message))
            or (message.sum == 1 and loses("Unmask", sender=[2])(message))
        ),
    ),
    "complete_five": Scenario(
        description="three sums; one client away from the first, one that does not hear who survived the second, "
        "one whose shares of the third are lost",
        session=descriptor(5, [[GRAM], [CROSS], [COUNT]]),
        lost=five_lose,
    ),
    "two_chunks": Scenario(
        description="a tensor longer than one chunk: messages and sums of 4096 bytes and more stand as digests",
        session=descriptor(3, [[LONG]]),
    ),
    "regular_nine": Scenario(
        description="degree 4 on nine clients, far below any policy's bounds, for the arithmetic of the k-regular "
        "graph alone; dropouts in every phase",
        session=descriptor(9, [[GRAM], [COUNT]], degree=4, threshold=3, min_survivors=5),
        policy=None,
        lost=nine_lose,
    ),
    "dropped_advertise_keys": Scenario(
        description="client 4's keys never arrive", session=FOUR, lost=loses("AdvertiseKeys", sender=[4])
    ),
    "dropped_share_keys": Scenario(
        description="client 4's shares never arrive", session=FOUR, lost=loses("ShareKeys", sender=[4])
    ),
    "dropped_consistency_check": Scenario(
        description="client 4 does not confirm", session=FOUR, lost=loses("ConsistencyCheck", sender=[4])
    ),
    "opened_before": Scenario(
        description="client 1's contribution was opened in an earlier session: it sits the sum out",
        session=FOUR,
        opened={1: [(b"test vectors", "sum 0")]},
        lost=loses("StartSum", receiver=[1]),
    ),
    "spoilt_shares": Scenario(
        description="V14 client 2 sends client 3 shares that do not decrypt: noted, and client 3 shows none of them",
        session=FOUR,
        scripted=(2,),
        altered=spoilt_ciphertext,
    ),
    "share_beyond_the_field": Scenario(
        description="V14 client 2 deals client 3 a share that is not below p, with a commitment that matches: noted",
        session=FOUR,
        scripted=(2,),
        altered=dealt_by_other_rules(share_beyond_the_field),
    ),
    "seed_beyond_32_bytes": Scenario(
        description="V28 client 2's shares give a field element that is no 32 bytes: abort",
        session=FOUR,
        scripted=(2,),
        altered=dealt_by_other_rules(seed_beyond_32_bytes),
        lost=loses("Unmask", sender=[2]),
    ),
    "bad_seed_dealer": Scenario(
        description="V28 client 2's shares of its self-mask seed give another seed than it committed to: abort",
        session=FOUR,
        scripted=(2,),
        altered=dealt_by_other_rules(another_seed),
        lost=loses("Unmask", sender=[2]),
    ),
    "bad_key_dealer": Scenario(
        description="V28 client 2 drops out, and the shares of its mask key give another key than it advertised: abort",
        session=FOUR,
        scripted=(2,),
        altered=dealt_by_other_rules(another_key),
        lost=loses("MaskedInput", sender=[2]),
    ),
    **{
        f"abort_{name}": Scenario(description=f"too few clients: abort in {name}", session=THREE, lost=lost)
        for name, lost in {
            "advertise_keys": loses("AdvertiseKeys", sender=[3]),
            "share_keys": loses("ShareKeys", sender=[3]),
            "masked_input": loses("MaskedInput", sender=[3]),
            "consistency_check": loses("ConsistencyCheck", sender=[3]),
            "unmask": loses("Unmask", sender=[3]),
        }.items()
    },
    "abort_around_one": Scenario(
        description="enough clients in all, but both neighbours of one drop out on a ring of degree 2: abort",
        session=RING,
        policy=None,
        lost=loses("MaskedInput", sender=RING_NEIGHBOURS),
    ),
    "abort_around_a_dropout": Scenario(
        description="on that ring, two neighbours drop out: one of their two mask keys has one holder left each: abort",
        session=RING,
        policy=None,
        lost=loses("MaskedInput", sender=[1, RING_NEIGHBOURS[0]]),
    ),
    "abort_partial_upload": Scenario(
        description="client 4 leaves in the middle of its upload: abort, although enough others are complete",
        session=FOUR,
        lost=lambda message: message.count == 1 and loses("MaskedInput", sender=[4])(message),
    ),
}
