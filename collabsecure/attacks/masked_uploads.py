"""All that is tried on masked and encrypted uploads themselves, and the controls without which it would prove nothing.

On the protocol's own masks everything must be at chance (`must` is False). On masking as it must not be, the same
adversary must win (`must` is True):

- no masks;
- real Gaussian masks, 1, 10 and 100 times the input: at 100 times, a number says nothing, and all of them together do;
- a ring mask used twice: what cancels is the mask;
- a ring mask from a short seed: uniform to every test, and gone once the seed is found;
- ciphertexts that are none (`controls_of_encryption`).

`everything` tries all attacks on plain uploads, on uploads as the server has them when the session is over.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from collabsecure.attacks import attribution, membership, seed_search
from collabsecure.attacks.attack import Attack, Figure, Finding, Score, measure
from collabsecure.attacks.case import Case, Shown
from collabsecure.attacks.cases import weak_masking
from collabsecure.attacks.cases.masking import Parties, aggregated, one_upload
from collabsecure.attacks.distinguishing import Game
from collabsecure.attacks.knowledge import Setting
from collabsecure.attacks.uniformity import examine
from collabsecure.attacks.views import AggregatorState, MaskedUpload, PlainUpload, name_of
from collabsecure.statistics import Statistics
from collabsecure_protocols import Session
from collabsecure_protocols.encryption_parameters import Scheme

GAUSSIAN_MASKS = (1, 10, 100)  # times the input's root mean square
_NUM_CLIENTS = 3  # as few as a session can have


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How much is tried."""

    training: int = 30  # rounds of a game with the answer told
    rounds: int = 80  # rounds that count
    seed_bits: int = 16  # of the short seed, all of which are tried


def findings(case: Case, *, seed: int, effort: Effort | None = None, scheme: Scheme | None = None) -> Iterator[Finding]:
    """Games, uniformity and seeds, on the first layer of a case; encrypted, with a scheme.

    In the first game a client contributes nothing or what it has, as in those of `controls`; in the second, nothing or
    the most that a session allows.

    Raises:
        EncryptionUnavailable: TenSEAL is not installed.
    """
    effort = effort or Effort()
    layer = min(case.setting.layers)
    own = case.real.uploads[1][layer]
    parties = Parties.of(case.real, num_clients=_NUM_CLIENTS, scheme=scheme)
    upload = one_upload(parties, own)
    yield examine(upload, {layer: own}, view=name_of(upload), setting=case.setting, must=False)
    nothing, most = _extremes(parties.session, own)
    for inputs, which in (((nothing, own), ""), ((nothing, most), ": nothing or all that is allowed")):
        yield _game(case, inputs, effort).play(
            lambda chosen: one_upload(parties, chosen),
            view=f"{name_of(upload)}{which}",
            setting=case.setting,
            seed=seed,
            must=False,
        )
    if isinstance(upload, MaskedUpload):
        yield _search(upload, effort.seed_bits, view="masked", setting=case.setting, must=False)


def everything(
    case: Case, attacks: Iterable[Attack[Any]], *, seed: int, scheme: Scheme | None = None
) -> Iterator[Finding]:
    """Those of the attacks that are for plain uploads, on the first client's masked or encrypted one, taken for plain.

    Raises:
        EncryptionUnavailable: TenSEAL is not installed.
    """
    uploads = {shown: aggregated(shown, scheme=scheme).uploads[1] for shown in (case.real, case.null)}
    taken_for_plain = {shown: PlainUpload(layers=upload.layers) for shown, upload in uploads.items()}
    own = _of_the_first_client(case)
    for attack in attacks:
        if PlainUpload in attack.accepts:
            finding = measure(attack, name_of(uploads[case.real]), own, taken_for_plain.__getitem__, seed=seed)
            yield replace(finding, must=None if finding.score.figures[0].chance is None else False)


def controls(case: Case, *, seed: int, effort: Effort | None = None) -> Iterator[Finding]:
    """The same adversary against masking as it must not be."""
    effort = effort or Effort()
    layer = min(case.setting.layers)
    own, setting, rng = case.real.uploads[1][layer], case.setting, np.random.default_rng(seed)
    parties = Parties.of(case.real, num_clients=_NUM_CLIENTS)
    nothing, _ = _extremes(parties.session, own)
    game = _game(case, (nothing, own), effort)
    bare = weak_masking.unmasked(parties, own)
    yield examine(bare, {layer: own}, view="control: no masks", setting=setting, must=True)
    yield game.play(
        lambda chosen: weak_masking.unmasked(parties, chosen),
        view="control: no masks",
        setting=setting,
        seed=seed,
        must=True,
    )
    yield from _opened(case, seed=seed)
    for times in GAUSSIAN_MASKS:

        def noisy(chosen: Statistics, times: int = times) -> PlainUpload:
            return weak_masking.gaussian(parties, chosen, times=times, signal=own, rng=rng)

        yield game.play(
            noisy, view=f"control: Gaussian masks, {times} × the input", setting=setting, seed=seed, must=True
        )
    yield game.play(
        lambda chosen: weak_masking.used_twice(parties, chosen, earlier=own),
        view="control: a mask used twice",
        setting=setting,
        seed=seed,
        must=True,
    )
    short = weak_masking.from_seed(parties, own, seed=int(rng.integers(1 << effort.seed_bits)))
    name = f"control: a mask from a {effort.seed_bits}-bit seed"
    yield examine(short, {layer: own}, view=name, setting=setting)
    yield _search(short, effort.seed_bits, view=name, setting=setting, must=True)


def _of_the_first_client(case: Case) -> Case:
    """Whose upload is attacked: the others' edits are not in it, and would hide that all of the first's are found."""
    return replace(case, truth=case.truth.of_client(1))


def _opened(case: Case, *, seed: int) -> Iterator[Finding]:
    """What finds edits in uploads, and whose they are, on uploads without masks."""
    layer = min(case.setting.layers)

    def every(shown: Shown) -> AggregatorState:
        parties = Parties.of(shown, num_clients=_NUM_CLIENTS)
        return AggregatorState(
            uploads={client: weak_masking.unmasked(parties, own[layer]) for client, own in shown.uploads.items()}
        )

    def first(shown: Shown) -> PlainUpload:
        return PlainUpload(layers=every(shown).uploads[1].layers)

    name = "control: no masks"
    yield measure(membership.ATTACK, name, _of_the_first_client(case), first, seed=seed, must=True)
    yield measure(attribution.ATTACK, name, case, every, seed=seed, must=True)


def controls_of_encryption(case: Case, *, seed: int, scheme: Scheme, effort: Effort | None = None) -> Iterator[Finding]:
    """The same adversary against ciphertexts in which a client's integers stand as they are.

    Raises:
        EncryptionUnavailable: TenSEAL is not installed.
    """
    effort = effort or Effort()
    layer = min(case.setting.layers)
    own, setting, rng = case.real.uploads[1][layer], case.setting, np.random.default_rng(seed)
    parties = Parties.of(case.real, num_clients=_NUM_CLIENTS, scheme=scheme)
    nothing, _ = _extremes(parties.session, own)
    bare = weak_masking.unencrypted(parties, own, rng=rng)
    yield examine(bare, {layer: own}, view="control: no encryption", setting=setting, must=True)
    yield _game(case, (nothing, own), effort).play(
        lambda chosen: weak_masking.unencrypted(parties, chosen, rng=rng),
        view="control: no encryption",
        setting=setting,
        seed=seed,
        must=True,
    )


def _game(case: Case, inputs: tuple[Statistics, Statistics], effort: Effort) -> Game:
    layer = min(case.setting.layers)
    return Game(
        layer=layer,
        public=case.real.public.layers[layer],
        inputs=inputs,
        training=effort.training,
        rounds=effort.rounds,
    )


def _extremes(session: Session, like: Statistics) -> tuple[Statistics, Statistics]:
    """No edits at all, and the largest value that the session allows in every entry."""
    of_gram, of_cross = session.sums[0].tensors
    scale = np.ldexp(1.0, -np.array(of_gram.row_exponents))
    nothing = Statistics(gram=np.zeros_like(like.gram), cross=np.zeros_like(like.cross))
    most = Statistics(
        gram=of_gram.bound * scale * scale[:, None],
        cross=np.broadcast_to(of_cross.bound * scale, like.cross.shape).copy(),
    )
    return nothing, most


def _search(upload: MaskedUpload, bits: int, *, view: str, setting: Setting, must: bool) -> Finding:
    search = seed_search.find_seed(upload, seed_bits=bits)
    found = search.seed is not None
    says = (
        f"found in {search.seconds:.2g} s among {2**bits}; 28 bits would take {search.hours_for(28):.2g} h on one core"
        if found
        else f"none of {search.tried} seeds explains the numbers"
    )
    return Finding(
        attack=seed_search.NAME,
        view=view,
        setting=setting,
        score=Score(
            figures=(
                Figure(name="seeds found", value=float(found), error=0.0, chance=0.0),
                Figure(name="hours for 28 bits", value=search.hours_for(28)),
            ),
            says=says,
        ),
        must=must,
        seconds=search.seconds,
    )
