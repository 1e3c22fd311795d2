from __future__ import annotations

import numpy as np
import pytest

from vitucb.statistics import (
    coverage,
    growth_exponent,
    paired_difference,
    regret_summary,
    student_interval,
    wilcoxon_test,
)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_summary_of_constant_regret_is_that_of_random_play() -> None:
    constant = np.full((3, 200), 0.5)
    summary = regret_summary(constant, random_regret=constant)
    assert summary.final_regret == pytest.approx((100.0, 100.0, 100.0))
    assert summary.normalised_regret == pytest.approx((1.0, 1.0, 1.0))
    assert summary.auc == pytest.approx((1.0,) * 3)
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


def test_ratio_to_random_play_that_one_seed_alone_defines_has_no_interval() -> None:
    """Without that seed random play has no regret at all, and the ratio is infinite."""
    random = np.array([[0.0, 0.0], [0.0, 2.0]])
    share = regret_summary(np.ones((2, 2)), random_regret=random).normalised_regret
    assert share.value == 2.0
    assert np.isnan([share.low, share.high]).all()


def test_summary_of_other_seeds_than_those_of_random_play_is_not_paired() -> None:
    """Rows that only happen to be as many, here in proportion, must not cancel."""
    regret = np.linspace(1.0, 2.0, 8)[:, None] * np.ones(20)
    paired = regret_summary(regret, random_regret=2 * regret).normalised_regret
    assert paired.high - paired.low < 1e-9
    apart = regret_summary(regret, random_regret=2 * regret, is_paired=False).normalised_regret
    assert apart.value == paired.value == 0.5
    assert apart.low < 0.45 < 0.55 < apart.high


def test_intervals_of_means_are_students_and_of_ratios_hold_at_few_seeds() -> None:
    regret, uniform = rng(1).gamma(4, size=(300, 5, 1)), rng(2).gamma(9, size=(300, 5, 1))
    held = {True: 0, False: 0}
    for ours, theirs in zip(regret, uniform, strict=True):
        for is_paired in held:
            summary = regret_summary(
                ours, random_regret=theirs, is_paired=is_paired, num_resamples=1
            )
            assert summary.final_regret[1:] == pytest.approx(student_interval(ours[:, 0]))
            _, low, high = summary.normalised_regret
            held[is_paired] += low <= 4 / 9 <= high
    # Nominally 285; the percentile bootstrap holds 250.
    assert min(held.values()) >= 275


def test_one_seed_has_no_interval() -> None:
    regret = np.ones((1, 20))
    summary = regret_summary(regret, random_regret=np.full((3, 20), 2.0))
    assert summary.normalised_regret.value == 0.5
    assert np.isnan([*summary.normalised_regret[1:], *summary.final_regret[1:]]).all()


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


def test_paired_difference_counts_and_changes_sign_when_swapped() -> None:
    a, b = np.array([1.0, 2.0, 3.0, 9.0, 5.0]), np.array([2.0, 4.0, 3.5, 8.0, 9.0])
    forward, backward = paired_difference(a, b), paired_difference(b, a)
    assert forward.difference.value == pytest.approx(-1.3)
    assert (forward.num_pairs, forward.num_lower, forward.num_higher) == (5, 4, 1)
    assert forward.difference.low == pytest.approx(-backward.difference.high)
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


def test_a_pair_of_which_one_is_not_known_is_left_out() -> None:
    whole = paired_difference([1.0, 2.0, 4.0], [0.0, 3.0, 1.0])
    holed = paired_difference([1.0, np.nan, 2.0, 4.0, 9.0], [0.0, 7.0, 3.0, 1.0, np.nan])
    assert holed == whole


def test_paired_difference_refuses_unpaired_input() -> None:
    with pytest.raises(ValueError, match="one figure per shared seed"):
        paired_difference([1.0, 2.0], [1.0])
    with pytest.raises(ValueError, match="of no pair both figures are known"):
        paired_difference([np.nan], [1.0])


def test_coverage_counts_ends_and_skips_nan() -> None:
    truth = [0.0, 1.0, 2.0, 3.0]
    assert coverage(truth, [0.0, 2.0, np.nan, 0.0], 3.0) == pytest.approx(2 / 3)
    assert np.isnan(coverage([np.nan], 0.0, 1.0))
