"""Numbers, estimates and p values as text."""

from __future__ import annotations

import math
import unicodedata

from vitucb.statistics import IntervalEstimate

# Below it numbers are written with an exponent.
_SMALLEST = 1e-4


def number(value: float, digits: int = 3) -> str:
    """`value` with about `digits` significant digits, thousands separated; `n/a` for NaN."""
    if not math.isfinite(value):
        return "n/a"
    if value == 0:
        return "0"
    if abs(value) < _SMALLEST:
        return f"{value:.{digits - 1}e}".replace("-", "−")
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    return f"{value:,.{decimals}f}".replace("-", "−")


def estimate_text(estimate: IntervalEstimate) -> str:
    """`61.2 [54.4, 70.1]`: as many decimals as the interval bears; the value alone without one."""
    value, low, high = estimate
    if not math.isfinite(low) or not math.isfinite(high):
        return number(value)
    if high - low <= 1e-9 * abs(value):  # the same for every seed, to rounding
        return fixed(value, estimate)
    return f"{fixed(value, estimate)} [{fixed(low, estimate)}, {fixed(high, estimate)}]"


def fixed(value: float, estimate: IntervalEstimate) -> str:
    """`value` with two digits of the interval's half-length, but at most three significant ones."""
    size = max(abs(part) for part in estimate if math.isfinite(part))
    if 0 < size < _SMALLEST:
        return number(value, 2)
    span = estimate.high - estimate.low
    scale = span / 2 if math.isfinite(span) and span > 0 else size / 10
    decimals = min(_decimals(scale, 1), _decimals(size, 2))
    text = f"{value:,.{decimals}f}"
    return text.lstrip("-") if float(text.replace(",", "")) == 0 else text.replace("-", "−")


def _decimals(size: float, digits: int) -> int:
    """Decimals that show `digits` digits after the leading one of `size`, from 0 to 6."""
    return 0 if size <= 0 else min(6, max(0, digits - math.floor(math.log10(size))))


def percent(share: float) -> str:
    """A share as a whole percentage, with one decimal below 10 %."""
    if not math.isfinite(share):
        return "n/a"
    return f"{100 * share:.{0 if share >= 0.0995 or share == 0 else 1}f} %"


def p_text(p: float) -> str:
    """A p-value as `p = 0.012` or `p < 0.001`."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}"


def before_number(label: str) -> str:
    """`label`; one in a right-to-left script is closed, else it would swallow what follows."""
    kinds = {unicodedata.bidirectional(character) for character in label}
    return f"{label}\N{LEFT-TO-RIGHT MARK}" if kinds & {"R", "AL"} else label
