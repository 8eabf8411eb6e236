"""What the server of a real session sees of a case: the protocol's own clients, server and masks, in one process.

Nothing here stands in for the protocol: masks come from its key schedule and the operating system's randomness, so no
two runs have the same ones.
"""

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

import numpy as np

from collabsecure.attacks.case import Shown
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
    def of(cls, shown: Shown, *, num_clients: int | None = None, scheme: Scheme | None = None) -> "Parties":
        """Fresh ones for the statistics of a case: one sum a layer, in the narrowest ranges that hold them all.

        An operator does not know such ranges and takes wider ones, which costs precision and changes nothing else.
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
            ranges=_ranges(shown),
            bits=48 if scheme is None else best_bits(scheme, number),
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
        seen: Mapping[int, list[bytearray]],
        *,
        drops: Sequence[Drop] = (),
        ledgers: Mapping[int, Ledger] | None = None,
    ) -> SecureSummation:
        """The session, run once; each client's masked input is kept in `seen`."""
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
            seen=lambda client, message: seen[client].append(message),
        )


def aggregated(shown: Shown, *, scheme: Scheme | None = None, colluders: Sequence[int] = ()) -> AggregatorState:
    """All that the aggregator has at the end of a session that sums a case's layers; it keeps everything.

    With a scheme, masked input is encrypted and the sum is the key holder's, not the aggregator's. At least three
    clients.

    Raises:
        EncryptionUnavailable: TenSEAL is not installed.
    """
    parties = Parties.of(shown, scheme=scheme)
    seen: dict[int, list[bytearray]] = {client: [] for client in shown.uploads}
    summation, link = parties.summation(seen), FIRST_LINK
    summed: dict[int, Statistics] = {}
    survivors: tuple[int, ...] = ()
    for index, layer in enumerate(sorted(shown.public.layers)):
        found = summation.sum(index, {client: {layer: own[layer]} for client, own in shown.uploads.items()}, link=link)
        summed |= found.layers
        survivors = found.survivors
        link = next_link(link, [delta_digest(layer, shown.deltas[layer])] if shown.deltas else [])
    told = {client: shown.uploads[client] for client in colluders}
    kind = MaskedUpload if scheme is None else EncryptedUpload
    return AggregatorState(
        uploads={
            client: replace(kind.read(parties.session, messages), colluders=told) for client, messages in seen.items()
        },
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
    seen: dict[int, list[bytearray]] = {number: [] for number in numbers}
    summation = parties.summation(seen, drops=drops)
    spec = parties.session.sums[0]
    layer = layer_of(spec.tensors[0].name)
    with suppress(SumAborted):
        summation.sum(0, {client: {layer: statistics}}, link=FIRST_LINK)
    kind = MaskedUpload if parties.key_pair is None else EncryptedUpload
    return kind.read(parties.session, seen[client])


def retried(shown: Shown, without: int, *, remember: bool = True) -> TwoSums:
    """Sum a case's first layer over all clients, then, in a new session, the same edits without one of them.

    At least four clients, for a sum is of three or more. `remember` is whether clients keep their ledgers, as every
    client does; without them this is what the server gets.

    Raises:
        PolicyRefusal: clients remember that their edits were summed before, and send nothing (secagg.md V34).
    """
    layer = min(shown.public.layers)
    uploads = {client: {layer: own[layer]} for client, own in shown.uploads.items()}
    seen: dict[int, list[bytearray]] = {client: [] for client in shown.uploads}
    first = Parties.of(shown)
    summation = first.summation(seen)
    before = summation.sum(0, uploads, link=FIRST_LINK)
    second = replace(first, session=replace(first.session, session_id=os.urandom(32)))
    again = second.summation(
        seen,
        drops=[Drop(client=without, phase=ServerState.SHARE_KEYS)],
        ledgers=summation.ledgers if remember else None,
    ).sum(0, uploads, link=FIRST_LINK)
    return TwoSums(
        first=SumOnly(layers=before.layers, survivors=before.survivors),
        second=SumOnly(layers=again.layers, survivors=again.survivors),
    )


def _ranges(shown: Shown) -> Ranges:
    """Powers of two above all that anybody contributes to any layer."""
    peak = residual = 2.0**-500  # where there are no values, cross terms are 0
    for own in shown.uploads.values():
        for layer, statistics in own.items():
            variance = shown.public.layers[layer].second_moment.diagonal()
            peak = max(peak, float((statistics.gram.diagonal() / variance).max()))
            residual = max(residual, float((np.abs(statistics.cross) / np.sqrt(variance)).max()))
    peak = 2.0 ** np.ceil(np.log2(peak))
    # The Gram matrix's bound is 2·peak, the cross term's residual·√(2·peak); scales are within √2 of 1/√C.
    residual = 2.0 ** np.ceil(np.log2(2 * residual / np.sqrt(2 * peak)))
    return Ranges(max_edits=1, residual=residual, key_peak=peak, key_mean=peak)
