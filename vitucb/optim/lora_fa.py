"""LoRA-FA: lora_A frozen, lora_B trained on the gradient projected on the row space of A.

Paper: Zhang et al., "LoRA-FA: Memory-efficient Low-rank Adaptation" -
https://arxiv.org/abs/2308.03303
    gB' = (1/s^2) gB (A A^T + delta I)^-1, which minimises |s gB' A - G|_F; then AdamW on B.
The AdamW is the variant of PEFT's LoRA-FA: eps is added to sqrt(v) before bias correction, and the
decay comes after the step. lora_A is never moved; to save its activations too, set
`requires_grad_(False)` on it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch.nn import Parameter

from vitucb.models.lora import LoRAPair
from vitucb.optim.batched.linear_algebra import (
    FLOAT32_RCOND,
    apply,
    from_eigen,
    gram,
    inverse_eigenvalues,
)
from vitucb.optim.batched.lora_optimizer import LoRAOptimizer, Work


class LoRAFA(LoRAOptimizer):
    """AdamW on lora_B with the projected gradient; lora_A stays as it is."""

    moves_b_alone = True

    def __init__(
        self,
        pairs: Sequence[LoRAPair],
        lr: float,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
        delta: float = 1e-8,
        other_params: Iterable[Parameter] = (),
        other_lr: float | None = None,
    ) -> None:
        """Build the groups.

        Args:
            pairs: The LoRA pairs.
            lr: Learning rate of lora_B.
            betas: Decay of the two moments.
            eps: Added to sqrt(v).
            weight_decay: Decay of lora_B, after the step.
            delta: Damping of (A A^T)^-1.
            other_params: Parameters outside the pairs, stepped by AdamW without decay.
            other_lr: Their learning rate; `lr` if None.

        Raises:
            ValueError: If a learning rate is negative.
        """
        hyper = {"betas": betas, "eps": eps, "weight_decay": weight_decay, "delta": delta}
        super().__init__(pairs, lr, hyper, other_params, other_lr)

    def update(self, group: dict[str, Any], works: list[Work]) -> None:
        """AdamW on gB'; only stacks of lora_B are touched."""
        for work in works:
            self._update(group, work)

    def _update(self, group: dict[str, Any], work: Work) -> None:
        batch = work.batch
        rcond = 0.0 if batch.dtype == torch.float64 else FLOAT32_RCOND
        values, vectors = torch.linalg.eigh(gram(work.x)[batch.dual])
        inverse = from_eigen(vectors, inverse_eigenvalues(values, rcond, group["delta"]))
        inverse = inverse / (batch.scaling**2)[:, None, None]
        g = batch.only_B(apply(inverse, work.g, batch, out=batch.buffer("product")))
        m, v = work.state.factor_B("exp_avg"), work.state.factor_B("exp_avg_sq")
        counts = batch.only_B(list(batch.split(work.state.count_step())))
        beta1, beta2 = group["betas"]
        for x, grad, first, second, count in zip(
            batch.only_B(work.x), g, m, v, counts, strict=True
        ):
            first.lerp_(grad, 1.0 - beta1)
            second.mul_(beta2).addcmul_(grad, grad, value=1.0 - beta2)
            t = count.double()[:, None, None]
            size = group["lr"] * (1.0 - beta2**t).sqrt() / (1.0 - beta1**t)
            x.sub_(size.to(x.dtype) * first / (second.sqrt() + group["eps"]))
            x.mul_(1.0 - group["lr"] * group["weight_decay"])
