"""K-means on points of the unit sphere: Lloyd's algorithm from a k-means++ start.

Arthur and Vassilvitskii, "k-means++: the advantages of careful seeding", SODA 2007. Written out
because bits must not depend on the number of threads, and partitions of a few hundred points are
made in a millisecond.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def kmeans(points: Array, k: int, rng: np.random.Generator, iterations: int = 15) -> Array:
    """Centroids (k, d) of points (n, d), n >= k; at most `iterations` of Lloyd's."""
    centroids = _spread_start(points, k, rng)
    assigned = np.full(len(points), -1)
    for _ in range(iterations):
        distances = squared_distances(points, centroids)
        nearest = distances.argmin(axis=1)
        if (nearest == assigned).all():
            break
        assigned = nearest
        members = np.zeros((k, len(points)))
        members[assigned, np.arange(len(points))] = 1.0
        counts = members.sum(axis=1)
        centroids = members @ points / np.maximum(counts, 1.0)[:, None]
        # A centroid without points goes where the fit is worst.
        for empty in np.flatnonzero(counts == 0):
            farthest = int(distances.min(axis=1).argmax())
            centroids[empty] = points[farthest]
            distances[farthest] = 0.0
    return centroids


def squared_distances(points: Array, centroids: Array) -> Array:
    """Squared Euclidean distances (n, k) of points (n, d) to centroids (k, d), >= 0."""
    squares = np.square(points).sum(axis=1)[:, None] + np.square(centroids).sum(axis=1)
    distances: Array = np.maximum(squares - 2 * points @ centroids.T, 0.0)
    return distances


def _spread_start(points: Array, k: int, rng: np.random.Generator) -> Array:
    """Some k of the points, each drawn in proportion to its squared distance to those before."""
    chosen = [int(rng.integers(len(points)))]
    distances = squared_distances(points, points[chosen])[:, 0]
    while len(chosen) < k:
        total = distances.sum()
        weights = distances / total if total > 0 else np.full(len(points), 1 / len(points))
        chosen.append(int(rng.choice(len(points), p=weights)))
        newest = squared_distances(points, points[chosen[-1:]])[:, 0]
        distances = np.minimum(distances, newest)
    return points[chosen]
