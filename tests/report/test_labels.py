from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vitucb.report.labels import shorten, spread


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0, 100), min_size=1, max_size=9), st.floats(0, 10))
def test_spread_labels_keep_order_gap_and_range(wanted: list[float], gap: float) -> None:
    positions = np.array(wanted)
    moved = spread(positions, gap, 0.0, 100.0)
    order = np.argsort(positions, kind="stable")
    assert (np.diff(moved[order]) >= gap - 1e-9).all()
    assert moved.min() >= -1e-9
    assert moved.max() <= 100 + 1e-9


def test_labels_with_room_stay_where_they_are() -> None:
    np.testing.assert_allclose(spread(np.array([70.0, 10.0]), 12.0, 0.0, 100.0), [70.0, 10.0])


def test_two_labels_at_one_place_move_equally() -> None:
    np.testing.assert_allclose(spread(np.array([50.0, 50.0]), 10.0, 0.0, 100.0), [45.0, 55.0])


def test_more_labels_than_room_share_it_evenly() -> None:
    assert spread(np.zeros(5), 50.0, 0.0, 100.0) == pytest.approx([0, 25, 50, 75, 100])


def test_long_names_lose_their_middle() -> None:
    short = shorten("vit-ucb (" + "x" * 60 + ") 12.5")
    assert len(short) <= 36
    assert short.startswith("vit-ucb")
    assert short.endswith("12.5")
