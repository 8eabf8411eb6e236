"""P13: secrets appear in no repr, error or event, and leave by no message but those of the protocol.

Every secret and share that is made while all attacks and some honest sessions run is recorded where it is made. Then it
is looked for, in many spellings, in all that can be printed, and as it is in all that was sent.
"""

import base64
import copy
import dataclasses
import hashlib
import pickle
from types import SimpleNamespace

import attacks_on_sums  # noqa: F401 (enters its scenarios in the list)
import numpy as np
import pytest
from adversary import Attacker, kind_of
from attacks import ATTACKS
from harness import Network, identity, make_session, make_values
from peers import Peers, signed
from test_malicious_peer import BODIES

from collabsecure_protocols import Identity, LocalProtocolError, ServerState, dealing, keys, masks
from collabsecure_protocols.envelope import MessageType

WINDOW = 24  # characters of a spelling that are looked for: at least six of a secret's bytes
BYTES = 12  # bytes of a secret that are looked for in messages


def spellings(secret):
    """How a secret might come out."""
    yield repr(secret)[2:-1]
    yield secret.hex()
    yield secret.hex().upper()
    yield base64.b64encode(secret).decode()
    yield base64.urlsafe_b64encode(secret).decode()
    yield str(int.from_bytes(secret, "big"))
    yield str(int.from_bytes(secret, "little"))
    yield str(list(secret))


def found_in(text, secrets):
    needles = {spelling[:WINDOW] for secret in secrets for spelling in spellings(secret)}
    return {text[at : at + WINDOW] for at in range(len(text)) if text[at : at + WINDOW] in needles}


def printed(thing):
    """Everything that a log could make of a thing, its fields and its causes."""
    yield repr(thing)
    yield str(thing)
    if isinstance(thing, BaseException):
        yield repr(thing.args) + repr(vars(thing))
        for inner in (thing.__cause__, thing.__context__):
            if inner is not None:
                yield from printed(inner)


@pytest.fixture(scope="module")
def recorded():
    """All scenarios once: the secrets that were made, the texts that could be printed, the messages that were sent."""
    secrets, shares, texts, sent = set(), set(), set(), set()
    patch = pytest.MonkeyPatch()

    def recording(function):
        def wrapped(*arguments, **named):
            result = function(*arguments, **named)
            secrets.add(result) if isinstance(result, bytes) else None
            shares.update(result.values()) if isinstance(result, dict) else None
            return result

        return wrapped

    made = keys.Secret.__init__

    def remember(self, value):
        made(self, value)
        secrets.add(value)

    patch.setattr(keys.Secret, "__init__", remember)
    for place, name in ((dealing, "derive"), (dealing, "split"), (masks, "derive"), (keys.Secret, "agree")):
        patch.setattr(place, name, recording(getattr(place, name)))
    with patch.context():
        for attack in ATTACKS:
            a = attack.run()
            things = [*a.clients.values(), *(client._data for client in a.clients.values()), *a.refused, a.events]
            texts.update(
                text for thing in (*things, *(refusal.error for refusal in a.refused)) for text in printed(thing)
            )
            sent.update(payload for _, payload in a.sent)
        for network in networks():
            parties = [network.server, *network.clients.values()]
            things = [*parties, *(party._data for party in parties), network.server._running(), network.events]
            things += getattr(network, "refused", [])
            texts.update(text for thing in things for text in printed(thing))
            sent.update(payload for _, _, payload in network.transcript)
        texts.update(text for error in local_errors() for text in printed(error))
    patch.undo()
    secrets.update(seed_of(name) for name in (1, 2, 3, 4, 5, "server"))
    return SimpleNamespace(secrets=secrets - shares, shares=shares, texts="\n".join(texts), sent=sent)


def seed_of(name):
    return hashlib.sha256(f"identity {name}".encode()).digest()


def networks():
    drops = {(ServerState.MASKED_INPUT, 0): [2], (ServerState.UNMASK, 1): [3]}
    yield Network(session=make_session(), drops=drops).run()

    def forge(client, kind, body):
        forged = [signed(client, kind, change(body)) for expected, change, _ in BODIES.values() if kind is expected]
        return [*forged, signed(client, kind, body)]

    yield Peers(session=make_session(), forge=forge).run()


def local_errors():
    """What a client's own mistakes raise."""
    a = Attacker().collect()
    client, session = a.clients[1], a.session
    good, bad = make_values(session, 1, 0), make_values(session, 2, 0)
    broken = good | {"x": np.full_like(good["x"], np.nan)}
    calls = (
        lambda: list(client.masked_input(bad)),
        lambda: list(client.masked_input(broken)),
        lambda: list(client.masked_input(good, link=b"x" * 32)),
        lambda: list(client.masked_input(good, first=9)),
        client.start,
        lambda: a.clients[2].restore(client.save(), session, identity(2), policy=a.policy),
        lambda: a.clients[1].restore(client.save()[:-1], session, identity(1), policy=a.policy),
        lambda: keys.Secret(client.save()[:31]),
    )
    for call in calls:
        with pytest.raises(Exception) as caught:
            call()
        yield caught.value


def test_no_secret_is_in_anything_that_can_be_printed(recorded):
    assert len(recorded.secrets) > 200
    assert len(recorded.shares) >= 200
    assert len(recorded.texts) > 100_000
    assert not found_in(recorded.texts, recorded.secrets | recorded.shares)


def test_control_the_search_finds_every_spelling():
    secret = bytes(range(7, 39))
    for spelling in spellings(secret):
        assert found_in(f"an error about {spelling}, say", {secret})


def test_no_secret_is_in_any_message_and_shares_are_in_unmask_alone(recorded):
    secrets = {secret[:BYTES] for secret in recorded.secrets}
    shares = {share[:BYTES] for share in recorded.shares}
    seen = set()
    for payload in recorded.sent:
        windows = {payload[at : at + BYTES] for at in range(len(payload) - BYTES + 1)}
        assert not windows & secrets
        if windows & shares:
            seen.add(kind_of(payload))
    assert seen == {MessageType.UNMASK}


@pytest.mark.parametrize(
    "thing", [keys.Secret(bytes(range(32))), Identity(bytes(range(32)))], ids=["secret", "identity"]
)
def test_secret_cannot_be_printed_pickled_or_copied(thing):
    for text in (repr(thing), str(thing), f"{thing}", f"{thing!r}", str([thing]), str({"key": thing})):
        assert not found_in(text, {bytes(range(32))})
    for copier in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="not pickled or copied"):
            copier(thing)


def test_secrets_are_not_compared_or_hashed():
    first, second = keys.Secret(bytes(32)), keys.Secret(bytes(32))
    for use in (lambda: first == second, lambda: first != second, lambda: {first}):
        with pytest.raises(TypeError):
            use()


def test_secret_of_a_wrong_length_is_refused_without_its_bytes():
    with pytest.raises(LocalProtocolError) as refusal:
        keys.Secret(b"short and secret")
    assert "short and secret" not in str(refusal.value)


def test_fields_that_hold_secrets_are_hidden_by_their_type_or_by_name():
    """Whoever adds a field of plain bytes to a class that holds shares must think of its repr."""
    for kind in (dealing.HeldShares, dealing.ChannelCiphers):
        assert all(not field.repr for field in dataclasses.fields(kind))
    assert all(field.type == "Secret" or field.type is keys.Secret for field in dataclasses.fields(dealing.SumSecrets))
