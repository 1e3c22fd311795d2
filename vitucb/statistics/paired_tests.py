"""Paired comparisons: sign test, signed-rank test, Student's interval, Holm's correction.

Sources:
    Signed-rank test: Wilcoxon, "Individual comparisons by ranking methods", Biometrics Bull. 1
        (1945); with ties the exact law of the mid-ranks under random signs (Pratt and Gibbons,
        "Concepts of nonparametric theory", 1981).
    Student's law for whole degrees of freedom: Abramowitz and Stegun, "Handbook of mathematical
        functions" (1964), 26.7.3 and 26.7.4.
    Multiple comparisons: Holm, "A simple sequentially rejective multiple test procedure",
        Scand. J. Statist. 6 (1979).
"""

from __future__ import annotations

import math
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray: TypeAlias = NDArray[np.float64]

# Above this the normal approximation of the signed-rank law is good to 1e-3.
_EXACT_PAIRS = 50


def sign_test(differences: ArrayLike) -> float:
    """Exact two-sided sign test that positive and negative differences are equally likely.

    Args:
        differences: Paired differences, shape (S,); zeros are dropped.

    Returns:
        The p-value in (0, 1]; 1 where no difference is left.
    """
    gaps = np.asarray(differences, dtype=np.float64)
    size = int((gaps != 0).sum())
    fewer = min(int((gaps > 0).sum()), int((gaps < 0).sum()))
    at_most: int = sum(math.comb(size, k) for k in range(fewer + 1))
    # Integer division keeps thousands of pairs from overflowing a float.
    return float(min(1.0, 2 * (at_most / 2**size)))


def wilcoxon_test(differences: ArrayLike) -> float:
    """Two-sided Wilcoxon signed-rank test that the differences are symmetric about zero.

    Exact up to 50 pairs, ties included (the law of the mid-ranks under random signs); above that
    the normal approximation with tie correction and no continuity correction.

    Args:
        differences: Paired differences, shape (S,); zeros are dropped (Wilcoxon's rule).

    Returns:
        The p-value in (0, 1]; 1 where no difference is left.
    """
    gaps = np.asarray(differences, dtype=np.float64)
    gaps = gaps[gaps != 0]
    if len(gaps) == 0:
        return 1.0
    doubled_ranks, tie_sizes = _doubled_mid_ranks(np.abs(gaps))
    doubled_sum = int(doubled_ranks[gaps > 0].sum())
    if len(gaps) <= _EXACT_PAIRS:
        return _exact_signed_rank_p(doubled_ranks, doubled_sum)
    return _normal_signed_rank_p(len(gaps), doubled_sum / 2, tie_sizes)


def student_interval(values: ArrayLike, *, confidence: float = 0.95) -> tuple[float, float]:
    """Student's confidence interval of a mean: exact for normal values, however few.

    Args:
        values: Shape (S,).
        confidence: Nominal coverage, in (0, 1).

    Returns:
        Bounds; NaN for fewer than two values.

    Raises:
        ValueError: If `confidence` is outside (0, 1).
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence {confidence} is outside (0, 1); 0.95 is usual")
    sample = np.asarray(values, dtype=np.float64)
    if len(sample) < 2:
        return math.nan, math.nan
    error = float(sample.std(ddof=1)) / math.sqrt(len(sample))
    half = _student_quantile(confidence, len(sample) - 1) * error
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


def _student_quantile(confidence: float, freedom: int) -> float:
    """The t with P(|T| <= t) = `confidence`, by bisection on the angle atan(t / sqrt(freedom))."""
    low, high = 0.0, math.pi / 2
    for _ in range(60):
        angle = (low + high) / 2
        low, high = (angle, high) if _student_mass(angle, freedom) < confidence else (low, angle)
    return math.tan(high) * math.sqrt(freedom)


def _student_mass(angle: float, freedom: int) -> float:
    """P(|T| <= sqrt(freedom) tan(angle)), 26.7.3 (odd) and 26.7.4 (even)."""
    sine, cosine = math.sin(angle), math.cos(angle)
    is_odd = freedom % 2
    term = cosine if is_odd else 1.0
    total = term if freedom > 1 else 0.0
    for k in range(2 + is_odd, freedom - 1, 2):
        term *= cosine**2 * (k - 1) / k
        total += term
    return 2 / math.pi * (angle + sine * total) if is_odd else sine * total


def _doubled_mid_ranks(sizes: FloatArray) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Twice the mid-ranks (integers even with ties), and the size of every group of ties."""
    _, group, counts = np.unique(sizes, return_inverse=True, return_counts=True)
    ends = counts.cumsum()
    doubled = 2 * ends - counts + 1
    return doubled[group.reshape(-1)], counts


def _exact_signed_rank_p(doubled_ranks: NDArray[np.int64], doubled_sum: int) -> float:
    """Convolve the law of the rank sum under random signs; counts stay exact below 2^53."""
    ways = np.zeros(int(doubled_ranks.sum()) + 1)
    ways[0] = 1.0
    for rank in doubled_ranks.tolist():
        ways[rank:] += ways[:-rank].copy()
    at_most = ways[: doubled_sum + 1].sum()
    at_least = ways[doubled_sum:].sum()
    return float(min(1.0, 2 * min(at_most, at_least) / ways.sum()))


def _normal_signed_rank_p(size: int, rank_sum: float, tie_sizes: NDArray[np.int64]) -> float:
    mean = size * (size + 1) / 4
    ties = float((tie_sizes**3 - tie_sizes).sum())
    variance = size * (size + 1) * (2 * size + 1) / 24 - ties / 48
    return math.erfc(abs(rank_sum - mean) / math.sqrt(2 * variance))
