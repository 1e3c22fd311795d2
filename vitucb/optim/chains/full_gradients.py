"""Gradients of the loss in the full weights W, for estimators that remember more than a factor can.

The base weight of a pair enters W = base + s B A additively, so dL/dW is the gradient of the frozen
base weight: it is asked for during one backward pass and handed over.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from vitucb.models.lora import LoRAPair

Closure = Callable[[], float]


class FullGradients:
    """Evaluates closures and returns dL/dW of every pair.

    A closure clears the gradients of the optimizer's parameters, runs the model and the backward
    pass, and returns the loss.
    """

    def __init__(self, pairs: Sequence[LoRAPair]) -> None:
        self._bases = [pair.base for pair in pairs if pair.base is not None]

    def __call__(self, closure: Closure) -> tuple[list[Tensor], float]:
        """The gradients (m, n), one per pair, and the loss."""
        for base in self._bases:
            base.requires_grad_(True)
            base.grad = None
        try:
            with torch.enable_grad():
                loss = float(closure())
            grads = [torch.zeros_like(b) if b.grad is None else b.grad for b in self._bases]
        finally:
            for base in self._bases:
                base.requires_grad_(False)
                base.grad = None
        return [grad.detach() for grad in grads], loss

    def __reduce__(self) -> tuple[type[FullGradients], tuple[list[LoRAPair]]]:
        pairs = [LoRAPair("", base, base, 1.0, base) for base in self._bases]  # type: ignore[arg-type]  # only the base is read
        return FullGradients, (pairs,)
