"""What a client computes for one layer, and the second moment of keys it is weighed against.

`gram` and `cross` are all that ever leaves a client; `pack_upper` says in which order a Gram matrix travels.
`SecondMoment` is C before its weight λ, in the file layout that MEMIT publishes. NumPy only.
"""

import math
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Float64

from collabsecure.errors import BadFile
from collabsecure.files import complete_or_absent, unreadable

_BLOCK_ROWS = 128
_ASYMMETRY = 1e-2  # of √(C_ii C_jj): rounding of float32 sums over 10⁸ tokens stays below; anything else does not
_MEMIT_CONSTRUCTOR = "util.runningstats.SecondMoment()"
_MEMIT_NULL = np.array(0xFFF8_0000_0000_0002, dtype=np.uint64).view(np.float64)  # how those files spell None


def gram(keys: Float64[np.ndarray, "d_in num_edits"]) -> Float64[np.ndarray, "d_in d_in"]:
    """K Kᵀ, symmetric to the last bit.

    >>> gram(np.array([[1.0, 2.0], [0.0, 3.0]]))
    array([[5., 6.],
           [6., 9.]])
    """
    # NumPy sees one operand twice and calls SYRK: half the work, exactly symmetric.
    product: Float64[np.ndarray, "d_in d_in"] = keys @ keys.T
    return product


def cross(
    residuals: Float64[np.ndarray, "d_out num_edits"], keys: Float64[np.ndarray, "d_in num_edits"]
) -> Float64[np.ndarray, "d_out d_in"]:
    """R Kᵀ, the cross term."""
    product: Float64[np.ndarray, "d_out d_in"] = residuals @ keys.T
    return product


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Statistics:
    """One client's contribution to one layer's edit, or a sum of such contributions.

    Raises:
        ValueError: the two do not belong to one layer, or are not float64.
    """

    gram: Float64[np.ndarray, "d_in d_in"]  # K Kᵀ
    cross: Float64[np.ndarray, "d_out d_in"]  # R Kᵀ

    def __post_init__(self) -> None:
        shapes = f"gram {self.gram.shape} {self.gram.dtype}, cross {self.cross.shape} {self.cross.dtype}"
        d_in = self.gram.shape[-1]
        if self.gram.shape != (d_in, d_in) or self.cross.ndim != 2 or self.cross.shape[1] != d_in:
            raise ValueError(f"found {shapes}; expected (d_in, d_in) and (d_out, d_in)")
        if self.gram.dtype != np.float64 or self.cross.dtype != np.float64:
            raise ValueError(f"found {shapes}; expected float64")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Summed:
    """A sum over clients, and over which (numbered from 1)."""

    layers: Mapping[int, Statistics]
    survivors: tuple[int, ...]


def pack_upper(matrix: Float64[np.ndarray, "d d"]) -> Float64[np.ndarray, " unique"]:
    """The upper triangle of a symmetric matrix as one vector of d(d+1)/2 values, row by row from the diagonal on.

    A Gram matrix travels in this order; the secure sum encodes it from where it stands. What is below the diagonal is
    not read.

    >>> pack_upper(np.array([[1.0, 2.0], [2.0, 3.0]]))
    array([1., 2., 3.])
    """
    dimension = _square(matrix)
    packed = np.empty(dimension * (dimension + 1) // 2)
    for (start, stop), index in zip(_row_slices(dimension), range(dimension), strict=True):
        packed[start:stop] = matrix[index, index:]
    return packed


def unpack_upper(packed: Float64[np.ndarray, " unique"]) -> Float64[np.ndarray, "d d"]:
    """The symmetric matrix of a packed upper triangle.

    >>> unpack_upper(np.array([1.0, 2.0, 3.0]))
    array([[1., 2.],
           [2., 3.]])

    Raises:
        ValueError: no d has d(d+1)/2 as many values.
    """
    dimension = (math.isqrt(8 * packed.size + 1) - 1) // 2
    if dimension * (dimension + 1) // 2 != packed.size:
        raise ValueError(f"found {packed.size} values; expected d(d+1)/2 for a whole d")
    matrix = np.empty((dimension, dimension))
    for (start, stop), index in zip(_row_slices(dimension), range(dimension), strict=True):
        matrix[index, index:] = matrix[index:, index] = packed[start:stop]
    return matrix


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SecondMoment:
    """E[k kᵀ] of the keys of ordinary text at one layer, kept as the sum it is the mean of.

    The sum, not the mean, is what MEMIT's files hold; keeping it makes reading and writing exact.
    """

    total: Float64[np.ndarray, "d_in d_in"]  # Σ k kᵀ over all tokens, symmetric
    count: int  # tokens, ≥ 1
    sample_size: int | None  # texts (not tokens) that were read; None when not recorded

    @property
    def moment(self) -> Float64[np.ndarray, "d_in d_in"]:
        """E[k kᵀ]: MEMIT's `mom2 / count`."""
        return self.total / self.count

    def weighted(self, weight: float | int) -> Float64[np.ndarray, "d_in d_in"]:
        """C = λ·E[k kᵀ], the `second_moment` that `merge.merge_delta` takes.

        Later rounds of editing add the Gram matrices of earlier rounds to this: C + G_hist.
        """
        if not (math.isfinite(weight) and weight > 0):
            raise ValueError(f"found weight {weight}; expected a positive number")
        return self.total * (weight / self.count)

    @classmethod
    def load_npz(cls, path: Path) -> "SecondMoment":
        """Read a file of MEMIT's (or of ROME's, or `save_npz`'s): `mom2.count`, `mom2.mom2`, `sample_size`.

        Any float type is taken and held as float64; the rounding asymmetry of sums made in float32 is averaged out.
        Nothing in the file is ever unpickled.

        Raises:
            BadFile: not such a file, or damaged.
        """
        try:
            with path.open("rb") as handle:
                file = np.load(handle, allow_pickle=False)
                if not isinstance(file, np.lib.npyio.NpzFile):
                    raise _malformed(path, "a single array")
                missing = {"mom2.count", "mom2.mom2"} - set(file.files)
                if missing:
                    raise _malformed(path, f"no {' and no '.join(sorted(missing))} among {', '.join(file.files)}")
                total, count = file["mom2.mom2"], file["mom2.count"]
                sample_size = file["sample_size"] if "sample_size" in file.files else _MEMIT_NULL
        except OSError as error:
            raise unreadable(path, error) from error
        except (ValueError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError, MemoryError) as error:
            raise _malformed(path, f"no intact .npz ({error})") from error
        return cls(
            total=_checked_total(path, total),
            count=_checked_count(path, "mom2.count", count),
            sample_size=None if _is_null(sample_size) else _checked_count(path, "sample_size", sample_size),
        )

    def save_npz(self, path: Path, *, force: bool = False) -> None:
        """Write the file that MEMIT's own loader reads, complete or not at all.

        Raises:
            BadFile: `path` is taken and `force` is not set, or cannot be written.
        """
        with complete_or_absent(path, force=force) as temporary, temporary.open("wb") as file:
            np.savez(
                file,
                allow_pickle=False,
                **{
                    "mom2.constructor": np.array(_MEMIT_CONSTRUCTOR),
                    "mom2.count": np.array(self.count),
                    "mom2.mom2": self.total,
                    "sample_size": _MEMIT_NULL if self.sample_size is None else np.array(self.sample_size),
                },
            )


def second_moment_filename(module_name: str, sample_size: int | None) -> str:
    """MEMIT's name for a layer's file, at the precision that this project sums in.

    >>> second_moment_filename("transformer.h.13.mlp.c_proj", 100_000)
    'transformer.h.13.mlp.c_proj_float64_mom2_100000.npz'
    """
    suffix = "" if sample_size is None else f"_{sample_size}"
    return f"{module_name}_float64_mom2{suffix}.npz"


def find_second_moments(directory: Path, module_names: Sequence[str]) -> tuple[Path, ...]:
    """The second moment files of some MLP output projections, in their order; MEMIT's are found as they are.

    One folder belongs to one model and data set, as MEMIT lays them out (`stats/gpt2-xl/wikipedia_stats/`): module
    names are the same in all sizes of a model, so nothing below the folder is searched.

    Raises:
        BadFile: no file, or more than one, for some module; all of them are listed.
    """
    if not directory.is_dir():
        raise BadFile(directory, found="no such folder", expected="one with second moments (*_mom2_*.npz)")
    found = [sorted(directory.glob(f"{name}_*mom2*.npz")) for name in module_names]
    absent = [name for name, paths in zip(module_names, found, strict=True) if not paths]
    if absent:
        raise BadFile(
            directory,
            found=f"no second moment for {', '.join(absent)}",
            expected=f"a file such as {second_moment_filename(absent[0], 100_000)}",
            remedy="Compute them: collabsecure second-moment --help",
        )
    doubtful = [path.name for paths in found if len(paths) > 1 for path in paths]
    if doubtful:
        raise BadFile(directory, found=f"several files for one module: {', '.join(doubtful)}", expected="one for each")
    return tuple(paths[0] for paths in found)


def symmetrise(matrix: Float64[np.ndarray, "d d"]) -> None:
    """Replace a matrix by (A + Aᵀ)/2, in place and in bounded memory."""
    for start, stop in _blocks(_square(matrix)):
        mean = (matrix[start:stop, start:] + matrix[start:, start:stop].T) / 2  # (block, d − start)
        matrix[start:stop, start:] = mean
        matrix[start:, start:stop] = mean.T


def _blocks(dimension: int) -> Iterator[tuple[int, int]]:
    """Row ranges of a matrix: a transposed copy goes through the cache a block at a time."""
    for start in range(0, dimension, _BLOCK_ROWS):
        yield start, min(start + _BLOCK_ROWS, dimension)


def _row_slices(dimension: int) -> Iterator[tuple[int, int]]:
    """Where each row lies in the packed upper triangle."""
    start = 0
    for length in range(dimension, 0, -1):
        yield start, start + length
        start += length


def _square(matrix: Float64[np.ndarray, "rows columns"]) -> int:
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f"found shape {matrix.shape}; expected a square matrix")
    return len(matrix)


def _checked_total(path: Path, total: np.ndarray) -> Float64[np.ndarray, "d_in d_in"]:
    """The file's mom2 as a symmetric float64 matrix; refuses what cannot be a sum of k kᵀ."""
    shape = f"mom2.mom2 of shape {total.shape} and type {total.dtype}"
    if total.ndim != 2 or total.shape[0] != total.shape[1] or not total.size or total.dtype.kind != "f":
        raise _malformed(path, shape, expected="a square matrix of floating-point numbers")
    matrix = total.astype(np.float64, copy=False)
    diagonal = matrix.diagonal()
    if not (diagonal >= 0).all():  # a NaN is not ≥ 0 either
        raise _malformed(path, "mom2.mom2 with a negative or undefined diagonal", expected="a sum of k kᵀ")
    scale = np.sqrt(diagonal)
    for start, stop in _blocks(len(matrix)):
        upper, lower = matrix[start:stop, start:], matrix[start:, start:stop].T
        if not np.isfinite(upper).all() or not np.isfinite(lower).all():
            raise _malformed(path, "mom2.mom2 with NaN or infinite entries", expected="finite numbers")
        if (np.abs(upper - lower) > _ASYMMETRY * scale[start:stop, None] * scale[start:]).any():
            raise _malformed(path, "mom2.mom2 that is not symmetric", expected="a sum of k kᵀ")
    symmetrise(matrix)
    return matrix


def _checked_count(path: Path, key: str, value: np.ndarray) -> int:
    if value.ndim != 0 or value.dtype.kind not in "iu" or int(value) < 1:
        raise _malformed(path, f"{key} = {value!r}", expected="one whole number, at least 1")
    return int(value)


def _is_null(value: Float[np.ndarray, "..."] | np.ndarray) -> bool:
    return value.ndim == 0 and value.dtype == np.float64 and value.tobytes() == _MEMIT_NULL.tobytes()


def _malformed(
    path: Path, found: str, *, expected: str = "a second moment (.npz with mom2.count, mom2.mom2, sample_size)"
) -> BadFile:
    return BadFile(path, found=found, expected=expected)
