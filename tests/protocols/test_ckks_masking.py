"""Key holder and aggregator together, who can decrypt single uploads, learn the sum alone.

The strongest coalition against one sum is played: it has the secret key and all uploads, and every survivor's self
mask, which unmasking opens. What it sees of client i is z_i = x_i + pairwise masks mod 2^48. For two worlds of inputs
with one and the same sum, z must be distributed alike: uniform but for Σ z_i = Σ x_i. Statistics on fixed seeds,
thresholds by Bonferroni: of uniform values each test would fail for one seed in a hundred thousand. That the masks
themselves are noise, `test_uniform` shows; this is the encrypted path.
"""

import functools
import itertools

import numpy as np
from harness import seeded
from scipy.stats import chi2

from collabsecure_protocols.ciphertexts import Adder
from collabsecure_protocols.ckks import Decryptor, Encryptor, KeyPair
from collabsecure_protocols.encryption_parameters import choose_encryption
from collabsecure_protocols.keys import Secret, public_of
from collabsecure_protocols.masks import MaskContext, MaskScratch, apply_masks

P_VALUE = 1e-5
CLIENTS = (1, 2, 3, 4)
VALUES = 12_000
BITS = 48
MODULUS = np.uint64((1 << BITS) - 1)


def inputs(world):
    """Client 1 has everything, or everybody has a quarter of it."""
    total = 4 * np.arange(VALUES, dtype=np.uint64)
    if world == "one":
        return {client: total if client == 1 else np.zeros(VALUES, np.uint64) for client in CLIENTS}
    return dict.fromkeys(CLIENTS, total // np.uint64(4))


@functools.cache
def seen(world, seed=0):
    """z of each client as the coalition finds it, and what the key holder releases of the total."""
    rng = seeded(f"{world} {seed}")
    context = MaskContext(transcript=rng(32), participants=b"\x0f", sum_index=0, link=bytes(32))
    privates, seeds = {i: rng(32) for i in CLIENTS}, {i: Secret(rng(32)) for i in CLIENTS}
    parameters, key_pair = choose_encryption("bfv", num_clients=len(CLIENTS), bits=BITS), KeyPair.generate("bfv")
    encryptor, decryptor = Encryptor(key_pair.public, parameters), Decryptor(key_pair, parameters)
    adder, found, scratch = Adder(parameters, VALUES), {}, MaskScratch()
    for client, values in inputs(world).items():
        masked = values.copy()
        masks = context.self_masks(seeds[client], client, 1)
        for peer in CLIENTS:
            if peer != client:
                public = public_of(privates[peer])
                masks += context.pairwise_masks(Secret(privates[client]), client, public, peer, 1)
        apply_masks(masked, 0, masks, scratch)
        upload = encryptor.encrypt(masked)
        adder.add(upload)
        opened = decryptor.decrypt(upload, VALUES, num_summands=1)
        assert (opened == masked & MODULUS).all()
        apply_masks(opened, 0, context.self_masks(seeds[client], client, 1, remove=True), scratch)
        found[client] = opened & MODULUS
    total = decryptor.decrypt(adder.total(), VALUES, num_summands=len(CLIENTS))
    for client in CLIENTS:
        apply_masks(total, 0, context.self_masks(seeds[client], client, 1, remove=True), scratch)
    return found, total & MODULUS


def bytes_of(values):
    return values.astype("<u8").view(np.uint8).reshape(-1, 8)[:, : BITS // 8]


def uniform_pvalues(values):
    """Of each byte's 256 counts against equal ones."""
    counts = np.stack([np.bincount(column, minlength=256) for column in bytes_of(values).T])
    expected = len(values) / 256
    return chi2.sf(((counts - expected) ** 2 / expected).sum(axis=1), 255)


def proper_subsets():
    return [group for size in (1, 2, 3) for group in itertools.combinations(CLIENTS, size)]


def of_subset(found, group):
    return functools.reduce(np.add, (found[client] for client in group)) & MODULUS


def test_both_worlds_have_the_sum_that_is_released():
    for world in ("one", "all"):
        found, total = seen(world)
        assert (total == 4 * np.arange(VALUES)).all()
        assert (of_subset(found, CLIENTS) == total).all()


def test_in_either_world_any_clients_but_all_of_them_add_up_to_noise():
    """So the joint distribution is uniform on vectors with that sum, as far as linear forms with 0 and 1 tell."""
    pvalues = np.concatenate(
        [uniform_pvalues(of_subset(seen(world)[0], group)) for world in ("one", "all") for group in proper_subsets()]
    )
    assert pvalues.min() > P_VALUE / len(pvalues)


def test_the_two_worlds_cannot_be_told_apart():
    """Two-sample chi-square of each byte, for each group of clients."""
    pvalues = []
    for group in proper_subsets():
        samples = [bytes_of(of_subset(seen(world)[0], group)) for world in ("one", "all")]
        for place in range(BITS // 8):
            one, other = (np.bincount(sample[:, place], minlength=256) for sample in samples)
            pvalues.append(chi2.sf(((one - other) ** 2 / (one + other)).sum(), 255))
    assert min(pvalues) > P_VALUE / len(pvalues)


def test_the_statistic_tells_unmasked_worlds_apart():
    """The control: client 1's high bytes are constant, its low ones are not alike in the two worlds."""
    assert uniform_pvalues(inputs("one")[1]).min() < 1e-100
    samples = [bytes_of(inputs(world)[1])[:, 0] for world in ("one", "all")]
    one, other = (np.bincount(sample, minlength=256) for sample in samples)
    present = one + other > 0
    assert chi2.sf(((one - other)[present] ** 2 / (one + other)[present]).sum(), 255) < 1e-100
