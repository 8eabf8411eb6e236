"""A second implementation of protocols/secagg.md, part 4 of 4: a server.

It refuses with `Refused`, whose `check` is the number in the text's table, and is then as it was before.
"""

from array import array

from slow_primitives import KEY, SEED, ZERO, Reader, bitmap, is_element, is_low_order, need, public_key, reconstruct
from slow_secagg import Party, u16
from slow_session import is_signed, open_envelope, seal

STATES = {  # with the message that each takes, in the order in which an Abort counts them
    "ADVERTISE_KEYS": "AdvertiseKeys",
    "SHARE_KEYS": "ShareKeys",
    "READY": None,
    "MASKED_INPUT": "MaskedInput",
    "CONSISTENCY_CHECK": "ConsistencyCheck",
    "UNMASK": "Unmask",
    "FINISHED": None,
    "ABORTED": None,
}
TOO_FEW, PARTIAL_UPLOAD, BAD_DEALER = 1, 2, 3


class Abort(Exception):
    """The session cannot go on: (reason, found, needed, culprits)."""


class Server(Party):
    """Events: "send" with client and bytes, "set up" with U2, "finished" with sum and U3, "aborted" as in Abort."""

    def __init__(self, session, identity):
        super().__init__(session, identity)
        self.everybody = list(range(1, session.n + 1))
        self.tau, self.link, self.last, self.directory = -1, ZERO, {}, {}
        self.enter("ADVERTISE_KEYS", self.everybody)

    def enter(self, state, waiting):
        self.state, self.waiting, self.answers = state, list(waiting), {}

    def receive(self, client, data):
        return self.atomic(client, self._receive, client, data)

    def _receive(self, client, data):
        name, body, signature = open_envelope(self.session, data, client)
        if self.last.get(client) == data:
            return []
        need(name == STATES[self.state], "V04", f"{name} in state {self.state}", client)
        need(client in self.waiting, "V08", "answered, or out of the phase", client)
        need(is_signed(self.session, name, client, body, signature), "V06", f"signature of {name}", client)
        r, self.last[client] = Reader(body), data
        answer = getattr(self, f"on_{name}")(client, r)
        r.end()
        self.answers[client] = (body, signature, answer)
        if name != "MaskedInput" or self.is_complete(client):
            self.waiting.remove(client)
        return [] if self.waiting else self.end_phase()

    def start_sum(self, link=ZERO):
        need(self.state == "READY", "V04", "not ready")
        self.tau, self.link = self.tau + 1, link
        self.enter("MASKED_INPUT", self.u2)
        self.totals = [array("Q", bytes(8 * len(tensor.entries))) for tensor in self.session.sums[self.tau].tensors]
        return self.tell("StartSum", u16(self.tau) + link, self.u2)

    def tell(self, name, body, clients):
        return [("send", u, seal(self.session, self.identity, name, 0, body)) for u in clients]

    # Answers

    def current(self, client, r):
        tau = r.number(2)
        need(tau == self.tau, "V20", f"sum {tau}", client)
        return tau

    def on_AdvertiseKeys(self, client, r):
        channel, masks = self.advertised(r.take(32 + 64 * len(self.session.sums)))
        need(not any(map(is_low_order, [channel, *(key for key, _ in masks)])), "V10", "low-order key", client)
        return channel, masks

    def on_ShareKeys(self, client, r):
        holders = [(tau, v) for tau in range(len(self.session.sums)) for v in self.around(tau, client, self.u1)]
        return {(tau, v): r.take(64 if v == client else 146) for tau, v in holders}

    def on_MaskedInput(self, client, r):
        self.current(client, r)
        number, link, chunks = r.number(4), r.take(32), self.session.sums[self.tau].chunks
        need(link == self.link, "V21", "link", client)
        done = self.answers[client][2] if client in self.answers else 0
        need(number == done, "V22", f"chunk {number} is not {done}", client)
        m, at, size = chunks[number]
        width = self.session.sums[self.tau].tensors[m].bits // 8
        need(len(r.data) - r.at == size * width, "V22", "length of a chunk", client)
        for i in range(at, at + size):
            self.totals[m][i] = (self.totals[m][i] + int.from_bytes(r.take(width), "little")) % 2**64
        return done + 1

    def is_complete(self, client):
        return client in self.answers and self.answers[client][2] == len(self.session.sums[self.tau].chunks)

    def on_ConsistencyCheck(self, client, r):
        self.current(client, r)
        need(r.take(32) == self.view(self.tau, self.link, self.u2, self.u3), "V24", "view", client)

    def on_Unmask(self, client, r):
        tau, shown = self.current(client, r), {}
        for dealer in self.around(tau, client, self.u2):
            kind, share = r.number(1), r.take(33)
            need(kind <= KEY and (kind or not any(share)), "V07", f"kind {kind}", client)
            if kind:
                need(kind == (SEED if dealer in self.u3 else KEY), "V26", f"kind {kind} of {dealer}", client)
                at = 32 * (kind - 1)
                committed = self.dealt[dealer][tau, client][at : at + 32]
                good = is_element(share) and self.commitment(tau, dealer, client, kind, share) == committed
                need(good, "V27", f"share of {dealer}", client)
                shown[dealer] = share
        return shown

    # The ends of the phases

    def end_phase(self):
        """When everybody answered, or at the deadline."""
        answered = sorted(self.answers)
        try:
            return getattr(self, f"end_{self.state}")(answered)
        except Abort as abort:
            reason, found, needed, culprits = abort.args
            phase, tau, told = list(STATES).index(self.state), max(self.tau, 0), sorted(self.directory) or answered
            body = bytes([reason, phase]) + u16(found) + u16(needed) + u16(tau) + bitmap(culprits, self.session.n)
            self.enter("ABORTED", [])
            return [*self.tell("Abort", body, told), ("aborted", reason, phase, found, needed, tau, list(culprits))]

    def enough(self, found, needed):
        if len(found) < needed:
            raise Abort(TOO_FEW, len(found), needed, ())

    def enough_around(self, centres, members, sums):
        for tau in sums:
            for u in centres:
                self.enough(self.around(tau, u, members), self.session.t)

    def end_ADVERTISE_KEYS(self, u1):
        session = self.session
        self.enough(u1, session.min_survivors)
        self.enough_around(u1, u1, range(len(session.sums)))
        self.u1, self.directory, out = u1, {u: self.answers[u][2] for u in u1}, []
        for u in u1:
            entries = [u16(v) + b"".join(self.answers[v][:2]) for v in session.near(u) if v in u1]
            out += self.tell("KeyDirectory", bitmap(u1, session.n) + b"".join(entries), [u])
        self.enter("SHARE_KEYS", u1)
        return out

    def end_SHARE_KEYS(self, u2):
        session, sums = self.session, range(len(self.session.sums))
        self.enough(u2, session.min_survivors)
        self.enough_around(u2, u2, sums)
        self.u2, self.dealt, out = u2, {u: self.answers[u][2] for u in u2}, []
        for u in u2:
            entries = [self.dealt[v][tau, u] for tau in sums for v in session.neighbours(tau, u) if v in u2]
            out += self.tell("DeliverShares", bitmap(u2, session.n) + b"".join(entries), [u])
        self.enter("READY", [])
        return [*out, ("set up", u2)]

    def end_MASKED_INPUT(self, answered):
        if partial := [u for u in answered if not self.is_complete(u)]:
            raise Abort(PARTIAL_UPLOAD, len(answered) - len(partial), len(answered), tuple(partial))
        self.enough(answered, self.session.min_survivors)
        self.u3 = answered
        self.enough_around(self.opened, answered, [self.tau])
        self.enter("CONSISTENCY_CHECK", answered)
        return self.tell("Survivors", u16(self.tau) + bitmap(self.u3, self.session.n), self.u2)

    @property
    def opened(self):
        """Everybody whose secret is needed: survivors, and who left with surviving neighbours."""
        return [u for u in self.u2 if u in self.u3 or self.around(self.tau, u, self.u3)]

    def end_CONSISTENCY_CHECK(self, u4):
        self.enough(u4, self.session.t)
        self.enough_around(self.opened, u4, [self.tau])
        out = []
        for u in u4:
            entries = [u16(v) + self.answers[v][1] for v in self.around(self.tau, u, u4)]
            out += self.tell("Confirmations", u16(self.tau) + u16(len(entries)) + b"".join(entries), [u])
        self.enter("UNMASK", u4)
        return out

    def end_UNMASK(self, u5):
        shown = {u: {v: self.answers[v][2][u] for v in u5 if u in self.answers[v][2]} for u in self.opened}
        for shares in shown.values():
            self.enough(shares, self.session.t)
        for u, shares in shown.items():
            secret, (_, masks) = reconstruct(dict(list(shares.items())[: self.session.t])), self.directory[u]
            mask_key, seed_commitment = masks[self.tau]
            if u in self.u3:
                good = secret is not None and self.seed_commitment(self.tau, u, secret) == seed_commitment
            else:
                good = secret is not None and public_key(secret) == mask_key
            if not good:
                raise Abort(BAD_DEALER, self.session.t, self.session.t, (u,))
            self.remove_masks(u, secret)
        tensors = self.session.sums[self.tau].tensors
        self.result = [tensor.signed(total) for tensor, total in zip(tensors, self.totals, strict=True)]
        done = self.tell("FinishSum", u16(self.tau) + bitmap(self.u3, self.session.n), self.u2)
        self.enter("FINISHED" if self.tau == len(self.session.sums) - 1 else "READY", [])
        return [*done, ("finished", self.tau, self.u3)]

    def remove_masks(self, u, secret):
        for m, total in enumerate(self.totals):
            if u in self.u3:
                removed = [(-1, self.self_mask(self.tau, m, secret, u, len(total)))]
            else:
                removed = []
                for v in self.around(self.tau, u, self.u3):
                    public = self.directory[v][1][self.tau][0]
                    mask = self.pair_mask(self.tau, m, secret, public, u, v, len(total))
                    removed.append((-1 if v < u else 1, mask))  # the lower of the two had added it
            for sign, mask in removed:
                self.totals[m] = array("Q", [(x + sign * y) % 2**64 for x, y in zip(self.totals[m], mask, strict=True)])
