"""Vectors as points of a plane, and which vectors are close."""

# N = rows of the sample, D = numbers of a vector, K = neighbours

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

NUM_NEIGHBOURS = 5
SEED = 0
PASSES = 6
"""Of the subspace iteration: what is left of a third direction is then too small to be seen."""


class Plane(NamedTuple):
    """The points, and what their axes mean."""

    points_N2: NDArray[np.float64]
    method: str
    axes: tuple[str, str]


class Neighbours(NamedTuple):
    """The nearest of each row, itself left out."""

    places_NK: NDArray[np.int64]
    cosines_NK: NDArray[np.float32]


def pca(vectors_ND: NDArray[np.float32]) -> Plane:
    """The two directions of largest spread, by a randomised SVD (Halko, Martinsson, Tropp 2011, algorithm 4.4)."""
    centred_ND = vectors_ND.astype(np.float64) - vectors_ND.mean(axis=0, dtype=np.float64)
    num_directions = min(10, *centred_ND.shape)
    start_Dk = np.random.default_rng(SEED).standard_normal((centred_ND.shape[1], num_directions))
    basis_Nk = np.linalg.qr(centred_ND @ start_Dk)[0]
    for _ in range(PASSES):
        basis_Nk = np.linalg.qr(centred_ND @ np.linalg.qr(centred_ND.T @ basis_Nk)[0])[0]
    left, sizes, right = np.linalg.svd(basis_Nk.T @ centred_ND, full_matrices=False)
    points_N2, shares = np.zeros((len(vectors_ND), 2)), [0.0, 0.0]
    for axis in range(min(2, num_directions)):
        sign = np.sign(right[axis, np.abs(right[axis]).argmax()]) or 1.0  # a direction has no sign of its own
        points_N2[:, axis] = sign * sizes[axis] * (basis_Nk @ left[:, axis])
        shares[axis] = float(sizes[axis] ** 2 / max((centred_ND**2).sum(), 1e-300))
    first, second = (f"component {axis + 1} ({share:.0%} of the variance)" for axis, share in enumerate(shares))
    return Plane(points_N2, "PCA", (first, second))


def umap(vectors_ND: NDArray[np.float32]) -> Plane:
    """By umap-learn; ImportError where it is not installed."""
    from umap import UMAP

    num_neighbours = max(2, min(15, len(vectors_ND) - 1))
    fitted = UMAP(n_neighbors=num_neighbours, metric="cosine", init="random", random_state=SEED, n_jobs=1)
    points_N2 = np.asarray(fitted.fit_transform(vectors_ND), dtype=np.float64)
    return Plane(points_N2, "UMAP", ("UMAP 1 (distances far apart mean little)", "UMAP 2"))


def nearest(vectors_ND: NDArray[np.float32]) -> Neighbours:
    """By cosine, within the sample."""
    lengths_N = np.linalg.norm(vectors_ND, axis=1, keepdims=True)
    unit_ND = vectors_ND / np.maximum(lengths_N, 1e-30)
    cosines_NN = unit_ND @ unit_ND.T
    np.fill_diagonal(cosines_NN, -np.inf)
    num_neighbours = min(NUM_NEIGHBOURS, len(vectors_ND) - 1)
    places_NK = np.argpartition(-cosines_NN, num_neighbours - 1, axis=1)[:, :num_neighbours]
    cosines_NK = np.take_along_axis(cosines_NN, places_NK, axis=1)
    order_NK = np.lexsort((places_NK, -cosines_NK), axis=1)
    return Neighbours(*(np.take_along_axis(each, order_NK, axis=1) for each in (places_NK, cosines_NK)))
