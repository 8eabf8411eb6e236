"""A second implementation of protocols/secagg.md, part 3 of 4: a client.

It refuses with `Refused`, whose `check` is the number in the text's table, and is then as it was before.
"""

from array import array
from copy import deepcopy

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from slow_primitives import (
    KEY,
    SEED,
    ZERO,
    Reader,
    Refused,
    agree,
    bitmap,
    coefficients,
    ctx,
    deal,
    hashed,
    is_element,
    is_low_order,
    kdf,
    keystream,
    need,
    public_key,
)
from slow_session import check_policy, is_signed, open_envelope, seal


def u16(number):
    return number.to_bytes(2, "big")


class Party:
    """What both ends share: the session, a state, and refusals that change nothing."""

    def __init__(self, session, identity):
        self.session, self.identity, self.last = session, identity, b""

    def atomic(self, sender, step, *arguments):
        """Do a step for a message of this sender, or be as before."""
        fixed = self.session
        before = deepcopy({name: value for name, value in vars(self).items() if name != "session"})
        try:
            return step(*arguments)
        except Refused as error:
            self.__dict__ = {**before, "session": fixed}
            if error.check == "V07":  # what reads the bytes does not know whose they are
                error.culprits = (sender,)
            raise

    def around(self, tau, u, among):
        return [v for v in self.session.around(tau, u) if v in among]

    def few(self, members, centres):
        """Whether somebody among the centres has fewer than t holders among the members, in any sum."""
        sums = range(len(self.session.sums))
        return any(len(self.around(tau, u, members)) < self.session.t for tau in sums for u in centres)

    def view(self, tau, link, u2, u3):
        n = self.session.n
        return hashed("view", self.session.transcript, tau, link, bitmap(u2, n), bitmap(u3, n))

    def pair_mask(self, tau, m, secret, public, u, v, size):
        parts = (self.session.transcript, bitmap(self.u2, self.session.n), tau, self.link, m, *sorted((u, v)))
        return keystream(kdf(agree(secret, public), "pairwise mask", *parts), size)

    def self_mask(self, tau, m, seed, u, size):
        parts = (self.session.transcript, bitmap(self.u2, self.session.n), tau, self.link, m, u)
        return keystream(kdf(seed, "self mask", *parts), size)

    def commitment(self, tau, dealer, holder, kind, share):
        return hashed("share commitment", self.session.transcript, tau, dealer, holder, kind, share)

    def seed_commitment(self, tau, u, seed):
        return hashed("seed commitment", self.session.transcript, tau, u, seed)

    def advertised(self, body):
        """The channel key and per sum (mask key, seed commitment) of an AdvertiseKeys body."""
        r = Reader(body)
        keys = r.take(32), [(r.take(32), r.take(32)) for _ in self.session.sums]
        r.end()
        return keys


TAKES = {
    "NEW": (),
    "KEYS_ADVERTISED": ("KeyDirectory", "Abort"),
    "KEYS_SHARED": ("DeliverShares", "Abort"),
    "READY": ("StartSum", "Survivors", "FinishSum", "Abort"),
    "CONTRIBUTING": ("StartSum", "Survivors", "FinishSum", "Abort"),
    "LEFT_OUT": ("StartSum", "FinishSum", "Abort"),
    "CONFIRMED": ("StartSum", "Confirmations", "FinishSum", "Abort"),
    "UNMASKED": ("StartSum", "FinishSum", "Abort"),
    "FINISHED": (),
    "ABORTED": (),
}


class Client(Party):
    """A client whose randomness is given: the channel's private key, and one secret per sum.

    Events: "send" with bytes, "need input" with sum and link, "misbehaved" with culprits, "excluded" with the sum,
    "finished" with sum and survivors, "aborted" as in the message.
    """

    def __init__(self, session, identity, channel, secrets, policy, opened=(), begun=(), contribution=None):
        super().__init__(session, identity)
        if policy is not None:
            check_policy(session, **policy)
        need(session.transcript not in begun, "V36", "begun before")
        public = Ed25519PrivateKey.from_private_bytes(identity).public_key().public_bytes_raw()
        need(public in session.roster, "V31", "not on the roster")
        self.me, self.channel, self.secrets = session.roster.index(public) + 1, channel, secrets
        self.opened, self.contribution = set(opened), contribution or session.task.encode()
        self.state, self.tau, self.u3 = "NEW", -1, None
        self.keys = [self.secret("mask key pair", tau) for tau in range(len(secrets))]
        self.seeds = [self.secret("self mask seed", tau) for tau in range(len(secrets))]

    def secret(self, label, tau, *kind):
        return kdf(self.secrets[tau], label, self.session.transcript, tau, self.me, *kind)

    def seal(self, name, body):
        return ("send", seal(self.session, self.identity, name, self.me, body))

    def start(self):
        need(self.state == "NEW", "V04", "started before")
        self.state, body = "KEYS_ADVERTISED", public_key(self.channel)
        for tau, (key, seed) in enumerate(zip(self.keys, self.seeds, strict=True)):
            body += public_key(key) + self.seed_commitment(tau, self.me, seed)
        return [self.seal("AdvertiseKeys", body)]

    def receive(self, data):
        return self.atomic(0, self._receive, data)

    def _receive(self, data):
        name, body, signature = open_envelope(self.session, data, 0)
        if data == self.last:
            return []
        need(name in TAKES[self.state], "V04", f"{name} in state {self.state}", 0)
        need(is_signed(self.session, name, 0, body, signature), "V06", f"signature of {name}", 0)
        r, self.last = Reader(body), data
        events = getattr(self, f"on_{name}")(r)
        r.end()
        return events

    def share(self, tau, kind, holder):
        secret, seed = (self.seeds if kind == SEED else self.keys)[tau], self.secret("share polynomial", tau, kind)
        return deal(secret, coefficients(seed, self.session.t), holder)

    def channel_key(self, u, v):
        other = self.directory[u if v == self.me else v][0]
        return ChaCha20Poly1305(kdf(agree(self.channel, other), "share channel", self.session.transcript, u, v))

    def on_KeyDirectory(self, r):
        session, n, sums = self.session, self.session.n, range(len(self.session.sums))
        self.u1 = r.members(n)
        listed = [v for v in session.near(self.me) if v in self.u1]
        entries = [(r.number(2), r.take(32 + 64 * len(sums)), r.take(64)) for _ in listed]
        r.end()
        need([u for u, _, _ in entries] == listed, "V07", "not the neighbours in U1, ascending", 0)
        need(self.me in self.u1 and len(self.u1) >= session.min_survivors, "V12", "too few keys, or not ours", 0)
        need(not self.few(self.u1, [self.me]), "V12", "too few holders", 0)
        for u, keys, signature in entries:
            need(is_signed(session, "AdvertiseKeys", u, keys, signature), "V11", f"keys of {u}", 0)
        self.directory = {u: self.advertised(keys) for u, keys, _ in entries}
        for u, (channel, masks) in self.directory.items():
            need(not any(map(is_low_order, [channel, *(key for key, _ in masks)])), "V10", f"low-order key of {u}", 0)
        body = b"".join(self.dealt(tau, v) for tau in sums for v in self.around(tau, self.me, self.u1))
        self.state = "KEYS_SHARED"
        return [self.seal("ShareKeys", body)]

    def dealt(self, tau, v):
        shares = [self.share(tau, kind, v) for kind in (SEED, KEY)]
        commitments = [self.commitment(tau, self.me, v, kind, s) for kind, s in enumerate(shares, 1)]
        if v == self.me:
            return b"".join(commitments)
        data = self.associated(tau, self.me, v, commitments)
        sealed = self.channel_key(self.me, v).encrypt(tau.to_bytes(12, "big"), b"".join(shares), data)
        return b"".join(commitments) + sealed

    def associated(self, tau, u, v, commitments):
        return ctx("share data", self.session.transcript, tau, u, v, *commitments)

    def on_DeliverShares(self, r):
        session, self.u2, self.shares = self.session, r.members(self.session.n), {}
        dealers = [(tau, v) for tau in range(len(session.sums)) for v in session.neighbours(tau, self.me)]
        entries = {(tau, v): r.take(146) for tau, v in dealers if v in self.u2}
        r.end()
        need(self.me in self.u2 and set(self.u2) <= set(self.u1), "V13", "participants", 0)
        need(len(self.u2) >= session.min_survivors and not self.few(self.u2, [self.me]), "V13", "too few", 0)
        self.state = "READY"
        for (tau, v), entry in entries.items():
            self.shares[tau, v] = self.opened_shares(tau, v, [entry[:32], entry[32:64]], entry[64:])
        culprits = sorted({v for (_, v), shares in self.shares.items() if not shares})
        return [("misbehaved", culprits, "V14")] if culprits else []

    def opened_shares(self, tau, v, commitments, sealed):
        try:
            data = self.associated(tau, v, self.me, commitments)
            plain = self.channel_key(v, self.me).decrypt(tau.to_bytes(12, "big"), sealed, data)
        except InvalidTag:
            return None
        shares = plain[:33], plain[33:]
        mine = [self.commitment(tau, v, self.me, kind, share) for kind, share in enumerate(shares, 1)]
        return shares if mine == commitments and all(map(is_element, shares)) else None

    def on_StartSum(self, r):
        tau, self.link = r.number(2), r.take(32)
        r.end()
        need(self.tau < tau < len(self.session.sums), "V20", f"start of sum {tau}", 0)
        self.check_unopened(tau)
        uploading = self.state == "CONTRIBUTING"
        late = [("excluded", self.tau)] if uploading and not self.uploaded else []
        if self.state == "CONFIRMED" or (uploading and self.uploaded):
            self.opened.add((self.contribution, self.session.sums[self.tau].name))
        self.tau, self.state, self.uploaded, self.upload = tau, "CONTRIBUTING", False, None
        return [*late, ("need input", tau, self.link)]

    def check_unopened(self, tau):
        need((self.contribution, self.session.sums[tau].name) not in self.opened, "V34", "opened before")

    def masked_input(self, values, link=ZERO):
        """All chunks of the upload of this sum: one (nested) list of numbers per tensor."""
        return self.atomic(0, self._masked_input, values, link)

    def _masked_input(self, values, link):
        need(self.state == "CONTRIBUTING", "V04", "no sum waits for input")
        need(link == self.link, "V21", "link", 0)
        session, tau, vectors = self.session, self.tau, []
        for m, (tensor, x) in enumerate(zip(session.sums[tau].tensors, values, strict=True)):
            vector = tensor.to_ring(x)
            masks = [(1, self.self_mask(tau, m, self.seeds[tau], self.me, len(vector)))]
            for v in set(session.neighbours(tau, self.me)) & set(self.u2):
                public = self.directory[v][1][tau][0]
                mask = self.pair_mask(tau, m, self.keys[tau], public, self.me, v, len(vector))
                masks.append((1 if self.me < v else -1, mask))
            for sign, mask in masks:
                vector = [(x + sign * y) % 2**64 for x, y in zip(vector, mask, strict=True)]
            vectors.append(array("Q", vector))  # no more than integers, but quick to copy
        need(self.upload in (None, vectors), "V33", "other values under a used mask")
        self.upload, chunks = vectors, []
        for number, (m, at, size) in enumerate(session.sums[tau].chunks):
            bits = session.sums[tau].tensors[m].bits
            packed = b"".join((x % 2**bits).to_bytes(bits // 8, "little") for x in vectors[m][at : at + size])
            chunks.append(self.seal("MaskedInput", u16(tau) + number.to_bytes(4, "big") + link + packed))
        self.uploaded = True
        return chunks

    def on_Survivors(self, r):
        tau, u3 = r.number(2), r.members(self.session.n)
        r.end()
        self.current(tau)
        need(set(u3) <= set(self.u2) and len(u3) >= self.session.min_survivors, "V23", "survivors", 0)
        begun = self.state == "CONTRIBUTING"
        if self.me not in u3:
            self.tau, self.u3, self.state = tau, u3, "LEFT_OUT"
            return [("excluded", tau)] if begun else []
        need(begun and self.uploaded, "V23", "we have not uploaded", 0)
        need(len(self.around(tau, self.me, u3)) >= self.session.t, "V23", "too few around us", 0)
        self.check_unopened(tau)
        self.u3, self.state = u3, "CONFIRMED"
        return [self.seal("ConsistencyCheck", u16(tau) + self.view(tau, self.link, self.u2, u3))]

    def current(self, tau):
        late = self.state == "READY" and self.tau < tau < len(self.session.sums)
        need(late if self.state == "READY" else tau == self.tau, "V20", f"sum {tau}", 0)

    def on_Confirmations(self, r):
        tau, confirmations = r.number(2), r.many(2, lambda: (r.number(2), r.take(64)))
        r.end()
        self.current(tau)
        signers = [u for u, _ in confirmations]
        need(signers == sorted(set(signers)) and len(signers) >= self.session.t, "V25", "too few, or not ascending", 0)
        need(set(signers) <= set(self.around(tau, self.me, self.u3)), "V25", "not a surviving neighbour", 0)
        body = u16(tau) + self.view(tau, self.link, self.u2, self.u3)
        for u, signature in confirmations:
            need(is_signed(self.session, "ConsistencyCheck", u, body, signature), "V25", f"view of {u}", 0)
        self.check_unopened(tau)
        body, self.state = u16(tau), "UNMASKED"
        self.opened.add((self.contribution, self.session.sums[tau].name))
        for dealer in self.around(tau, self.me, self.u2):
            kind = SEED if dealer in self.u3 else KEY
            if dealer == self.me:
                body += bytes([kind]) + self.share(tau, kind, self.me)
            else:
                shares = self.shares[tau, dealer]
                body += bytes([kind]) + shares[kind - 1] if shares else bytes(34)
        return [self.seal("Unmask", body)]

    def on_FinishSum(self, r):
        tau, u3 = r.number(2), r.members(self.session.n)
        r.end()
        self.current(tau)
        begun, included = self.state == "CONTRIBUTING", self.me in u3
        if self.state in ("LEFT_OUT", "CONFIRMED", "UNMASKED"):
            need(u3 == self.u3, "V24", "other survivors at the end", 0)
        else:
            need(set(u3) <= set(self.u2), "V24", "survivors that are no participants", 0)
            need(not included or (begun and self.uploaded), "V24", "we have not uploaded", 0)
        if included:
            self.opened.add((self.contribution, self.session.sums[tau].name))
        self.tau, self.state = tau, "FINISHED" if tau == len(self.session.sums) - 1 else "READY"
        return [*([("excluded", tau)] if begun and not included else []), ("finished", tau, u3)]

    def on_Abort(self, r):
        reason, phase, found, needed, tau = r.number(1), r.number(1), r.number(2), r.number(2), r.number(2)
        culprits = r.members(self.session.n)
        need(1 <= reason <= 4 and phase <= 7, "V07", "reason or phase", 0)
        self.state = "ABORTED"
        return [("aborted", reason, phase, found, needed, tau, culprits)]
