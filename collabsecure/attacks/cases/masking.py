"""What the server of a real session sees of a case: the protocol's own clients, server and masks, in one process.

Nothing here stands in for the protocol: masks come from its key schedule and the operating system's randomness, so no
two runs have the same ones.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

import numpy as np

from collabsecure.attacks.case import Shown
from collabsecure.attacks.cases.stripping import stripped
from collabsecure.attacks.views import (
    AggregatorState,
    EncryptedUpload,
    MaskedUpload,
    SumOnly,
    TwoSums,
)
from collabsecure.errors import SumAborted
from collabsecure.links import FIRST_LINK, delta_digest, next_link
from collabsecure.secure_summation import Drop, SecureSummation
from collabsecure.sessions import Encryption, Ranges, best_bits, editing_session, layer_of
from collabsecure.statistics import Statistics
from collabsecure_protocols import Identity, KeyHolder, KeyPair, Ledger, Policy, ServerState, Session
from collabsecure_protocols.client_state import ClientData
from collabsecure_protocols.encryption_parameters import Scheme


@dataclass(frozen=True, slots=True, kw_only=True)
class Parties:
    """A session's descriptor and everybody's keys.

    Raises:
        EncryptionUnavailable: from `of`, with a scheme, where TenSEAL is not installed.
    """

    session: Session = field(repr=False)
    identities: tuple[Identity, ...] = field(repr=False)
    server: Identity = field(repr=False)
    holder: Identity | None = field(repr=False, default=None)
    key_pair: KeyPair | None = field(repr=False, default=None)

    @classmethod
    def of(
        cls,
        shown: Shown,
        *,
        num_clients: int | None = None,
        scheme: Scheme | None = None,
        bits: int | None = None,
        margin: float = 1.0,
    ) -> "Parties":
        """Fresh ones for the statistics of a case: one sum a layer, in ranges `margin` times as wide as it takes.

        An operator does not know the narrowest ranges, and takes wider ones. `bits` of a masked integer are 48, or what
        fits a ciphertext, where not said.
        """
        number = len(shown.uploads) if num_clients is None else num_clients
        identities = tuple(Identity.generate(os.urandom) for _ in range(number))
        server, holder = Identity.generate(os.urandom), Identity.generate(os.urandom)
        key_pair = None if scheme is None else KeyPair.generate(scheme)
        encryption = None
        if key_pair is not None:
            encryption = Encryption(scheme=key_pair.public.scheme, holder=holder.public, key=key_pair.public.encode())
        session = editing_session(
            session_id=os.urandom(32),
            task="an edit to attack",
            roster=[identity.public for identity in identities],
            server_key=server.public,
            second_moments={layer: known.second_moment for layer, known in shown.public.layers.items()},
            weight=1.0,
            d_out=next(iter(next(iter(shown.uploads.values())).values())).cross.shape[0],
            ranges=_ranges(shown, margin),
            bits=bits or (48 if scheme is None else best_bits(scheme, number)),
            encryption=encryption,
        )
        return cls(
            session=session,
            identities=identities,
            server=server,
            holder=None if key_pair is None else holder,
            key_pair=key_pair,
        )

    def summation(
        self,
        seen: Callable[[int, bytearray], None],
        *,
        drops: Sequence[Drop] = (),
        ledgers: Mapping[int, Ledger] | None = None,
    ) -> SecureSummation:
        """The session, to be run once; `seen` is shown each message of a client's masked input: (client, message)."""
        holder = None
        if self.holder is not None and self.key_pair is not None:
            holder = KeyHolder(self.session, self.holder, self.key_pair)
        return SecureSummation(
            self.session,
            self.identities,
            self.server,
            policy=Policy(),
            drops=drops,
            key_holder=holder,
            ledgers=ledgers,
            seen=seen,
        )


def aggregated(
    shown: Shown,
    *,
    scheme: Scheme | None = None,
    colluders: Sequence[int] = (),
    bits: int | None = None,
    margin: float = 1.0,
) -> AggregatorState:
    """All that the aggregator has at the end of a session that sums a case's layers; it keeps everything.

    From masked uploads it has taken what masks it can: self masks, which clients have opened, and those that colluding
    clients share with others. With a scheme, masked input is encrypted, no mask can be taken off, and the sum is the
    key holder's, not the aggregator's. At least three clients; `bits` and `margin` as for `Parties.of`.

    Raises:
        EncryptionUnavailable: TenSEAL is not installed.
    """
    parties = Parties.of(shown, scheme=scheme, bits=bits, margin=margin)
    session, link = parties.session, FIRST_LINK
    messages: dict[int, list[bytearray]] = {client: [] for client in shown.uploads}
    states: dict[tuple[int, int], ClientData] = {}  # client and sum → what it knew while it contributed

    def seen(client: int, message: bytearray) -> None:
        messages[client].append(message)
        if (client, index) not in states:
            public = parties.identities[client - 1].public
            states[client, index] = ClientData.decode(summation.saved(client), session, public)

    summation = parties.summation(seen)
    summed: dict[int, Statistics] = {}
    survivors: tuple[int, ...] = ()
    for index, layer in enumerate(sorted(shown.public.layers)):
        found = summation.sum(index, {client: {layer: own[layer]} for client, own in shown.uploads.items()}, link=link)
        summed |= found.layers
        survivors = found.survivors
        link = next_link(link, [delta_digest(layer, shown.deltas[layer])] if shown.deltas else [])
    told = {client: shown.uploads[client] for client in colluders}
    uploads: dict[int, MaskedUpload | EncryptedUpload] = {}
    for client, sent in messages.items():
        if scheme is None:
            bare = stripped(MaskedUpload.read(session, sent), client, states, colluders)
            uploads[client] = replace(bare, colluders=told)
        else:
            uploads[client] = replace(EncryptedUpload.read(session, sent), colluders=told)
    return AggregatorState(
        uploads=uploads,
        summed=SumOnly(layers=summed, survivors=survivors, colluders=told) if scheme is None else None,
        published=shown.published(colluders=colluders) if shown.deltas else None,
        colluders=told,
    )


def one_upload(parties: Parties, statistics: Statistics, *, client: int = 1) -> MaskedUpload | EncryptedUpload:
    """What a client sends to its first sum, masked anew at every call.

    The others fall silent once keys are shared: what the server has from this client, it has before it has theirs.
    """
    numbers = range(1, len(parties.identities) + 1)
    drops = [Drop(client=other, phase=ServerState.MASKED_INPUT) for other in numbers if other != client]
    messages: list[bytearray] = []
    summation = parties.summation(lambda _, message: messages.append(message), drops=drops)
    spec = parties.session.sums[0]
    layer = layer_of(spec.tensors[0].name)
    with suppress(SumAborted):
        summation.sum(0, {client: {layer: statistics}}, link=FIRST_LINK)
    kind = MaskedUpload if parties.key_pair is None else EncryptedUpload
    return kind.read(parties.session, messages)


def retried(shown: Shown, without: int, *, remember: bool = True) -> TwoSums:
    """Sum a case's first layer over all clients, then, in a new session, the same edits without one of them.

    At least four clients, for a sum is of three or more. `remember` is whether clients keep their ledgers, as every
    client does; without them this is what the server gets.

    Raises:
        PolicyRefusal: clients remember that their edits were summed before, and send nothing (secagg.md V34).
    """
    layer = min(shown.public.layers)
    uploads = {client: {layer: own[layer]} for client, own in shown.uploads.items()}
    first = Parties.of(shown)
    summation = first.summation(_unseen)
    before = summation.sum(0, uploads, link=FIRST_LINK)
    second = replace(first, session=replace(first.session, session_id=os.urandom(32)))
    again = second.summation(
        _unseen,
        drops=[Drop(client=without, phase=ServerState.SHARE_KEYS)],
        ledgers=summation.ledgers if remember else None,
    ).sum(0, uploads, link=FIRST_LINK)
    return TwoSums(
        first=SumOnly(layers=before.layers, survivors=before.survivors),
        second=SumOnly(layers=again.layers, survivors=again.survivors),
    )


def _unseen(_client: int, _message: bytearray) -> None:
    """What travels is not looked at."""


def _ranges(shown: Shown, margin: float) -> Ranges:
    """Powers of two above all that anybody contributes to any layer, times a margin."""
    peak = residual = 2.0**-500  # where there are no values, cross terms are 0
    for own in shown.uploads.values():
        for layer, statistics in own.items():
            variance = shown.public.layers[layer].second_moment.diagonal()
            peak = max(peak, float((statistics.gram.diagonal() / variance).max()))
            residual = max(residual, float((np.abs(statistics.cross) / np.sqrt(variance)).max()))
    peak = margin * 2.0 ** np.ceil(np.log2(peak))
    # The Gram matrix's bound is 2·peak, the cross term's residual·√(2·peak); scales are within √2 of 1/√C.
    residual = margin * 2.0 ** np.ceil(np.log2(2 * residual / np.sqrt(2 * peak)))
    return Ranges(max_edits=1, residual=residual, key_peak=peak, key_mean=peak)
