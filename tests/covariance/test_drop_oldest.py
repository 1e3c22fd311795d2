"""A sliding window: what is dropped might as well never have entered."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from vitucb.covariance import FeatureCovariance, make_covariance
from vitucb.covariance.grouped import GroupedCovariance

DIM, ROWS = 300, 60
NAMES = ["exact", "frequent-directions", "low-rank", "countsketch", "grouped"]


def features(rows: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, DIM, generator=generator, dtype=torch.float64)


def covariance(name: str) -> FeatureCovariance:
    if name != "grouped":
        return make_covariance(name, DIM, ridge=0.5)
    parts = {"adapters": 200, "head": 100}
    return GroupedCovariance({k: make_covariance("exact", d, ridge=0.5) for k, d in parts.items()})


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("count", [0, 1, 40, ROWS])
def test_dropped_is_as_never_entered(name: str, count: int) -> None:
    phi, later, queries = features(ROWS, 0), features(20, 1), features(5, 2)
    weights = torch.linspace(0.5, 2.0, ROWS, dtype=torch.float64)
    window, fresh = covariance(name), covariance(name)
    window.update(phi, weights)
    window.quad_form(queries)
    window.drop_oldest(count)
    if count < ROWS:
        fresh.update(phi[count:], weights[count:])
    for step in (None, later):
        if step is not None:
            window.update(step)
            fresh.update(step)
        torch.testing.assert_close(window.quad_form(queries), fresh.quad_form(queries))
        assert window.count == fresh.count
        assert window.log_det == pytest.approx(fresh.log_det, rel=1e-9, abs=1e-9)


def test_a_window_slides() -> None:
    phi, queries = features(50, 0), features(5, 2)
    window, fresh = covariance("exact"), covariance("exact")
    for row in phi:
        window.update(row)
        if window.count > 10:
            window.drop_oldest()
    fresh.update(phi[-10:])
    torch.testing.assert_close(window.cov(queries), fresh.cov(queries))


def test_scores_of_before_are_not_used_after() -> None:
    window = covariance("exact")
    window.update(features(10, 0))
    window.quad_form(features(3, 1))
    window.drop_oldest()
    with pytest.raises(RuntimeError, match="since the last change"):
        window.update(index=0)


def test_more_than_there_are_is_refused() -> None:
    window = covariance("exact")
    window.update(features(3, 0))
    with pytest.raises(ValueError, match=r"drop_oldest count 4 must lie in 0\.\.3"):
        window.drop_oldest(4)


@pytest.mark.parametrize("name", ["dense", "diagonal"])
def test_forms_without_rows_say_so(name: str) -> None:
    with pytest.raises(RuntimeError, match="no single observations to drop; use rebuild"):
        covariance(name).drop_oldest()
