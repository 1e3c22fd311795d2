"""The trust region on W: no step goes further than `max_step` times a yardstick.

    |W_{t+1} - W_t|_F <= max_step * lr * s * sqrt(r min(m, n) / 3)

The yardstick is the first step of Adam from PEFT's start: B = 0 and E[A A^T] = I / 3, so that
|dB A| = lr sqrt(m r / 3) when every entry of B moves by lr; the smaller side stands for both. It
contains neither factors nor gradients: it is the same at B = 0 as later, and by how much a step is
shortened does not depend on the gauge (A, B) -> (R^-1 A, B R). It is there for what nothing else
bounds: steps in proportion to the gradient, m x n moments, and Adam's first steps after every
restart of a chain. For gradient descent it is gradient clipping, layer by layer and measured in W:
it binds where |B dA + dB A| > max_step sqrt(r min(m, n) / 3) for a step of lr 1, that is for
gradients of order 1 in every entry.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from vitucb.models.lora import LoRAPair
from vitucb.optim.batched.factor_batch import FactorBatch, Stacks
from vitucb.optim.batched.linear_algebra import guard_scale, squared_norms

# Half of the yardstick. On noise Adam's own steps shrink to sqrt((1 - b1) / (1 + b1)) = 0.23 of it
# and dip to 0.17: half stays below three of them.
MAX_STEP = 0.5


def trust_radius(batch: FactorBatch, lr: float, max_step: float) -> Tensor:
    """Largest change of B A for each factor's pair, float64 (F,).

    Args:
        batch: The factors.
        lr: Learning rate of the step.
        max_step: Largest step over the yardstick.
    """
    side = torch.minimum(batch.rows, batch.rows[batch.dual])
    return max_step * lr * (batch.rank / 3.0 * side).sqrt()


def is_surely_within(
    x_squares: Tensor, steps: Stacks, batch: FactorBatch, radius: Tensor, rate: float = 1.0
) -> bool:
    """Whether norms alone show that no pair leaves its trust region; saves the Grams.

    Asked only where reading data back is free.

    Args:
        x_squares: Squared norms of the factors, (F,).
        steps: Wide steps over `rate`.
        batch: The factors.
        radius: From `trust_radius`.
        rate: The step is `rate` times `steps`.
    """
    step = rate * squared_norms(steps).sqrt()
    half = x_squares.sqrt() * step[batch.dual]
    return bool((half + half[batch.dual] + step * step[batch.dual] <= radius).all())


def shortening(
    x: Stacks,
    steps: Stacks,
    batch: FactorBatch,
    group: Mapping[str, Any],
    *,
    rate: float = 1.0,
    own: Tensor | None = None,
) -> Tensor | None:
    """The factor of each factor's step that keeps the group's bounds, or None for all 1.

    Args:
        x: Wide factors before the step.
        steps: Wide steps over `rate`.
        batch: Their batch.
        group: `lr`, and the bounds `guard` (see `guard_scale`) and `max_step`; 0 or none is off.
        rate: The step is `rate` times `steps`.
        own: The Grams of `x`, if known.
    """
    guard, max_step = group.get("guard", 0.0), group.get("max_step", 0.0)
    if not guard and not max_step:
        return None
    radius = trust_radius(batch, group["lr"], max_step) if max_step else None
    if radius is not None and not guard and batch.device.type == "cpu":
        squares = squared_norms(x) if own is None else own.diagonal(0, -2, -1).sum(-1)
        if is_surely_within(squares, steps, batch, radius, rate):
            return None
    return guard_scale(x, steps, batch, guard, rate=rate, own=own, radius=radius)


class MoveLimit:
    """Shortens what a foreign optimizer has done to LoRA pairs, after the fact."""

    def __init__(self, pairs: Sequence[LoRAPair]) -> None:
        """Group the pairs into batches.

        Args:
            pairs: The LoRA pairs.
        """
        kinds: dict[object, list[LoRAPair]] = {}
        for pair in pairs:
            kinds.setdefault((pair.A.shape[0], pair.A.device, pair.A.dtype), []).append(pair)
        self._batches = [FactorBatch(kind) for kind in kinds.values()]

    @contextmanager
    def region(self, lr: float, max_step: float) -> Iterator[None]:
        """Shorten the moves made in this context to the trust region; others keep every bit."""
        for batch in self._batches:
            batch.stack(batch.parameters, out=batch.buffer("before"))
        yield
        for batch in self._batches:
            before = batch.buffer("before")
            after = batch.stack(batch.parameters, out=batch.buffer("after"))
            moves = batch.buffer("move")
            for move, new, old in zip(moves, after, before, strict=True):
                torch.sub(new, old, out=move)
            scale = shortening(before, moves, batch, {"lr": lr, "max_step": max_step})
            if scale is None:
                continue
            pieces = batch.split(scale.to(batch.dtype))
            for new, old, move, piece in zip(after, before, moves, pieces, strict=True):
                a = piece[:, None, None]
                shorter = torch.where(a > 0.0, old + a * move, old)  # 0 times infinity is no move
                new.copy_(torch.where(a < 1.0, shorter, new))
            batch.store(after)
