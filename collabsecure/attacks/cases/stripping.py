"""The masks that a server can take off one client's upload: what is left on it is what hides the client.

After a sum is unmasked the server knows every survivor's self mask: clients opened its seed, to have it taken off the
sum. A client that colludes tells it the masks that it shares with others. What stays is the pairwise masks between
clients that do not collude; one of them is enough.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from collabsecure.attacks.views import MaskedUpload
from collabsecure_protocols.client_state import ClientData
from collabsecure_protocols.dealing import SumSecrets, sum_secrets
from collabsecure_protocols.graph import neighbors_of
from collabsecure_protocols.keys import public_of
from collabsecure_protocols.masks import Mask, MaskContext, MaskScratch, apply_masks
from collabsecure_protocols.session import Session
from collabsecure_protocols.wire import write_bitmap


def stripped(
    upload: MaskedUpload, client: int, states: Mapping[tuple[int, int], ClientData], colluders: Sequence[int]
) -> MaskedUpload:
    """A client's upload without its self masks, and without the masks that it shares with colluding clients.

    `states` has what each client knew while it contributed to each sum, by client and sum.
    """
    session, words, scratch = upload.session, {}, MaskScratch()
    for index, spec in enumerate(session.sums):
        if (client, index) not in states:
            continue
        masks = _known_masks(session, index, client, states, colluders)
        for tensor, known in zip(spec.tensors, masks, strict=True):
            bare = upload.words[tensor.name].copy()
            apply_masks(bare, 0, known, scratch)
            words[tensor.name] = bare & np.uint64((1 << tensor.bits) - 1)
    return replace(upload, words={**upload.words, **words})


def _known_masks(
    session: Session,
    index: int,
    client: int,
    states: Mapping[tuple[int, int], ClientData],
    colluders: Sequence[int],
) -> list[list[Mask]]:
    """By tensor, the masks whose addition takes known ones off."""
    own = states[client, index]
    binding = MaskContext(
        transcript=session.transcript,
        participants=write_bitmap(own.participants, session.num_clients),
        sum_index=index,
        link=own.link,
    )
    num_tensors = len(session.sums[index].tensors)
    secrets = _secrets(session, index, client, own)
    lists = [binding.self_masks(secrets.self_seed, client, num_tensors, remove=True)]
    public = public_of(secrets.mask_key.reveal())
    for peer in neighbors_of(session, index, client):
        if peer in colluders and (peer, index) in states:
            theirs = _secrets(session, index, peer, states[peer, index]).mask_key
            # As the peer adds it, which is what cancels the client's.
            lists.append(binding.pairwise_masks(theirs, peer, public, client, num_tensors))
    return [[masks[tensor] for masks in lists] for tensor in range(num_tensors)]


def _secrets(session: Session, index: int, client: int, state: ClientData) -> SumSecrets:
    secret = state.sum_secrets[index]
    if secret is None:
        raise ValueError(f"client {client}'s state is of after sum {index}; expected one from while it contributed")
    return sum_secrets(session, index, client, secret)
