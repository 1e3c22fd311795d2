"""Long lists and cross products, of which the quick tests play a part."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import pytest
from _pytest.mark.structures import ParameterSet


def covering_pairs(first: Iterable[Any], second: Iterable[Any]) -> list[ParameterSet]:
    """All pairs; all but a diagonal, in which every value is once at least, are slow."""
    rows, columns = list(first), list(second)
    period = min(len(rows), len(columns))
    return [
        pytest.param(a, b, marks=() if (j - i) % period == 0 else pytest.mark.slow, id=f"{a}-{b}")
        for i, a in enumerate(rows)
        for j, b in enumerate(columns)
    ]


def every_third(values: Iterable[Any], start: int = 0) -> list[ParameterSet]:
    """All values; all but every third from `start` on are slow."""
    return [
        pytest.param(value, marks=() if i % 3 == start else pytest.mark.slow)
        for i, value in enumerate(values)
    ]


def slow_but(quick: Collection[Any], values: Iterable[Any]) -> list[ParameterSet]:
    """All values; those that are not among `quick` are slow."""
    return [
        pytest.param(value, marks=() if value in quick else pytest.mark.slow) for value in values
    ]
