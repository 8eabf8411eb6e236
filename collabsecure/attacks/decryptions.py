"""Encrypted sums and their decryptions, in the hands of one party: the key, if decryptions are released as they are.

`ckks_decryptions` has the mathematics; here it is run on this package's own parameters, with and without the rounding
that the key holder does. Clients' integers are random, for the attack needs nothing of them. What it opens here would
still be masked; in frameworks that encrypt updates as they are, it is the updates (tests/test_ckks_decryptions.py has
NVFlare's parameters).
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Float64, UInt64

from collabsecure.attacks.attack import Figure, Finding, Score
from collabsecure.attacks.ckks_decryptions import PublishedSum, open_upload, recover_secret, ternary_fraction
from collabsecure.attacks.knowledge import Setting
from collabsecure_protocols import KeyPair
from collabsecure_protocols.ciphertexts import Adder
from collabsecure_protocols.ckks import Encryptor
from collabsecure_protocols.encryption_parameters import DATA_PRIME, RING_DEGREE, EncryptionParameters
from collabsecure_protocols.seal_forms import Ring

NAME = "decryptions"

_CLIENTS = 3
_PARAMETERS = EncryptionParameters(scheme="ckks", value_bits=20, limbs=1, scale_bits=20)  # float64 holds all noise bits


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Released:
    """Two encrypted sums with what was released of each, and one client's upload to the first."""

    sums: tuple[PublishedSum, PublishedSum]
    upload: UInt64[np.ndarray, "2 degree"]
    integers: Float64[np.ndarray, " slots"] = field(repr=False)  # what is in the upload: to score with

    @property
    def rounded(self) -> "Released":
        """As the key holder releases them."""
        first, second = (replace(one, slots=np.rint(one.slots)) for one in self.sums)
        return replace(self, sums=(first, second))


def released(*, seed: int) -> Released:
    """Two sums under a fresh key, decrypted as CKKS does.

    Raises:
        EncryptionUnavailable: TenSEAL is not installed.
    """
    ring = Ring("ckks")
    encryptor, rng = Encryptor(KeyPair(ring).public, _PARAMETERS), np.random.default_rng(seed)
    values = rng.integers(0, 1 << _PARAMETERS.value_bits, (2, _CLIENTS, _PARAMETERS.capacity), np.uint64)
    payloads = [[encryptor.encrypt(own) for own in of_sum] for of_sum in values]
    first, second = (_sum(ring, of_sum) for of_sum in payloads)
    return Released(
        sums=(first, second),
        upload=np.frombuffer(payloads[0][0], np.uint64).reshape(2, -1),
        integers=values[0, 0].astype(np.float64),
    )


def _sum(ring: Ring, payloads: Sequence[bytes]) -> PublishedSum:
    adder = Adder(_PARAMETERS, _PARAMETERS.capacity)
    for payload in payloads:
        adder.add(payload)
    words = np.frombuffer(adder.total(), np.uint64)
    slots = ring.decrypt_slots(words, _PARAMETERS.scale)
    return PublishedSum(ciphertext=words.reshape(2, -1), slots=slots, scale=_PARAMETERS.scale, prime=DATA_PRIME)


def findings(*, seed: int) -> Iterator[Finding]:
    """The attack on decryptions as they are, where it must succeed, and on rounded ones, where it must not.

    Raises:
        EncryptionUnavailable: TenSEAL is not installed.
    """
    view = released(seed=seed)
    for what, given, must in (
        ("control: unrounded decryptions", view, True),
        ("rounded decryptions, as released", view.rounded, False),
    ):
        start = time.monotonic()
        secret = recover_secret(*given.sums)
        ternary = ternary_fraction(secret)
        found = open_upload(secret, given.upload, scale=_PARAMETERS.scale, prime=DATA_PRIME)
        modulus = 1 << _PARAMETERS.value_bits
        opened = float(np.mean(np.rint(found) % modulus == given.integers))
        yield Finding(
            attack=NAME,
            view=what,
            setting=Setting(
                keys="random integers",
                layers=(),
                d_in=RING_DEGREE,
                d_out=0,
                num_clients=_CLIENTS,
                edits_per_client=0,
                note="no edits: ciphertexts under the package's ring",
            ),
            score=Score(
                figures=(
                    Figure(name="secret keys found", value=float(ternary == 1.0), error=0.0, chance=0.0),
                    Figure(name="share of an upload opened", value=opened),
                ),
                says=f"{ternary:.0%} of the candidate for the key is −1, 0 or 1",
            ),
            must=must,
            seconds=time.monotonic() - start,
        )
