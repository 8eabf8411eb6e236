"""Two sums, encrypted and as CKKS decrypts them, give the secret key (Li and Micciancio, EUROCRYPT 2021).

A CKKS decryption is not the sum but the sum plus the ciphertext's noise, c0 + c1·s, divided by the scale. Whoever has
the ciphertext as well has a linear equation for s. TenSEAL returns real parts alone, and so half of each equation:

    c0(ζ) + c1(ζ)·s(ζ) + c0(ζ⁻¹) + c1(ζ⁻¹)·s(ζ⁻¹) = 2m(ζ)   mod q, at every root ζ of X^N + 1

where m is the polynomial of the real parts. Two sums are two equations for s(ζ) and s(ζ⁻¹), exact if float64 holds 2m's
coefficients to within ½; so the secret follows by solving 2 × 2 systems. That it is ternary says that it is right.

*What it shows:* a party that sees both encrypted sums and unrounded decryptions of them, such as a server that adds
ciphertexts and is later given the averaged model, can decrypt every upload there was. It needs two sums under one key.
*What it does not show:* that a server of some framework is given such decryptions (in NVFlare, where every client has
the secret key, a server that colludes with any client needs no attack); or that rounding is secure because this attack
fails on it. That rounded integers give nothing away follows from their being the sum, but for a probability of 2^-64
(`collabsecure_protocols.encryption_parameters`): they can be computed without any key.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, UInt64

Residues = np.ndarray[tuple[int, ...], np.dtype[np.object_]]  # Python integers mod q


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedSum:
    """The adversary's view of a sum: the ciphertext mod one prime q, in SEAL's NTT order, and what was made public."""

    ciphertext: UInt64[np.ndarray, "2 degree"]
    slots: Float64[np.ndarray, " half_degree"]  # as released
    scale: float
    prime: int


def recover_secret(first: PublishedSum, second: PublishedSum) -> Residues:
    """The candidate for s mod q, coefficients in (−q/2, q/2]: the secret if `ternary_fraction` of it is 1."""
    prime = first.prime
    left, right = _equation(first), _equation(second)
    # Cramer's rule at each pair (ζ, ζ⁻¹), which stand at places i and N − 1 − i.
    a, b, r = left
    c, d, t = right
    determinant = (a * d - b * c) % prime
    inverse = np.array([pow(int(number), -1, prime) if number else 0 for number in determinant], dtype=object)
    half = (inverse * (r * d - b * t)) % prime
    other = (inverse * (a * t - c * r)) % prime
    return _signed(_inverse_ntt(np.concatenate((half, other[::-1])), prime), prime)


def ternary_fraction(secret: Residues) -> float:
    """How much of a candidate is −1, 0 or 1: 1 for a secret, about 3/q for a wrong guess."""
    return float(np.mean([abs(int(number)) <= 1 for number in secret]))


def open_upload(
    secret: Residues, ciphertext: UInt64[np.ndarray, "2 degree"], *, scale: float, prime: int
) -> Float64[np.ndarray, " half_degree"]:
    """The numbers in any upload under that secret."""
    c0, c1 = ciphertext.astype(object)
    phase = (c0 + c1 * _ntt(secret % prime, prime)) % prime
    coefficients = _signed(_inverse_ntt(phase, prime), prime).astype(np.float64)
    degree = len(coefficients)
    twisted = coefficients * np.exp(1j * np.pi * np.arange(degree) / degree)
    at_roots = np.fft.ifft(twisted) * degree  # at exp(iπ(2k + 1)/N)
    return np.ascontiguousarray(at_roots[_slot_places(degree)].real) / scale


def _equation(seen: PublishedSum) -> tuple[Residues, Residues, Residues]:
    """Coefficients of s(ζ) and s(ζ⁻¹) and the right-hand side, for the first of each pair."""
    c0, c1 = seen.ciphertext.astype(object)
    half = len(c0) // 2
    known = (_ntt(_doubled_polynomial(seen), seen.prime) - c0 - c0[::-1]) % seen.prime
    return c1[:half], c1[::-1][:half], known[:half]


def _doubled_polynomial(seen: PublishedSum) -> Residues:
    """2m: the integers that the real slots, times twice the scale, are the embedding of."""
    degree = 2 * len(seen.slots)
    at_roots = np.zeros(degree)
    places = _slot_places(degree)
    at_roots[places] = at_roots[degree - 1 - places] = seen.slots
    twisted = np.fft.fft(at_roots) / degree
    coefficients = (twisted * np.exp(-1j * np.pi * np.arange(degree) / degree)).real * (2 * seen.scale)
    return np.array([int(number) % seen.prime for number in np.rint(coefficients)], dtype=object)


def _slot_places(degree: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """SEAL's slot j is at the root exp(iπ·3^j/N): its number k among the roots exp(iπ(2k + 1)/N)."""
    return np.array([(pow(3, slot, 2 * degree) - 1) // 2 for slot in range(degree // 2)])


def _signed(residues: Residues, prime: int) -> Residues:
    found: Residues = np.where(residues > prime // 2, residues - prime, residues)
    return found


def _ntt(coefficients: Residues, prime: int) -> Residues:
    """Values at ψ^(2·reversed(i) + 1), i = 0 … N − 1, as SEAL orders them (Longa and Naehrig 2016, algorithm 1)."""
    degree, powers = len(coefficients), _powers(len(coefficients), prime)
    values, blocks = coefficients.reshape(1, degree) % prime, 1
    while blocks < degree:
        even, odd = np.split(values.reshape(blocks, -1), 2, axis=1)
        odd = odd * powers[blocks : 2 * blocks, None]
        values = np.stack(((even + odd) % prime, (even - odd) % prime), axis=1)
        blocks *= 2
    in_order: Residues = values.reshape(degree)
    return in_order


def _inverse_ntt(values: Residues, prime: int) -> Residues:
    degree, powers = len(values), _powers(len(values), prime)
    blocks = degree
    while blocks > 1:
        blocks //= 2
        pairs = values.reshape(blocks, 2, -1)
        backward = np.array([pow(int(power), -1, prime) for power in powers[blocks : 2 * blocks]], dtype=object)
        sums, differences = pairs[:, 0] + pairs[:, 1], (pairs[:, 0] - pairs[:, 1]) * backward[:, None]
        values = np.concatenate((sums % prime, differences % prime), axis=1)
    coefficients: Residues = values.reshape(degree) * pow(degree, -1, prime) % prime
    return coefficients


def _powers(degree: int, prime: int) -> Residues:
    """ψ^reversed(i), where ψ is the least primitive 2N-th root of 1 mod q: SEAL's."""
    root = next(
        found
        for base in range(2, prime)
        if pow(found := pow(base, (prime - 1) // (2 * degree), prime), degree, prime) != 1
    )
    square, power, psi = root * root % prime, root, root
    for _ in range(degree - 1):
        power = power * square % prime
        psi = min(psi, power)
    bits = degree.bit_length() - 1
    powers = [1]
    for _ in range(degree - 1):
        powers.append(powers[-1] * psi % prime)
    return np.array([powers[int(f"{place:0{bits}b}"[::-1], 2)] for place in range(degree)], dtype=object)
