from __future__ import annotations

import logging

import pytest
import torch
from torch import Tensor

from vitucb.covariance import make_covariance
from vitucb.covariance.budgeted import BudgetedCovariance, row_capacity
from vitucb.covariance.cholesky import GrowingCholesky
from vitucb.covariance.dual import DualCovariance
from vitucb.covariance.row_blocks import RowBlocks

DIM = 5000  # Above the dimension where the dense form takes over.


def make_features(rows: int, dim: int = DIM, seed: int = 0, rank: int = 40) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    basis = torch.randn(rank, dim, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    phi = torch.randn(rows, rank, generator=generator, dtype=torch.float64) @ basis
    phi = phi + 3 * torch.randn(rows, dim, generator=generator, dtype=torch.float64)
    unit: Tensor = phi / phi.norm(dim=1, keepdim=True)
    return unit


def reference_squares(rows: Tensor, queries: Tensor, ridge: float) -> Tensor:
    """From an SVD of the rows, without any subtraction of large numbers."""
    _, s, V = torch.linalg.svd(rows.double(), full_matrices=False)
    inside = queries.double() @ V.mT
    outside = queries.double() - inside @ V
    squares: Tensor = (inside.square() / (ridge + s.square())).sum(1)
    squares += outside.square().sum(1) / ridge
    return squares


def relative(actual: Tensor, expected: Tensor) -> float:
    return float(((actual - expected) / expected).abs().max())


@pytest.mark.parametrize(
    ("dtype", "ridge", "tolerance"),
    [
        (torch.float64, 1.0, 1e-12),
        (torch.float64, 1e-4, 1e-9),
        (torch.float32, 1.0, 1e-5),
        (torch.float32, 1e-2, 1e-3),
        (torch.bfloat16, 1.0, 1e-5),
    ],
)
def test_quad_form_equals_the_svd_reference(
    dtype: torch.dtype, ridge: float, tolerance: float
) -> None:
    phi, queries = make_features(300).to(dtype), make_features(6, seed=1).to(dtype)
    queries = torch.cat([queries, phi[:2]])
    covariance = make_covariance("exact", DIM, ridge=ridge)
    covariance.update(phi[:290])
    for row in phi[290:]:
        covariance.quad_form(row[None])
        covariance.update(index=0)
    expected = reference_squares(phi, queries, ridge)
    assert relative(covariance.quad_form(queries), expected) < tolerance


def test_float32_rows_are_kept_as_float32_and_growing_moves_none() -> None:
    covariance = DualCovariance(DIM)
    covariance.update(make_features(300).float())
    addresses = [block.data_ptr() for block in covariance._rows.blocks]
    covariance.update(make_features(300, seed=3).float())
    blocks = covariance._rows.blocks
    assert blocks[0].dtype == torch.float32
    assert [block.data_ptr() for block in blocks[: len(addresses)]] == addresses
    assert covariance.memory_bytes == 600 * DIM * 4 + 8 * 600 * 601


def test_float32_products_are_given_up_when_coarser_than_the_ridge() -> None:
    phi = 300 * make_features(40).float()
    covariance = DualCovariance(DIM, ridge=1e-2)
    covariance.update(phi[:20])
    for row in phi[20:]:
        covariance.update(row)
    queries = torch.cat([phi[:3], make_features(3, seed=4).float()])
    expected = reference_squares(phi, queries, 1e-2)
    assert relative(covariance.quad_form(queries), expected) < 1e-6


@pytest.mark.parametrize("spread", [1e-4, 1e-2])
@pytest.mark.parametrize("how", ["one by one", "batch", "ridge"])
def test_near_duplicates_in_float32_keep_their_digits(how: str, spread: float) -> None:
    near = make_features(1, seed=3) + spread * make_features(40, seed=8)
    near = (near / near.norm(dim=1, keepdim=True)).float()
    covariance = DualCovariance(DIM, ridge=1.0 if how == "ridge" else 1e-6)
    if how == "one by one":
        for row in near:
            covariance.update(row)
    else:
        covariance.update(near)
        covariance.set_ridge(1e-6)
    queries = torch.cat([near[:3], make_features(3, seed=9).float()])
    expected = reference_squares(near, queries, 1e-6)
    assert relative(covariance.quad_form(queries), expected) < 1e-6


def test_the_budget_counts_the_type_rows_are_stored_in() -> None:
    budget = 50 * 5000 * 8 + 8 * 50 * 51
    covariance = BudgetedCovariance(5000, budget_bytes=budget)
    covariance.update(make_features(1, 5000))
    for seed in range(60):
        covariance.update(make_features(1, 5000, seed=seed).float())
        if isinstance(covariance.current, DualCovariance):
            assert covariance.memory_bytes <= budget
    assert not isinstance(covariance.current, DualCovariance)


def test_a_factor_can_be_grown_row_by_row_or_by_chunks() -> None:
    rows = make_features(600, dim=700)
    gram = rows @ rows.T + 0.1 * torch.eye(600, dtype=torch.float64)
    factor = GrowingCholesky()
    for start, end in [(0, 100), (100, 101), (101, 400), (400, 600)]:
        factor.append(gram[start:end, :end], least_pivot=0.1)
    expected = torch.linalg.cholesky(gram)
    torch.testing.assert_close(factor.lower(), expected, rtol=1e-10, atol=1e-12)
    rhs = make_features(600, dim=3)
    torch.testing.assert_close(factor.backward(factor.forward(rhs)), torch.linalg.solve(gram, rhs))
    again = GrowingCholesky()
    again.unpack(factor.packed())
    assert torch.equal(again.lower(), factor.lower())


def test_small_dimensions_hand_over_to_the_dense_form_exactly(
    caplog: pytest.LogCaptureFixture,
) -> None:
    phi, queries = make_features(700, dim=64), make_features(5, dim=64, seed=1)
    covariance = make_covariance("exact", 64)
    assert isinstance(covariance, BudgetedCovariance)
    with caplog.at_level(logging.INFO):
        for start in range(0, 700, 50):
            covariance.update(phi[start : start + 50])
    matrix = torch.eye(64, dtype=torch.float64) + phi.T @ phi
    expected = (queries * torch.linalg.solve(matrix, queries.T).T).sum(1)
    assert relative(covariance.quad_form(queries), expected) < 1e-10
    assert covariance.is_exact
    assert covariance.count == 700
    assert "takes over" in caplog.text
    again = make_covariance("exact", 64)
    again.load_state_dict(covariance.state_dict())
    assert torch.equal(again.quad_form(queries), covariance.quad_form(queries))


def test_a_hundred_thousand_updates_stay_definite() -> None:
    generator = torch.Generator().manual_seed(0)
    covariance = make_covariance("exact", 16, ridge=1e-3)
    phi = torch.randn(100_000, 16, generator=generator, dtype=torch.float64)
    phi[:, 8:] *= 1e-4
    for chunk in torch.split(phi, 50):
        covariance.update(chunk)
    matrix = 1e-3 * torch.eye(16, dtype=torch.float64) + phi.T @ phi
    queries = phi[:20]
    expected = (queries * torch.linalg.solve(matrix, queries.T).T).sum(1)
    assert relative(covariance.quad_form(queries), expected) < 1e-8


def test_row_capacity_fills_the_budget() -> None:
    for dim, itemsize, budget in [(50_000, 4, 2**30), (221_184, 2, 2**28), (64, 8, 2**20)]:
        rows = row_capacity(dim, itemsize, budget)
        assert rows * dim * itemsize + 8 * rows**2 <= budget
        assert (rows + 1) * dim * itemsize + 8 * (rows + 1) ** 2 > budget


def test_a_budget_for_less_than_two_rows_is_refused() -> None:
    with pytest.raises(ValueError, match=r"raise agent\.covariance\.budget_mib"):
        make_covariance("exact", 10_000, budget_bytes=1000)


def test_long_sums_keep_their_digits() -> None:
    generator = torch.Generator().manual_seed(0)
    phi, queries = (torch.rand(n, 100_000, generator=generator) for n in (300, 10))
    rows = RowBlocks(100_000, torch.float32)
    rows.append(phi)
    # All terms are positive: a float32 sum over all columns is off by 4e-6.
    exact = phi.double() @ queries.double().mT
    assert float((rows.products(queries) / exact - 1.0).abs().max()) < 4e-7


@pytest.mark.parametrize("dim", [1, 4096, 4097, 9001])
def test_rows_of_any_length_are_cut_into_tiles_and_joined_again(dim: int) -> None:
    phi = torch.randn(300, dim, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rows = RowBlocks(dim, torch.float64)
    rows.append(phi[:7])
    rows.append(phi[7:])
    rows.write(299, phi[0])
    held = torch.cat([phi[:299], phi[:1]])
    assert torch.equal(rows.to_tensor(), held)
    assert torch.equal(rows[256], phi[256])
    cross, gram = rows.products_and_gram(phi[:5])
    weights = phi[:, :1]
    for ours, expected in (
        (cross, held @ phi[:5].mT),
        (gram, phi[:5] @ phi[:5].mT),
        (rows.combine(weights), weights.mT @ held),
    ):
        torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-11)
