"""Square roots of a Gram matrix, F Fᵀ = K Kᵀ, and how near their columns come to keys. NumPy only."""

import numpy as np
from jaxtyping import Float64

from collabsecure.attacks.attack import Figure
from collabsecure.attacks.rank import count_edits
from collabsecure.attacks.scoring import matched_cosines

NUM_TOP_COMPONENTS = 10  # of public keys about their mean


def eigen_root(gram: Float64[np.ndarray, "d d"]) -> Float64[np.ndarray, "d num_edits"]:
    """U √Λ of as many of the largest eigenvalues as there are edits: K up to an orthogonal matrix of that size.

    >>> abs(eigen_root(np.diag([0.0, 9.0, 1.0])))
    array([[0., 0.],
           [3., 0.],
           [0., 1.]])
    """
    eigenvalues, vectors = np.linalg.eigh(gram)
    largest = slice(None, -count_edits(eigenvalues[::-1]) - 1, -1)
    root: Float64[np.ndarray, "d num_edits"] = vectors[:, largest] * np.sqrt(eigenvalues[largest])
    return root


def cholesky_root(root: Float64[np.ndarray, "d num_edits"]) -> Float64[np.ndarray, "d num_edits"]:
    """The lower triangular root of the same Gram matrix.

    >>> cholesky_root(np.array([[0.0, 2.0], [3.0, 1.0]])).round(6) + 0.0
    array([[2., 0.],
           [1., 3.]])
    """
    lower: Float64[np.ndarray, "d num_edits"] = np.linalg.qr(root.T)[1].T
    lower *= np.where(np.diag(lower) < 0, -1.0, 1.0)
    return lower


def random_orthogonal(size: int, rng: np.random.Generator) -> Float64[np.ndarray, "size size"]:
    """An orthogonal matrix, each as likely as any other (Mezzadri 2007)."""
    q, r = np.linalg.qr(rng.standard_normal((size, size)))
    orthogonal: Float64[np.ndarray, "size size"] = q * np.sign(np.diag(r))
    return orthogonal


def shared_directions(
    reference: Float64[np.ndarray, "d num_reference"], num_components: int = NUM_TOP_COMPONENTS
) -> Float64[np.ndarray, "d directions"]:
    """An orthonormal basis of what keys share: the mean of public keys and their top components about it."""
    mean = reference.mean(axis=1, keepdims=True)
    top = np.linalg.svd(reference - mean, full_matrices=False)[0][:, :num_components]
    basis: Float64[np.ndarray, "d directions"] = np.linalg.qr(np.concatenate((mean, top), axis=1))[0]
    return basis


def cosine_figures(
    found: Float64[np.ndarray, "d found"],
    true: Float64[np.ndarray, "d true"],
    shared: Float64[np.ndarray, "d directions"],
    *,
    of: str = "",
) -> tuple[Figure, Figure, Figure]:
    """Mean and least |cos| at the best match, and the mean of it beyond mean and top components of public keys.

    Those are the `shared_directions`: any two keys have a cosine well above 0, so the last figure says more of what is
    a key's own. What chance gives of each is what comes of other subjects' keys, the null. `of` says which root's they
    are, where there are several.
    """
    cosines = matched_cosines(found, true)
    beyond = matched_cosines(found - shared @ (shared.T @ found), true - shared @ (shared.T @ true))
    return (
        Figure(name=f"{of}mean |cos|", value=float(cosines.mean())),
        Figure(name=f"{of}least |cos|", value=float(cosines.min())),
        Figure(name=f"{of}mean |cos| beyond mean and top components", value=float(beyond.mean())),
    )
