"""Whatever a malicious server sends, in whatever order, an honest client keeps its promises.

A Hypothesis state machine: the server tells each client what it likes, replays, equivocates and uses a corrupt client's
keys; clients crash and come back. After every step, the whole of what left the honest clients is held to secagg.md.
"""

import hashlib
import itertools
from collections import Counter
from typing import ClassVar

import pytest
from adversary import Attacker, body_of, kind_of
from harness import identity, make_session, make_values
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from collabsecure_protocols import Client, ClientState, LocalProtocolError, Policy, ProtocolError
from collabsecure_protocols.client_state import NO_LINK
from collabsecure_protocols.envelope import MessageType, header_bytes, signed_message
from collabsecure_protocols.messages import AdvertiseKeys, ConsistencyCheck, ShareKind, SignedAdvert, view_digest
from collabsecure_protocols.wire import read_bitmap

SESSION = make_session(4, 2)  # t = 3; one client may be corrupt
CORRUPT = 4
EVERYBODY = (1, 2, 3, 4)
OTHER_LINK = b"another result follows from it.."

clients = st.sampled_from(EVERYBODY)
offsets = st.sampled_from([0] * 12 + [-1, 1])  # from the sum that the client expects
links = st.sampled_from([NO_LINK] * 9 + [OTHER_LINK])
orders = st.sampled_from([0, 0, 0, 1, 2, 3])
members = st.sampled_from(
    [EVERYBODY] * 24 + [each for size in (3, 3, 2, 1) for each in itertools.combinations(EVERYBODY, size)] + [()]
)


class Trickster(Attacker):
    """An attacker that notes what a client was told only if the client took it, and that cuts uploads short."""

    cut = None

    def to(self, number, payload):
        accepted, refusals = self.__dict__.setdefault("accepted", {}), len(self.refused)
        kind = kind_of(payload)
        if kind in (MessageType.KEY_DIRECTORY, MessageType.DELIVER_SHARES):
            told = read_bitmap(bytes(body_of(payload)[:1]), len(self.everybody))
            self.told = {**accepted, (number, kind): told}
        events = super().to(number, payload)
        if len(self.refused) == refusals:
            accepted.update(self.told)
        self.told = dict(accepted)
        return events

    def upload(self, number):
        self.send_chunks(number, make_values(self.session, number, self.clients[number].sum_index), limit=self.cut)

    def send_chunks(self, number, values, *, first=0, limit=None):
        client = self.clients[number]
        link = client._data.link  # an application that believes whatever the server says
        for chunk in itertools.islice(client.masked_input(values, link=link, first=first), limit):
            self.take(number, bytes(chunk))


class MaliciousServer(RuleBasedStateMachine):
    session, policy = SESSION, Policy()

    @initialize(stage=st.sampled_from(["advertise", "share_keys", "set_up", "collect", "confirm"]))
    def begin(self, stage):
        self.attacker = Trickster(session=self.session, policy=self.policy, corrupt={CORRUPT})
        getattr(self.attacker, stage)()
        self.sealed = []

    def send(self, number, payload):
        self.sealed.append(payload)
        self.attacker.to(number, payload)

    def directory(self, number, advertisers, _index, _link, lie):
        return self.attacker.directory(
            number, advertisers=advertisers, adverts={CORRUPT: self.second_advert()} if lie else {}
        )

    def second_advert(self):
        """The corrupt client's keys of another run: its owner may sign as many as it likes."""
        keys = AdvertiseKeys.decode(self.attacker.adverts[CORRUPT].body, self.session)
        body = AdvertiseKeys(
            channel_key=keys.mask_keys[0], mask_keys=keys.mask_keys[::-1], seed_commitments=keys.seed_commitments
        ).encode()
        header = header_bytes(self.session, MessageType.ADVERTISE_KEYS, CORRUPT)
        signature = identity(CORRUPT).sign(signed_message(header, hashlib.sha256(body).digest()))
        return SignedAdvert(client_id=CORRUPT, body=body, signature=signature)

    def deliver(self, number, participants, *_):
        return self.attacker.deliver(number, participants=participants)

    def start_sum(self, _number, _members, index, link, _lie):
        return self.attacker.start_sum(index, link)

    def survivors(self, _number, survivors, index, *_):
        return self.attacker.survivors(index, survivors)

    def finish(self, _number, survivors, index, *_):
        return self.attacker.finish(index, survivors)

    def confirmations(self, number, signers, index, _link, lie):
        """All signatures that there are of some clients, and the corrupt one's of what this client wants to see."""
        found = {client: value for client, value in self.attacker.signatures(index).items() if client in signers}
        if CORRUPT in signers:
            found[CORRUPT] = self.corrupt_signature(number, index)
        if lie:  # one signature in another's name
            found = dict(zip(found, list(found.values())[::-1], strict=True))
        return self.attacker.confirmations(index, found)

    def corrupt_signature(self, number, index):
        data = self.attacker.clients[number]._data  # what it was told, which the attacker knows
        view = view_digest(
            self.session, participants=data.participants, survivors=data.survivors, sum_index=index, link=data.link
        )
        header = header_bytes(self.session, MessageType.CONSISTENCY_CHECK, CORRUPT)
        body = hashlib.sha256(ConsistencyCheck(sum_index=index, view=view).encode()).digest()
        return identity(CORRUPT).sign(signed_message(header, body))

    LEGAL: ClassVar = {
        ClientState.KEYS_ADVERTISED: (directory,),
        ClientState.KEYS_SHARED: (deliver,),
        ClientState.READY: (start_sum, survivors, start_sum, finish),
        ClientState.CONTRIBUTING: (survivors, survivors, start_sum, finish),
        ClientState.LEFT_OUT: (finish, start_sum),
        ClientState.CONFIRMED: (confirmations, survivors, start_sum, finish),
        ClientState.UNMASKED: (finish, survivors, confirmations, start_sum),
    }
    ANY = (directory, deliver, start_sum, survivors, confirmations, finish)

    @rule(number=clients, which=orders, members=members, offset=offsets, link=links, lie=st.integers(0, 9))
    def send_what_its_state_takes(self, number, which, members, offset, link, lie):
        choices = self.LEGAL.get(self.attacker.clients[number].state)
        if choices:
            self.send_anything(number, choices[which % len(choices)], members, offset, link, lie == 9)

    @rule(which=orders, members=members, offset=offsets, link=links, cut=st.sampled_from([None, None, None, 0, 1]))
    def send_the_same_to_all(self, which, members, offset, link, cut):
        self.attacker.cut = cut
        for number in EVERYBODY:
            self.send_what_its_state_takes(number, which, members, offset, link, 0)
        self.attacker.cut = None

    @rule(members=members, others=members, to=members)
    def split_the_view(self, members, others, to):
        """Some clients hear of one survivor set, the others of another."""
        for number in EVERYBODY:
            self.send_what_its_state_takes(number, 0, members if number in to else others, 0, NO_LINK, 0)

    @rule(number=clients, make=st.sampled_from(ANY), members=members, offset=offsets, link=links, lie=st.booleans())
    def send_anything(self, number, make, members, offset, link, lie):
        client = self.attacker.clients[number]
        starts = make is MaliciousServer.start_sum or client.state is ClientState.READY
        index = min(max(client.sum_index + starts + offset, 0), len(self.session.sums) - 1)
        self.send(number, make(self, number, members, index, link, lie))

    @rule(
        make=st.sampled_from([start_sum, survivors, confirmations]), members=members, order=st.permutations(EVERYBODY)
    )
    def ask_again(self, make, members, order):
        """For the sum that each is in or has just left, once more."""
        for number in order:
            index = max(self.attacker.clients[number].sum_index, 0)
            self.send(number, make(self, number, members, index, NO_LINK, False))

    @precondition(lambda self: self.sealed)
    @rule(number=clients, which=st.integers(0, 10_000))
    def replay(self, number, which):
        self.attacker.to(number, self.sealed[which % len(self.sealed)])

    @rule(number=clients)
    def crash(self, number):
        """Back from what was saved, which is saved before anything is sent."""
        blob = self.attacker.clients[number].save()
        restored = Client.restore(blob, self.session, identity(number), policy=self.policy)
        assert restored.save() == blob
        sent = {payload for sender, payload in self.attacker.sent if sender == number}
        assert number == CORRUPT or {event.payload for event in restored.pending} <= sent
        self.attacker.clients[number] = restored

    @rule(number=clients, first=st.integers(0, 2), seed=st.sampled_from([0, 0, 1]))
    def upload_again(self, number, first, seed):
        client = self.attacker.clients[number]
        values = make_values(self.session, number, max(client.sum_index, 0), seed)
        try:
            self.attacker.send_chunks(number, values, first=first)
        except ProtocolError as error:
            assert isinstance(error, LocalProtocolError)

    def of_kind(self, kind):
        return [(number, body_of(payload)) for number, payload in self.attacker.sent if kind_of(payload) is kind]

    @invariant()
    def one_survivor_set_a_sum(self):
        """At most one signed ConsistencyCheck per client and sum: V24, V25 rest on it."""
        signed = {(number, bytes(body)) for number, body in self.of_kind(MessageType.CONSISTENCY_CHECK)}
        assert max(Counter((number, body[:2]) for number, body in signed).values(), default=1) == 1

    @invariant()
    def one_body_a_chunk(self):
        """P10: never other data under the same mask."""
        chunks = {(number, bytes(body)) for number, body in self.of_kind(MessageType.MASKED_INPUT)}
        assert max(Counter((number, body[:6]) for number, body in chunks).values(), default=1) == 1

    @invariant()
    def one_kind_of_share_a_dealer(self):
        """P3: of one dealer in one sum, an honest client shows one kind of share, always the same."""
        shown = {(share.holder, share.dealer, share.sum_index, share.kind) for share in self.attacker.shown()}
        assert max(Counter(each[:3] for each in shown).values(), default=1) == 1

    @invariant()
    def shares_are_shown_once_and_to_a_quorum(self):
        """P3: for one survivor set a sum, which t clients have signed, the corrupt one counted."""
        signed = {(number, bytes(body)) for number, body in self.of_kind(MessageType.CONSISTENCY_CHECK)}
        signers = Counter(view for _, view in signed)
        shown = {(number, bytes(body)) for number, body in self.of_kind(MessageType.UNMASK)}
        assert max(Counter((number, body[:2]) for number, body in shown).values(), default=1) == 1
        for number, body in shown:
            views = [view for signer, view in signed if signer == number and view[:2] == body[:2]]
            assert signers[views[0]] + 1 >= self.session.threshold

    @invariant()
    def nobody_is_opened_twice(self):
        """P1: the attacker, its corrupt client's shares counted, never has both secrets of an honest client's sum."""
        assert all(len(kinds) == 1 for kinds in self.attacker.opened().values())

    @invariant()
    def no_upload_stands_alone(self):
        """P1: an honest client whose self mask is open shares a mask that is not with another honest client."""
        opened, honest = self.attacker.opened(), set(self.attacker.honest)
        for (client, index), kinds in opened.items():
            if ShareKind.SELF_SEED in kinds:
                peers = honest & set(self.attacker.told[client, MessageType.DELIVER_SHARES]) - {client}
                assert any(ShareKind.MASK_KEY not in opened.get((peer, index), ()) for peer in peers)


MaliciousServer.TestCase.settings = settings(max_examples=100, stateful_step_count=40)
test_an_honest_client_keeps_its_promises_to_any_server = MaliciousServer.TestCase


class NoPolicy(Policy):
    def check(self, session):
        pass


class Overreached(MaliciousServer):
    """The same machine where the threshold is not above two thirds: the promises rest on it, so they break."""

    session, policy = make_session(4, 2, threshold=2, min_survivors=2), NoPolicy()


def test_the_machine_breaks_a_session_that_the_policy_refuses():
    """A control: what the invariants look for is there to be found."""
    control = settings(max_examples=300, stateful_step_count=40, phases=[Phase.generate], report_multiple_bugs=False)
    with pytest.raises(AssertionError):
        run_state_machine_as_test(Overreached, settings=control)
