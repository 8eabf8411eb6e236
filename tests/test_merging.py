"""Merging methods: their papers' formulas on hand-worked numbers and against plain loops; no two updates in memory."""

import subprocess
import sys
import tracemalloc
from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from collabsecure.errors import ModelMismatch
from collabsecure.merge import merge_delta
from collabsecure.merging import simple_average, task_arithmetic, ties
from collabsecure.statistics import cross, gram

METHODS = [simple_average, lambda updates: task_arithmetic(updates, scale=0.4), ties]


def row(*values: float) -> np.ndarray:
    return np.array([values], dtype=np.float64)


def random_updates(num: int, seed: int = 0, shapes: Mapping[int, tuple[int, int]] | None = None):
    """Layers of unlike sizes and scales; some entries are exact zeros."""
    rng = np.random.default_rng(seed)
    shapes = shapes or {4: (3, 5), 7: (6, 2), 9: (1, 1)}
    return [
        {
            layer: rng.standard_normal(shape) * 10.0 ** rng.uniform(-1, 1) * (rng.random(shape) > 0.1)
            for layer, shape in shapes.items()
        }
        for _ in range(num)
    ]


def ties_in_plain_loops(updates, keep, scale):
    """Algorithm 1 of the paper over one flat vector, entry by entry."""
    layers = sorted(updates[0])
    vectors = [[value for layer in layers for value in update[layer].ravel().tolist()] for update in updates]
    size = len(vectors[0])
    trimmed = []
    for vector in vectors:
        smallest_kept = sorted(map(abs, vector), reverse=True)[max(1, round(keep * size)) - 1]
        trimmed.append([value if abs(value) >= smallest_kept else 0.0 for value in vector])
    merged = []
    for column in zip(*trimmed, strict=True):
        sign = np.sign(sum(column))
        chosen = [value for value in column if value and np.sign(value) == sign]
        merged.append(scale * sum(chosen) / len(chosen) if chosen else 0.0)
    flat, result, start = np.array(merged), {}, 0
    for layer in layers:
        shape = updates[0][layer].shape
        result[layer] = flat[start : start + shape[0] * shape[1]].reshape(shape)
        start += shape[0] * shape[1]
    return result


def assert_same(found, expected, **tolerance):
    assert list(found) == sorted(expected)
    for layer in expected:
        np.testing.assert_allclose(found[layer], expected[layer], **(tolerance or {"rtol": 1e-12, "atol": 1e-14}))


def test_averaging_and_arithmetic_are_the_sums_they_say():
    updates = [{5: row(1, 2), 2: row(8)}, {5: row(3, -2), 2: row(0)}, {5: row(5, 3), 2: row(-2)}]
    assert_same(simple_average(updates), {5: row(3, 1), 2: row(2)})
    assert_same(task_arithmetic(updates, scale=1.0), {5: row(9, 3), 2: row(6)})
    assert_same(task_arithmetic(updates, scale=-0.5), {5: row(-4.5, -1.5), 2: row(-3)})


def test_ties_by_hand():
    """Six entries, half of which stay: 1 keeps 6, −5, 4; 2 keeps −3, −2, 7; 3 keeps 1, 9, 8."""
    updates = [
        {0: row(6, -5, 4), 1: row(0, 1, 2)},
        {0: row(-3, -2, 0.5), 1: row(7, 1, -1)},
        {0: row(1, 9, 0), 1: row(0.5, 0.1, 8)},
    ]
    expected = {
        0: row((6 + 1) / 2, 9, 4),  # −3 is outvoted 7 to 3; −5 and −2 by 9 to 7, one against two; 4 is alone
        1: row(7, 0, 8),  # nobody's second entry stayed
    }
    assert_same(ties(updates, keep=0.5), expected)
    assert_same(ties(updates, keep=0.5, scale=0.4), {layer: 0.4 * values for layer, values in expected.items()})


def test_ties_trims_the_whole_update_and_not_each_layer():
    update = {0: row(10, -9, 8, 7), 1: row(1, 2, -3, 4)}
    assert_same(ties([update], keep=0.5), {0: update[0], 1: row(0, 0, 0, 0)})
    each = [ties([{layer: update[layer]}], keep=0.5)[layer] for layer in (0, 1)]
    assert_same(dict(enumerate(each)), {0: row(10, -9, 0, 0), 1: row(0, 0, -3, 4)})


def test_ties_defaults_are_its_authors():
    (update,) = random_updates(1, shapes={0: (20, 5)})
    kept = ties([update])[0]
    assert np.count_nonzero(kept) == 20  # of 100
    assert (kept[kept != 0] == update[0][kept != 0]).all()
    assert np.abs(update[0][kept == 0]).max() < np.abs(kept[kept != 0]).min()


def test_ties_with_equal_mass_on_both_sides_leaves_the_entry():
    assert_same(ties([{0: row(2, 1)}, {0: row(-2, 1)}], keep=1.0), {0: row(0, 1)})


def test_ties_keeps_entries_of_equal_magnitude_together():
    assert_same(ties([{0: row(3, -3, 3, 1)}], keep=0.25), {0: row(3, -3, 3, 0)})


def test_ties_of_a_mostly_empty_update_keeps_what_there_is():
    assert_same(ties([{0: row(0, 0, 0, -1)}, {0: row(0, 0, 0, 0)}], keep=0.5), {0: row(0, 0, 0, -1)})


@given(
    num=st.integers(1, 6),
    keep=st.floats(0.01, 1.0),
    scale=st.floats(-2, 2),
    seed=st.integers(0, 2**32 - 1),
)
def test_ties_is_algorithm_1_entry_by_entry(num, keep, scale, seed):
    updates = random_updates(num, seed)
    assert_same(ties(updates, keep=keep, scale=scale), ties_in_plain_loops(updates, keep, scale))


@given(num=st.integers(1, 6), seed=st.integers(0, 2**32 - 1))
def test_averaging_and_arithmetic_are_plain_loops(num, seed):
    updates = random_updates(num, seed)
    total = {layer: sum(update[layer] for update in updates) for layer in updates[0]}
    assert_same(simple_average(updates), {layer: values / num for layer, values in total.items()})
    assert_same(task_arithmetic(updates, scale=0.4), {layer: 0.4 * values for layer, values in total.items()})


@pytest.mark.parametrize("method", METHODS)
def test_the_order_of_updates_does_not_matter_and_they_stay_as_they_were(method):
    updates = random_updates(5)
    before = [{layer: values.copy() for layer, values in update.items()} for update in updates]
    assert_same(method(updates), method(updates[::-1]))
    for update, copy in zip(updates, before, strict=True):
        assert all((update[layer] == copy[layer]).all() for layer in copy)


@pytest.mark.parametrize("num", [1, 3])
def test_equal_updates_average_to_themselves_and_arithmetic_repeats_them(num):
    (update,) = random_updates(1)
    assert_same(simple_average([update] * num), update)
    assert_same(ties([update] * num, keep=1.0), update)
    assert_same(task_arithmetic([update] * num, scale=1.0), {layer: num * update[layer] for layer in update})


def test_no_method_is_the_exact_merge_but_all_are_with_one_client():
    rng = np.random.default_rng(0)
    keys, residuals = rng.standard_normal((12, 8)), rng.standard_normal((6, 8))
    parts = [slice(0, 4), slice(4, 8)]
    moment = np.eye(12)

    def solved(part):
        return merge_delta(moment, gram(keys[:, part]), cross(residuals[:, part], keys[:, part]))

    updates, exact = [{0: solved(part)} for part in parts], solved(slice(0, 8))
    for merged in (simple_average(updates), task_arithmetic(updates, scale=1.0), ties(updates)):
        assert np.linalg.norm(merged[0] - exact) > 0.1 * np.linalg.norm(exact)
    for merged in (simple_average, lambda one: task_arithmetic(one, scale=1.0), lambda one: ties(one, keep=1.0)):
        assert_same(merged([{0: exact}]), {0: exact})


@pytest.mark.parametrize("method", METHODS)
def test_updates_that_do_not_fit_together_are_refused_with_found_and_expected(method):
    whole = {3: np.ones((2, 4)), 4: np.ones((2, 4))}
    with pytest.raises(ModelMismatch, match=r"update 3: found layers 3; expected 3, 4, those of update 1"):
        method([whole, whole, {3: whole[3]}])
    with pytest.raises(ModelMismatch, match=r"update 2, layer 4: found shape \(4, 2\); expected \(2, 4\)"):
        method([whole, {3: whole[3], 4: whole[4].T}])
    with pytest.raises(ModelMismatch, match=r"update 2, layer 3: found shape \(1, 4\)"):  # which NumPy would stretch
        method([whole, {3: np.ones((1, 4)), 4: whole[4]}])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("where", [0, 1])
def test_numbers_that_are_none_are_refused(method, value, where):
    updates = random_updates(2)
    updates[where][7][1, 1] = value
    with pytest.raises(ValueError, match=rf"update {where + 1}, layer 7: found NaN or infinite entries"):
        method(updates)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("nothing", [[], [{}]])
def test_nothing_to_merge_is_refused(method, nothing):
    with pytest.raises(ValueError, match="found no updates, or none of any layer"):
        method(nothing)


@pytest.mark.parametrize("keep", [0.0, -0.2, 1.01, 20.0, float("nan")])
def test_ties_refuses_a_part_that_is_none(keep):
    with pytest.raises(ValueError, match=r"found keep = .*; expected a part of the entries"):
        ties(random_updates(2), keep=keep)


class Lazy(Mapping):
    """An update whose layers are made when they are asked for, as a file's are read."""

    def __init__(self, seed):
        self.seed = seed

    def __getitem__(self, layer):
        return np.random.default_rng([self.seed, layer]).standard_normal((128, 256))

    def __iter__(self):
        return iter(range(4))

    def __len__(self):
        return 4


@pytest.mark.parametrize(("method", "extra_layers"), [(METHODS[0], 3), (METHODS[1], 3), (METHODS[2], 10)])
def test_of_lazy_updates_no_more_than_one_is_held(method, extra_layers):
    updates, layer = [Lazy(seed) for seed in range(12)], 128 * 256 * 8
    tracemalloc.start()
    merged = method(updates)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(merged) == 4
    assert peak < (4 + extra_layers) * layer  # the result's 4; twelve updates are 48


def test_merging_imports_no_torch():
    code = "import sys, collabsecure.merging; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
