from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from vitucb.statistics import (
    bootstrap_band,
    bootstrap_ci,
    coverage,
    interquartile_mean,
)

FAST = settings(max_examples=30, deadline=None)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize("statistic", [np.mean, np.median, interquartile_mean])
def test_bootstrap_interval_agrees_with_scipy(statistic: object) -> None:
    values = rng(1).exponential(size=12)
    ours = bootstrap_ci(values, statistic=statistic)  # type: ignore[arg-type]  # parametrised
    theirs = scipy.stats.bootstrap(
        (values,), statistic, method="percentile", n_resamples=20_000, rng=rng(2)
    ).confidence_interval
    spread = theirs.high - theirs.low
    assert ours.low == pytest.approx(theirs.low, abs=0.04 * spread)
    assert ours.high == pytest.approx(theirs.high, abs=0.04 * spread)


def test_bootstrap_of_two_seeds_is_their_range() -> None:
    # A quarter of the resamples is each seed alone, far more than 2.5 %.
    low, high = bootstrap_ci([1.0, 3.0])
    assert low == 1.0
    assert high == 3.0


def test_bootstrap_resamples_whole_trajectories() -> None:
    # The difference of two rounds of one seed is constant, so its interval has no length.
    curves = rng().normal(size=(6, 1)) + np.array([0.0, 5.0])

    def gap(values: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
        means = values.mean(axis=axis)
        return np.asarray(means[..., 1] - means[..., 0])

    low, high = bootstrap_ci(curves, statistic=gap)
    assert low == pytest.approx(5.0)
    assert high == pytest.approx(5.0)


def test_bootstrap_is_the_same_by_blocks_and_at_once() -> None:
    values = rng().normal(size=(4, 900))  # 900 columns x 10,000 resamples need several blocks
    whole, first = bootstrap_ci(values), bootstrap_ci(values[:, :3])
    np.testing.assert_allclose(whole.low[:3], first.low, rtol=1e-12)
    np.testing.assert_allclose(whole.high[:3], first.high, rtol=1e-12)


def test_bootstrap_is_deterministic_and_takes_a_generator() -> None:
    values = rng().normal(size=7)
    assert bootstrap_ci(values) == bootstrap_ci(values)
    assert bootstrap_ci(values, seed=3) == bootstrap_ci(values, seed=rng(3))
    assert bootstrap_ci(values, seed=3) != bootstrap_ci(values, seed=4)


def test_one_seed_has_no_interval() -> None:
    band = bootstrap_band(np.ones((1, 4)))
    assert np.isnan(band.low).all()
    assert np.isnan(band.high).all()
    np.testing.assert_array_equal(band.mean, 1.0)


@FAST
@given(st.lists(st.floats(-100, 100), min_size=2, max_size=8), st.floats(0.5, 0.99))
def test_bootstrap_interval_lies_in_the_data_and_moves_with_it(
    values: list[float], confidence: float
) -> None:
    low, high = bootstrap_ci(values, confidence=confidence, num_resamples=200)
    assert min(values) - 1e-9 <= low <= high <= max(values) + 1e-9
    moved = bootstrap_ci(np.array(values) * 2 + 1, confidence=confidence, num_resamples=200)
    assert moved.low == pytest.approx(2 * low + 1, abs=1e-9)
    assert moved.high == pytest.approx(2 * high + 1, abs=1e-9)


def test_bootstrap_at_five_normal_seeds_covers_about_83_percent() -> None:
    # The figure that reports quote as a caveat.
    samples = rng(5).normal(size=(5, 4_000))
    low, high = bootstrap_ci(samples, num_resamples=2_000)
    assert coverage(np.zeros(4_000), low, high) == pytest.approx(0.83, abs=0.02)


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        ([], {}, "at least one row"),
        ([1.0, 2.0], {"confidence": 95.0}, "confidence 95"),
        ([1.0, 2.0], {"num_resamples": 0}, "num_resamples 0"),
    ],
)
def test_bootstrap_refuses(values: list[float], options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bootstrap_ci(values, **options)  # type: ignore[arg-type]  # parametrised


@pytest.mark.parametrize("size", [1, 3, 4, 5, 8, 11])
def test_interquartile_mean_is_the_trimmed_mean_of_scipy(size: int) -> None:
    values = rng(size).normal(size=(size, 3))
    expected = scipy.stats.trim_mean(values, 0.25, axis=0)
    np.testing.assert_allclose(interquartile_mean(values), expected)
