"""P5: all secrets of one sum, opened, say nothing about the masks of another (secagg.md, "Key schedule").

Each of three sums is opened in turn: the attacker gets every client's secrets and all shares of that sum, and derives
whatever the protocol's own functions derive from them under any label and context. Nothing of it may be a secret of
another sum. The control runs the same with one mask key for all sums; there the known attack must work.
"""

from itertools import combinations

import pytest
from harness import Network, make_session
from unmasking import Wiretap

from collabsecure_protocols import ServerState, dealing
from collabsecure_protocols.client_state import NO_LINK
from collabsecure_protocols.keys import Label, Secret, derive
from collabsecure_protocols.masks import MaskContext
from collabsecure_protocols.messages import ShareKind
from collabsecure_protocols.shamir import split
from collabsecure_protocols.wire import write_bitmap

SESSION = make_session(5, 3)
SUMS = range(3)
TENSORS = range(2)
DROPPED = 3  # in sum 1, so that its mask key of sum 1 is opened, and its self-mask seeds of sums 0 and 2
DROPS = {(ServerState.MASKED_INPUT, 1): [DROPPED]}
NUMBERS = range(1, 6)
separate_keys = dealing.sum_secrets


def one_key_for_all_sums(session, sum_index, owner, secret):
    """What the protocol must not do."""
    seed = separate_keys(session, sum_index, owner, secret).self_seed
    return dealing.SumSecrets(self_seed=seed, mask_key=Secret(derive(bytes(32), Label.MASK_KEY, owner)))


def where(index):
    """What the masks of a sum are bound to."""
    return MaskContext(
        transcript=SESSION.transcript, participants=write_bitmap(NUMBERS, 5), sum_index=index, link=NO_LINK
    )


def run():
    """A whole session, and each client's root secret of each sum and channel key."""
    network = Network(session=SESSION, drops=DROPS)
    roots = {(n, index): c._data.sum_secrets[index] for n, c in network.clients.items() for index in SUMS}
    channels = {n: client._data.channel for n, client in network.clients.items()}
    network.run()
    assert len(network.totals) == 3
    return network, roots, channels


def polynomial_seeds(index, n, root):
    place = (SESSION.transcript, index, n)
    return [derive(root.reveal(), Label.POLYNOMIAL, *place, kind) for kind in (1, 2)]


def secrets_of_sum(roots, index):
    """Every secret that a sum has: of all clients and pairs, and of every tensor."""
    found, keys = set(), {}
    for n in NUMBERS:
        root = roots[n, index]
        opened = dealing.sum_secrets(SESSION, index, n, root)
        keys[n] = opened.mask_key
        seeds = polynomial_seeds(index, n, root)
        found |= {root.reveal(), opened.self_seed.reveal(), opened.mask_key.reveal(), *seeds}
        for secret, seed in zip((opened.self_seed, opened.mask_key), seeds, strict=True):
            found |= set(split(secret.reveal(), SESSION.threshold, list(NUMBERS), seed).values())
        found |= {mask.key.reveal() for mask in where(index).self_masks(opened.self_seed, n, len(TENSORS))}
    for low, high in combinations(NUMBERS, 2):
        public = dealing.public_of(keys[high].reveal())
        found.add(keys[low].agree(public))
        masks = where(index).pairwise_masks(keys[low], low, public, high, len(TENSORS))
        found |= {mask.key.reveal() for mask in masks}
    return found


def wiretap(network):
    return Wiretap(
        session=SESSION, sent=[(client, payload) for way, client, payload in network.transcript if way == "up"]
    )


def public_keys(network):
    """All X25519 keys on the wire."""
    adverts = [wiretap(network).advert(n) for n in NUMBERS]
    return {key for advert in adverts for key in (advert.channel_key, *advert.mask_keys)}


def derivable(known, publics):
    """Whatever the protocol's functions make of these secrets, in the context of any sum, client and pair."""
    keys = {secret for secret in known if len(secret) == 32}
    shared = {Secret(key).agree(public) for key in keys for public in publics}
    found = set(known) | shared
    for index in SUMS:
        for key in keys:
            for n in NUMBERS:
                place = (SESSION.transcript, index, n)
                found |= {derive(key, label, *place) for label in (Label.SELF_SEED, Label.MASK_KEY)}
                found |= set(polynomial_seeds(index, n, Secret(key)))
                found |= {mask.key.reveal() for mask in where(index).self_masks(Secret(key), n, len(TENSORS))}
    for secret in shared:
        for low, high in combinations(NUMBERS, 2):
            found |= {derive(secret, Label.CHANNEL, SESSION.transcript, *pair) for pair in ((low, high), (high, low))}
            found |= {
                derive(secret, Label.PAIRWISE_MASK, *bound(index), m, low, high) for index in SUMS for m in TENSORS
            }
    return found


def bound(index):
    context = where(index)
    return context.transcript, context.participants, context.sum_index, context.link


@pytest.fixture(scope="module")
def recorded():
    return run()


@pytest.mark.parametrize("opened", SUMS)
def test_nothing_of_another_sum_follows_from_all_secrets_of_one(recorded, opened):
    network, roots, channels = recorded
    known = secrets_of_sum(roots, opened)
    # Of the opened sum's secrets, only those that are keys can go further; AES keys and shares are the chain's ends.
    starts = {secret for n in NUMBERS for secret in starting_points(roots[n, opened], opened, n)}
    assert starts <= known
    reached = derivable(starts, public_keys(network)) | known
    assert known <= reached
    for other in set(SUMS) - {opened}:
        assert not reached & secrets_of_sum(roots, other)
    assert not reached & {channel.reveal() for channel in channels.values()}


def starting_points(root, index, n):
    opened = dealing.sum_secrets(SESSION, index, n, root)
    return root.reveal(), opened.self_seed.reveal(), opened.mask_key.reveal()


def test_control_one_mask_key_for_all_sums_is_found_by_the_same_search(monkeypatch):
    monkeypatch.setattr(dealing, "sum_secrets", one_key_for_all_sums)
    network, roots, _ = run()
    starts = {secret for n in NUMBERS for secret in starting_points(roots[n, 1], 1, n)}
    reached = derivable(starts, public_keys(network))
    pairwise = where(0).pairwise_masks(
        dealing.sum_secrets(SESSION, 0, 1, roots[1, 0]).mask_key, 1, wiretap(network).advert(2).mask_keys[0], 2, 1
    )
    assert pairwise[0].key.reveal() in reached


# The attack itself, by the server, from the messages alone.


def attack(network, index):
    """Open the dropped client's mask key of sum 1, and with it its upload to another sum."""
    tap = wiretap(network)
    key, seed = tap.opened(DROPPED, 1, ShareKind.MASK_KEY), tap.opened(DROPPED, index, ShareKind.SELF_SEED)
    return tap.stripped(DROPPED, index, key=key, seed=seed)


def plain(network, index):
    return list(network.expected(index, (DROPPED,)).values())


@pytest.mark.parametrize("index", [0, 2])
def test_mask_key_opened_in_one_sum_does_not_open_the_clients_other_uploads(recorded, index):
    network, _, _ = recorded
    found, wanted = attack(network, index), plain(network, index)
    assert not {value for values in found for value in values} & {value for values in wanted for value in values}


@pytest.mark.parametrize("index", [0, 2])
def test_control_attack_opens_them_where_one_mask_key_serves_all_sums(monkeypatch, index):
    monkeypatch.setattr(dealing, "sum_secrets", one_key_for_all_sums)
    network, _, _ = run()
    assert attack(network, index) == plain(network, index)
