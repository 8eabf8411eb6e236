"""Statistics: packing round trips in the order of the wire, and MEMIT's second-moment files in both directions."""

import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from collabsecure.errors import BadFile
from collabsecure.statistics import (
    SecondMoment,
    Statistics,
    cross,
    find_second_moments,
    gram,
    pack_upper,
    second_moment_filename,
    symmetrise,
    unpack_upper,
)
from collabsecure_protocols import Tensor
from collabsecure_protocols.fixedpoint import Encoder, add_packed, pack_into, signed


def symmetric(dimension: int, seed: int = 0) -> np.ndarray:
    matrix = np.random.default_rng(seed).standard_normal((dimension, dimension))
    symmetrise(matrix)
    return matrix


def test_gram_and_cross_sum_outer_products_over_edits():
    rng = np.random.default_rng(0)
    keys, residuals = rng.standard_normal((7, 3)), rng.standard_normal((4, 3))
    np.testing.assert_allclose(gram(keys), sum(np.outer(k, k) for k in keys.T), rtol=1e-13)
    np.testing.assert_allclose(
        cross(residuals, keys), sum(np.outer(r, k) for r, k in zip(residuals.T, keys.T, strict=True)), rtol=1e-12
    )


def test_gram_is_symmetric_to_the_last_bit():
    product = gram(np.random.default_rng(1).standard_normal((301, 77)))
    assert (product == product.T).all()


def test_no_edits_make_zero_statistics():
    assert not gram(np.empty((3, 0))).any()
    assert not cross(np.empty((2, 0)), np.empty((3, 0))).any()


@pytest.mark.parametrize(
    ("gram_shape", "cross_shape"), [((3, 4), (2, 4)), ((3, 3), (2, 4)), ((3, 3), (3,)), ((3, 3, 3), (2, 3))]
)
def test_statistics_refuse_shapes_that_are_of_no_one_layer(gram_shape, cross_shape):
    with pytest.raises((ValueError, TypeError), match=r"found|type"):
        Statistics(gram=np.zeros(gram_shape), cross=np.zeros(cross_shape))


@given(dimension=st.integers(1, 40))
def test_packed_triangle_comes_back_whole(dimension):
    matrix = symmetric(dimension)
    packed = pack_upper(matrix)
    assert (packed == matrix[np.triu_indices(dimension)]).all()
    assert (unpack_upper(packed) == matrix).all()


def test_the_secure_sum_sends_a_gram_matrix_in_packed_order():
    matrix = symmetric(7)
    tensor = Tensor(name="gram", shape=(7, 7), symmetric=True, bound=100.0, fraction_bits=20)
    ring = np.empty(tensor.num_values, np.uint64)
    Encoder(tensor, matrix).encode_into(0, ring)
    total = np.zeros_like(ring)
    wire = bytearray(6 * len(ring) + 2)
    pack_into(ring, 48, wire)
    add_packed(total, wire, 0, 48)
    assert (signed(total, 16) == np.rint(pack_upper(matrix) * 2.0**20)).all()


@pytest.mark.parametrize("size", [2, 4, 5, 7])
def test_unpack_refuses_lengths_that_are_no_triangle(size):
    with pytest.raises(ValueError, match=rf"found {size} values"):
        unpack_upper(np.zeros(size))


def memit_file(path: Path, **changes: object) -> Path:
    """A file as MEMIT writes it; None takes a key out."""
    mom2 = gram(np.random.default_rng(2).standard_normal((5, 50))).astype(np.float32)
    content: dict[str, object] = {
        "mom2.constructor": "util.runningstats.SecondMoment()",
        "mom2.count": 50,
        "mom2.mom2": mom2,
        "sample_size": 100_000,
    }
    content.update({key.replace("_mom", ".mom").replace("mom2_", "mom2."): value for key, value in changes.items()})
    np.savez(path, **{key: value for key, value in content.items() if value is not None})
    return path


@pytest.mark.parametrize("precision", [np.float16, np.float32, np.float64])
def test_memits_file_loads_as_it_is(tmp_path, precision):
    mom2 = gram(np.random.default_rng(2).standard_normal((5, 50))).astype(precision)
    loaded = SecondMoment.load_npz(memit_file(tmp_path / "a.npz", mom2_mom2=mom2))
    assert (loaded.count, loaded.sample_size) == (50, 100_000)
    np.testing.assert_array_equal(loaded.moment, mom2.astype(np.float64) / 50)
    np.testing.assert_allclose(loaded.weighted(20_000), 20_000 * loaded.moment, rtol=1e-15)
    assert loaded.moment.dtype == np.float64


def test_rounding_asymmetry_of_float32_sums_is_averaged_out(tmp_path):
    mom2 = np.array([[4.0, 1.0], [np.nextafter(np.float32(1), np.float32(2)), 4.0]], dtype=np.float32)
    total = SecondMoment.load_npz(memit_file(tmp_path / "a.npz", mom2_mom2=mom2)).total
    assert total[0, 1] == total[1, 0] == (mom2[0, 1].astype(float) + mom2[1, 0].astype(float)) / 2


def test_null_sample_size_as_memit_spells_it_is_none(tmp_path):
    null = np.array(struct.unpack(">d", struct.pack(">Q", 0xFFF8000000000002))[0])
    assert SecondMoment.load_npz(memit_file(tmp_path / "a.npz", sample_size=null)).sample_size is None
    assert SecondMoment.load_npz(memit_file(tmp_path / "b.npz", sample_size=None)).sample_size is None


@pytest.mark.parametrize("sample_size", [100_000, None])
def test_saved_moment_comes_back_bit_for_bit_and_is_what_memit_reads(tmp_path, sample_size):
    saved = SecondMoment(total=gram(symmetric(6)), count=17, sample_size=sample_size)
    saved.save_npz(tmp_path / "a.npz")
    loaded = SecondMoment.load_npz(tmp_path / "a.npz")
    assert (loaded.total == saved.total).all()
    assert (loaded.count, loaded.sample_size) == (17, sample_size)
    with np.load(tmp_path / "a.npz") as file:  # MEMIT: numpy.load, int(count), mom2 as it is, sample_size compared
        assert int(file["mom2.count"]) == 17
        assert (file["mom2.mom2"] == saved.total).all()
        assert str(file["mom2.constructor"]) == "util.runningstats.SecondMoment()"
        if sample_size is None:
            assert struct.pack(">d", file["sample_size"]) == struct.pack(">Q", 0xFFF8000000000002)
        else:
            assert file["sample_size"] == 100_000


def test_saving_never_replaces_a_file_unless_told_to(tmp_path):
    moment = SecondMoment(total=np.eye(2), count=1, sample_size=None)
    path = tmp_path / "a.npz"
    path.write_text("precious")
    with pytest.raises(BadFile, match="something there already"):
        moment.save_npz(path)
    assert path.read_text() == "precious"
    moment.save_npz(path, force=True)
    assert SecondMoment.load_npz(path).count == 1
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.npz"]


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"mom2_mom2": None}, "no mom2.mom2 among"),
        ({"mom2_count": None}, "no mom2.count among"),
        ({"mom2_count": 0}, "mom2.count"),
        ({"mom2_count": 1.5}, "mom2.count"),
        ({"mom2_count": np.array([3, 4])}, "mom2.count"),
        ({"sample_size": -1}, "sample_size"),
        ({"mom2_mom2": np.eye(3, 4)}, r"shape \(3, 4\)"),
        ({"mom2_mom2": np.empty((0, 0))}, r"shape \(0, 0\)"),
        ({"mom2_mom2": np.eye(3, dtype=int)}, "type int64"),
        ({"mom2_mom2": np.diag([1.0, np.nan])}, "diagonal"),
        ({"mom2_mom2": np.diag([1.0, -1.0])}, "diagonal"),
        ({"mom2_mom2": np.array([[1.0, np.inf], [np.inf, 1.0]])}, "NaN or infinite"),
        ({"mom2_mom2": np.array([[1.0, 0.5], [-0.5, 1.0]])}, "not symmetric"),
        ({"mom2_mom2": np.array([[object(), 1], [1, 1]], dtype=object)}, "no intact .npz .*allow_pickle"),
    ],
)
def test_malformed_content_is_refused_with_what_was_found(tmp_path, changes, found):
    path = memit_file(tmp_path / "bad.npz", **changes)
    with pytest.raises(BadFile, match=rf"bad.npz: found .*{found}.*; expected"):
        SecondMoment.load_npz(path)


def test_what_is_no_npz_at_all_is_refused(tmp_path):
    whole = memit_file(tmp_path / "whole.npz").read_bytes()
    damaged = bytearray(whole)
    damaged[len(whole) // 2] ^= 1
    contents = {"empty": b"", "text": b"PK is not enough", "half": whole[: len(whole) // 2], "damaged": bytes(damaged)}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(BadFile, match=rf"{name}: found .*expected"):
            SecondMoment.load_npz(tmp_path / name)
    np.save(tmp_path / "single.npy", np.eye(2))
    with pytest.raises(BadFile, match="a single array"):
        SecondMoment.load_npz(tmp_path / "single.npy")
    with pytest.raises(BadFile, match="no such file"):
        SecondMoment.load_npz(tmp_path / "absent.npz")
    with pytest.raises(BadFile, match="is a directory"):
        SecondMoment.load_npz(tmp_path)


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan"), float("inf")])
def test_weight_must_be_a_positive_number(weight):
    with pytest.raises(ValueError, match="weight"):
        SecondMoment(total=np.eye(2), count=1, sample_size=None).weighted(weight)


def test_files_of_memit_and_of_ours_are_found_by_module_name(tmp_path):
    modules = ["transformer.h.13.mlp.c_proj", "transformer.h.3.mlp.c_proj"]
    memits = memit_file(tmp_path / f"{modules[0]}_float32_mom2_100000.npz")
    ours = memit_file(tmp_path / second_moment_filename(modules[1], 5000))
    assert find_second_moments(tmp_path, modules) == (memits, ours)
    with pytest.raises(BadFile, match=r"no second moment for transformer\.h\.4.*Compute them"):
        find_second_moments(tmp_path, ["transformer.h.4.mlp.c_proj"])
    memit_file(tmp_path / second_moment_filename(modules[1], 6000))
    with pytest.raises(BadFile, match=r"several files.*5000.*6000"):
        find_second_moments(tmp_path, modules)
    with pytest.raises(BadFile, match="no such folder"):
        find_second_moments(tmp_path / "absent", modules)
