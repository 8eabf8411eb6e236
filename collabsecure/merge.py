"""The server's solve: one Cholesky factorisation per layer, in place. NumPy and SciPy only.

Δ = X A⁻¹ with A = C + Σ KᵢKᵢᵀ and X = Σ RᵢKᵢᵀ, both sums over the survivors. A is positive definite or something is
wrong with a sum, so there is no other factorisation to fall back to: with one wrapped entry LU returns a plausible,
wrong Δ, Cholesky says no.

Cholesky's error does not depend on how A's rows and columns are scaled (Demmel 1989; Higham, Accuracy and Stability,
§10.1), so nothing is equilibrated here. The scales of `equilibration` are for the wire, whose fixed-point steps are
the same for all entries. Sums that arrive scaled need not be scaled back: with s = `equilibration(C)`,
`merge_delta(C·s·sᵀ, G·s·sᵀ, X·s) · s` is the same Δ.
"""

import numpy as np
from jaxtyping import Float64
from scipy.linalg import lapack

from collabsecure.errors import DegenerateSecondMoment, NotPositiveDefinite

_BLOCK_ROWS = 64  # of a check's temporary: 64·d bytes


def merge_delta(
    second_moment: Float64[np.ndarray, "d_in d_in"],
    gram: Float64[np.ndarray, "d_in d_in"],
    cross: Float64[np.ndarray, "d_out d_in"],
    *,
    overwrite: bool = False,
) -> Float64[np.ndarray, "d_out d_in"]:
    """Solve for the global update Δ = (Σᵢ RᵢKᵢᵀ)(C + Σᵢ KᵢKᵢᵀ)⁻¹.

    CollabEdit eq. 3. `gram` and `cross` are sums over the survivors; `second_moment` is C, already weighted. Only the
    upper triangles of `second_moment` and `gram` count. With `overwrite`, the factor takes `gram`'s memory and Δ takes
    `cross`'s, and nothing of their size is allocated; otherwise all three arguments are left as they are.

    >>> merge_delta(np.eye(2), np.array([[1.0, 0.0], [0.0, 3.0]]), np.array([[2.0, 4.0]]))
    array([[1., 1.]])

    Raises:
        NotPositiveDefinite: C + Σ KᵢKᵢᵀ has no Cholesky factor (a wrapped or corrupted sum), or there are NaNs or
            infinities in it or in `cross`.
        ValueError: the shapes do not belong together.
    """
    d_in = second_moment.shape[0]
    if second_moment.shape != (d_in, d_in) or gram.shape != (d_in, d_in) or cross.shape != (cross.shape[0], d_in):
        raise ValueError(
            f"found second_moment {second_moment.shape}, gram {gram.shape}, cross {cross.shape}; "
            "expected (d_in, d_in), (d_in, d_in), (d_out, d_in)"
        )
    if not _is_finite(cross):
        raise NotPositiveDefinite("the sum of cross terms has NaN or infinite entries")
    system = np.add(second_moment, gram, out=_workspace(gram, overwrite=overwrite))
    if not _is_finite(system):
        raise NotPositiveDefinite("C + the sum of Gram matrices has NaN or infinite entries")  # LAPACK would go on
    # LAPACK reads columns where NumPy has rows: a transposed view hands over the same memory, and its lower triangle
    # is our upper one.
    factor, info = lapack.dpotrf(system.T, lower=True, clean=False, overwrite_a=True)
    if info > 0:
        raise NotPositiveDefinite(
            f"C + the sum of Gram matrices is not positive definite: its leading {info} × {info} block has no Cholesky "
            f"factor (d_in = {d_in}); a sum has wrapped or was corrupted, or C is not of full rank"
        )
    right_side = _workspace(cross, overwrite=overwrite)
    if right_side is not cross:
        right_side[:] = cross
    solution, _ = lapack.dpotrs(factor, right_side.T, lower=True, overwrite_b=True)  # A Δᵀ = Xᵀ
    delta: Float64[np.ndarray, "d_out d_in"] = solution.T
    if not _is_finite(delta):
        raise NotPositiveDefinite("C + the sum of Gram matrices is singular to working precision")
    return delta


def equilibration(second_moment: Float64[np.ndarray, "d_in d_in"]) -> Float64[np.ndarray, " d_in"]:
    """The public scales s_j = 1/√C_jj that make entries of like size of what travels.

    A Gram matrix travels as G_ij·s_i·s_j, a cross term as X_ij·s_j, with the power of two next to each s (`sessions`).

    >>> equilibration(np.diag([4.0, 0.25]))
    array([0.5, 2. ])

    Raises:
        DegenerateSecondMoment: some C_jj is not a positive, finite number.
    """
    diagonal = second_moment.diagonal()
    unusable = np.flatnonzero(~((diagonal > 0) & np.isfinite(diagonal)))
    if unusable.size:
        raise DegenerateSecondMoment(unusable.tolist(), first_value=float(diagonal[unusable[0]]))
    scales: Float64[np.ndarray, " d_in"] = 1 / np.sqrt(diagonal)
    return scales


def _workspace(array: Float64[np.ndarray, "rows columns"], *, overwrite: bool) -> Float64[np.ndarray, "rows columns"]:
    """Memory that LAPACK can work in without a copy: the array's own if allowed and laid out for it."""
    if overwrite and array.flags.c_contiguous and array.flags.writeable:
        return array
    return np.empty(array.shape)


def _is_finite(matrix: Float64[np.ndarray, "rows columns"]) -> bool:
    return all(
        bool(np.isfinite(matrix[start : start + _BLOCK_ROWS]).all()) for start in range(0, len(matrix), _BLOCK_ROWS)
    )
