"""The jackknife: what a figure would be without each run in turn, and Student's interval from that.

Source: Tukey, "Bias and confidence in not-quite large samples", Ann. Math. Statist. 29 (1958).
Of a mean it gives Student's interval itself.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from vitucb.statistics.resampling import FloatArray


def without_each(values: FloatArray) -> FloatArray:
    """The mean over all rows but one, for every row.

    Args:
        values: Shape (S, ...).

    Returns:
        Shape (S, ...); NaN for a single row, which leaves none.
    """
    if len(values) == 1:
        return np.full(values.shape, np.nan)
    return np.asarray((values.sum(axis=0) - values) / (len(values) - 1))


def jackknife_half(without: Sequence[FloatArray], confidence: float) -> float:
    """Half the length of Student's interval of a figure.

    Args:
        without: For every group of runs drawn apart from the others, the figure without one of
            its runs, shape (S,) each.
        confidence: Nominal coverage, in (0, 1).

    Returns:
        Half the length; NaN where a figure is unknown or infinite, or a group has one run. With two
        groups the degrees of freedom are those of the smaller.

    Raises:
        ValueError: If `confidence` is outside (0, 1).
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence {confidence} is outside (0, 1); 0.95 is usual")
    from scipy.special import stdtrit

    fewest = min(map(len, without))
    if fewest < 2 or not all(np.isfinite(each).all() for each in without):
        return math.nan
    # A figure without one run strays (n - 1) times less than a run does from their mean.
    variance = sum((len(each) - 1) * float(each.var()) for each in without)
    return float(stdtrit(fewest - 1, (1 + confidence) / 2)) * math.sqrt(variance)
