"""A sum's secrets and their shares: what a client derives, deals to its neighbours and opens from them, purely.

From one random 32-byte secret per sum come that sum's mask key pair, self-mask seed and sharing polynomials, all
independent of every other sum's: opening one sum's secrets says nothing about another's (secagg.md P5).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from .keys import Label, Secret, context, derive, digest, public_of
from .messages import AdvertiseKeys, SealedShares, ShareKind
from .session import Session
from .shamir import SHARE_BYTES, is_element, split


@dataclass(frozen=True, slots=True, kw_only=True)
class SumSecrets:
    """One client's two secrets of one sum."""

    self_seed: Secret
    mask_key: Secret  # X25519 private key


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldShares:
    """One dealer's two shares, as one holder holds them."""

    self_seed: bytes = field(repr=False)
    mask_key: bytes = field(repr=False)


def sum_secrets(session: Session, sum_index: int, owner: int, secret: Secret) -> SumSecrets:
    """What a sum's random secret stands for.

    Bound to session, sum and owner, so that a randomness source that repeats itself (a virtual machine put back to an
    earlier snapshot) does not show in one session what another keeps.
    """
    where = (session.transcript, sum_index, owner)
    return SumSecrets(
        self_seed=Secret(derive(secret.reveal(), Label.SELF_SEED, *where)),
        mask_key=Secret(derive(secret.reveal(), Label.MASK_KEY, *where)),
    )


def seed_commitment(session: Session, sum_index: int, owner: int, seed: bytes) -> bytes:
    """Binds a client to its self-mask seed; hides it, since the seed is uniform."""
    return digest(Label.SEED_COMMITMENT, session.transcript, sum_index, owner, seed)


def share_commitment(
    session: Session, sum_index: int, dealer: int, holder: int, kind: ShareKind, share: bytes
) -> bytes:
    """Binds a dealer to one share, so that a holder who returns another is known for it."""
    return digest(Label.SHARE_COMMITMENT, session.transcript, sum_index, dealer, holder, kind, share)


def advertise(session: Session, owner: int, channel: Secret, secrets: Iterable[Secret]) -> AdvertiseKeys:
    """The public halves."""
    opened = [sum_secrets(session, number, owner, secret) for number, secret in enumerate(secrets)]
    return AdvertiseKeys(
        channel_key=public_of(channel.reveal()),
        mask_keys=tuple(public_of(each.mask_key.reveal()) for each in opened),
        seed_commitments=tuple(
            seed_commitment(session, number, owner, each.self_seed.reveal()) for number, each in enumerate(opened)
        ),
    )


def channel_ciphers(
    session: Session, channel: Secret, owner: int, peer: int, peer_key: bytes
) -> "ChannelCiphers | None":
    """The two directions' ciphers between two clients, or None where the peer's key is of low order (V10)."""
    shared = channel.agree(peer_key)
    if shared is None:
        return None
    outgoing, incoming = (
        ChaCha20Poly1305(derive(shared, Label.CHANNEL, session.transcript, sender, receiver))
        for sender, receiver in ((owner, peer), (peer, owner))
    )
    return ChannelCiphers(outgoing=outgoing, incoming=incoming)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelCiphers:
    """AEADs with a key per direction; the nonce is the sum's index, used once."""

    outgoing: ChaCha20Poly1305 = field(repr=False)
    incoming: ChaCha20Poly1305 = field(repr=False)


def deal(
    session: Session,
    sum_index: int,
    owner: int,
    secret: Secret,
    holders: Sequence[int],
    channels: dict[int, ChannelCiphers],
) -> tuple[list[SealedShares], HeldShares]:
    """The owner's shares of one sum, sealed for each holder in order, and its own pair."""
    opened, where = sum_secrets(session, sum_index, owner, secret), (session.transcript, sum_index, owner)
    seeds, keys = (
        split(value.reveal(), session.threshold, holders, derive(secret.reveal(), Label.POLYNOMIAL, *where, kind))
        for value, kind in ((opened.self_seed, ShareKind.SELF_SEED), (opened.mask_key, ShareKind.MASK_KEY))
    )
    sealed = []
    for holder in holders:
        commitments = (
            share_commitment(session, sum_index, owner, holder, ShareKind.SELF_SEED, seeds[holder]),
            share_commitment(session, sum_index, owner, holder, ShareKind.MASK_KEY, keys[holder]),
        )
        ciphertext = b""
        if holder != owner:
            data = _share_data(session, sum_index, owner, holder, *commitments)
            ciphertext = channels[holder].outgoing.encrypt(_nonce(sum_index), seeds[holder] + keys[holder], data)
        sealed.append(
            SealedShares(seed_commitment=commitments[0], key_commitment=commitments[1], ciphertext=ciphertext)
        )
    return sealed, HeldShares(self_seed=seeds[owner], mask_key=keys[owner])


def open_shares(
    session: Session, sum_index: int, dealer: int, holder: int, sealed: SealedShares, channel: ChannelCiphers
) -> HeldShares | None:
    """The holder's pair, or None where it does not decrypt or does not match its commitments (V14)."""
    data = _share_data(session, sum_index, dealer, holder, sealed.seed_commitment, sealed.key_commitment)
    try:
        plain = channel.incoming.decrypt(_nonce(sum_index), sealed.ciphertext, data)
    except InvalidTag:
        return None
    pair = HeldShares(self_seed=plain[:SHARE_BYTES], mask_key=plain[SHARE_BYTES:])
    for kind, share, commitment in (
        (ShareKind.SELF_SEED, pair.self_seed, sealed.seed_commitment),
        (ShareKind.MASK_KEY, pair.mask_key, sealed.key_commitment),
    ):
        if not is_element(share) or share_commitment(session, sum_index, dealer, holder, kind, share) != commitment:
            return None
    return pair


def _share_data(session: Session, sum_index: int, dealer: int, holder: int, *commitments: bytes) -> bytes:
    return context(Label.SHARE_DATA, session.transcript, sum_index, dealer, holder, *commitments)


def _nonce(sum_index: int) -> bytes:
    return sum_index.to_bytes(12, "big")
