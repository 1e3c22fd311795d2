"""K-means finds groups that are there, and its bits depend on the generator alone."""

from __future__ import annotations

import numpy as np

from vitucb.learning.experts.kernel.kmeans import kmeans, squared_distances


def test_groups_far_apart_are_found() -> None:
    rng = np.random.default_rng(0)
    centers = 10.0 * np.eye(4)
    points = np.repeat(centers, 25, axis=0) + 0.1 * rng.standard_normal((100, 4))
    found = kmeans(points, 4, np.random.default_rng(1))
    order = np.argsort(found.argmax(axis=1))
    np.testing.assert_allclose(found[order], centers, atol=0.1)


def test_centroids_are_the_means_of_their_points() -> None:
    points = np.random.default_rng(0).standard_normal((60, 3))
    found = kmeans(points, 5, np.random.default_rng(1), iterations=200)
    nearest = squared_distances(points, found).argmin(axis=1)
    means = np.stack([points[nearest == j].mean(axis=0) for j in range(5)])
    np.testing.assert_allclose(found, means, atol=1e-12)


def test_equal_points_do_not_stop_it() -> None:
    found = kmeans(np.ones((6, 2)), 3, np.random.default_rng(0))
    assert np.isfinite(found).all()


def test_the_same_generator_gives_the_same_bits() -> None:
    points = np.random.default_rng(0).standard_normal((40, 3))
    one, two = (kmeans(points, 6, np.random.default_rng(2)) for _ in range(2))
    np.testing.assert_array_equal(one, two)
