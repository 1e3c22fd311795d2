"""Cross products of which the quick tests play a part that leaves nothing out."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from _pytest.mark.structures import ParameterSet


def covering_pairs(first: Iterable[Any], second: Iterable[Any]) -> list[ParameterSet]:
    """All pairs; all but a diagonal, in which every value is once at least, are slow."""
    rows, columns = list(first), list(second)
    period = min(len(rows), len(columns))
    return [
        pytest.param(a, b, marks=() if (j - i) % period == 0 else pytest.mark.slow)
        for i, a in enumerate(rows)
        for j, b in enumerate(columns)
    ]
