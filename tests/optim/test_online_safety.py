"""One sample at a time: rank-1 gradients of any scale never freeze or blow up an optimizer."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter

from vitucb.adapters import LoRAPair
from vitucb.optim import create_optimizer

NORMALISED: list[tuple[str, dict[str, Any]]] = [
    ("lora-pro", {}),
    ("lora-pro", {"moments": "full"}),
    ("lora-rite", {}),
    ("scaled-adam", {}),
    ("lora-fa", {}),
    ("lamb", {}),
    ("rac-lora", {}),
    ("cola", {}),
    ("asymmetric-lora", {}),
]
PROPORTIONAL: list[tuple[str, dict[str, Any]]] = [
    ("lora-pro", {"base": "sgd"}),
    ("scaled-gd", {}),
    ("bernoulli-lora", {}),
]


def step_sizes(
    name: str, options: dict[str, Any], scale: float, rank: int = 1, steps: int = 40
) -> Tensor:
    """|dW|_F of every step on a stream of rank-1 gradients, float32, from B = 0."""
    m, n, r, s = 96, 64, 8, 2.0
    generator = torch.Generator().manual_seed(0)
    A = Parameter((2.0 * torch.rand(r, n, generator=generator) - 1.0) / n**0.5)
    B = Parameter(torch.zeros(m, r))
    base = Parameter(torch.randn(m, n, generator=generator), requires_grad=False)
    optimizer = create_optimizer(name, [LoRAPair("layer", A, B, s, base)], lr=1e-3, **options)

    def weight() -> Tensor:
        return (base.double() + s * B.double() @ A.double()).detach()

    sizes, W = [], weight()
    for _ in range(steps):
        left, right = (torch.randn(k, rank, generator=generator) for k in (m, n))
        G = scale * left @ right.mT
        A.grad, B.grad = s * B.detach().mT @ G, s * G @ A.detach().mT
        optimizer.step()
        moved = weight()
        sizes.append((moved - W).norm())
        W = moved
    return torch.stack(sizes)


@pytest.fixture(scope="module")
def adamw() -> Tensor:
    return step_sizes("adamw", {}, 1.0)


@pytest.mark.parametrize(("name", "options"), NORMALISED)
@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e2])
def test_steps_stay_within_five_of_adamws(
    name: str, options: dict[str, Any], scale: float, adamw: Tensor
) -> None:
    sizes = step_sizes(name, options, scale)
    assert bool((sizes > 0.0).all())
    assert float((sizes / adamw).max()) <= 5.0


@pytest.mark.parametrize(("name", "options"), PROPORTIONAL)
def test_steps_of_gradient_methods_are_proportional_to_the_gradient(
    name: str, options: dict[str, Any]
) -> None:
    sizes = {scale: step_sizes(name, options, scale) for scale in (1e-4, 1.0, 1e2)}
    for scale, values in sizes.items():
        assert bool((values > 0.0).all())
        assert float(values.max()) <= 1.0 * scale


def test_the_published_rite_freezes_where_ours_moves() -> None:
    official = step_sizes("lora-rite", {"compat": "official"}, 10.0)
    assert float(official.max()) == 0.0
    assert float(step_sizes("lora-rite", {}, 10.0).min()) > 0.0
