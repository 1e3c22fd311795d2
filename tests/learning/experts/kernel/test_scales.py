"""Where the memory falls into parts and rewards leave it open, the variance goes to the graph."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from vitucb.learning.experts.kernel.features import KernelFeatures, KernelSettings, fit_kernel
from vitucb.learning.experts.kernel.neighbour_graph import fit_graph
from vitucb.learning.experts.kernel.scales import best_scales

Array = NDArray[np.float64]


def parts_of(count: int, seed: int = 0) -> tuple[Array, NDArray[np.int64]]:
    """Images (count, 12) of ten classes far from each other, and their classes."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 10
    return 4 * np.eye(12)[labels] + 0.3 * rng.standard_normal((count, 12)), labels


def cloud(count: int, seed: int = 0) -> Array:
    """Images (count, 12) of one kind."""
    return np.random.default_rng(seed).standard_normal((count, 12))


def kernel_of(memory: Array) -> KernelFeatures:
    return fit_kernel(memory, KernelSettings(), np.random.default_rng(0))


def scales_for(memory: Array, rewards: Array) -> tuple[float, ...]:
    kernel = kernel_of(memory)
    level = rewards.mean()
    return best_scales(
        kernel(memory),
        kernel.group_sizes,
        np.ones(len(memory)),
        rewards - level,
        float(np.square(rewards - level).sum()),
        float(rewards.var() / 2),
        is_separated=kernel.is_separated,
    )


def graph_share(rho: tuple[float, ...]) -> float:
    return rho[1] / sum(rho[:3])


def test_images_of_separate_classes_are_told_from_those_of_one_kind() -> None:
    assert kernel_of(parts_of(400)[0]).is_separated
    assert not kernel_of(cloud(400)).is_separated


def test_without_joins_between_nine_parts_nothing_is_cut() -> None:
    points = np.repeat(10 * np.eye(9), 20, axis=0)
    points += 0.1 * np.random.default_rng(0).standard_normal(points.shape)
    assert fit_graph(points, 4, np.random.default_rng(1)).cut == pytest.approx(0, abs=1e-6)


def test_a_memory_too_small_is_not_separated() -> None:
    assert not kernel_of(parts_of(10)[0]).is_separated


@pytest.mark.parametrize(
    ("count", "is_preferred"), [(299, False), (300, True), (999, True), (1_000, False)]
)
def test_where_rewards_of_0_and_1_leave_it_open_the_graph_is_preferred_for_a_time(
    count: int, is_preferred: bool
) -> None:
    memory, labels = parts_of(count)
    rng = np.random.default_rng(1)
    rewards = (rng.random(count) < 0.1 + 0.08 * labels).astype(np.float64)
    assert (graph_share(scales_for(memory, rewards)) > 0.9) == is_preferred


def test_rewards_that_differ_within_the_parts_overrule_it() -> None:
    memory, labels = parts_of(400)
    rewards = memory @ np.linspace(-1, 1, 12) - (4 * np.eye(12) @ np.linspace(-1, 1, 12))[labels]
    rho = scales_for(memory, rewards + 0.1 * np.random.default_rng(1).standard_normal(400))
    assert graph_share(rho) < 0.9


def test_images_of_one_kind_never_have_nearly_all_in_the_graph() -> None:
    memory = cloud(400)
    rewards = np.random.default_rng(1).random(400)
    assert graph_share(scales_for(memory, rewards)) < 0.9
