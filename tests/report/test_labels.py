from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vitucb.report.figures.labels import shorten, spread, text_points
from vitucb.report.figures.theme import PALETTE


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


def test_names_are_cut_to_the_room_there_is() -> None:
    assert shorten("ucb1", 40.0) == "ucb1"
    short = shorten("MAMMALS of the NORTH 12.5", 90.0)
    assert text_points(short) <= 90.0 < text_points(short + "M")
    assert text_points("\N{CJK UNIFIED IDEOGRAPH-65E5}") > text_points("W") > text_points("w")


def _luminance(colour: str) -> float:
    """Relative luminance of `#rrggbb` by WCAG 2."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in parts]
    return float(np.dot([0.2126, 0.7152, 0.0722], linear))


@pytest.mark.parametrize("mode", [0, 1], ids=["light", "dark"])
@pytest.mark.parametrize("name", sorted(set(PALETTE) - {"page", "grid"}))
def test_text_of_every_colour_is_legible(name: str, mode: int) -> None:
    shades = sorted(_luminance(PALETTE[key][mode]) for key in ("page", name))
    assert (shades[1] + 0.05) / (shades[0] + 0.05) >= 4.5
