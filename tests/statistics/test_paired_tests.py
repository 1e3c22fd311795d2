from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from vitucb.statistics import (
    holm_correction,
    sign_test,
    student_interval,
    wilcoxon_test,
)

FAST = settings(max_examples=30, deadline=None)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


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


@pytest.mark.parametrize("size", [6, 60])
def test_a_difference_that_is_not_known_changes_nothing(size: int) -> None:
    gaps = rng(1).normal(0.4, 1.0, size)
    with_gaps = np.insert(gaps, [0, 3, size], np.nan)
    assert sign_test(with_gaps) == sign_test(gaps)
    assert wilcoxon_test(with_gaps) == wilcoxon_test(gaps)
    assert student_interval(with_gaps) == student_interval(gaps)


def test_differences_none_of_which_is_known_tell_nothing() -> None:
    assert sign_test([np.nan] * 3) == wilcoxon_test([np.nan] * 3) == 1.0
    assert np.isnan(student_interval([np.nan] * 3)).all()
