"""One LoRA pair with a given gradient, and changes of its gauge, in float64."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import Parameter

from vitucb.models.lora import LoRAPair
from vitucb.optim.batched.factor_batch import FactorBatch, Stacks


def draw(seed: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def make_pair(m: int = 9, n: int = 7, r: int = 3, s: float = 1.5, seed: int = 0) -> LoRAPair:
    A, B = Parameter(draw(seed, r, n)), Parameter(draw(seed + 1, m, r))
    return LoRAPair("layer", A, B, s, Parameter(draw(seed + 2, m, n), requires_grad=False))


def set_gradients(pair: LoRAPair, G: Tensor) -> None:
    pair.A.grad = pair.scaling * pair.B.detach().mT @ G
    pair.B.grad = pair.scaling * G @ pair.A.detach().mT


def weight(pair: LoRAPair) -> Tensor:
    assert pair.base is not None
    return (pair.base + pair.scaling * pair.B @ pair.A).detach()


def load(pair: LoRAPair) -> tuple[FactorBatch, Stacks, Stacks]:
    batch = FactorBatch([pair])
    return (
        batch,
        batch.stack([p.detach() for p in batch.parameters], batch.buffer("factor")),
        (batch.gradients(maximize=False)),
    )


def orthogonal(seed: int, rows: int, r: int) -> Tensor:
    q: Tensor = torch.linalg.qr(draw(seed, rows, r))[0]
    return q


def gauge(kind: str, r: int, condition: float = 10.0) -> Tensor:
    left, right = orthogonal(100 + r, r, r), orthogonal(200 + r, r, r)
    if kind == "orthogonal":
        return left
    if kind == "scalar":
        return 5.0 * torch.eye(r, dtype=torch.float64)
    spread = torch.logspace(0.0, float(np.log10(condition)), r, dtype=torch.float64)
    return left @ torch.diag(spread) @ right
