"""Encrypted sums beside the masked path and NVFlare's default CKKS: bytes, time and memory per value.

`python -m benchmarks.encryption` takes some seconds. All is CPU time on one core, in turns in one run. NVFlare itself
is not run: its filters call TenSEAL as here (N = 8192, primes of 60, 40 and 40 bits, scale 2^40, 4096 floats each).
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from multiprocessing import get_context

import numpy as np
import tenseal

from benchmarks.report import Figure, least, peak_bytes, resident_bytes, show
from collabsecure_protocols.ciphertexts import Adder
from collabsecure_protocols.ckks import Decryptor, Encryptor, KeyPair
from collabsecure_protocols.encryption_parameters import EncryptionParameters, Scheme, choose_encryption
from collabsecure_protocols.fixedpoint import add_packed, pack_into
from collabsecure_protocols.keys import Secret
from collabsecure_protocols.masks import Mask, MaskScratch, apply_masks

CLIENTS = 10
BARS = {"ckks": 32.3, "bfv": 16.3}  # bytes a value
BAR_BITS = {"ckks": 38, "bfv": 48}  # the widest that the bar is for, and the default
MEMORY_BAR = 64.0  # MB
MEMORY_VALUES = 1 << 18
SESSIONS: tuple[tuple[Scheme, int], ...] = (("bfv", 48), ("bfv", 64), ("ckks", 38), ("ckks", 48))
NVFLARE_SLOTS = 4096

Works = dict[str, Callable[[], object]]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.encryption", description=__doc__.splitlines()[0])
    parser.add_argument("--values", type=int, default=1 << 15, help="in a payload (default: 32768)")
    parser.add_argument("--repeats", type=int, default=9, help="the least of so many times counts (default: 9)")
    parser.add_argument("--quick", action="store_true", help="8192 values, 3 repeats")
    arguments = parser.parse_args(argv)
    values, repeats = (1 << 13, 3) if arguments.quick else (arguments.values, arguments.repeats)
    works: Works = {}
    sizes = {"masked, 48 bits": masked(works, values), "NVFlare's default": nvflare(works, values)}
    for scheme, bits in SESSIONS:
        sizes[f"{scheme}, {bits} bits"] = ours(works, values, scheme, bits)
    seconds = least(works, repeats=repeats)
    figures = [figure for name, size in sizes.items() for figure in lines(name, size, seconds, values)]
    return show(f"{CLIENTS} clients, one core, CPU time per value", [*figures, *memory()])


def lines(name: str, size: float, seconds: dict[str, float], values: int) -> list[Figure]:
    """A path's bytes and times; the baseline is NVFlare's."""
    scheme = name.partition(",")[0]
    bar = BARS.get(scheme) if name == f"{scheme}, {BAR_BITS.get(scheme)} bits" else None
    found = [
        Figure(
            what=f"{name}: bytes",
            value=f"{size:.1f}",
            ratio=None if bar is None else size,
            baseline="1 B" if bar else "",
            bar=bar,
        )
    ]
    for stage in ("encrypt", "add", "decrypt"):
        taken = seconds.get(f"{name} {stage}")
        if taken is not None:
            ratio = taken / seconds[f"NVFlare's default {stage}"]
            verb = "mask and pack, 9 neighbours" if name.startswith("masked") and stage == "encrypt" else stage
            found.append(
                Figure(
                    what=f"{name}: {verb}",
                    value=f"{taken / values * 1e9:.1f} ns",
                    ratio=ratio,
                    baseline=f"NVFlare's {stage}",
                )
            )
    return found


def masked(works: Works, values: int) -> float:
    """The path without encryption: what every path here does besides."""
    ring, scratch, bits = np.zeros(values, np.uint64), MaskScratch(), 48
    masks = [Mask(key=Secret(bytes([number]) * 32), negative=number % 2 == 0) for number in range(CLIENTS)]
    packed, total = bytearray(values * bits // 8 + 8), np.zeros(values, np.uint64)

    def mask() -> None:
        apply_masks(ring, 0, masks, scratch)
        pack_into(ring, bits, packed)

    works["masked, 48 bits encrypt"] = mask
    works["masked, 48 bits add"] = lambda: add_packed(total, packed, 0, bits)
    return bits / 8


def nvflare(works: Works, values: int) -> float:
    """Float values, TenSEAL's serialisation, and the server's loading of it."""
    context = tenseal.context(
        tenseal.SCHEME_TYPE.CKKS, poly_modulus_degree=8192, coeff_mod_bit_sizes=[60, 40, 40], n_threads=1
    )
    context.global_scale = 2.0**40
    blocks = np.random.default_rng(0).normal(size=values).reshape(-1, NVFLARE_SLOTS).tolist()
    uploads = [tenseal.ckks_vector(context, block).serialize() for block in blocks]
    totals = [tenseal.ckks_vector_from(context, upload) for upload in uploads]

    def encrypt() -> None:
        for block in blocks:
            tenseal.ckks_vector(context, block).serialize()

    def add() -> None:
        for total, upload in zip(totals, uploads, strict=True):
            total.add_(tenseal.ckks_vector_from(context, upload))

    def decrypt() -> None:
        for total in totals:
            total.decrypt()

    works |= {f"NVFlare's default {work.__name__}": work for work in (encrypt, add, decrypt)}
    return sum(map(len, uploads)) / values


def ours(works: Works, values: int, scheme: Scheme, bits: int) -> float:
    """Masked integers, as they would be packed, encrypted instead."""
    parameters, key_pair = choose_encryption(scheme, num_clients=CLIENTS, bits=bits), KeyPair.generate(scheme)
    encryptor, decryptor = Encryptor(key_pair.public, parameters), Decryptor(key_pair, parameters)
    integers = uniform(values)
    payload = encryptor.encrypt(integers)
    total, adder = payload, Adder(parameters, values)
    name = f"{scheme}, {bits} bits"
    works[f"{name} encrypt"] = lambda: encryptor.encrypt(integers)
    works[f"{name} add"] = lambda: adder.add(payload)
    works[f"{name} decrypt"] = lambda: decryptor.decrypt(total, values, num_summands=1)
    return len(payload) / values


def uniform(values: int) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    return np.random.default_rng(1).integers(0, 2**64 - 1, values, dtype=np.uint64, endpoint=True)


def memory() -> list[Figure]:
    """What encrypting, adding or decrypting 2^18 values adds to a process, beyond its input, in chunks of a message."""
    figures = []
    for scheme in ("bfv", "ckks"):
        with get_context("spawn").Pool(1) as pool:
            extra = pool.apply(working_memory, (scheme,))
        figures.append(
            Figure(
                what=f"{scheme}: 2^18 values encrypted, added and decrypted, two messages",
                value=f"{extra / 1e6:.1f} MB beyond them",
                ratio=extra / 1e6,
                baseline="1 MB",
                bar=MEMORY_BAR,
            )
        )
    return figures


def working_memory(scheme: Scheme) -> int:
    """All three roles in one process, keys and contexts included."""
    parameters: EncryptionParameters = choose_encryption(scheme, num_clients=CLIENTS, bits=BAR_BITS[scheme])
    integers = uniform(MEMORY_VALUES)
    before = resident_bytes()
    key_pair = KeyPair.generate(scheme)
    encryptor, decryptor = Encryptor(key_pair.public, parameters), Decryptor(key_pair, parameters)
    chunk = MEMORY_VALUES // 2
    for at in range(0, MEMORY_VALUES, chunk):
        adder = Adder(parameters, chunk)
        adder.add(encryptor.encrypt(integers[at : at + chunk]))
        decryptor.decrypt(adder.total(), chunk, num_summands=1)
    return peak_bytes() - before


if __name__ == "__main__":
    sys.exit(main())
