"""Adam's recursion on stacks of factors.

Papers: Kingma and Ba, "Adam" - https://arxiv.org/abs/1412.6980; Loshchilov and Hutter, "Decoupled
weight decay regularization" - https://arxiv.org/abs/1711.05101.
    w <- (1 - lr wd) w;  m <- b1 m + (1 - b1) g;  v <- b2 v + (1 - b2) g^2
    w <- w - lr mhat / (sqrt(vhat) + eps)
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from vitucb.optim.batched.factor_batch import Stacks


def adam_direction(
    g: Stacks, m: Stacks, v: Stacks, step: Stacks, *, betas: tuple[float, float], eps: float
) -> Stacks:
    """Update the moments in place and return mhat / (sqrt(vhat) + eps).

    Args:
        g: Gradients, each (f, ...).
        m: First moments, same shapes.
        v: Second moments, same shapes.
        step: Number of steps including this one, (f,) per stack.
        betas: Decay of the two moments.
        eps: Added after the root, to the bias-corrected denominator.
    """
    beta1, beta2 = betas
    directions = []
    for grad, first, second, count in zip(g, m, v, step, strict=True):
        count = count.view(-1, *(1,) * (grad.ndim - 1)).to(torch.float64)
        first.lerp_(grad, 1.0 - beta1)
        second.mul_(beta2).addcmul_(grad, grad, value=1.0 - beta2)
        root = second.sqrt().div_((1.0 - beta2**count).sqrt().to(grad.dtype)).add_(eps)
        directions.append(first / (1.0 - beta1**count).to(grad.dtype) / root)
    return directions


def adam_step_(
    x: Stacks,
    g: Stacks,
    m: Stacks,
    v: Stacks,
    step: Stacks,
    *,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
) -> None:
    """One AdamW step on stacks, in place; arguments as in `adam_direction`."""
    if _is_uniform(step):
        # On a processor torch's fused kernel does the whole step in one pass over memory.
        counts = [count[0] - 1.0 for count in step]
        hyper: dict[str, Any] = {"lr": lr, "weight_decay": weight_decay, "eps": eps}
        adamw(
            x, g, m, v, [], counts, fused=True, amsgrad=False, maximize=False,
            beta1=betas[0], beta2=betas[1], **hyper,
        )  # fmt: skip
        return
    for factor, direction in zip(
        x, adam_direction(g, m, v, step, betas=betas, eps=eps), strict=True
    ):
        factor.mul_(1.0 - lr * weight_decay).sub_(direction, alpha=lr)


def _is_uniform(step: Stacks) -> bool:
    """Whether one bias correction serves all factors; asked only where reading data is free."""
    if step[0].device.type != "cpu":
        return False
    counts: Tensor = torch.cat(step)
    return bool(counts.min() == counts.max())
