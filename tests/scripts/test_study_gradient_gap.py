"""The gap between a step of the factors and the gradient of the whole weight."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import pytest
import study_gradient_gap as study
import torch
from torch import Tensor
from torch.nn import Parameter

from vitucb.models.lora import LoRAPair


def make_pair(seed: int, rank: int = 2) -> tuple[LoRAPair, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    A, B, G = (
        torch.randn(shape, generator=generator, dtype=torch.float64)
        for shape in ((rank, 7), (6, rank), (6, 7))
    )
    return LoRAPair("layer", Parameter(A), Parameter(B), scaling=2.0, base=None), G


def test_a_gap_knows_no_scale_and_is_that_of_the_best_one() -> None:
    _, G = make_pair(0)
    other = make_pair(1)[1]
    assert study.gap(G, -3 * G) < 1e-7
    scale = float((other * G).sum() / other.square().sum())
    assert study.gap(1e4 * other, G) == pytest.approx(
        float((scale * other - G).norm() / G.norm()), abs=1e-12
    )


@pytest.mark.parametrize("seed", range(5))
def test_no_move_of_two_factors_comes_nearer_than_the_projection(seed: int) -> None:
    pair, G = make_pair(seed)
    plain, projected = study.equivalent_gradients(pair, G)
    least = study.gap(projected, G)
    A, B = pair.A.detach(), pair.B.detach()
    # Every move B dA + dB A of the flat weight, as columns.
    basis = torch.cat(
        [
            torch.kron(B, torch.eye(7, dtype=torch.float64)),
            torch.kron(torch.eye(6, dtype=torch.float64), A.mT.contiguous()),
        ],
        dim=1,
    )
    left = G.flatten() - basis @ torch.linalg.pinv(basis) @ G.flatten()
    assert least == pytest.approx(float(left.norm() / G.norm()), abs=1e-12)
    assert least < study.gap(plain, G)


def test_plain_gradients_of_the_factors_move_the_weight_as_said() -> None:
    pair, _ = make_pair(3)
    weight = torch.zeros(6, 7, dtype=torch.float64, requires_grad=True)
    loss = ((weight + pair.scaling * pair.B @ pair.A) - 1.0).square().sum()
    grad_A, grad_B, G = torch.autograd.grad(loss, [pair.A, pair.B, weight])
    moved = pair.scaling * (pair.B @ grad_A + grad_B @ pair.A)
    plain, _ = study.equivalent_gradients(pair, G)
    torch.testing.assert_close(moved, pair.scaling**2 * plain)


@pytest.mark.slow
def test_the_study_ends_in_a_table_and_a_figure(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folders = ["--out", str(tmp_path), "--runs", str(tmp_path / "runs")]
    monkeypatch.setattr(
        sys, "argv", ["study", "--quick", *folders, "--only", "sgd", "lora-pro, sgd"]
    )
    study.main()
    with (tmp_path / "gradient_gap.csv").open(newline="") as file:
        _, *rows = csv.reader(file)
    assert [row[0] for row in rows] == ["sgd", "lora-pro, sgd"]
    for row in rows:
        plain, least, step = (float(row[k]) for k in (1, 3, 5))
        assert 0 < least < plain < 1
        assert least - 1e-3 < step
    assert float(rows[1][5]) < float(rows[0][5])  # what LoRA-Pro promises
    assert (tmp_path / "gradient_gap.png").stat().st_size > 10_000
