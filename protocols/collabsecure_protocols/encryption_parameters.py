"""How masked integers are packed into RLWE ciphertexts, and the proof that their sum comes out exact.

Nothing here needs TenSEAL, and nothing is chosen by hand: both sides derive the same parameters from the scheme, the
number of clients and the ring's bits.

*What is encrypted.* A masked integer y in [0, 2^k), which the self mask makes uniform and independent of every other
(secagg.md, "Key schedule"). It is cut into limbs; each limb has a slot of its own in a polynomial of N coefficients mod
a prime q. Addition is all that is ever done, so one data prime q of 60 bits and one special prime p of 17 are enough:
SEAL encrypts mod q·p and divides by p, which leaves little more noise than that of rounding.

- **bfv**: a limb m stands in one coefficient as round(q·m/2^t). With one limb, t = k: the sum comes out mod 2^k by
  itself. With more, t has ⌈log2 n⌉ bits above a limb, since a lower limb's carry counts.
- **ckks**: TenSEAL's encoding, real numbers in N/2 slots of the canonical embedding times a scale; a limb is in
  [−2^(b−1), 2^(b−1)), since uniform values around zero spread over all N coefficients while a mean would stand in one,
  where 30 clients with 38 bits at a scale of 2^18 would leave ±q/2. The scale is q/2^(60−s), not 2^s: should equal
  values make the constant coefficient wrap all the same, slots move by exactly 2^(60−s), and not by a fraction besides
  that is too small to see.

*The proof.* X is sub-Gaussian with proxy v if E exp(λX) ≤ exp(λ²v/2); proxies of independent terms add, and
P(|X| > x) ≤ 2·exp(−x²/2v). Rademachers, and so uniform values (on 2^b points they are Σ ±2^(i−1)), SEAL's centred
binomial errors and its ternary values have their own variance as a proxy. Three events, each of probability below 2^-66
for one key and 2^48 coefficients, so together below 2^-64:

- the secret s is unusual: more than `_MAX_WEIGHT` of its coefficients are not 0 (Hoeffding), or for ckks |s(ζ)|² is
  above `_MAX_EMBEDDING` at some root ζ (a 2-dimensional sub-Gaussian tail, e·y·exp(−y) at y = 59, times N/2 roots);
- noise: e = (e·u + e₁ + e₂s)/p + r₀ + r₁s with r uniform in ±½, summed over n clients, leaves `MARGIN` of a unit;
- ckks alone, range: a coefficient of the sum leaves ±q/2.

That rounding residues r are uniform and independent is what RLWE itself says (they are low parts of pseudo-random
numbers). Floating-point error of the embedding is the one figure that is measured, not proved; see `_FLOAT_BITS`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, get_args

from .errors import InvalidSession
from .tensors import require
from .wire import Malformed, Reader, Writer

Scheme = Literal["ckks", "bfv"]
SCHEMES: tuple[Scheme, ...] = get_args(Scheme)

RING_DEGREE = 4096  # N
COEFFICIENT_BITS = (60, 17)
DATA_PRIME = 2**60 - 2**14 + 1  # q: the largest primes of those bits that are 1 mod 2N, which SEAL takes
SPECIAL_PRIME = 114689  # p
# log2(q·p) at most, for 128 bits of security with ternary secrets (HomomorphicEncryption.org, 2018, table 1)
SECURE_BITS = {2048: 54, 4096: 109, 8192: 218}
MARGIN = Fraction(3, 8)  # of a unit: a decryption that strays further from an integer is refused; ½ would round wrongly

_LN2 = Fraction(6931472, 10**7)  # a little above
_EVENT_BITS = 66  # each event is less likely than 2^-66
_COEFFICIENT_BITS_SEEN = 48  # one key decrypts at most 2^48 coefficients: 2 PB of uploads from each client
_TAIL = 2 * _LN2 * (1 + _EVENT_BITS + _COEFFICIENT_BITS_SEEN)  # x²/v at which the sub-Gaussian tail is that small
_MAX_WEIGHT = 3038  # ≥ 2N/3 + √(N·66·ln 2/2)
_MAX_EMBEDDING = 59 * 2 * Fraction(RING_DEGREE, 3)
_ERROR_PROXY = Fraction(21, 2)  # of SEAL's centred binomial error, 42 coins
_MAX_ERROR = 21
# A slot's error from encoding, or from decoding, relative to the largest magnitude. Seen: 2^-50 for both, 10^4 slots.
_FLOAT_BITS = 48
_MAX_LIMBS = 4
MAX_CLIENTS = 10_000  # as in a session
_FORMAT = "collabsecure encryption"
_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class EncryptionParameters:
    """One packing of masked integers, valid when made; `check` says for how many clients it is exact."""

    scheme: Scheme
    value_bits: int  # k: masked integers are in [0, 2^k), [1, 64]
    limbs: int  # a masked integer is cut into so many, each in a slot of its own, [1, 4]
    scale_bits: int | None = None  # ckks, s: the scale is q/2^(60−s)
    plain_bits: int | None = None  # bfv, t: the plain modulus is 2^t
    ring_degree: int = RING_DEGREE
    coefficient_bits: tuple[int, ...] = COEFFICIENT_BITS

    def __post_init__(self) -> None:
        require(self.scheme in SCHEMES, f"encryption {self.scheme!r} is unknown; there are {SCHEMES}")
        require(1 <= self.value_bits <= 64, f"masked integers have 1 to 64 bits, found {self.value_bits}")
        ring, known = (self.ring_degree, self.coefficient_bits), (RING_DEGREE, COEFFICIENT_BITS)
        require(ring == known, f"the degree and primes are {known}, found {ring}")
        require_secure(self.ring_degree, sum(self.coefficient_bits))
        require(1 <= self.limbs <= min(_MAX_LIMBS, self.value_bits), f"1 to {_MAX_LIMBS} limbs, found {self.limbs}")
        filled = self.limb_bits * (self.limbs - 1) < self.value_bits
        require(filled, f"{self.value_bits} bits do not fill {self.limbs} limbs")
        used, unused = (self.scale_bits, self.plain_bits)[:: 1 if self.scheme == "ckks" else -1]
        require(used is not None and unused is None, "ckks has a scale and bfv a plain modulus, never both")
        reduces = self.scheme == "ckks" or self.limbs > 1 or self.plain_bits == self.value_bits
        require(
            reduces, f"one limb of bfv is reduced mod 2^{self.value_bits}, found a plain modulus 2^{self.plain_bits}"
        )
        # bfv decrypts with 57 bits of precision, and ckks in float64
        fits = used is not None and self.limb_bits <= 52 and 1 <= used <= 55
        require(fits, f"{self.limb_bits} bits a limb with {used} of scale or plain modulus")

    @property
    def limb_bits(self) -> int:
        """Bits of every limb but the last, which may have fewer."""
        return -(-self.value_bits // self.limbs)

    @property
    def slots(self) -> int:
        """Limbs in a ciphertext."""
        return self.ring_degree // 2 if self.scheme == "ckks" else self.ring_degree

    @property
    def capacity(self) -> int:
        """Masked integers in a ciphertext."""
        return self.slots // self.limbs

    @property
    def scale(self) -> float:
        """What ckks multiplies a slot with."""
        return float(Fraction(DATA_PRIME, 2 ** (60 - (self.scale_bits or 0))))

    @property
    def ciphertext_words(self) -> int:
        """Numbers mod q in a ciphertext: two polynomials."""
        return 2 * self.ring_degree

    @property
    def ciphertext_bytes(self) -> int:
        """A ciphertext's exact size on the wire."""
        return 8 * self.ciphertext_words

    @property
    def bytes_per_value(self) -> float:
        """Bytes on the wire for one masked integer, in a full ciphertext."""
        return self.ciphertext_bytes / self.capacity

    def payload_bytes(self, num_values: int) -> int:
        """The exact size of so many encrypted integers."""
        return -(-num_values // self.capacity) * self.ciphertext_bytes

    @property
    def max_clients(self) -> int:
        """The largest number of summands for which the sum is proved exact; 0 for none."""
        low, high = 0, MAX_CLIENTS + 1
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if not self._shortfalls(middle) else (low, middle)
        return low

    def check(self, num_clients: int) -> None:
        """Raise `InvalidSession`, with the numbers, unless sums of so many are exact."""
        require(1 <= num_clients <= MAX_CLIENTS, f"1 to {MAX_CLIENTS} clients, found {num_clients}")
        for text in self._shortfalls(num_clients):
            raise InvalidSession(
                f"V30: {self.scheme} with {self.limbs} × {self.limb_bits} bits is exact for up to {self.max_clients} "
                f"clients, not for {num_clients}: {text}"
            )

    def budget(self, num_clients: int) -> dict[str, tuple[Fraction, Fraction]]:
        """Squares of what the three events allow, as (needed, available): exact where needed ≤ available."""
        return _ckks_budget(self, num_clients) if self.scheme == "ckks" else _bfv_budget(self, num_clients)

    def _shortfalls(self, num_clients: int) -> list[str]:
        return [
            f"{name} needs {float(needed) ** 0.5:.4g}, there is {float(available) ** 0.5:.4g}"
            for name, (needed, available) in self.budget(num_clients).items()
            if needed > available
        ]

    def encode(self) -> bytes:
        """The canonical encoding."""
        out = Writer().text(_FORMAT).u8(_VERSION).u8(SCHEMES.index(self.scheme)).u8(self.value_bits).u8(self.limbs)
        out.u8(self.scale_bits or self.plain_bits or 0).u32(self.ring_degree).u8(len(self.coefficient_bits))
        for bits in self.coefficient_bits:
            out.u8(bits)
        return out.finish()

    @classmethod
    def decode(cls, data: bytes) -> "EncryptionParameters":
        """Read what `encode` wrote; anything else raises `InvalidSession`."""
        try:
            source = Reader(data)
            form, version, scheme = source.text(), source.u8(), source.u8()
            known = (form, version) == (_FORMAT, _VERSION) and scheme < len(SCHEMES)
            require(known, f"not encryption parameters that are known here: {form[:40]!r} {version}, scheme {scheme}")
            value_bits, limbs, used, ring_degree = source.u8(), source.u8(), source.u8(), source.u32()
            coefficient_bits = tuple(source.u8() for _ in range(source.u8()))
            source.finish()
        except Malformed as error:
            raise InvalidSession(f"V30: not encryption parameters: {error}") from error
        return cls(
            scheme=SCHEMES[scheme],
            value_bits=value_bits,
            limbs=limbs,
            scale_bits=used if SCHEMES[scheme] == "ckks" else None,
            plain_bits=used if SCHEMES[scheme] == "bfv" else None,
            ring_degree=ring_degree,
            coefficient_bits=coefficient_bits,
        )


def choose_encryption(scheme: Scheme, *, num_clients: int, bits: int) -> EncryptionParameters:
    """The fewest bytes for which the sum of `num_clients` integers of `bits` bits is proved exact.

    >>> choose_encryption("bfv", num_clients=10, bits=48).bytes_per_value
    16.0
    >>> choose_encryption("ckks", num_clients=30, bits=38).bytes_per_value
    32.0

    Raises:
        InvalidSession: unknown scheme, too many clients or bits, or nothing fits; the text has the numbers.

    """
    require(scheme in SCHEMES, f"encryption {scheme!r} is unknown; there are {SCHEMES}")
    require(1 <= num_clients <= MAX_CLIENTS, f"1 to {MAX_CLIENTS} clients, found {num_clients}")
    require(1 <= bits <= 64, f"masked integers have 1 to 64 bits, found {bits}")
    tried = []
    for parameters in _candidates(scheme, num_clients, bits):
        try:
            parameters.check(num_clients)
        except InvalidSession as error:
            tried.append(str(error))
        else:
            return parameters
    raise InvalidSession("; ".join(tried) or f"V30: no {scheme} packing for {bits} bits and {num_clients} clients")


def require_secure(ring_degree: int, modulus_bits: int) -> None:
    """Refuse rings below 128 bits of security (table 1 of the homomorphic encryption standard, ternary secrets)."""
    most = SECURE_BITS.get(ring_degree, 0)
    require(modulus_bits <= most, f"N = {ring_degree} is secure up to {most} bits of modulus, found {modulus_bits}")


def explain(parameters: EncryptionParameters, num_clients: int) -> dict[str, str | int | float]:
    """What was chosen and why, for people: names to figures, in order."""
    shown: dict[str, str | int | float] = {
        "scheme": parameters.scheme,
        "ring degree": parameters.ring_degree,
        "modulus bits": sum(parameters.coefficient_bits),
        "modulus bits for 128-bit security, at most": SECURE_BITS[parameters.ring_degree],
        "bits of a masked integer": parameters.value_bits,
        "limbs": parameters.limbs,
        "integers in a ciphertext": parameters.capacity,
        "bytes of a ciphertext": parameters.ciphertext_bytes,
        "bytes per value": round(parameters.bytes_per_value, 2),
        "clients": num_clients,
        "clients, at most": parameters.max_clients,
        "refused beyond": f"{float(MARGIN)} of a unit from an integer",
        "inexact with a probability below": "2^-64 per key and 2^48 coefficients",
    }
    if parameters.scheme == "ckks":
        shown["scale"] = f"2^{parameters.scale_bits}"
    else:
        shown["plain modulus"] = f"2^{parameters.plain_bits}"
    for name, (needed, available) in parameters.budget(num_clients).items():
        shown[name] = f"{float(needed) ** 0.5:.4g} of {float(available) ** 0.5:.4g}"
    return shown


def _candidates(scheme: Scheme, num_clients: int, bits: int) -> Iterator[EncryptionParameters]:
    """Packings from the smallest; for ckks the smallest scale that drowns the noise, as range is what runs out."""
    for limbs in range(1, min(_MAX_LIMBS, bits) + 1):
        limb_bits = -(-bits // limbs)
        if limb_bits > 52 or limb_bits * (limbs - 1) >= bits:
            continue
        if scheme == "bfv":
            plain_bits = bits if limbs == 1 else limb_bits + (num_clients - 1).bit_length()
            if plain_bits <= 55:
                yield EncryptionParameters(scheme=scheme, value_bits=bits, limbs=limbs, plain_bits=plain_bits)
            continue
        for scale_bits in range(1, 56):
            found = EncryptionParameters(scheme=scheme, value_bits=bits, limbs=limbs, scale_bits=scale_bits)
            needed, available = found.budget(num_clients)[_NOISE]
            if needed <= available or scale_bits == 55:
                yield found
                break


_NOISE = "noise, in steps of the modulus"
_RANGE = "largest coefficient"
_CARRY = "largest sum of limbs"


def _bfv_budget(parameters: EncryptionParameters, n: int) -> dict[str, tuple[Fraction, Fraction]]:
    """Noise in coefficients: those of r₁s have a proxy of at most (weight of s)/12."""
    unit = Fraction(DATA_PRIME, 2 ** (parameters.plain_bits or 0))
    # Each client rounds once (below 1), the decryptor a few times in steps of q/2^57 = 8.
    room = MARGIN * unit - n - 32
    proxy = Fraction(1 + _MAX_WEIGHT, 12) + _key_switch_proxy()
    budget = {_NOISE: (_TAIL * n * proxy, max(room, Fraction(0)) ** 2)}
    if parameters.limbs > 1:  # a single limb may wrap: that is the reduction mod 2^k
        largest, top = n * (2**parameters.limb_bits - 1), 2 ** (parameters.plain_bits or 0) - 1
        budget[_CARRY] = Fraction(largest**2), Fraction(top**2)
    return budget


def _ckks_budget(parameters: EncryptionParameters, n: int) -> dict[str, tuple[Fraction, Fraction]]:
    """Noise in slots, and the largest coefficient of the sum of n uniform, centred encodings."""
    degree, bits = parameters.ring_degree, parameters.limb_bits
    scale = Fraction(DATA_PRIME, 2 ** (60 - (parameters.scale_bits or 0)))
    # A slot is Σ eᵢ·cos: for r₁s, Σ r₁ᵢ·Re(ζⁱ·s(ζ)), whose squares add up to |s(ζ)|²·N/2. Encoding rounds within ±½.
    proxy = Fraction(degree, 2) * (Fraction(1 + _MAX_EMBEDDING, 12) + Fraction(1, 4) + degree * _key_switch_proxy())
    floating = Fraction(n * 2**bits, 2**_FLOAT_BITS)  # n · 2^(b−1), from encoding and from decoding
    room = (MARGIN - floating) * scale
    # A coefficient is (2/N)·Σ z·cos with Σ cos² ≤ N/2; z + ½ has the proxy 4^b/12, and −½ stays in the constant one.
    spread = _TAIL * n * scale**2 * Fraction(4**bits, 6 * degree)
    left = (
        Fraction(DATA_PRIME, 2) - n * scale / 2 - 2 ** (MAX_CLIENTS.bit_length() + 16)
    )  # the last for the noise itself
    return {
        _NOISE: (_TAIL * n * proxy, max(room, Fraction(0)) ** 2),
        _RANGE: (spread, max(left, Fraction(0)) ** 2),
    }


def _key_switch_proxy() -> Fraction:
    """Of (e·u + e₁ + e₂s)/p in one coefficient: e is fixed by the key, at its largest; u is ternary."""
    ternary = Fraction(2, 3) * _MAX_ERROR**2 * RING_DEGREE
    return Fraction(ternary + _ERROR_PROXY * (1 + RING_DEGREE)) / SPECIAL_PRIME**2
