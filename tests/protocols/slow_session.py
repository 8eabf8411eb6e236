"""A second implementation of protocols/secagg.md, part 2 of 4: descriptor, tensors, graph, policy and envelope."""

import struct
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from hashlib import sha256, shake_256
from math import comb, isfinite, prod

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from slow_primitives import Reader, blob, ctx, hashed, need

CHUNK = 131_072  # values
NAMES = (
    *("AdvertiseKeys", "KeyDirectory", "ShareKeys", "DeliverShares", "StartSum", "MaskedInput"),
    *("Survivors", "ConsistencyCheck", "Confirmations", "Unmask", "FinishSum", "Abort"),
)
CODE = {name: number for number, name in enumerate(NAMES, 1)}


def scaled(x, shift):
    """x · 2^shift as an integer, exactly, ties to even."""
    above, below = x.as_integer_ratio()
    quotient, rest = divmod(above << max(shift, 0), below << max(-shift, 0))
    twice, whole = 2 * rest, below << max(-shift, 0)
    return quotient + (twice > whole or (twice == whole and quotient % 2 == 1))


@dataclass(frozen=True)
class Tensor:
    name: str
    shape: tuple
    bound: float
    fraction_bits: int
    bits: int
    symmetric: bool
    row_exponents: tuple
    column_exponents: tuple

    def encode(self):
        out = blob(self.name) + struct.pack(f">B{len(self.shape)}I", len(self.shape), *self.shape)
        out += struct.pack(">dhBB", self.bound, self.fraction_bits, self.bits, self.symmetric)
        for exponents in (self.row_exponents, self.column_exponents):
            out += struct.pack(f">I{len(exponents)}h", len(exponents), *exponents)
        return out

    @staticmethod
    def read(r):
        name, shape = r.text(), tuple(r.many(1, lambda: r.number(4)))
        bound, fraction, bits, symmetric = struct.unpack(">dhBB", r.take(12))
        need(symmetric < 2, r.check, "symmetric is 0 or 1")
        rows, columns = (tuple(r.many(4, lambda: r.number(2, signed=True))) for _ in range(2))
        return Tensor(name, shape, bound, fraction, bits, bool(symmetric), rows, columns)

    @cached_property
    def limit(self):
        return int(Fraction(self.bound) * Fraction(2) ** self.fraction_bits + Fraction(1, 2))  # both are positive

    @property
    def rows(self):
        return self.shape[0] if len(self.shape) > 1 else 1

    @property
    def columns(self):
        return prod(self.shape) // self.rows

    @cached_property
    def entries(self):
        """(row, column) of every value that travels, in order."""
        return [(i, j) for i in range(self.rows) for j in range(i if self.symmetric else 0, self.columns)]

    def shift(self, i, j):
        rows, columns = self.row_exponents, self.row_exponents if self.symmetric else self.column_exponents
        return (rows[i] if rows else 0) + (columns[j] if columns else 0) + self.fraction_bits

    def check(self, n):
        what = f"tensor {self.name}: "
        need(1 <= len(self.name) <= 200 and 1 <= len(self.shape) <= 8 and all(self.shape), "V30", what + "name, axes")
        need(isfinite(self.bound) and self.bound > 0, "V30", what + "bound")
        need(self.bits in (32, 40, 48, 64), "V30", what + "ring bits")
        if self.symmetric:
            square = len(self.shape) == 2 and self.rows == self.columns
            need(square and not self.column_exponents, "V30", what + "not square, or column exponents")
        values = self.rows * (self.rows + 1) // 2 if self.symmetric else prod(self.shape)
        need(values <= 2**40, "V30", what + "too many values")
        for exponents, length in ((self.row_exponents, self.rows), (self.column_exponents, self.columns)):
            need(len(exponents) in (0, length), "V30", what + "number of exponents")
            need(all(-512 <= exponent <= 511 for exponent in exponents), "V30", what + "exponents")
        scales = [self.fraction_bits + exponent for exponent in (0, *self.row_exponents)]
        need(all(-960 <= scale <= 960 for scale in scales), "V30", what + "scale")
        need(n * self.limit < 2 ** (self.bits - 1) and self.limit < 2**61, "V30", what + "no headroom")

    def to_ring(self, values):
        """One client's values, row by row, as integers mod 2^64 in travelling order."""
        out = []
        for i, j in self.entries:
            x = values[i * self.columns + j]
            need(isfinite(x), "V32", f"{self.name}: not finite")
            encoded = scaled(x, self.shift(i, j))
            need(abs(encoded) <= self.limit, "V32", f"{self.name}: beyond the bound")
            out.append(encoded % 2**64)
        return out

    def signed(self, ring):
        """The integers that `bits` bits of a sum stand for."""
        return [(v + 2 ** (self.bits - 1)) % 2**self.bits - 2 ** (self.bits - 1) for v in ring]

    def decode(self, total):
        """A sum's integers as real numbers, row by row, the lower triangle filled in."""
        found = dict(zip(self.entries, total, strict=True))
        places = [(i, j) for i in range(self.rows) for j in range(self.columns)]
        ordered = [(min(place), max(place)) if self.symmetric else place for place in places]
        shifts = {place: self.shift(*place) for place in ordered}
        return [found[at] * 2 ** max(-shifts[at], 0) / 2 ** max(shifts[at], 0) for at in ordered]


@dataclass(frozen=True)
class Sum:
    name: str
    tensors: tuple

    @cached_property
    def chunks(self):
        """(tensor, first value, values) of every chunk of an upload."""
        sizes = [len(tensor.entries) for tensor in self.tensors]
        return [(m, at, min(CHUNK, size - at)) for m, size in enumerate(sizes) for at in range(0, size, CHUNK)]


@dataclass(frozen=True)
class Session:
    session_id: bytes
    task: str
    roster: tuple
    server: bytes
    t: int
    min_survivors: int
    degree: int
    encryption: str
    parameters: tuple
    sums: tuple

    def encode(self):
        out = blob("collabsecure session") + b"\x01" + blob(self.session_id) + blob(self.task)
        out += struct.pack(">H", len(self.roster)) + b"".join(self.roster) + self.server
        out += struct.pack(">HHH", self.t, self.min_survivors, self.degree) + blob(self.encryption)
        out += struct.pack(">H", len(self.parameters)) + b"".join(blob(k) + blob(v) for k, v in self.parameters)
        out += struct.pack(">H", len(self.sums))
        for one in self.sums:
            out += blob(one.name) + struct.pack(">H", len(one.tensors)) + b"".join(m.encode() for m in one.tensors)
        return out

    @staticmethod
    def parse(data):
        r = Reader(data, "V30")
        need(r.text() == "collabsecure session" and r.number(1) == 1, "V30", "not a session of version 1")
        session_id, task = r.blob(), r.text()
        roster, server = tuple(r.many(2, lambda: r.take(32))), r.take(32)
        t, least, degree, encryption = r.number(2), r.number(2), r.number(2), r.text()
        parameters = tuple(r.many(2, lambda: (r.text(), r.text())))
        sums = tuple(r.many(2, lambda: Sum(r.text(), tuple(r.many(2, lambda: Tensor.read(r))))))
        r.end()
        session = Session(session_id, task, roster, server, t, least, degree, encryption, parameters, sums)
        session.check()
        return session

    @property
    def n(self):
        return len(self.roster)

    @property
    def complete(self):
        return self.degree == self.n - 1

    @cached_property
    def transcript(self):
        return hashed("transcript", self.encode())

    def check(self):
        n, names = self.n, [name for name, _ in self.parameters]
        need(2 <= n <= 10_000 and len({*self.roster, self.server}) == n + 1, "V30", "the roster")
        need(
            16 <= len(self.session_id) <= 64 and self.encryption == "none" and self.sums, "V30", "id, encryption, sums"
        )
        need(self.complete or (self.degree % 2 == 0 and 2 <= self.degree < n - 1), "V30", f"degree {self.degree}")
        need(2 <= self.t <= self.degree + 1, "V30", f"threshold {self.t}")
        need((self.t if self.complete else 2) <= self.min_survivors <= n, "V30", f"min survivors {self.min_survivors}")
        need(names == sorted(set(names)) and len(names) <= 1024, "V30", "parameters")
        need(all(len(text) <= 2**20 for pair in self.parameters for text in pair), "V30", "a parameter's length")
        need(len({one.name for one in self.sums}) == len(self.sums), "V30", "sums of one name")
        for one in self.sums:
            need(1 <= len(one.name) <= 200 and 1 <= len(one.tensors) <= 256, "V30", "a sum's name, number of tensors")
            need(len({tensor.name for tensor in one.tensors}) == len(one.tensors), "V30", "tensors of one name")
            for tensor in one.tensors:
                tensor.check(n)

    def neighbours(self, tau, u):
        """Neighbours of u in sum tau, ascending."""
        if self.complete:
            return [v for v in range(1, self.n + 1) if v != u]
        ring = list(range(1, self.n + 1))
        stream = shake_256(ctx("graph order", self.transcript, tau)).digest(16 * self.n)
        for last in range(self.n - 1, 0, -1):
            pick = int.from_bytes(stream[16 * last : 16 * last + 16], "big") % (last + 1)
            ring[last], ring[pick] = ring[pick], ring[last]
        at, half = ring.index(u), self.degree // 2
        return sorted(ring[(at + d) % self.n] for d in range(-half, half + 1) if d)

    def around(self, tau, u):
        """u and its neighbours: who holds its secrets, and whose secrets it holds."""
        return sorted([u, *self.neighbours(tau, u)])

    def near(self, u):
        """Neighbours in any sum, ascending."""
        return sorted(set().union(*(self.neighbours(tau, u) for tau in range(len(self.sums)))))


def tail(population, marked, draws, least):
    """P[Hyp(population, marked, draws) >= least]."""
    hits = range(least, min(draws, marked) + 1)
    return Fraction(
        sum(comb(marked, i) * comb(population - marked, draws - i) for i in hits if draws - i <= population - marked),
        comb(population, draws),
    )


def check_policy(session, accept_honest_but_curious=False, corrupt_fraction=0.2, dropout_fraction=0.2, **pins):
    """V31. Pins are the floors `min_clients` and `min_survivors`, and whatever is as in the session or refused."""
    n, t, k, sums = session.n, session.t, session.degree, len(session.sums)
    colluding = -(-n // 3) - 1
    need(n >= max(3, pins.get("min_clients", 3)), "V31", "too small a roster")
    need(session.min_survivors >= max(3, colluding + 2, pins.get("min_survivors", 3)), "V31", "too few survivors")
    found = {"transcript": session.transcript, "roster": session.roster, "server_key": session.server}
    need(all(found[name] == pin for name, pin in pins.items() if name in found), "V31", "pins")
    need(all(tuple(pair) in session.parameters for pair in pins.get("parameters", ())), "V31", "parameters")
    if session.complete:
        need(t >= 2 * n // 3 + 1, "V31", f"threshold {t}")
        return
    need(accept_honest_but_curious, "V31", "k-regular graph")
    gamma, delta = Fraction(str(corrupt_fraction)), Fraction(str(dropout_fraction))
    need(session.min_survivors >= n - int(delta * n), "V31", "too few survivors for this graph")
    bad = n * tail(n - 1, int(gamma * n), k, t) + n * (gamma + delta) ** (k // 2)
    need(2 * t > k + 1 and bad <= Fraction(1, 2**40 * sums), "V31", "degree and threshold")


# Envelopes


def seal(session, signer, name, sender, body):
    """One message, signed; the signer is an Ed25519 seed."""
    header = bytes([1, CODE[name]]) + sender.to_bytes(2, "big") + session.transcript
    signature = Ed25519PrivateKey.from_private_bytes(signer).sign(ctx("signature", header, sha256(body).digest()))
    return header + body + signature


def is_signed(session, name, sender, body, signature):
    header = bytes([1, CODE[name]]) + sender.to_bytes(2, "big") + session.transcript
    key = Ed25519PublicKey.from_public_bytes(session.roster[sender - 1] if sender else session.server)
    try:
        key.verify(signature, ctx("signature", header, sha256(body).digest()))
    except InvalidSignature:
        return False
    return True


def longest(session, name):
    """The longest body that a message of this name has for anybody in this session."""
    n, sums, k, bits = session.n, len(session.sums), session.degree, (session.n + 7) // 8
    near = min(n - 1, sums * k)
    chunk = max(size * one.tensors[m].bits // 8 for one in session.sums for m, _, size in one.chunks)
    advertised = 32 + 64 * sums
    sizes = [advertised, bits + near * (66 + advertised), sums * (64 + k * 146), bits + sums * k * 146, 34]
    sizes += [38 + chunk, 2 + bits, 34, 4 + 66 * (k + 1), 2 + 34 * (k + 1), 2 + bits, 8 + bits]
    return sizes[CODE[name] - 1]


def open_envelope(session, data, sender):
    """(name, body, signature) of a message that `sender` (0: the server) handed in: V01 to V05."""
    need(len(data) >= 100, "V02", "shorter than an envelope", sender)
    need(data[0] == 1, "V01", f"version {data[0]}", sender)
    need(1 <= data[1] <= 12, "V04", f"type {data[1]}", sender)
    name, body, signature = NAMES[data[1] - 1], data[36:-64], data[-64:]
    need(len(body) <= longest(session, name), "V02", f"{name} too long", sender)
    need(data[4:36] == session.transcript, "V03", "another session", sender)
    need(int.from_bytes(data[2:4], "big") == sender, "V05", "another sender", sender)
    return name, body, signature
