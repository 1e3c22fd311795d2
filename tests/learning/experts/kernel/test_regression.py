"""The posterior equals that of the dense Gaussian process over single rewards."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

from vitucb.learning.experts.kernel.regression import (
    Moments,
    Seen,
    TwoScaleRegression,
    log_evidence,
    noise_variance,
)

Array = NDArray[np.float64]
SIZES, RHO, UNIT = (3, 4), (0.7, 0.3), 0.5


@dataclass
class Problem:
    """Rewards of some images, and the model of them."""

    parts: Array
    items: NDArray[np.int64]
    rewards: Array

    def seen(self, upto: int, images: NDArray[np.int64]) -> Seen:
        """Images with their rewards among the first `upto`."""
        phi, effects = TwoScaleRegression(SIZES, RHO).scaled(self.parts[images])
        known, rewards = self.items[:upto], self.rewards[:upto]
        counts = np.array([(known == i).sum() for i in images], np.float64)
        sums = np.array([rewards[known == i].sum() for i in images])
        return Seen(phi, effects, counts, sums)

    def kernel(self, group: str, one: NDArray[np.int64], two: NDArray[np.int64]) -> Array:
        """Prior covariance (n, m) of a part of the images' worth, in units of the noise."""
        coarse, fine = np.split(self.parts, [SIZES[0]], axis=1)
        left = RHO[1] * (1 - np.square(fine[one]).sum(axis=1))
        whole = {
            "coarse": 9.0 + RHO[0] * coarse[one] @ coarse[two].T,
            "fine": RHO[1] * fine[one] @ fine[two].T + (one[:, None] == two) * left[:, None],
        }
        return whole[group] if group in whole else sum(whole.values(), np.zeros(1))


def problem(rounds: int = 25) -> Problem:
    rng = np.random.default_rng(0)
    parts = rng.standard_normal((8, sum(SIZES)))
    parts[:, SIZES[0] :] *= 0.9 / np.linalg.norm(parts[:, SIZES[0] :], axis=1, keepdims=True)
    return Problem(parts, rng.integers(6, size=rounds), rng.standard_normal(rounds))


def online(p: Problem) -> TwoScaleRegression:
    regression = TwoScaleRegression(SIZES, RHO)
    for t, (item, reward) in enumerate(zip(p.items, p.rewards, strict=True)):
        regression.learn(p.seen(t, np.array([item])), float(reward))
    regression.settle()
    return regression


def rebuilt(p: Problem) -> TwoScaleRegression:
    regression = TwoScaleRegression(SIZES, RHO)
    images = np.unique(p.items)
    moments = Moments(p.seen(len(p.items), images), float((p.rewards**2).sum()))
    regression.condition(moments)
    return regression


@pytest.mark.parametrize("fit", [online, rebuilt])
def test_means_are_those_of_the_dense_process(fit: object) -> None:
    p, images = problem(), np.arange(8)
    dense = p.kernel("all", p.items, p.items) + np.eye(len(p.items))
    expected = p.kernel("all", images, p.items) @ np.linalg.solve(dense, p.rewards)
    regression = fit(p)  # type: ignore[operator]  # one of the two above
    np.testing.assert_allclose(regression.means(p.seen(len(p.items), images)), expected)


@pytest.mark.parametrize("fit", [online, rebuilt])
@pytest.mark.parametrize(("place", "group"), [(0, "all"), (1, "coarse"), (2, "fine")])
def test_deviations_are_those_of_the_dense_process(fit: object, place: int, group: str) -> None:
    p, images = problem(), np.arange(8)
    dense = p.kernel("all", p.items, p.items) + np.eye(len(p.items))
    cross = p.kernel(group, images, p.items)
    prior = p.kernel(group, images, images)
    expected = np.sqrt(np.diag(prior - cross @ np.linalg.solve(dense, cross.T)))
    regression = fit(p)  # type: ignore[operator]  # one of the two above
    found = regression.deviations(p.seen(len(p.items), images))[place]
    np.testing.assert_allclose(found, expected)


def test_a_class_rewarded_often_has_no_coarse_width_left() -> None:
    """Though nothing else was, so that its own worth and the constant are only known together."""
    rng, rounds = np.random.default_rng(0), 400
    parts = np.zeros((rounds, sum(SIZES)))
    parts[:, 0] = 1.0
    parts[:, SIZES[0] :] = rng.standard_normal((rounds, SIZES[1]))
    parts[:, SIZES[0] :] /= np.linalg.norm(parts[:, SIZES[0] :], axis=1, keepdims=True)
    p = Problem(parts, np.arange(rounds), rng.standard_normal(rounds))
    coarse = online(p).deviations(p.seen(rounds, np.arange(rounds)))[1]
    assert coarse.max() < 1.1 / np.sqrt(rounds)


def test_one_step_errors_sum_to_the_dense_quadratic_form() -> None:
    p = problem()
    dense = p.kernel("all", p.items, p.items) + np.eye(len(p.items))
    expected = p.rewards @ np.linalg.solve(dense, p.rewards)
    assert online(p).errors == pytest.approx(expected)
    assert rebuilt(p).errors == pytest.approx(expected)


def test_evidence_is_the_dense_marginal_likelihood() -> None:
    p = problem()
    dense = p.kernel("all", p.items, p.items) + np.eye(len(p.items))
    errors = p.rewards @ np.linalg.solve(dense, p.rewards)
    count = len(p.items)
    expected = -np.linalg.slogdet(dense)[1] / 2 - (1 + count / 2) * np.log(errors / 2 + UNIT)
    moments = Moments(p.seen(count, np.unique(p.items)), float((p.rewards**2).sum()))
    assert log_evidence(moments, UNIT) == pytest.approx(expected)


def test_an_awaited_reward_narrows_widths_and_leaves_means() -> None:
    p, images = problem(), np.arange(8)
    waiting, told = online(p), online(p)
    seen = p.seen(len(p.items), images)
    one = p.seen(len(p.items), np.array([2]))
    means = waiting.means(seen)
    waiting.expect(one)
    told.learn(one, 5.0)
    told.settle()
    awaited = Seen(seen.phi, seen.effects, seen.counts + (images == 2), seen.sums)
    np.testing.assert_allclose(waiting.deviations(awaited), told.deviations(awaited))
    np.testing.assert_array_equal(waiting.means(seen), means)


def test_a_reward_of_weight_two_is_two_equal_rewards() -> None:
    p, images = problem(), np.arange(8)
    once, twice = online(p), online(p)
    one = p.seen(len(p.items), np.array([1]))
    once.learn(one, 2.0, weight=2.0)
    twice.learn(one, 2.0)
    twice.learn(Seen(one.phi, one.effects, one.counts + 1, one.sums + 2), 2.0)
    seen = p.seen(len(p.items), images)
    later = Seen(seen.phi, seen.effects, seen.counts + 2 * (images == 1), seen.sums)
    np.testing.assert_allclose(once.means(later), twice.means(later))


def test_before_the_first_reward_noise_is_the_prior() -> None:
    assert noise_variance(0.0, 0.0, 4.0) == 4.0


def test_a_restored_posterior_is_the_same() -> None:
    p = problem()
    regression = online(p)
    seen = p.seen(len(p.items), np.arange(8))
    regression.expect(p.seen(len(p.items), np.array([3])))
    other = TwoScaleRegression.from_state(regression.state_dict())
    np.testing.assert_array_equal(regression.deviations(seen), other.deviations(seen))
    np.testing.assert_array_equal(regression.means(seen), other.means(seen))
