"""What the server opens once a survivor set is confirmed: secrets from shares, and the masks to take off the sum.

Each secret is held against what its owner committed to, so that a sum is exact or is none (secagg.md P2).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .dealing import seed_commitment
from .errors import ClientId, RemoteProtocolError
from .keys import Secret, public_of
from .masks import Mask, MaskContext
from .messages import AdvertiseKeys
from .session import Session
from .shamir import combine, weights_at_zero


@dataclass(frozen=True, slots=True, kw_only=True)
class SumView:
    """Who took part in one sum, as the server sees it."""

    session: Session
    sum_index: int
    link: bytes
    participants: tuple[int, ...]  # U2
    participants_bitmap: bytes
    survivors: tuple[int, ...]  # U3
    neighbors: Mapping[int, tuple[int, ...]]  # in this sum

    def surviving_neighbors(self, client_id: int) -> tuple[int, ...]:
        """Neighbours whose masked input is in the sum."""
        alive = set(self.survivors)
        return tuple(peer for peer in self.neighbors[client_id] if peer in alive)

    def dealers(self) -> tuple[int, ...]:
        """Whose secret must be opened: survivors, and the dropped whose pairwise masks are in the sum."""
        alive = set(self.survivors)
        return tuple(client for client in self.participants if client in alive or self.surviving_neighbors(client))


def open_secrets(
    view: SumView, adverts: Mapping[int, AdvertiseKeys], revealed: Mapping[int, Mapping[int, bytes]]
) -> dict[int, Secret]:
    """Each dealer's self-mask seed or mask key, from the first `threshold` of its shares.

    Raises:
        RemoteProtocolError: a dealer's shares, though each is as it dealt it, do not give the secret that it committed
            to (V28); the dealer is the culprit.

    """
    weights: dict[tuple[int, ...], list[int]] = {}
    secrets = {}
    alive = set(view.survivors)
    for dealer in view.dealers():
        shares = revealed[dealer]
        holders = tuple(sorted(shares)[: view.session.threshold])
        if holders not in weights:
            weights[holders] = weights_at_zero(holders)
        secret = combine([shares[holder] for holder in holders], weights[holders])
        advert = adverts[dealer]
        if secret is None:
            genuine = False
        elif dealer in alive:
            commitment = seed_commitment(view.session, view.sum_index, dealer, secret)
            genuine = commitment == advert.seed_commitments[view.sum_index]
        else:
            genuine = public_of(secret) == advert.mask_keys[view.sum_index]
        if secret is None or not genuine:
            raise RemoteProtocolError(
                f"the shares of client {dealer} do not give the secret that it committed to",
                check="V28",
                culprits=(ClientId(dealer),),
            )
        secrets[dealer] = Secret(secret)
    return secrets


def masks_to_remove(
    view: SumView, adverts: Mapping[int, AdvertiseKeys], secrets: Mapping[int, Secret]
) -> list[list[Mask]]:
    """By tensor, the masks whose addition leaves the plain sum."""
    binding = MaskContext(
        transcript=view.session.transcript,
        participants=view.participants_bitmap,
        sum_index=view.sum_index,
        link=view.link,
    )
    num_tensors = len(view.session.sums[view.sum_index].tensors)
    lists: list[Sequence[Mask]] = []
    alive = set(view.survivors)
    for dealer, secret in secrets.items():
        if dealer in alive:
            lists.append(binding.self_masks(secret, dealer, num_tensors, remove=True))
            continue
        for peer in view.surviving_neighbors(dealer):
            # As the dropped client would have added it: that cancels what its surviving neighbour did add.
            public = adverts[peer].mask_keys[view.sum_index]
            lists.append(binding.pairwise_masks(secret, dealer, public, peer, num_tensors))
    return [[masks[tensor] for masks in lists] for tensor in range(num_tensors)]
