"""Features of the kernel have its values as inner products."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vitucb.learning.experts.kernel.features import (
    KernelFeatures,
    KernelSettings,
    fit_kernel,
    leading_axes,
    main_directions,
    pivoted_landmarks,
    soft_partitions,
    unit_points,
)

Array = NDArray[np.float64]


def memory(count: int = 90, dim: int = 6) -> Array:
    return np.random.default_rng(0).standard_normal((count, dim)) + 3.0


def made(**settings: float) -> KernelFeatures:
    exact = KernelSettings(**({"tolerance": 1e-9, "fine_rank": 200} | settings))  # type: ignore[arg-type]
    return fit_kernel(memory(), exact, np.random.default_rng(1))


def groups(kernel: KernelFeatures, rows: Array) -> list[Array]:
    return np.split(kernel(rows), np.cumsum(kernel.group_sizes)[:-1], axis=1)


def test_points_have_length_one_about_the_center() -> None:
    rows = memory()
    points = unit_points(rows, rows.mean(axis=0))
    np.testing.assert_allclose(np.square(points).sum(axis=1), 1.0)


def test_an_image_at_the_center_is_no_division_by_zero() -> None:
    assert np.isfinite(unit_points(np.ones((2, 3)), np.ones(3))).all()


def test_the_fine_part_is_its_kernel_on_the_memory() -> None:
    kernel, rows = made(), memory()
    fine = groups(kernel, rows)[3]
    points = unit_points(rows, rows.mean(axis=0))
    np.testing.assert_allclose(fine @ fine.T, np.exp((points @ points.T - 1) / 0.25), atol=1e-5)


def test_few_landmarks_never_explain_more_than_there_is() -> None:
    kernel = made(fine_rank=5)
    fine = groups(kernel, np.random.default_rng(2).standard_normal((50, 6)) + 3.0)[3]
    assert (np.square(fine).sum(axis=1) <= 1 + 1e-9).all()


def test_the_linear_part_is_the_cosine_where_no_axis_is_left_out() -> None:
    kernel, rows = made(), memory()
    linear = groups(kernel, rows)[2]
    points = unit_points(rows, rows.mean(axis=0))
    np.testing.assert_allclose(linear @ linear.T, points @ points.T)


def test_every_coarse_part_is_one_on_the_memory() -> None:
    kernel, rows = made(), memory()
    for part in groups(kernel, rows)[:3]:
        np.testing.assert_allclose(np.square(part).sum(axis=1), 1.0, atol=1e-3)


def test_soft_partitions_share_what_falls_together() -> None:
    centroids = np.array([[0.0], [10.0], [0.0], [3.0], [10.0]])
    points = np.array([[0.0], [10.0], [10.0]])
    shares = soft_partitions(points, centroids, np.array([2, 3]), 0.3)
    np.testing.assert_allclose(shares @ shares.T, [[1, 0, 0], [0, 1, 1], [0, 1, 1]], atol=1e-9)


def test_leading_axes_are_orthonormal_and_the_longest() -> None:
    points = np.random.default_rng(0).standard_normal((50, 4)) * [1, 5, 2, 3]
    axes = leading_axes(points, 2)
    np.testing.assert_allclose(axes.T @ axes, np.eye(2), atol=1e-12)
    assert (abs(axes).argmax(axis=0) == [1, 3]).all()


def test_main_directions_keep_all_but_the_tolerance() -> None:
    raw = np.random.default_rng(0).standard_normal((200, 8)) * 2.0 ** -np.arange(8)
    kept = raw @ main_directions(raw, 8, 0.05)
    assert kept.shape[1] < 8
    assert np.square(kept).sum() >= 0.95 * np.square(raw).sum()


def test_landmarks_are_taken_where_the_kernel_is_explained_worst() -> None:
    points = np.repeat(np.eye(3), 5, axis=0)
    landmarks, factor = pivoted_landmarks(points, 0.5, 10, 1e-6)
    assert len(landmarks) == 3
    assert factor.shape == (3, 3)


def test_one_image_is_enough() -> None:
    kernel = fit_kernel(memory(1), KernelSettings(), np.random.default_rng(0))
    assert np.isfinite(kernel(memory(4))).all()


def test_a_restored_kernel_is_the_same() -> None:
    kernel, rows = made(), memory()
    other = KernelFeatures.from_state(kernel.state_dict())
    np.testing.assert_array_equal(kernel(rows), other(rows))
