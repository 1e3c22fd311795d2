"""Statistics of regret over seeds: intervals, summaries, paired comparisons; no torch."""

from __future__ import annotations

from vitucb.statistics.paired_tests import (
    holm_correction,
    sign_test,
    student_interval,
    wilcoxon_test,
)
from vitucb.statistics.regret import (
    IntervalEstimate,
    PairedDifference,
    RegretSummary,
    coverage,
    growth_exponent,
    paired_difference,
    regret_summary,
)
from vitucb.statistics.resampling import (
    Band,
    FloatArray,
    Interval,
    bootstrap_band,
    bootstrap_ci,
    interquartile_mean,
)

__all__ = [
    "Band",
    "FloatArray",
    "Interval",
    "IntervalEstimate",
    "PairedDifference",
    "RegretSummary",
    "bootstrap_band",
    "bootstrap_ci",
    "coverage",
    "growth_exponent",
    "holm_correction",
    "interquartile_mean",
    "paired_difference",
    "regret_summary",
    "sign_test",
    "student_interval",
    "wilcoxon_test",
]
