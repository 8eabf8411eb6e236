"""Vectors of what is agreed and computed before any message: descriptors, policies, graphs, fixed point."""

import base64
import dataclasses

import numpy as np
import slow_session
from recorded import descriptor, public, seed, tensor
from scenarios import BOX, COUNT, CROSS, GRAM

from collabsecure_protocols import Tensor, choose, survivor_floor
from collabsecure_protocols.fixedpoint import Encoder
from collabsecure_protocols.graph import order

GOOD = {
    "every kind of tensor": descriptor(3, [[CROSS, GRAM], [COUNT, BOX]]),
    "degree 4 on nine clients": descriptor(9, [[COUNT]], degree=4, threshold=3, min_survivors=2),
    "two clients": descriptor(2, [[COUNT]], threshold=2, min_survivors=2),
    "the most that 32 bits hold for three clients": descriptor(
        3, [[tensor("x", (1,), bits=32, fraction_bits=0, bound=715_827_882.4)]]
    ),
}


def encoded(data):
    return base64.b64encode(data).decode()


def malformed():
    """(what is wrong, bytes): one field at a time, encoded by hand since the package makes no such session."""
    good = slow_session.Session.parse(GOOD["every kind of tensor"].encode())
    wire = good.encode()

    def session(**changes):
        return dataclasses.replace(good, **changes).encode()

    def one(**changes):
        """The session with its first tensor, a dense one, changed."""
        first = dataclasses.replace(good.sums[0].tensors[0], **changes)
        return session(
            sums=(dataclasses.replace(good.sums[0], tensors=(first, *good.sums[0].tensors[1:])), good.sums[1])
        )

    gram = good.sums[0].tensors[1]
    yield "cut short", wire[:-1]
    yield "a byte after the end", wire + b"\0"
    yield "another format", wire.replace(b"collabsecure session", b"collabsecure-session")
    yield "version 2", wire[:24] + b"\2" + wire[25:]
    yield "a session id of 15 bytes", session(session_id=bytes(15))
    yield "a session id of 65 bytes", session(session_id=bytes(65))
    yield "one client", session(roster=good.roster[:1], t=2, degree=0)
    yield "two clients with one identity key", session(roster=(*good.roster[:2], good.roster[0]))
    yield "the server is a client", session(server=good.roster[0])
    yield "threshold 1", session(t=1)
    yield "a threshold above degree + 1", session(t=4)
    yield "an odd degree below n − 1", descriptor_of_nine(degree=5, t=3)
    yield "degree 0", descriptor_of_nine(degree=0, t=2)
    yield "a degree above n − 1", descriptor_of_nine(degree=10, t=3)
    yield "min survivors below t on the complete graph", session(min_survivors=2)
    yield "min survivors above n", session(min_survivors=4)
    yield "an encryption that nobody knows", session(encryption="rot13")
    yield "parameters not ascending", session(parameters=good.parameters[::-1])
    yield "a parameter twice", session(parameters=(good.parameters[0], good.parameters[0]))
    yield "text that is not UTF-8", wire.replace(b"test vectors", b"test v\xff\xfetors", 1)
    yield "no sums", session(sums=())
    yield "a sum without tensors", session(sums=(slow_session.Sum("empty", ()),))
    yield "two sums of one name", session(sums=good.sums[:1] * 2)
    yield "two tensors of one name", session(sums=(slow_session.Sum("twice", (gram, gram)),))
    yield "a tensor without a name", one(name="")
    yield "a tensor without axes", one(shape=(), row_exponents=(), column_exponents=())
    yield "an empty axis", one(shape=(2, 0), row_exponents=(), column_exponents=())
    yield "nine axes", one(shape=(1,) * 9, row_exponents=(), column_exponents=())
    yield "more than 2^40 values", one(shape=(2**20, 2**20 + 1), row_exponents=(), column_exponents=())
    yield "bound 0", one(bound=0.0)
    yield "an infinite bound", one(bound=float("inf"))
    yield "a bound that is not a number", one(bound=float("nan"))
    yield "33 ring bits", one(bits=33)
    yield "too few row exponents", one(row_exponents=(1,))
    yield "too many column exponents", one(column_exponents=(0, 0, 0, 0))
    yield "a column exponent of 512", one(column_exponents=(512, 0, 0))
    yield "a row exponent of −513", one(row_exponents=(-513, 0))
    yield "fraction bits of 961", one(fraction_bits=961, bound=2.0**-930)
    yield "fraction bits and a row exponent of 961", one(fraction_bits=500, row_exponents=(461, 0), bound=2.0**-480)
    yield "symmetric and not square", one(symmetric=True, row_exponents=(), column_exponents=())
    columns = dataclasses.replace(gram, column_exponents=(0, 0, 0))
    yield "symmetric with column exponents", session(sums=(slow_session.Sum("one", (columns,)),))
    flag = gram.encode()
    yield "symmetric is 2", wire.replace(flag, flag[:28] + b"\2" + flag[29:])
    yield "no headroom in 48 bits: 3 · limit is 2^47 + 1", one(fraction_bits=0, bound=float((2**47 + 1) // 3))
    just = tensor_of("x", 32, 715_827_883.0)
    yield "no headroom in 32 bits: 3 · limit is 2^31 + 1", session(sums=(slow_session.Sum("one", (just,)),))
    large = tensor_of("x", 64, 2.0**61)
    yield "a limit of 2^61", session(sums=(slow_session.Sum("one", (large,)),))


def tensor_of(name, bits, bound):
    return slow_session.Tensor(name, (1,), bound, 0, bits, False, (), ())


def descriptor_of_nine(**changes):
    nine = slow_session.Session.parse(GOOD["degree 4 on nine clients"].encode())
    return dataclasses.replace(nine, **changes).encode()


def descriptors():
    return {
        "description": "V30: session descriptors, with their transcripts, and bytes that are none",
        "sessions": [
            {"description": what, "session": encoded(good.encode()), "transcript": good.transcript.hex()}
            for what, good in GOOD.items()
        ],
        "refused": [{"expect": f"V30 {what}", "session": encoded(data)} for what, data in malformed()],
    }


def policies():
    """V31 and V36: a session, a client's policy, and whether the client takes part."""
    six, others = descriptor(6, [[COUNT]]), tuple(public("identity", number) for number in (2, 3, 4))
    hundred = choose(101)
    floor = survivor_floor(101, hundred.degree)
    regular = {"degree": hundred.degree, "threshold": hundred.threshold, "min_survivors": floor}
    curious = {"accept_honest_but_curious": True}

    def graph(**changes):
        return descriptor(101, [[COUNT]], **{**regular, **changes})

    cases = [
        ("six clients", six, {}, None),
        ("six clients, everything pinned", six, pins(six), None),
        ("another descriptor pinned", six, {"transcript": bytes(32).hex()}, "V31"),
        ("another server pinned", six, {"server_key": public("identity", 1).hex()}, "V31"),
        ("a parameter pinned to another value", six, {"parameters": [["model", "gpt"]]}, "V31"),
        ("a parameter pinned that the session lacks", six, {"parameters": [["layers", "1"]]}, "V31"),
        ("a floor of seven clients", six, {"min_clients": 7}, "V31"),
        ("a floor of six survivors", six, {"min_survivors": 6}, "V31"),
        ("threshold 4 of six", descriptor(6, [[COUNT]], threshold=4), {}, "V31"),
        ("two clients", GOOD["two clients"], {}, "V31"),
        ("101 clients on a graph, not accepted", graph(), {}, "V31"),
        ("101 clients on a graph, accepted", graph(), curious, None),
        ("a graph of two degrees less", graph(degree=hundred.degree - 2), curious, "V31"),
        ("a graph with a threshold of one less", graph(threshold=hundred.threshold - 1), curious, "V31"),
        ("a graph with one survivor less than its bounds hold for", graph(min_survivors=floor - 1), curious, "V31"),
        ("a graph that withstands a fifth, asked for a third", graph(), {**curious, "corrupt_fraction": 0.33}, "V31"),
        ("degree 4 on nine clients", GOOD["degree 4 on nine clients"], curious, "V31"),
        ("a session without this client", descriptor(3, [[COUNT]], roster=others), {}, "V31"),
        ("a client that has advertised keys in this session before", six, {}, "V36"),
    ]
    client = {"identity": seed("identity", 1).hex(), "channel": seed("channel", 1).hex()}
    client |= {"secrets": [seed("secret", 1, 0).hex()]}
    return {
        "description": "V31, V36: whether client 1 takes part in a session, by its policy and what it remembers",
        "cases": [
            {
                "expect": f"{check} {what}" if check else what,
                "session": encoded(session.encode()),
                "policy": policy,
                "server": {"identity": seed("identity", 0).hex()},
                "clients": [client | ({"begun": [session.transcript.hex()]} if check == "V36" else {})],
            }
            for what, session, policy, check in cases
        ],
    }


def pins(session):
    return {
        "transcript": session.transcript.hex(),
        "server_key": session.server_key.hex(),
        "parameters": [list(pair) for pair in session.parameters],
        "min_clients": 6,
        "min_survivors": 5,
    }


ROUNDED = (  # a tensor, and the values whose integers are recorded
    (Tensor(name="ties go to even", shape=(6,), bound=8.0, fraction_bits=0), [0.5, 1.5, 2.5, -0.5, -1.5, -2.5]),
    (Tensor(name="64 bits", shape=(3,), bound=1.0, fraction_bits=60, bits=64), [1 / 3, -1.0, 2.0**-61]),
    (Tensor(name="just below a tie", shape=(2,), bound=8.0, fraction_bits=1), [float(np.nextafter(0.25, 0)), 0.75]),
    (Tensor(name="the limit rounds up", shape=(2,), bound=0.75, fraction_bits=1), [1.0, -1.25]),
    (
        Tensor(
            name="exponents", shape=(2, 2), bound=4.0, fraction_bits=4, row_exponents=(3, -2), column_exponents=(0, 1)
        ),
        [0.3, 0.2, -9.1, 7.7],
    ),
    (Tensor(name="subnormal", shape=(2,), bound=2.0**-700, fraction_bits=720), [5e-324, 2.0**-710]),
)


def primitives():
    nine, hundred = GOOD["degree 4 on nine clients"], descriptor(101, [[COUNT], [CROSS]], degree=52, threshold=30)
    rounded = []
    for spec, values in ROUNDED:
        out = np.empty(len(values), np.uint64)
        Encoder(spec, np.reshape(np.array(values), spec.shape)).encode_into(0, out)
        ring = [int(value) % 2**spec.bits for value in out]
        one = slow_session.Session.parse(descriptor(3, [[spec]]).encode()).sums[0].tensors[0]
        rounded.append({"tensor": spec.name, "encoding": encoded(one.encode()), "values": values, "ring": ring})
    return {
        "description": "the ring of every sum's graph, and values as ring elements (their low bits)",
        "orders": [
            {"session": encoded(session.encode()), "sum": at, "order": list(order(session, at))}
            for session in (nine, hundred)
            for at in range(len(session.sums))
        ],
        "rounded": rounded,
    }
