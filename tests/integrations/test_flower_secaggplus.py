"""Flower's own SecAgg+, as installed: what the table of docs/embedding.md says of it, each line run here.

The table names, for each line, the test of ours that shows the same of this package.
"""

import importlib
import re
from pathlib import Path

import numpy as np
import pytest
from flower_grid import InProcessGrid
from flower_secaggplus_app import average, client_app
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.common import bytes_to_ndarray, ndarrays_to_parameters
from flwr.common.secure_aggregation.crypto.shamir import combine_shares
from flwr.common.secure_aggregation.crypto.symmetric_encryption import decrypt, generate_shared_key
from flwr.common.secure_aggregation.ndarrays_arithmetic import parameters_mod, parameters_subtraction
from flwr.common.secure_aggregation.quantization import quantize
from flwr.common.secure_aggregation.secaggplus_constants import RECORD_KEY_CONFIGS, RECORD_KEY_STATE, Key, Stage
from flwr.common.secure_aggregation.secaggplus_utils import pseudo_rand_gen, share_keys_plaintext_separate
from flwr.supercore.primitives.asymmetric import (
    bytes_to_private_key,
    bytes_to_public_key,
    generate_key_pairs,
    public_key_to_bytes,
)

mod = importlib.import_module(
    "flwr.client.mod.secure_aggregation.secaggplus_mod"
)  # the package has a function so named

ROOT = Path(__file__).parents[2]
NODES = (1, 2, 3, 4)
MODULUS, CLIP, STEPS = 1 << 32, 8.0, 1 << 22  # its defaults
SETTINGS = {
    Key.SHARE_NUMBER: 3,
    Key.CLIPPING_RANGE: CLIP,
    Key.TARGET_RANGE: STEPS,
    Key.MOD_RANGE: MODULUS,
    Key.MAX_WEIGHT: 1.0,
}


def run(grid, **options):
    context = Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config={})
    return average(grid, context, nodes=len(NODES), shape=(5,), **options)


def honest():
    return client_app(lambda context: np.full(5, float(context.node_id)), examples=1)


class Cohort:
    """Clients after set-up, driven by the functions of Flower's mod; `threshold` is what the server says."""

    def __init__(self, threshold, nodes=NODES):
        settings = SETTINGS | {Key.SAMPLE_NUMBER: len(nodes), Key.SHARE_NUMBER: len(nodes), Key.THRESHOLD: threshold}
        self.states, self.keys = {}, {}
        for node in nodes:
            self.states[node] = mod.SecAggPlusState()
            self.states[node].nid = node
            public = mod._setup(self.states[node], dict(settings))
            self.keys[node] = [public[Key.PUBLIC_KEY_1], public[Key.PUBLIC_KEY_2]]

    def share_keys(self, node, directory):
        """What a client sends when it is shown these public keys: ciphertexts by whom they are for."""
        sent = mod._share_keys(self.states[node], {str(owner): keys for owner, keys in directory.items()})
        return dict(zip(sent[Key.DESTINATION_LIST], sent[Key.CIPHERTEXT_LIST], strict=True))

    def share_all(self):
        shared = {node: self.share_keys(node, self.keys) for node in self.states}
        return {node: {source: shared[source][node] for source in shared if source != node} for node in shared}

    def masked(self, node, inbox, array):
        configs = {Key.SOURCE_LIST: list(inbox), Key.CIPHERTEXT_LIST: list(inbox.values())}
        sent = mod._collect_masked_vectors(self.states[node], configs, 1, ndarrays_to_parameters([array]))
        return list(map(bytes_to_ndarray, sent[Key.MASKED_PARAMETERS]))

    def unmask(self, node, active, dead):
        sent = mod._unmask(self.states[node], {Key.ACTIVE_NODE_ID_LIST: active, Key.DEAD_NODE_ID_LIST: dead})
        return list(zip(sent[Key.NODE_ID_LIST], sent[Key.SHARE_LIST], strict=True))


def test_the_sum_is_right_and_a_client_may_leave_before_its_input():
    np.testing.assert_allclose(run(InProcessGrid(honest, NODES), max_weight=1.0), np.full(5, 2.5), atol=1e-5)
    grid = InProcessGrid(honest, NODES)
    grid.fault = leaves(3, after=2)  # set-up and shares
    np.testing.assert_allclose(run(grid, max_weight=1.0), np.full(5, 7 / 3), atol=1e-5)


def leaves(node, *, after):
    """A fault: that node answers so many messages, and none later."""
    answered = {}

    def fault(which, number):
        answered[which] = answered.get(which, 0) + 1
        return "error" if which == node and answered[which] > after else None

    return fault


def test_a_client_that_leaves_before_it_shared_its_keys_ends_the_sum(caplog):
    grid = InProcessGrid(honest, NODES)
    grid.fault = leaves(3, after=1)
    assert run(grid, max_weight=1.0) is None
    assert "Not enough shares to recover secret in unmask vectors stage" in caplog.text


def test_every_sum_has_a_set_up_of_its_own():
    grid, numbers = InProcessGrid(honest, NODES), []
    grid.fault = lambda node, number: numbers.append(node) and None
    run(grid, rounds=3, max_weight=1.0)
    assert numbers.count(1) == 3 * len(Stage.all())


def test_masks_are_numpys_mersenne_twister_from_32_bits_of_the_key():
    key, other = bytes(range(32)), bytes(range(31, -1, -1))
    folded = [np.bitwise_xor.reduce(np.frombuffer(each, "<u4")) for each in (key, other)]
    (mask,) = pseudo_rand_gen(key, MODULUS, [(100,)])
    twister = np.random.RandomState(int(folded[0])).randint(0, MODULUS - 1, (100,), dtype=np.int64)
    np.testing.assert_array_equal(mask, twister)
    again = bytes(28) + int(folded[0]).to_bytes(4, "little")  # another key, of which 32 bits remain the same
    np.testing.assert_array_equal(pseudo_rand_gen(again, MODULUS, [(100,)])[0], mask)


def test_public_keys_are_not_signed_so_a_server_may_put_its_own_in_their_place():
    cohort = Cohort(threshold=3)
    own = {node: (generate_key_pairs(), generate_key_pairs()) for node in NODES}
    directory = {node: [public_key_to_bytes(pair[1]) for pair in own[node]] for node in NODES} | {1: cohort.keys[1]}
    sent = cohort.share_keys(1, directory)
    shares = []
    for node, ciphertext in sent.items():
        key = generate_shared_key(own[node][1][0], bytes_to_public_key(cohort.keys[1][1]))
        shares.append(share_keys_plaintext_separate(decrypt(key, ciphertext))[2:])
    seed, secret = (combine_shares(list(kind)) for kind in zip(*shares, strict=True))
    assert seed == cohort.states[1].rd_seed
    assert secret == cohort.states[1].sk1  # so the server has all masks of client 1


def test_one_request_is_answered_with_both_secrets_of_a_client_so_its_input_opens():
    cohort = Cohort(threshold=3)
    inboxes = cohort.share_all()
    array = np.array([1.0, -2.0, 3.0, 4.5, -5.0])
    sent = {node: cohort.masked(node, inboxes[node], array * node / 4) for node in NODES}
    active = list(NODES)
    shares = [cohort.unmask(node, active, [2]) for node in (1, 3, 4)]  # client 2 is said to be there, and to be gone
    seed = combine_shares([found[active.index(2)][1] for found in shares])
    secret = bytes_to_private_key(combine_shares([found[-1][1] for found in shares]))
    opened = sent[2]
    opened = parameters_subtraction(opened, pseudo_rand_gen(seed, MODULUS, [(), (5,)]))
    for node in (1, 3, 4):
        mask = pseudo_rand_gen(
            generate_shared_key(secret, bytes_to_public_key(cohort.keys[node][0])), MODULUS, [(), (5,)]
        )
        opened = [part - each if node < 2 else part + each for part, each in zip(opened, mask, strict=True)]
    _, integers = parameters_mod(opened, MODULUS)
    np.testing.assert_allclose(integers * (2 * CLIP / STEPS) - CLIP, array / 2, atol=1e-5)


def test_survivors_are_not_agreed_on_so_two_clients_may_be_told_of_others():
    cohort = Cohort(threshold=2)
    for node, inbox in cohort.share_all().items():
        cohort.masked(node, inbox, np.ones(5))
    assert [node for node, _ in cohort.unmask(1, [1, 2, 3, 4], [])] == [1, 2, 3, 4]
    assert [node for node, _ in cohort.unmask(3, [1, 3, 4], [2])] == [1, 3, 4, 2]


def test_the_server_sets_the_threshold_and_no_client_minds():
    cohort = Cohort(threshold=1)
    assert cohort.states[1].threshold == 1


def test_values_beyond_the_range_are_clipped():
    inside, outside = (quantize([np.array([value])], CLIP, STEPS)[0] for value in (CLIP, 1000.0))
    np.testing.assert_array_equal(inside, outside)


def test_secrets_are_in_the_apps_own_state():
    grid = InProcessGrid(honest, [1])
    settings = ConfigRecord(SETTINGS | {Key.STAGE: Stage.SETUP, Key.SAMPLE_NUMBER: 3, Key.THRESHOLD: 2})
    content = RecordDict({RECORD_KEY_CONFIGS: settings})
    grid.send_and_receive([Message(content, 1, "train")])
    kept = grid.contexts[1].state.config_records[RECORD_KEY_STATE]
    assert bytes_to_private_key(kept["sk1"]).key_size == 384


PAGE = ROOT / "docs" / "embedding.md"
NAMED = sorted(set(re.findall(r"`((?:test_\w+::)?test_\w+)`", PAGE.read_text(encoding="utf-8"))))


@pytest.mark.parametrize("test", NAMED)
def test_every_test_that_the_page_names_exists(test):
    file, _, name = test.rpartition("::")
    (found,) = (ROOT / "tests").rglob(f"{file or 'test_flower_secaggplus'}.py")
    assert re.search(rf"^def {name}\(", found.read_text(encoding="utf-8"), re.M)
