"""The diffusion tells apart what paths of neighbours do not join."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from vitucb.learning.experts.kernel.neighbour_graph import (
    NeighbourGraph,
    _diffusion_time,
    _nearest,
    fit_graph,
)

Array = NDArray[np.float64]


def two_circles(count: int = 120) -> tuple[Array, NDArray[np.int64]]:
    """Points of two circles with one center, and which circle each is on."""
    angle = np.linspace(0, 4 * np.pi, count, endpoint=False)
    outer = np.arange(count) % 2
    radius = np.where(outer == 1, 1.0, 0.3)[:, None]
    return radius * np.column_stack([np.cos(angle), np.sin(angle)]), outer


def test_points_of_one_path_are_alike_and_those_of_another_are_not() -> None:
    points, outer = two_circles()
    features = fit_graph(points, 4, np.random.default_rng(0))(points)
    kernel = features @ features.T
    same = outer[:, None] == outer
    assert kernel[~same].max() < 0.1
    assert kernel[same].mean() > 0.1


def test_features_have_length_one() -> None:
    points = np.random.default_rng(0).standard_normal((80, 5))
    features = fit_graph(points, 4, np.random.default_rng(1))(points + 0.01)
    np.testing.assert_allclose(np.square(features).sum(axis=1), 1.0)


def test_a_memory_too_small_has_no_features() -> None:
    graph = fit_graph(np.eye(5), 4, np.random.default_rng(0))
    assert graph(np.eye(5)).shape == (5, 0)


def test_the_nearest_are_those_of_a_full_sort() -> None:
    distances = np.random.default_rng(0).random((7, 30))
    places, values = _nearest(distances, 5)
    np.testing.assert_array_equal(places, np.argsort(distances, axis=1)[:, :5])
    np.testing.assert_array_equal(values, np.sort(distances, axis=1)[:, :5])


def test_the_time_leaves_eight_dimensions_in_effect() -> None:
    values = 1 - np.linspace(0, 1, 64)
    decay = np.exp(-_diffusion_time(values) * (1 - values))
    assert decay.sum() ** 2 / np.square(decay).sum() == pytest.approx(8, rel=0.1)


def test_the_cut_of_a_ring_is_that_of_its_cosines() -> None:
    angle = 2 * np.pi * np.arange(200) / 200
    ring = np.column_stack([np.cos(angle), np.sin(angle)])
    # Two neighbours at one distance: eigenvalues cos(2 pi k / n), each twice, found by iteration.
    expected = np.mean(1 - np.cos(2 * np.pi * np.arange(1, 5) / 200))
    assert fit_graph(ring, 2, np.random.default_rng(0)).cut == pytest.approx(expected, rel=1e-6)


def test_the_same_generator_gives_the_same_bits() -> None:
    points = np.random.default_rng(0).standard_normal((80, 5))
    one, two = (fit_graph(points, 4, np.random.default_rng(1)) for _ in range(2))
    np.testing.assert_array_equal(one.embedding, two.embedding)
    assert isinstance(one, NeighbourGraph)


def test_images_that_are_all_but_equal_leave_an_odd_one_its_features() -> None:
    rng = np.random.default_rng(0)
    centers = np.repeat(np.eye(3), [1, 30, 30], axis=0)
    points = centers + 1e-6 * rng.standard_normal((61, 3))
    graph = fit_graph(points, 8, np.random.default_rng(0))
    for features in (graph(points), graph(-points)):
        np.testing.assert_allclose(np.square(features).sum(axis=1), 1.0)
