"""Paired comparisons: sign test, signed-rank test, Student's interval, Holm's correction.

scipy has the laws, but the exact one of the signed-rank sum only without ties, which counted
rewards have; that of the mid-ranks is ours. `scipy.stats` is imported only where it is called: it
takes longer to load than all else that a report needs.

Sources:
    Signed-rank test: Wilcoxon, "Individual comparisons by ranking methods", Biometrics Bull. 1
        (1945); with ties the exact law of the mid-ranks under random signs (Pratt and Gibbons,
        "Concepts of nonparametric theory", 1981).
    Multiple comparisons: Holm, "A simple sequentially rejective multiple test procedure",
        Scand. J. Statist. 6 (1979).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from vitucb.statistics.resampling import FloatArray

# Above this the normal approximation of the signed-rank law is good to 1e-3.
_EXACT_PAIRS = 50


def sign_test(differences: ArrayLike) -> float:
    """Exact two-sided sign test that positive and negative differences are equally likely.

    Args:
        differences: Paired differences, shape (S,); zeros, and NaN where one is not known, are
            dropped.

    Returns:
        The p-value in (0, 1]; 1 where no difference is left.
    """
    from scipy.special import bdtr

    gaps = np.asarray(differences, dtype=np.float64)
    higher, lower = int((gaps > 0).sum()), int((gaps < 0).sum())
    return min(1.0, 2 * float(bdtr(min(higher, lower), higher + lower, 0.5)))


def wilcoxon_test(differences: ArrayLike) -> float:
    """Two-sided Wilcoxon signed-rank test that the differences are symmetric about zero.

    Exact up to 50 pairs, ties included (the law of the mid-ranks under random signs); above that
    the normal approximation with tie correction and no continuity correction.

    Args:
        differences: Paired differences, shape (S,); zeros (Wilcoxon's rule), and NaN where one is
            not known, are dropped.

    Returns:
        The p-value in (0, 1]; 1 where no difference is left.
    """
    gaps = np.asarray(differences, dtype=np.float64)
    gaps = gaps[(gaps != 0) & ~np.isnan(gaps)]
    if len(gaps) == 0:
        return 1.0
    if len(gaps) <= _EXACT_PAIRS:
        return _exact_signed_rank_p(gaps)
    from scipy.stats import wilcoxon

    return float(wilcoxon(gaps, method="asymptotic").pvalue)


def student_interval(values: ArrayLike, *, confidence: float = 0.95) -> tuple[float, float]:
    """Student's confidence interval of a mean: exact for normal values, however few.

    Args:
        values: Shape (S,); NaN, where one is not known, is dropped.
        confidence: Nominal coverage, in (0, 1).

    Returns:
        Bounds; NaN for fewer than two values.

    Raises:
        ValueError: If `confidence` is outside (0, 1).
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence {confidence} is outside (0, 1); 0.95 is usual")
    sample = np.asarray(values, dtype=np.float64)
    sample = sample[~np.isnan(sample)]
    if len(sample) < 2:
        return math.nan, math.nan
    from scipy.special import stdtrit

    error = float(sample.std(ddof=1)) / math.sqrt(len(sample))
    half = float(stdtrit(len(sample) - 1, (1 + confidence) / 2)) * error
    mean = float(sample.mean())
    return mean - half, mean + half


def holm_correction(p_values: ArrayLike) -> FloatArray:
    """Holm's step-down adjusted p-values: reject where the result is at most the level.

    Args:
        p_values: Shape (m,), each in [0, 1].

    Returns:
        Adjusted p-values in the given order, shape (m,), never below the raw ones.

    Raises:
        ValueError: If a value is outside [0, 1] or NaN.
    """
    raw = np.atleast_1d(np.asarray(p_values, dtype=np.float64))
    if not np.all((raw >= 0) & (raw <= 1)):
        raise ValueError(f"p_values {raw.tolist()} are not all in [0, 1]; give probabilities")
    order = np.argsort(raw, kind="stable")
    scaled = raw[order] * np.arange(len(raw), 0, -1)
    adjusted = np.empty_like(raw)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(scaled))
    return adjusted


def _exact_signed_rank_p(gaps: FloatArray) -> float:
    """Convolve the law of the rank sum under random signs; counts stay exact below 2^53."""
    _, group, counts = np.unique(np.abs(gaps), return_inverse=True, return_counts=True)
    doubled_ranks = (2 * counts.cumsum() - counts + 1)[group]  # integers also where ranks are tied
    ways = np.zeros(int(doubled_ranks.sum()) + 1)
    ways[0] = 1.0
    for rank in doubled_ranks.tolist():
        ways[rank:] += ways[:-rank].copy()
    observed = int(doubled_ranks[gaps > 0].sum())
    tail = min(ways[: observed + 1].sum(), ways[observed:].sum())
    return float(min(1.0, 2 * tail / ways.sum()))
