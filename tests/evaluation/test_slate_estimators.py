"""Estimates of slates: unbiased where they claim to be, in closed form, and their intervals."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from vitucb.evaluation.slate_estimators import (
    ITEM_POSITION,
    SEQUENTIAL,
    STANDARD,
    slate_estimates,
    slate_weights,
)
from vitucb.evaluation.slate_log import position_probabilities
from vitucb.types import Observation

Array = NDArray[np.float64]
Means = Callable[[tuple[int, ...], int], float]

ARMS, SLOTS = 4, 3
OBS: Observation = {
    "images": np.zeros((ARMS, 1, 1, 3), np.uint8),
    "action_mask": np.ones(ARMS, np.int8),
}
SLATES = list(itertools.permutations(range(ARMS), SLOTS))
MU, EXAMINATION = (0.9, 0.6, 0.3, 0.1), (1.0, 0.5, 0.25)


def alone(slate: tuple[int, ...], k: int) -> float:
    """Clicks by the position-based model: of the arm and its position alone."""
    return EXAMINATION[k] * MU[slate[k]]


def after(slate: tuple[int, ...], k: int) -> float:
    """The cascade: a position is looked at if nothing before it was clicked."""
    return MU[slate[k]] * math.prod(1 - MU[arm] for arm in slate[:k])


def whole(slate: tuple[int, ...], k: int) -> float:
    """Arms shown together with the best one pay half."""
    return MU[slate[k]] * (0.5 if 0 in slate and slate[k] else 1)


class Wheel:
    """Chooses arms in proportion to fixed weights, among those left."""

    def __init__(self, *weights: float) -> None:
        self.weights = np.array(weights)

    def __call__(self, obs: Observation) -> Array:
        left = self.weights * obs["action_mask"]
        share: Array = left / left.sum()
        return share

    def of(self, slate: tuple[int, ...]) -> list[float]:
        """Probability of every arm given those before it."""
        probabilities = []
        for k, arm in enumerate(slate):
            mask = np.ones(ARMS, np.int8)
            mask[list(slate[:k])] = 0
            probabilities.append(float(self({**OBS, "action_mask": mask})[arm]))
        return probabilities


LOGGED, TARGET = Wheel(1, 1, 2, 3), Wheel(5, 3, 1, 1)


def enumerated() -> tuple[Array, Array, dict[str, Array]]:
    """Probability of every slate under both policies, and its weights."""
    logged, target = (np.array([p.of(slate) for slate in SLATES]) for p in (LOGGED, TARGET))
    shown = np.array(SLATES)
    standing = [position_probabilities(p, OBS, SLOTS) for p in (TARGET, LOGGED)]
    positions = [each[np.arange(SLOTS), shown] for each in standing]
    return logged.prod(axis=1), target.prod(axis=1), slate_weights(target, logged, *positions)


def test_probabilities_of_all_slates_sum_to_one_and_make_those_of_positions() -> None:
    logged, *_ = enumerated()
    assert logged.sum() == pytest.approx(1)
    positions = np.zeros((SLOTS, ARMS))
    for slate, probability in zip(SLATES, logged, strict=True):
        positions[np.arange(SLOTS), slate] += probability
    np.testing.assert_allclose(position_probabilities(LOGGED, OBS, SLOTS), positions, atol=1e-12)


@pytest.mark.parametrize(
    ("means", "right"),
    [
        (alone, {STANDARD, SEQUENTIAL, ITEM_POSITION}),
        (after, {STANDARD, SEQUENTIAL}),
        (whole, {STANDARD}),
    ],
)
def test_expected_estimates_are_the_value_where_they_claim_it(
    means: Means, right: set[str]
) -> None:
    logged, target, weights = enumerated()
    reward = np.array([[means(slate, k) for k in range(SLOTS)] for slate in SLATES])
    value = target @ reward.sum(axis=1)
    expected = {name: logged @ (w * reward).sum(axis=1) for name, w in weights.items()}
    assert {name for name, e in expected.items() if abs(e - value) < 1e-9} == right
    # Every position by itself, too: weights have mean 1.
    for w in weights.values():
        np.testing.assert_allclose(logged @ w, 1, atol=1e-9)


def test_the_fewer_arms_a_weight_is_of_the_less_it_varies() -> None:
    logged, _, weights = enumerated()
    last = [float(logged @ weights[n][:, -1] ** 2) for n in (STANDARD, SEQUENTIAL, ITEM_POSITION)]
    assert last[0] == pytest.approx(last[1])
    assert last[2] < last[1] / 2


def drawn(rng: np.random.Generator, slates: int) -> tuple[Array, dict[str, Array]]:
    """Clicks and weights of a log."""
    logged, _, weights = enumerated()
    found = rng.choice(len(SLATES), slates, p=logged)
    means = np.array([[alone(slate, k) for k in range(SLOTS)] for slate in SLATES])
    clicks = (rng.random((slates, SLOTS)) < means[found]).astype(np.float64)
    return clicks, {name: w[found] for name, w in weights.items()}


def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    _, target, _ = enumerated()
    value = target @ [sum(alone(slate, k) for k in range(SLOTS)) for slate in SLATES]
    rng, covered = np.random.default_rng(0), dict[str, int]()
    for _ in range(100):
        rewards, weights = drawn(rng, 400)
        for e in slate_estimates(rewards, weights, rng, num_resamples=200):
            covered[e.name] = covered.get(e.name, 0) + int(e.low <= value <= e.high)
    assert len(covered) == 6
    assert covered["sn-item-position"] >= 90
    assert covered["item-position"] >= 90
    assert min(covered.values()) >= 80  # few large weights: percentile intervals are too short


def test_a_policy_evaluated_on_its_own_log_has_weights_of_one() -> None:
    shown = np.array(SLATES)
    logged = np.array([LOGGED.of(slate) for slate in SLATES])
    positions = position_probabilities(LOGGED, OBS, SLOTS)[np.arange(SLOTS), shown]
    for weight in slate_weights(logged, logged, positions, positions).values():
        np.testing.assert_allclose(weight, 1)
    rewards = shown.astype(np.float64)
    rng = np.random.default_rng(0)
    for e in slate_estimates(rewards, slate_weights(logged, logged), rng, num_resamples=50):
        assert e.value == pytest.approx(rewards.sum(axis=1).mean())
        assert e.low < e.value < e.high


def test_one_position_is_ordinary_importance_weighting() -> None:
    p, pi = np.array([[0.5], [0.25]]), np.array([[0.1], [0.6]])
    for weight in slate_weights(pi, p, pi, p).values():
        np.testing.assert_allclose(weight, [[0.2], [2.4]])


def test_propensities_that_cannot_be_are_refused() -> None:
    ones = np.ones((2, 3))
    with pytest.raises(ValueError, match=r"must be in \(0, 1\]; the least is 0"):
        slate_weights(ones, ones * 0)
    with pytest.raises(ValueError, match="have shapes"):
        slate_weights(ones, ones[:, :2])
