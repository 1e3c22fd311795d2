"""Small problems that the optimizer tests share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

from vitucb.models.lora import LoRAPair

SHAPES = ((6, 5, 2), (6, 7, 4), (9, 5, 2), (6, 5, 2))


@dataclass
class Quadratic:
    """Sum over layers of |W - W*|^2 / 2, plus a head."""

    pairs: list[LoRAPair]
    targets: list[Tensor]
    head: Parameter = field(default_factory=lambda: Parameter(torch.ones(3)))

    @classmethod
    def make(
        cls,
        seed: int = 0,
        dtype: torch.dtype = torch.float64,
        start: str = "random",
        shapes: Sequence[tuple[int, int, int]] = SHAPES,
    ) -> Quadratic:
        generator = torch.Generator().manual_seed(seed)

        def draw(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

        pairs = []
        for i, (m, n, r) in enumerate(shapes):
            A = Parameter(draw(r, n) / n**0.5)
            B = Parameter(draw(m, r) if start == "random" else torch.zeros(m, r, dtype=dtype))
            base = Parameter(draw(m, n), requires_grad=False)
            pairs.append(LoRAPair(f"layer{i}", A, B, 2.0 - 0.5 * (i % 2), base))
        return cls(pairs, [draw(m, n) for m, n, _ in shapes])

    def weights(self) -> list[Tensor]:
        bases = [pair.base for pair in self.pairs]
        return [
            base + pair.scaling * pair.B @ pair.A
            for pair, base in zip(self.pairs, bases, strict=True)
            if base is not None
        ]

    def snapshot(self) -> list[Tensor]:
        return [w.detach().clone() for w in self.weights()]

    def parameters(self) -> list[Parameter]:
        return [*(p for pair in self.pairs for p in (pair.A, pair.B)), self.head]

    def values(self) -> list[Tensor]:
        return [p.detach().clone() for p in self.parameters()]

    def closure(self) -> float:
        for parameter in self.parameters():
            parameter.grad = None
        errors = zip(self.weights(), self.targets, strict=True)
        loss = sum((0.5 * (w - t).square().sum() for w, t in errors), torch.zeros(()))
        loss = loss + self.head.square().sum()
        torch.autograd.backward(loss)
        return loss.item()


def run(problem: Quadratic, optimizer: Optimizer, steps: int) -> None:
    closure: Callable[[], float] = problem.closure
    for _ in range(steps):
        optimizer.step(closure)
