"""What a sketch knows after changes that are no observations: discounts, other ridges."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.covariance.test_sketches import exact_squares, make_features
from vitucb.covariance import FeatureCovariance, make_covariance
from vitucb.covariance.frequent_directions import FrequentDirections
from vitucb.covariance.projected import ProjectedCovariance, low_rank

DIM = 40
QUERIES = make_features(6, DIM, seed=99, decay=0.5)


def exact_log_det(phi: Tensor, ridge: float) -> float:
    return float(torch.log1p(torch.linalg.svdvals(phi).square() / ridge).sum())


def small() -> FrequentDirections:
    return FrequentDirections(DIM, rank=5, max_rank=5, ridge=0.5)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["update", "discount", "ridge"]),
            st.floats(0.05, 1.0),
            st.integers(1, 30),
        ),
        min_size=1,
        max_size=8,
    ),
    st.sampled_from([0.0, 0.5, 1.5]),
)
def test_intervals_hold_whatever_is_done(
    changes: list[tuple[str, float, int]], decay: float
) -> None:
    sketch, rows, ridge = small(), torch.empty(0, DIM, dtype=torch.float64), 0.5
    for seed, (what, number, count) in enumerate(changes):
        fresh = make_features(count, DIM, seed=seed, decay=decay)
        if what == "discount":
            sketch.discount(number)
            rows = rows * math.sqrt(number)
        elif what == "ridge":
            ridge = number
            sketch.set_ridge(ridge)
        else:
            sketch.update(fresh, number)
            rows = torch.cat([rows, fresh * math.sqrt(number)])
    low, up = sketch.log_det_interval
    assert low * (1 - 1e-9) <= exact_log_det(rows, ridge) <= up * (1 + 1e-9) + 1e-12
    assert low <= sketch.log_det <= up
    exact = exact_squares(rows, QUERIES, ridge)
    low_square, up_square = sketch.interval(QUERIES)
    assert (low_square <= exact * (1 + 1e-9)).all()
    assert (exact <= up_square * (1 + 1e-9)).all()


def sketches() -> dict[str, FeatureCovariance]:
    return {
        "frequent-directions": FrequentDirections(2000, rank=16, max_rank=16),
        "low-rank": low_rank(2000, sketch_dim=1024, rank=32, max_rank=32),
        "countsketch": make_covariance("countsketch", 2000, rank=256),
    }


@pytest.mark.parametrize("name", list(sketches()))
@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_information_gain_under_a_discount(name: str, decay: float) -> None:
    sketch, phi = sketches()[name], make_features(300, 2000, decay=decay)
    for row in phi:
        sketch.update(row)
    before = sketch.log_det
    sketch.discount(1.0)
    assert sketch.log_det == pytest.approx(before, rel=1e-12)

    sketch, gamma = sketches()[name], 0.98
    for row in phi:
        sketch.discount(gamma)
        sketch.update(row)
    root = torch.tensor(gamma, dtype=torch.float64) ** (torch.arange(299, -1, -1) / 2)
    assert sketch.log_det == pytest.approx(exact_log_det(phi * root[:, None], 1.0), rel=0.15)


@pytest.mark.parametrize("name", ["countsketch", "low-rank"])
def test_a_discounted_sketch_is_as_good_as_a_fresh_one(name: str) -> None:
    def make() -> FeatureCovariance:
        if name == "countsketch":
            return make_covariance(name, 3000, rank=128)
        return low_rank(3000, sketch_dim=128, rank=128)

    phi, queries = make_features(120, 3000, decay=0.0), make_features(5, 3000, seed=7, decay=0.0)
    changed, fresh = make(), make()
    for row in phi:
        changed.update(row)
    changed.discount(1e-3)
    left = phi * math.sqrt(1e-3)
    fresh.update(left)
    squares = changed.quad_form(queries)
    torch.testing.assert_close(squares, fresh.quad_form(queries), rtol=0.02, atol=0.0)
    low, up = changed.interval(queries)
    exact = exact_squares(left, queries, 1.0)
    assert ((low <= exact) & (exact <= up)).all()
    assert changed.log_det == pytest.approx(exact_log_det(left, 1.0), rel=0.1)


def test_information_gain_read_off_a_sketch() -> None:
    phi = make_features(400, 9000, decay=0.0)
    sketch = make_covariance("countsketch", 9000, rank=512)
    assert isinstance(sketch, ProjectedCovariance)
    sketch.update(phi)
    sketch._recompute()
    exact = exact_log_det(phi, 1.0)
    assert sketch.log_det == pytest.approx(exact, rel=0.02)
    assert sketch.inner.log_det > 1.2 * exact  # without the two other terms


def test_a_state_of_another_seed_is_refused() -> None:
    one, other = (low_rank(300, sketch_dim=64, rank=8, seed=seed) for seed in (0, 1))
    one.update(make_features(5, 300))
    with pytest.raises(ValueError, match="seed 0, this covariance has seed 1"):
        other.load_state_dict(one.state_dict())
