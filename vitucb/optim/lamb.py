"""LAMB with one trust ratio per LoRA factor.

Paper: You et al., "Large Batch Optimization for Deep Learning" - https://arxiv.org/abs/1904.00962
    u = mhat / (sqrt(vhat) + eps) + wd w,   w <- w - lr (|w| / |u|) u.
The ratio is 1 where |w| or |u| is 0, so the first step from B = 0 is Adam's. Bias correction is on.
Differs: no clamp of the ratio and no clipping of the global gradient norm. A small factor grows
geometrically, by (1 + lr) a step: LAMB wants about ten times Adam's learning rate.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from vitucb.models.lora import LoRAPair
from vitucb.optim.batched.adam import adam_direction
from vitucb.optim.batched.factor_batch import Stacks
from vitucb.optim.batched.lora_optimizer import LoRAOptimizer, Work


def trust_ratios(x: Stacks, u: Stacks) -> list[Tensor]:
    """|w| / |u| of every factor, (f, 1, 1) per stack, 1 where either norm is 0."""
    ratios = []
    for factor, update in zip(x, u, strict=True):
        size = torch.linalg.vector_norm(factor, dim=(1, 2), keepdim=True)
        step = torch.linalg.vector_norm(update, dim=(1, 2), keepdim=True)
        ratios.append(torch.where((size > 0) & (step > 0), size / step, 1.0))
    return ratios


class LAMB(LoRAOptimizer):
    """Adam's direction, scaled to the norm of each factor."""

    def __init__(
        self,
        pairs: Sequence[LoRAPair],
        lr: float,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
        other_params: Iterable[Parameter] = (),
        other_lr: float | None = None,
    ) -> None:
        """Build the groups.

        Args:
            pairs: The LoRA pairs.
            lr: Learning rate: the relative change of a factor per step.
            betas: Decay of the two moments.
            eps: Added to Adam's denominator.
            weight_decay: Decay inside the trust ratio.
            other_params: Parameters outside the pairs, stepped by AdamW without decay.
            other_lr: Their learning rate; `lr` if None.

        Raises:
            ValueError: If a learning rate is negative.
        """
        hyper = {"betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(pairs, lr, hyper, other_params, other_lr)

    def update(self, group: dict[str, Any], works: list[Work]) -> None:
        """Step by lr |w| along u / |u|."""
        for work in works:
            m, v = work.state.factor("exp_avg"), work.state.factor("exp_avg_sq")
            step = list(work.batch.split(work.state.count_step()))
            u = adam_direction(work.g, m, v, step, betas=group["betas"], eps=group["eps"])
            if group["weight_decay"]:
                torch._foreach_add_(u, work.x, alpha=group["weight_decay"])
            ratios = trust_ratios(work.x, u)
            for x, update, ratio in zip(work.x, u, ratios, strict=True):
                x.sub_(update * ratio, alpha=group["lr"])
