"""A descriptor, and what a server might put in its place: each differs in one thing, and so in its transcript."""

import dataclasses

from harness import identity, make_session

from collabsecure_protocols import Sum

GOOD = make_session(parameters=(("model digest", "6b86b273"), ("second moment weight", "15000")))


def changed(**fields):
    return dataclasses.replace(GOOD, **fields)


def with_tensor(**fields):
    first, *others = GOOD.sums[0].tensors
    return changed(sums=(Sum(name="layer 0", tensors=(dataclasses.replace(first, **fields), *others)), GOOD.sums[1]))


# What a server might change in the descriptor: each is another transcript, which the pin refuses.
SUBSTITUTES = {
    "session id": changed(session_id=b"another session!"),
    "task": changed(task="other edits"),
    "one client replaced": changed(roster=(*GOOD.roster[:4], identity("sybil").public)),
    "two clients swapped": changed(roster=(*GOOD.roster[:3], GOOD.roster[4], GOOD.roster[3])),
    "server": changed(server_key=identity("another server").public),
    "survivor floor": changed(min_survivors=5),
    "threshold": changed(threshold=5, min_survivors=5),
    "model digest": changed(parameters=(("model digest", "d4735e3a"), GOOD.parameters[1])),
    "a parameter dropped": changed(parameters=GOOD.parameters[1:]),
    "fewer sums": changed(sums=GOOD.sums[:1]),
    "sums reordered": changed(sums=GOOD.sums[::-1]),
    "ring": with_tensor(bits=64),
    "step": with_tensor(fraction_bits=GOOD.sums[0].tensors[0].fraction_bits - 1),
    "bound": with_tensor(bound=4.0),
    "scales": with_tensor(row_exponents=(0, 1)),
    "shape": with_tensor(shape=(3, 2)),
}
