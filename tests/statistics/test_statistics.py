from __future__ import annotations

import itertools

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
    growth_exponent,
    holm_correction,
    interquartile_mean,
    paired_difference,
    regret_summary,
    sign_test,
    student_interval,
    wilcoxon_test,
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


def test_summary_of_constant_regret_is_that_of_random_play() -> None:
    constant = np.full((3, 200), 0.5)
    summary = regret_summary(constant, random_regret=constant)
    assert summary.final_regret == pytest.approx((100.0, 100.0, 100.0))
    assert summary.normalised_regret == pytest.approx((1.0, 1.0, 1.0))
    assert summary.auc == pytest.approx((1.005,) * 3)  # sum of t over T^2 / 2 is 1 + 1 / T
    assert summary.tail_slope == pytest.approx((0.5, 0.5, 0.5))
    assert summary.growth_exponent == pytest.approx((1.0, 1.0, 1.0))
    assert (summary.num_seeds, summary.horizon) == (3, 200)


def test_summary_recovers_the_exponent_of_a_power_law() -> None:
    rounds = np.arange(1, 5_001)
    curves = np.outer([1.0, 2.0, 4.0], rounds**0.5)
    regret = np.diff(curves, axis=1, prepend=0)
    exponent = regret_summary(regret).growth_exponent
    assert exponent == pytest.approx((0.5, 0.5, 0.5), abs=1e-6)


def test_exponent_is_the_least_squares_slope_over_the_last_nine_tenths() -> None:
    curve = rng().random(900).cumsum()
    rounds = np.arange(90, 901)
    slope = np.polyfit(np.log(rounds), np.log(curve[89:]), 1)[0]
    assert growth_exponent(curve) == pytest.approx(slope, rel=1e-9)


def test_summary_intervals_hold_the_estimates() -> None:
    regret = rng().random((6, 300))
    summary = regret_summary(regret, random_regret=regret + 0.5)
    for estimate in (
        summary.final_regret,
        summary.interquartile_regret,
        summary.normalised_regret,
        summary.auc,
        summary.tail_slope,
        summary.growth_exponent,
    ):
        assert estimate.low <= estimate.value <= estimate.high


def test_summary_of_other_seeds_than_those_of_random_play_is_not_paired() -> None:
    """Rows that only happen to be as many, here in proportion, must not cancel."""
    regret = np.linspace(1.0, 2.0, 8)[:, None] * np.ones(20)
    paired = regret_summary(regret, random_regret=2 * regret).normalised_regret
    assert paired.high - paired.low < 1e-9
    apart = regret_summary(regret, random_regret=2 * regret, is_paired=False).normalised_regret
    assert apart.value == paired.value == 0.5
    assert apart.low < 0.45 < 0.55 < apart.high


def test_summary_without_regret_or_reference_says_nan() -> None:
    summary = regret_summary(np.zeros((3, 50)))
    assert summary.final_regret.value == 0
    assert np.isnan(summary.growth_exponent.value)
    assert np.isnan(summary.normalised_regret.value)


def test_summary_refuses_other_horizons_and_shapes() -> None:
    with pytest.raises(ValueError, match="random_regret has 4 rounds and regret 5"):
        regret_summary(np.ones((2, 5)), random_regret=np.ones((2, 4)))
    with pytest.raises(ValueError, match="regret has shape"):
        regret_summary(np.ones(5))


@pytest.mark.parametrize("size", [2, 5, 9, 20, 50])
def test_wilcoxon_without_ties_is_scipys_exact_test(size: int) -> None:
    gaps = rng(size).normal(0.3, 1.0, size)
    expected = scipy.stats.wilcoxon(gaps, method="exact").pvalue
    assert wilcoxon_test(gaps) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("ties", [False, True])
def test_wilcoxon_of_many_pairs_is_scipys_normal_approximation(ties: bool) -> None:
    gaps = rng(3).normal(0.2, 1.0, 80)
    gaps = gaps.round(1) if ties else gaps
    expected = scipy.stats.wilcoxon(gaps, method="asymptotic", correction=False).pvalue
    assert wilcoxon_test(gaps) == pytest.approx(expected, rel=1e-9)


@FAST
@given(st.lists(st.integers(-3, 3), min_size=1, max_size=8))
def test_wilcoxon_with_ties_is_the_count_over_all_signs(gaps: list[int]) -> None:
    sizes = np.array([abs(gap) for gap in gaps if gap])
    if len(sizes) == 0:
        assert wilcoxon_test(gaps) == 1.0
        return
    ranks = scipy.stats.rankdata(sizes)
    signs = np.array(list(itertools.product([0, 1], repeat=len(sizes))))
    sums = signs @ ranks
    observed = ranks[np.array([gap for gap in gaps if gap]) > 0].sum()
    tail = min((sums <= observed).mean(), (sums >= observed).mean())
    assert wilcoxon_test(gaps) == pytest.approx(min(1.0, 2 * tail))


@FAST
@given(st.lists(st.integers(-2, 2), min_size=1, max_size=40))
def test_sign_test_is_scipys_binomial_test(gaps: list[int]) -> None:
    higher, lower = sum(g > 0 for g in gaps), sum(g < 0 for g in gaps)
    size = higher + lower
    expected = scipy.stats.binomtest(higher, size).pvalue if size else 1.0
    assert sign_test(gaps) == pytest.approx(expected)


def test_sign_test_of_thousands_of_pairs_does_not_overflow() -> None:
    assert sign_test(np.ones(3_000)) == pytest.approx(0.0, abs=1e-300)


@pytest.mark.parametrize("size", [2, 3, 4, 5, 6, 11, 30])
@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.999])
def test_student_interval_is_scipys(size: int, confidence: float) -> None:
    values = rng(size).normal(3.0, 2.0, size)
    expected = scipy.stats.t.interval(
        confidence, size - 1, loc=values.mean(), scale=scipy.stats.sem(values)
    )
    assert student_interval(values, confidence=confidence) == pytest.approx(expected, rel=1e-9)


def test_student_interval_needs_two_values_and_a_probability() -> None:
    assert np.isnan(student_interval([1.0])).all()
    with pytest.raises(ValueError, match="confidence 1"):
        student_interval([1.0, 2.0], confidence=1.0)


def test_paired_difference_counts_and_changes_sign_when_swapped() -> None:
    a, b = np.array([1.0, 2.0, 3.0, 9.0, 5.0]), np.array([2.0, 4.0, 3.5, 8.0, 9.0])
    forward, backward = paired_difference(a, b), paired_difference(b, a)
    assert forward.difference.value == pytest.approx(-1.3)
    assert (forward.num_pairs, forward.num_lower, forward.num_higher) == (5, 4, 1)
    assert forward.difference.low == pytest.approx(-backward.difference.high, abs=0.05)
    assert forward.wilcoxon_p == backward.wilcoxon_p
    assert forward.smallest_p == 0.0625


def test_rounding_is_no_difference_and_breaks_no_tie() -> None:
    rng = np.random.default_rng(0)
    steps = rng.integers(0, 10, (6, 200)) / 9.0
    a, b = steps.cumsum(axis=1)[:, -1], rng.permuted(steps, axis=1).cumsum(axis=1)[:, -1]
    assert (a != b).all()  # though the sums are of the same numbers
    same = paired_difference(a, b)
    assert (same.num_lower, same.num_higher, same.sign_p, same.wilcoxon_p) == (0, 0, 1.0, 1.0)
    assert same.difference == (0.0, 0.0, 0.0)
    signs = np.array([1, 1, 1, -1, 2, 3])
    shifted = paired_difference(a + signs / 9, b)
    assert shifted.wilcoxon_p == wilcoxon_test(signs)


def test_paired_difference_refuses_unpaired_input() -> None:
    with pytest.raises(ValueError, match="one figure per shared seed"):
        paired_difference([1.0, 2.0], [1.0])


def test_holm_on_a_worked_example() -> None:
    # Sorted 0.01 x 4, 0.02 x 3, 0.03 x 2 (raised to 0.06), 0.9 x 1.
    adjusted = holm_correction([0.9, 0.01, 0.03, 0.02])
    np.testing.assert_allclose(adjusted, [0.9, 0.04, 0.06, 0.06])


@FAST
@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.floats(0.001, 0.5))
def test_holm_rejects_as_the_step_down_procedure(p_values: list[float], level: float) -> None:
    adjusted = holm_correction(p_values)
    rejected, going = np.zeros(len(p_values), bool), True
    for step, index in enumerate(np.argsort(p_values, kind="stable")):
        # Same product as the code under test: rounding may not decide.
        going = going and p_values[index] * (len(p_values) - step) <= level
        rejected[index] = going
    np.testing.assert_array_equal(adjusted <= level, rejected)
    assert (adjusted >= np.array(p_values) - 1e-15).all()


def test_holm_refuses_what_is_no_probability() -> None:
    with pytest.raises(ValueError, match=r"not all in \[0, 1\]"):
        holm_correction([0.1, np.nan])


def test_coverage_counts_ends_and_skips_nan() -> None:
    truth = [0.0, 1.0, 2.0, 3.0]
    assert coverage(truth, [0.0, 2.0, np.nan, 0.0], 3.0) == pytest.approx(2 / 3)
    assert np.isnan(coverage([np.nan], 0.0, 1.0))
