"""Features of images by where they lie on the graph of nearest neighbours of a memory.

Classes are often connected where they are not round: a path of similar images leads from one way of
writing a digit to another. Diffusion along the graph (Coifman and Lafon, "Diffusion maps", 2006;
Kondor and Lafferty, "Diffusion kernels on graphs", ICML 2002) is a kernel that follows such paths,
from pixels alone: semi-supervised learning (Zhu, Ghahramani and Lafferty, "Semi-supervised learning
using Gaussian fields and harmonic functions", ICML 2003). With S = D^-1/2 W D^-1/2 and its
eigenpairs (lambda, u), an image of the memory has features exp(-t (1 - lambda) / 2) u / D^1/2, made
to length 1; any other image has the weighted mean of those of its neighbours, made to length 1. The
constant eigenvector tells nothing and is left out. The time t of the diffusion is the longest that
leaves `_DIMENSIONS` in effect, so that it fits sparse and dense memories alike.

How well the memory falls apart is told by the mean of 1 - lambda over the leading eigenvectors: a
division into nine parts cuts at least 8 / 9 of that of the joins of a part, on average (Yu and Shi,
"Multiclass spectral clustering", ICCV 2003).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from vitucb.learning.experts.kernel.kmeans import squared_distances

Array = NDArray[np.float64]
# Participation ratio of the diffusion; 8 to 15 served, 25 was worse on three image sets.
_DIMENSIONS = 8.0
_PARTS = 9
_TIMES = np.geomspace(1.0, 400.0, 60)
_AXES, _SPARE, _ITERATIONS = 48, 16, 10
_LEAST_WEIGHT = 1e-3
_TINY = 1e-12
_LEAST_SIMILARITY = 1e-12


@dataclass(frozen=True, slots=True)
class NeighbourGraph:
    """A diffusion on the nearest neighbours of a memory of n points.

    Attributes:
        points: The memory, (n, a).
        reach: Distance from each to the farthest of its neighbours, (n,).
        embedding: Features before they are made to length 1, (n, g); g = 0 for a memory too small.
        neighbours: How many neighbours count.
        cut: Mean of 1 - lambda, in [0, 2]: small where the memory falls into `_PARTS` parts.
    """

    points: Array
    reach: Array
    embedding: Array
    neighbours: int
    cut: float = 1.0

    def __call__(self, points: Array) -> Array:
        """Features (m, g) of length 1 of points (m, a)."""
        if self.embedding.shape[1] == 0:
            return np.zeros((len(points), 0))
        nearest, squares = _nearest(squared_distances(points, self.points), self.neighbours)
        weights = _similarity(squares, self.reach[nearest])
        mean = np.einsum("mk,mkg->mg", weights, self.embedding[nearest])
        lengths = np.sqrt(np.square(mean).sum(axis=1, keepdims=True))
        features: Array = mean / np.maximum(lengths, np.finfo(np.float64).tiny)
        return features


def fit_graph(points: Array, neighbours: int, rng: np.random.Generator) -> NeighbourGraph:
    """The diffusion on a memory of points (n, a), each joined to its nearest `neighbours`."""
    count = len(points)
    if count < 3 * neighbours:
        return NeighbourGraph(points, np.ones(count), np.zeros((count, 0)), neighbours)
    distances = squared_distances(points, points)
    np.fill_diagonal(distances, np.inf)
    nearest, squares = _nearest(distances, neighbours)
    reach = np.sqrt(squares.max(axis=1)) + _TINY
    weights = _similarity(squares, reach[nearest])
    rows = np.repeat(np.arange(count), neighbours)
    joined = sparse.csr_matrix((weights.ravel(), (rows, nearest.ravel())), (count, count))
    joined = joined.maximum(joined.T)
    roots = np.sqrt(np.asarray(joined.sum(axis=1)).ravel())
    scaling = sparse.diags(1 / roots)
    values, vectors = _leading(scaling @ joined @ scaling, roots, rng)
    decay = np.exp(-_diffusion_time(values) * (1 - values))
    kept = decay > _LEAST_WEIGHT * decay.max()
    embedding = vectors[:, kept] * np.sqrt(decay[kept]) / roots[:, None]
    cut = float(np.mean(1 - values[: _PARTS - 1]))
    return NeighbourGraph(points, reach, embedding, neighbours, cut)


def _nearest(distances: Array, count: int) -> tuple[NDArray[np.int64], Array]:
    """Places and squared distances (m, count) of the least of each row of distances (m, n)."""
    rows, left = np.arange(len(distances)), distances.copy()
    places = np.empty((len(distances), count), np.int64)
    # For few neighbours much faster than a partition, and ties go to the first.
    for step in range(count):
        places[:, step] = left.argmin(axis=1)
        left[rows, places[:, step]] = np.inf
    return places, np.take_along_axis(distances, places, axis=1)


def _similarity(squares: Array, reach: Array) -> Array:
    """Weights (m, k) of edges, by the reach of both ends.

    Zelnik-Manor and Perona, "Self-tuning spectral clustering", NeurIPS 2004.
    """
    own = np.sqrt(squares.max(axis=1, keepdims=True)) + _TINY
    # Nothing is joined to nothing: far from images that are all but equal, weights would be 0.
    weights: Array = np.maximum(np.exp(-squares / (own * reach)), _LEAST_SIMILARITY)
    return weights


def _leading(
    matrix: sparse.csr_matrix, constant: Array, rng: np.random.Generator
) -> tuple[Array, Array]:
    """Leading eigenvalues (g,) and eigenvectors (n, g) of S but the constant one.

    Subspace iteration (Halko, Martinsson and Tropp, SIAM Review 2011) on (S + 1) / 2, which has no
    negative eigenvalue: bits depend on the generator alone.
    """
    count = len(constant)
    constant = (constant / np.linalg.norm(constant))[:, None]
    size = min(_AXES + _SPARE, count - 1)
    block = rng.standard_normal((count, size))
    for _ in range(_ITERATIONS):
        for _ in range(4):
            block = (matrix @ block + block) / 2
        block -= constant @ (constant.T @ block)
        block = np.linalg.qr(block)[0]
    small = block.T @ (matrix @ block)
    values, vectors = np.linalg.eigh((small + small.T) / 2)
    leading = slice(None, -min(_AXES, size) - 1, -1)
    return np.clip(values[leading], -1.0, 1.0), block @ vectors[:, leading]


def _diffusion_time(values: Array) -> float:
    """The longest time that leaves `_DIMENSIONS` of the eigenvalues (g,) in effect, or 1."""
    decay = np.exp(-_TIMES[:, None] * (1 - values))
    ratios = decay.sum(axis=1) ** 2 / np.maximum(np.square(decay).sum(axis=1), _TINY)
    enough = np.flatnonzero(ratios >= _DIMENSIONS)
    return float(_TIMES[enough[-1]]) if len(enough) else 1.0
