"""Masking as it must not be: controls, on which an attack has to succeed, or it shows nothing where it fails.

Each gives what a server would see of a client's statistics. The integers and their ring are the session's own.
"""

from dataclasses import replace

import numpy as np

from collabsecure.attacks.cases.masking import Parties, one_upload
from collabsecure.attacks.seed_search import stream
from collabsecure.attacks.views import EncryptedUpload, MaskedUpload, PlainUpload, Words
from collabsecure.sessions import cross_name, gram_name, layer_of
from collabsecure.statistics import Statistics
from collabsecure_protocols import Session
from collabsecure_protocols.encryption_parameters import DATA_PRIME
from collabsecure_protocols.fixedpoint import encoders


def unmasked(parties: Parties, statistics: Statistics) -> MaskedUpload:
    """A client's integers, with no masks on."""
    return MaskedUpload(session=parties.session, words=_reduced(parties.session, _encoded(parties.session, statistics)))


def unencrypted(parties: Parties, statistics: Statistics, *, rng: np.random.Generator) -> EncryptedUpload:
    """A client's integers where its ciphertexts' high bits should be, neither masked nor encrypted.

    All the rest is uniform, as in ciphertexts: what does not see this, would not see what ciphertexts give away.
    """
    session, integers = parties.session, unmasked(parties, statistics).words
    words = {}
    for tensor in session.sums[0].tensors:
        form = session.form(tensor)
        if form.encryption is None:
            raise TypeError(f"tensor {tensor.name!r} travels unencrypted; expected a session with encryption")
        found = rng.integers(DATA_PRIME, size=form.total_words(tensor.num_values), dtype=np.uint64)
        c0 = found.reshape(-1, 2, form.encryption.ring_degree)[:, 0, : form.encryption.capacity]
        flat = c0.ravel()
        low = np.uint64(DATA_PRIME.bit_length() - tensor.bits)
        flat[: tensor.num_values] = integers[tensor.name] << low
        c0[:] = flat.reshape(c0.shape)
        words[tensor.name] = found
    return EncryptedUpload(session=session, words=words)


def gaussian(
    parties: Parties, statistics: Statistics, *, times: int, signal: Statistics, rng: np.random.Generator
) -> PlainUpload:
    """Real masks instead of a ring's: Gaussian, of `times` the root mean square of `signal`, tensor by tensor.

    In equilibrated units, in which all columns are about as large.
    """
    spec = parties.session.sums[0]
    layer = layer_of(spec.tensors[0].name)
    exponents = np.array(spec.tensors[0].row_exponents)
    both, columns = np.ldexp(1.0, exponents[:, None] + exponents), np.ldexp(1.0, exponents)
    noise = rng.standard_normal(statistics.gram.shape)
    noise = np.triu(noise) + np.triu(noise, 1).T
    return PlainUpload(
        layers={
            layer: Statistics(
                gram=statistics.gram + times * _rms(signal.gram * both) * noise / both,
                cross=statistics.cross
                + times * _rms(signal.cross * columns) * rng.standard_normal(statistics.cross.shape) / columns,
            )
        }
    )


def used_twice(parties: Parties, statistics: Statistics, *, earlier: Statistics) -> MaskedUpload:
    """The difference of two uploads under one mask, which is the difference of what was masked.

    A client that was restored from an old backup would send such a second upload; ours refuses (secagg.md V33).
    """
    first = one_upload(parties, earlier)
    before, now = _encoded(parties.session, earlier), _encoded(parties.session, statistics)
    mask = {name: first.words[name] - before[name] for name in before}
    second = {name: now[name] + mask[name] for name in now}
    return replace(
        unmasked(parties, statistics),
        words=_reduced(parties.session, {name: second[name] - first.words[name] for name in second}),
    )


def from_seed(parties: Parties, statistics: Statistics, *, seed: int) -> MaskedUpload:
    """A ring mask from NumPy's Mersenne Twister under a short seed, as frameworks have made theirs."""
    words = _encoded(parties.session, statistics)
    masks = stream(seed, sum(map(len, words.values())))
    cut = np.split(masks, np.cumsum([len(own) for own in words.values()])[:-1])
    masked = {name: own + mask for (name, own), mask in zip(words.items(), cut, strict=True)}
    return MaskedUpload(session=parties.session, words=_reduced(parties.session, masked))


def _encoded(session: Session, statistics: Statistics) -> Words:
    """The integers of a client's first sum, mod 2^64."""
    spec = session.sums[0]
    layer = layer_of(spec.tensors[0].name)
    values = {gram_name(layer): statistics.gram, cross_name(layer): statistics.cross}
    words = {tensor.name: np.zeros(tensor.num_values, np.uint64) for tensor in spec.tensors}
    for encoder, found in zip(encoders(spec, values), words.values(), strict=True):
        encoder.encode_into(0, found)
    return words


def _reduced(session: Session, words: Words) -> Words:
    bits = {tensor.name: tensor.bits for tensor in session.sums[0].tensors}
    return {name: found & np.uint64((1 << bits[name]) - 1) for name, found in words.items()}


def _rms(values: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> float:
    return float(np.sqrt(np.mean(values**2)))
