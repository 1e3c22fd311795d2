"""The two matrices of D-LinUCB against their sums."""

from __future__ import annotations

import pytest
import torch

from vitucb.covariance import dense, make_covariance
from vitucb.covariance.discounted import DiscountedCovariance

GAMMA = 0.9


def rows(n: int = 30, dim: int = 4) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n, dim, generator=generator, dtype=torch.float64)


def played(phi: torch.Tensor) -> DiscountedCovariance:
    covariance = make_covariance("discounted", phi.shape[1], ridge=0.5)
    assert isinstance(covariance, DiscountedCovariance)
    for row in phi:
        covariance.discount(GAMMA)
        covariance.quad_form(row[None])
        covariance.update(index=0)
    return covariance


def test_quad_form_is_the_variance_of_the_discounted_estimate() -> None:
    phi, query = rows(), rows(5)
    covariance = played(phi)
    weights = GAMMA ** torch.arange(len(phi) - 1, -1, -1).double()
    eye = 0.5 * torch.eye(4, dtype=torch.float64)
    v, v2 = (eye + (phi.T * w) @ phi for w in (weights, weights**2))
    solved = torch.linalg.solve(v, query.T)
    torch.testing.assert_close(covariance.quad_form(query), (solved * (v2 @ solved)).sum(0))
    torch.testing.assert_close(covariance.cov(query), solved.T @ v2 @ solved)
    torch.testing.assert_close(covariance.solve(query), solved.T)


def test_variance_is_below_that_of_one_matrix() -> None:
    phi, query = rows(), rows(5)
    two = played(phi)
    one = make_covariance("dense", 4, ridge=0.5)
    for row in phi:
        one.discount(GAMMA)
        one.update(row)
    assert bool((two.quad_form(query) < one.quad_form(query)).all())


def test_without_discount_it_is_dense() -> None:
    phi, query = rows(), rows(5)
    one, two = (make_covariance(name, 4) for name in ("dense", "discounted"))
    for covariance in (one, two):
        covariance.update(phi)
    torch.testing.assert_close(one.quad_form(query), two.quad_form(query))


def test_a_huge_feature_counts_for_as_much_in_both_matrices() -> None:
    huge = torch.full((1, 24), 1e7, dtype=torch.float64)
    both, one = make_covariance("discounted", 24), make_covariance("dense", 24)
    for covariance in (both, one):
        covariance.update(huge)
    assert float(both.quad_form(huge)) <= float(one.quad_form(huge))


def test_restored_matrices_continue_identically() -> None:
    phi = rows()
    covariance, other = played(phi), make_covariance("discounted", 4, ridge=0.5)
    other.load_state_dict(covariance.state_dict())
    for one in (covariance, other):
        one.discount(GAMMA)
        one.update(phi[3])
    torch.testing.assert_close(covariance.quad_form(phi), other.quad_form(phi), rtol=0, atol=0)


def test_a_discount_that_takes_long_is_said_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(dense, "_LARGE", 3)
    played(rows(n=3, dim=3))
    assert not caplog.records
    played(rows(n=3, dim=4))
    assert [record.message for record in caplog.records] == [
        "discounting a dense covariance of dim 4 factorises it anew in every round, which takes "
        "long; the covariance 'exact' does not"
    ]
