"""Widths of outputs: those of the dense matrices, each output for itself."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from vitucb.covariance import make_covariance
from vitucb.learning.experts.adapted.output_widths import OutputWidths

DIM, RIDGE = 3, 0.5


def widths(name: str = "dense", discount: float = 1.0) -> OutputWidths:
    return OutputWidths(lambda p: make_covariance(name, p, ridge=RIDGE), DIM, 2, discount)


def features(count: int = 5) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, DIM, generator=generator, dtype=torch.float64)


def expected(rows: Tensor, weights: Tensor, queries: Tensor) -> Tensor:
    x, q = (torch.cat([h, torch.ones(len(h), 1).double()], 1) for h in (rows, queries))
    A = RIDGE * torch.eye(DIM + 1).double() + x.mT @ (weights[:, None] * x)
    squares: Tensor = (q * torch.linalg.solve(A, q.mT).mT).sum(1)
    return squares.sqrt()


def test_widths_are_those_of_the_rounds_that_chose_the_output() -> None:
    made, h = widths(), features()
    for row, output in zip(h, (0, 1, 0, 0, 1), strict=True):
        made.add(row, output)

    ours = torch.as_tensor(made(h))

    torch.testing.assert_close(ours[:, 0], expected(h[[0, 2, 3]], torch.ones(3).double(), h))
    torch.testing.assert_close(ours[:, 1], expected(h[[1, 4]], torch.ones(2).double(), h))


def test_old_choices_fade_for_every_output() -> None:
    made, h = widths("discounted", discount=0.5), features()
    before = made(h)[:, 1]
    made.add(h[0], 1)
    for _ in range(40):
        made.add(h[1], 0)

    assert made(h)[:, 1] == pytest.approx(before)


def test_restored_widths_are_the_same() -> None:
    made, other, h = widths(), widths(), features()
    made.add(h[0], 1)
    other.load_state_dict(made.state_dict())

    assert (made(h) == other(h)).all()
