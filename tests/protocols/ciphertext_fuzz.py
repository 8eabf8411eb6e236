"""Thousands of mutated payloads, totals, keys and files against what reads them, in a process of its own.

`python ciphertext_fuzz.py CASES` prints JSON: how often each outcome came, and by how many bytes memory grew between
the first tenth of the cases and the last. Any error that is not typed ends it, and so does a crash of SEAL.
"""

import json
import random
import resource
import sys
from collections import Counter

import numpy as np

from collabsecure_protocols.ciphertexts import Adder
from collabsecure_protocols.ckks import Decryptor, Encryptor, KeyPair, PublicKey
from collabsecure_protocols.encryption_parameters import DATA_PRIME, SCHEMES, EncryptionParameters, choose_encryption
from collabsecure_protocols.errors import ProtocolError

VALUES = 300
SUMMANDS = 2


def mutated(rng: random.Random, data: bytes) -> bytes:
    """Bytes that differ from `data` by one rough or subtle change."""
    found = bytearray(data)
    kind = rng.randrange(7)
    at = rng.randrange(len(found))
    if kind == 0:
        found[at] ^= 1 << rng.randrange(8)
    elif kind == 1:
        del found[at:]
    elif kind == 2:
        found += rng.randbytes(rng.choice((1, 8, 65536)))
    elif kind == 3:
        found[at : at + 64] = rng.randbytes(min(64, len(found) - at))
    elif kind == 4:
        size = len(found) // 8
        found = bytearray(
            np.random.default_rng(rng.randrange(2**32)).integers(0, DATA_PRIME, size, np.uint64).tobytes()
        )
    elif kind == 5:
        found[8 * (at // 8) : 8 * (at // 8) + 8] = rng.choice((0, DATA_PRIME - 1, DATA_PRIME, 2**64 - 1)).to_bytes(
            8, "little"
        )
    else:
        return rng.randbytes(rng.choice((0, 1, 100, len(data))))
    return bytes(found)


def main(cases: int) -> dict[str, int]:
    """Run the cases, each in turn against one of the readers."""
    rng, outcomes = random.Random(5), Counter[str]()
    parties = []
    for scheme in SCHEMES:
        parameters, key_pair = choose_encryption(scheme, num_clients=SUMMANDS, bits=38), KeyPair.generate(scheme)
        payload = Encryptor(key_pair.public, parameters).encrypt(np.arange(VALUES, dtype=np.uint64))
        parties.append((parameters, key_pair, Decryptor(key_pair, parameters), payload))
    peaks = []
    for number in range(cases):
        parameters, key_pair, decryptor, payload = rng.choice(parties)
        kind = (
            "key" if number % 50 == 0 else "file" if number % 51 == 0 else rng.choice(("total", "payload", "numbers"))
        )
        try:
            if kind == "total":
                decryptor.decrypt(mutated(rng, payload), VALUES, num_summands=SUMMANDS)
            elif kind == "payload":
                adder = Adder(parameters, VALUES, payload)
                adder.add(mutated(rng, payload))
                decryptor.decrypt(adder.total(), VALUES, num_summands=SUMMANDS)
            elif kind == "numbers":
                EncryptionParameters.decode(mutated(rng, parameters.encode()))
            elif kind == "key":
                public = PublicKey.decode(mutated(rng, key_pair.public.encode()))
                payload = Encryptor(public, parameters).encrypt(np.arange(VALUES, dtype=np.uint64))
                decryptor.decrypt(payload, VALUES, num_summands=SUMMANDS)
            else:
                KeyPair.restore(mutated(rng, key_pair.save()))
            outcomes[f"{kind}: taken"] += 1
        except ProtocolError as error:
            outcomes[f"{kind}: {type(error).__name__}"] += 1
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    return {**outcomes, "growth": 1024 * (peaks[-1] - peaks[cases // 10])}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(int(sys.argv[1]))))
