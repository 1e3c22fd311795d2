"""One sample at a time: rank-1 gradients of any scale never freeze or blow up an optimizer."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter

from tests.covering import covering_pairs
from vitucb.models.lora import LoRAPair
from vitucb.optim import OPTIMIZERS, create_optimizer

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in OPTIMIZERS},
    "lora-pro full": ("lora-pro", {"moments": "full"}),
    "lora-pro sgd": ("lora-pro", {"base": "sgd"}),
    "lora-plus sgd": ("lora-plus", {"base": "sgd"}),
    "sgd momentum": ("sgd", {"momentum": 0.9}),
    "scaled-gd momentum": ("scaled-gd", {"momentum": 0.9}),
    "rac of sgd": ("rac-lora", {"inner": "sgd"}),
    "rac right": ("rac-lora", {"side": "right"}),
    "cola of sgd": ("cola", {"inner": "sgd"}),
    "asymmetric of sgd": ("asymmetric-lora", {"inner": "sgd"}),
}


@dataclass(frozen=True)
class Layer:
    """A weight m x n with scaling s and rank-8 adapters."""

    m: int
    n: int
    s: float


# Long enough for the chains to merge twice, with their fresh Adam beside a settled one.
STEPS = 110
LAYERS = (Layer(96, 64, 2.0), Layer(64, 96, 1.0))
SCALES = (1e-4, 1e-2, 1.0, 1e2)


def step_sizes(
    name: str, options: dict[str, Any], scale: float, layer: Layer = LAYERS[0], steps: int = STEPS
) -> Tensor:
    """|dW|_F of every step on a stream of rank-1 gradients, float32, from B = 0."""
    m, n, s, r = layer.m, layer.n, layer.s, 8
    generator = torch.Generator().manual_seed(0)
    A = Parameter((2.0 * torch.rand(r, n, generator=generator) - 1.0) / n**0.5)
    B = Parameter(torch.zeros(m, r))
    base = Parameter(torch.randn(m, n, generator=generator), requires_grad=False)
    optimizer = create_optimizer(name, [LoRAPair("layer", A, B, s, base)], lr=1e-3, **options)

    def weight() -> Tensor:
        return (base.double() + s * B.double() @ A.double()).detach()

    sizes, W = [], weight()
    for _ in range(steps):
        left, right = (torch.randn(k, 1, generator=generator) for k in (m, n))
        G = scale * left @ right.mT
        A.grad, B.grad = s * B.detach().mT @ G, s * G @ A.detach().mT
        optimizer.step()
        moved = weight()
        sizes.append((moved - W).norm())
        W = moved
    return torch.stack(sizes)


@functools.cache
def adamw(scale: float, layer: Layer) -> Tensor:
    return step_sizes("adamw", {}, scale, layer)


@pytest.mark.parametrize(("key", "layer"), covering_pairs(VARIANTS, LAYERS))
def test_every_step_of_every_optimizer_stays_within_five_of_adamws(key: str, layer: Layer) -> None:
    for scale in SCALES:
        sizes = step_sizes(*VARIANTS[key], scale, layer)
        assert bool((sizes > 0.0).all())
        assert float((sizes / adamw(scale, layer)).max()) <= 5.0


@pytest.mark.parametrize("key", ["sgd", "scaled-gd", "lora-pro sgd", "bernoulli-lora"])
def test_small_gradients_move_gradient_methods_as_published(key: str) -> None:
    name, options = VARIANTS[key]
    unbounded = {"guard": 0.5, "max_step": 0.0} if name == "lora-pro" else {"max_step": 0.0}
    bounded = step_sizes(name, options, 1e-4)
    torch.testing.assert_close(bounded, step_sizes(name, {**options, **unbounded}, 1e-4))


def test_the_published_rite_freezes_where_ours_moves() -> None:
    official = step_sizes("lora-rite", {"compat": "official"}, 10.0, steps=40)
    assert float(official.max()) == 0.0
    assert float(step_sizes("lora-rite", {}, 10.0, steps=40).min()) > 0.0
