"""The merge: it is the textbook solve, it refuses what is not positive definite, and it works in its arguments."""

import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import merge as benchmark
from collabsecure.errors import DegenerateSecondMoment, NotPositiveDefinite
from collabsecure.merge import equilibration, merge_delta
from collabsecure.statistics import cross, gram


def relative(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def layer(d_in: int = 60, d_out: int = 20, num_edits: int = 25, seed: int = 0) -> tuple[np.ndarray, ...]:
    """C with features of scales 10⁻³ to 10³, keys of the same, and residuals."""
    rng = np.random.default_rng(seed)
    scale = 10 ** rng.uniform(-3, 3, d_in)
    text = rng.standard_normal((d_in, 3 * d_in)) * scale[:, None]
    keys = rng.standard_normal((d_in, num_edits)) * scale[:, None]
    return gram(text) / text.shape[1], keys, rng.standard_normal((d_out, num_edits))


def test_delta_is_the_textbook_solution():
    second_moment, keys, residuals = layer()
    expected = residuals @ keys.T @ np.linalg.inv(second_moment + keys @ keys.T)
    assert relative(merge_delta(second_moment, gram(keys), cross(residuals, keys)), expected) < 1e-10


def test_sums_of_clients_merge_to_what_all_requests_in_one_place_give():
    second_moment, keys, residuals = layer()
    clients = [slice(0, 3), slice(3, 17), slice(17, 25)]
    summed = merge_delta(
        second_moment,
        sum(gram(keys[:, part]) for part in clients),
        sum(cross(residuals[:, part], keys[:, part]) for part in clients),
    )
    assert relative(summed, merge_delta(second_moment, gram(keys), cross(residuals, keys))) < 1e-12


@given(d_in=st.integers(1, 12), d_out=st.integers(1, 9), num_edits=st.integers(0, 30), seed=st.integers(0, 2**32 - 1))
def test_delta_times_the_system_gives_the_cross_term_back(d_in, d_out, num_edits, seed):
    rng = np.random.default_rng(seed)
    keys, residuals = rng.standard_normal((d_in, num_edits)), rng.standard_normal((d_out, num_edits))
    delta = merge_delta(np.eye(d_in), gram(keys), cross(residuals, keys))
    np.testing.assert_allclose(delta @ (np.eye(d_in) + gram(keys)), cross(residuals, keys), atol=1e-10)


def test_editing_in_rounds_with_earlier_grams_added_to_c_equals_editing_at_once():
    second_moment, keys, residuals = layer()
    first, second = slice(0, 10), slice(10, 25)
    delta = merge_delta(second_moment, gram(keys[:, first]), cross(residuals[:, first], keys[:, first]))
    left = residuals[:, second] - delta @ keys[:, second]
    delta += merge_delta(second_moment + gram(keys[:, first]), gram(keys[:, second]), cross(left, keys[:, second]))
    assert relative(delta, merge_delta(second_moment, gram(keys), cross(residuals, keys))) < 1e-10


def test_one_wrapped_entry_is_refused_where_lu_gives_a_plausible_delta():
    second_moment, keys, residuals = layer()
    summed, crossed = gram(keys), cross(residuals, keys)
    scales = equilibration(second_moment)
    summed[3, 40] -= 16 / scales[3] / scales[40]  # what is left of a ring that was too small
    summed[40, 3] = summed[3, 40]
    plausible = np.linalg.solve(second_moment + summed, crossed.T).T
    assert np.isfinite(plausible).all()
    with pytest.raises(NotPositiveDefinite, match="a sum has wrapped or was corrupted"):
        merge_delta(second_moment, summed, crossed)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("argument", [0, 1, 2])
@pytest.mark.parametrize("where", [(0, 0), (2, 30), (19, 59)])
def test_nan_and_infinity_anywhere_are_refused(argument, value, where):
    second_moment, keys, residuals = layer()
    arguments = [second_moment, gram(keys), cross(residuals, keys)]
    arguments[argument][where] = value
    with pytest.raises(NotPositiveDefinite, match="NaN or infinite"):
        merge_delta(*arguments)


def test_a_rank_deficient_system_is_refused():
    _, keys, residuals = layer()
    with pytest.raises(NotPositiveDefinite, match="not of full rank"):
        merge_delta(np.zeros((60, 60)), gram(keys), cross(residuals, keys))


@pytest.mark.parametrize("shapes", [((3, 4), (3, 3), (2, 3)), ((3, 3), (4, 4), (2, 3)), ((3, 3), (3, 3), (2, 4))])
def test_shapes_of_different_layers_are_refused(shapes):
    with pytest.raises((ValueError, TypeError), match=r"found|type"):
        merge_delta(*(np.ones(shape) for shape in shapes))


def test_only_upper_triangles_count():
    second_moment, keys, residuals = layer()
    below = np.tril(np.full((60, 60), 1e9), -1)
    expected = merge_delta(second_moment, gram(keys), cross(residuals, keys))
    found = merge_delta(np.triu(second_moment) + below, np.triu(gram(keys)) - 2 * below, cross(residuals, keys))
    assert (found == expected).all()


def test_without_overwrite_the_arguments_stay_as_they_are():
    second_moment, keys, residuals = layer()
    arguments = (second_moment, gram(keys), cross(residuals, keys))
    copies = [argument.copy() for argument in arguments]
    merge_delta(*arguments)
    assert all((argument == copy).all() for argument, copy in zip(arguments, copies, strict=True))


def test_overwrite_puts_the_same_delta_into_the_memory_of_cross_and_allocates_no_matrix():
    second_moment, keys, residuals = layer(d_in=600, d_out=150, num_edits=100)
    summed, crossed = gram(keys), cross(residuals, keys)
    expected = merge_delta(second_moment, summed, crossed)
    tracemalloc.start()
    delta = merge_delta(second_moment, summed, crossed, overwrite=True)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (delta == expected).all()
    assert np.shares_memory(delta, crossed)
    assert delta.flags.c_contiguous
    assert peak < 0.25 * summed.nbytes / 4  # a fourth of the bar; LAPACK's own workspace is the benchmark's to measure


@pytest.mark.parametrize("overwrite", [False, True])
def test_other_memory_layouts_give_the_same_delta(overwrite):
    second_moment, keys, residuals = layer()
    summed, crossed = gram(keys), cross(residuals, keys)
    expected = merge_delta(second_moment, summed, crossed)
    frozen = summed.copy()
    frozen.setflags(write=False)
    strided = np.zeros((40, 120))[::2, ::2]
    strided[:] = crossed
    columns = np.asfortranarray(summed), np.asfortranarray(crossed)
    assert (merge_delta(np.asfortranarray(second_moment), *columns, overwrite=overwrite) == expected).all()
    assert (merge_delta(second_moment, frozen, strided, overwrite=overwrite) == expected).all()


def test_merging_equilibrated_sums_changes_nothing_beyond_rounding():
    second_moment, keys, residuals = layer()
    summed, crossed = gram(keys), cross(residuals, keys)
    scales = equilibration(second_moment)
    both = np.outer(scales, scales)
    np.testing.assert_allclose((second_moment * both).diagonal(), 1, rtol=1e-14)
    scaled = merge_delta(second_moment * both, summed * both, crossed * scales) * scales
    # Columns of Δ differ by as much as features do, so the error is measured against what each Δ_ij can move.
    plain = merge_delta(second_moment, summed, crossed)
    assert relative(scaled / scales, plain / scales) < 1e-12


def test_cholesky_does_not_see_scales_that_are_powers_of_two():
    second_moment, keys, residuals = layer()
    summed, crossed = gram(keys), cross(residuals, keys)
    scales = np.exp2(np.round(np.log2(equilibration(second_moment))))
    both = np.outer(scales, scales)
    scaled = merge_delta(second_moment * both, summed * both, crossed * scales) * scales
    assert (scaled == merge_delta(second_moment, summed, crossed)).all()


@pytest.mark.parametrize("value", [0.0, -1.0, np.nan, np.inf])
def test_a_feature_that_never_occurred_is_named_with_a_remedy(value):
    second_moment = np.eye(5)
    second_moment[3, 3] = second_moment[4, 4] = value
    with pytest.raises(DegenerateSecondMoment, match=r"found 2 diagonal entries.*index 3.*over more texts") as caught:
        equilibration(second_moment)
    assert caught.value.indices == (3, 4)


def test_an_aggregator_that_merges_and_saves_imports_no_torch():
    code = (
        "import sys, collabsecure.merge, collabsecure.statistics, collabsecure.deltas; "
        "sys.exit(bool({'torch', 'transformers', 'datasets'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_benchmark_measures_time_and_memory_against_their_bars(capsys):
    benchmark.main(["--d-in", "96", "--d-out", "24", "--repeats", "1"])
    assert "DGEMM of equal FLOPs (bar 1.4)" in capsys.readouterr().out
