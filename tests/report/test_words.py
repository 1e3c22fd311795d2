from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from vitucb.report.formatting import estimate_text, number, p_text, percent
from vitucb.report.sentences import difference_sentence, verdict
from vitucb.report.series import trailing_mean
from vitucb.statistics import IntervalEstimate, paired_difference, student_interval


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (1234.5, "1,234"), (61.27, "61.3"), (0.01234, "0.0123"), (-5.0, "−5.00"),
     (math.nan, "n/a"), (-1.234e-17, "−1.23e−17")],
)  # fmt: skip
def test_numbers_have_three_significant_digits(value: float, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(
    ("estimate", "text"),
    [
        (IntervalEstimate(61.2, 54.4, 70.1), "61.2 [54.4, 70.1]"),
        (IntervalEstimate(483.2, 481.9, 485.0), "483 [482, 485]"),
        (IntervalEstimate(0.1561, 0.1472, 0.1674), "0.156 [0.147, 0.167]"),
        (IntervalEstimate(0.27, -4.8, 5.8), "0.3 [−4.8, 5.8]"),
        (IntervalEstimate(12.8, math.nan, math.nan), "12.8"),
        (IntervalEstimate(0.0, 0.0, 0.0), "0"),
        (IntervalEstimate(-0.3, -36.0, 30.0), "0 [−36, 30]"),
        (IntervalEstimate(2e-13, 0.0, 3.1e-13), "2.0e−13 [0, 3.1e−13]"),
    ],
)
def test_estimates_have_the_decimals_their_interval_bears(
    estimate: IntervalEstimate, text: str
) -> None:
    assert estimate_text(estimate) == text


def test_shares_and_p_values_read_naturally() -> None:
    assert [percent(s) for s in (0.0, 0.0666, 0.154, 1.0)] == ["0 %", "6.7 %", "15 %", "100 %"]
    assert [p_text(p) for p in (0.00001, 0.0123, 1.0)] == ["p < 0.001", "p = 0.012", "p = 1"]


@pytest.mark.parametrize(
    ("gaps", "verdict", "start"),
    [
        ([-3.0, -4.0, -5.0], "better", "a beats b by 4.0 [1.5, 6.5] regret, lower in 3 of 3"),
        ([3.0, 4.0, 5.0], "worse", "a loses to b by 4.0 [1.5, 6.5] regret, lower in 0 of 3"),
        ([-3.0, 4.0, 2.0], "open", "No difference between a and b is shown at n = 3"),
        (
            [-3.0, -9.0],
            "open",
            "No difference between a and b is shown at n = 2: −6 [−44, 32]",
        ),
        (
            [2.0, 2.0, 2.0],
            "open",
            "No difference between a and b is shown at n = 3: 2.00 regret, lower in 0 of 3 seeds, "
            "the same in every one",
        ),
        ([2.0] * 6, "worse", "a loses to b by 2.00 regret, lower in 0 of 6 seeds"),
        ([0.0, 0.0], "open", "No difference between a and b is shown at n = 2: 0 regret"),
        ([2.0], "open", "One seed: a is 2.00 above b"),
        ([0.0], "open", "One seed: a and b have the same regret."),
    ],
)
def test_sentences_say_what_the_data_allow(gaps: list[float], verdict: str, start: str) -> None:
    sentence = difference_sentence("a", "b", paired_difference(gaps, np.zeros(len(gaps))))
    assert sentence.verdict == verdict
    assert sentence.text.startswith(start)


def test_trailing_mean_starts_short_and_skips_nan() -> None:
    values = np.array([[1.0, 3.0, 5.0, np.nan, 9.0]])
    expected = np.array([[1.0, 2.0, 4.0, 5.0, 9.0]])
    np.testing.assert_allclose(trailing_mean(values, 2), expected)
    assert np.isnan(trailing_mean(np.full((1, 3), np.nan), 2)).all()


def test_few_equal_differences_of_counts_are_seldom_called_a_win() -> None:
    """Student's interval is a point there: it alone would call 13 % of these a difference."""
    rng = np.random.default_rng(0)
    found = sum(
        verdict(paired_difference(*rng.binomial(10, 0.1, (2, 2)))) != "open" for _ in range(300)
    )
    assert found <= 0.05 * 300


@given(arrays(np.float64, st.integers(2, 8), elements=st.floats(-9, 9).map(lambda x: round(x, 3))))
def test_what_a_sentence_says_is_what_the_interval_beside_it_says(gaps: NDArray[Any]) -> None:
    paired = paired_difference(gaps, np.zeros(len(gaps)))
    low, high = student_interval(gaps)
    assert paired.difference[1:] == (low, high)
    told = verdict(paired)
    if low <= 0 <= high:
        assert told == "open"
    elif high - low > 1e-9 * abs(gaps.mean()):
        assert told == ("worse" if low > 0 else "better")
    sentence = difference_sentence("a", "b", paired)
    assert sentence.verdict == told
    assert "Student" not in sentence.text  # one interval, and no second one that says otherwise
    shown = IntervalEstimate(abs(paired.difference.value), *sorted((abs(low), abs(high))))
    assert estimate_text(paired.difference if told == "open" else shown) in sentence.text
