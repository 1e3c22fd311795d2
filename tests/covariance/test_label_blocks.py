"""A covariance a label is the block-diagonal one of all, at a part of its work."""

from __future__ import annotations

import pytest
import torch

from vitucb.covariance.dense import DenseCovariance
from vitucb.covariance.discounted import DiscountedCovariance
from vitucb.covariance.label_blocks import LabelBlocks, ridge_covariance

DIM, LABELS = 5, 4


def rows(count: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    h = torch.randn(count, 1, DIM, generator=generator, dtype=torch.float64)
    which = torch.randint(LABELS, (count,), generator=generator)
    blocks = torch.nn.functional.one_hot(which, LABELS).double()
    return (blocks[:, :, None] * h).flatten(1)


def seen(covariance: object, discount: float = 1.0) -> None:
    assert isinstance(covariance, DenseCovariance | LabelBlocks)
    for row in rows(30, seed=1):
        if discount < 1:
            covariance.discount(discount)
        covariance.update(row)


@pytest.mark.parametrize("discount", [1.0, 0.9])
def test_equals_one_matrix_of_all_blocks(discount: float) -> None:
    blocks = ridge_covariance(DIM, LABELS, ridge=0.3, discount=discount)
    kind = DenseCovariance if discount == 1 else DiscountedCovariance
    whole = kind(DIM * LABELS, ridge=0.3)
    assert isinstance(blocks, LabelBlocks)
    seen(blocks, discount)
    seen(whole, discount)
    asked = rows(12, seed=2)
    torch.testing.assert_close(blocks.quad_form(asked), whole.quad_form(asked))
    torch.testing.assert_close(blocks.cov(asked), whole.cov(asked))
    torch.testing.assert_close(blocks.solve(asked), whole.solve(asked))
    assert blocks.log_det == pytest.approx(whole.log_det)
    assert blocks.count == whole.count


def test_state_continues_and_that_of_one_matrix_loads() -> None:
    blocks = ridge_covariance(DIM, LABELS, ridge=0.3)
    whole = DenseCovariance(DIM * LABELS, ridge=0.3)
    seen(blocks)
    seen(whole)
    asked = rows(12, seed=2)
    again, converted = (ridge_covariance(DIM, LABELS, ridge=0.3) for _ in range(2))
    again.load_state_dict(blocks.state_dict())
    converted.load_state_dict(whole.state_dict())
    assert torch.equal(again.quad_form(asked), blocks.quad_form(asked))
    torch.testing.assert_close(converted.quad_form(asked), whole.quad_form(asked))
    assert converted.log_det == pytest.approx(whole.log_det)


def test_row_in_two_blocks_is_refused() -> None:
    with pytest.raises(ValueError, match="two blocks"):
        ridge_covariance(DIM, LABELS, ridge=1.0).update(torch.ones(DIM * LABELS))


def test_a_row_that_is_not_finite_is_in_nobodys_block_and_left_out() -> None:
    blocks = ridge_covariance(DIM, LABELS, ridge=1.0)
    seen(blocks)
    before = blocks.quad_form(rows(3, seed=2))
    blocks.update(torch.full((DIM * LABELS,), torch.nan))
    assert torch.equal(blocks.quad_form(rows(3, seed=2)), before)
