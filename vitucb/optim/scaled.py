"""ScaledGD and ScaledAdam: Riemannian preconditioned LoRA.

Paper: Zhang and Pilanci, "Riemannian Preconditioned LoRA for Fine-Tuning Foundation Models" -
https://arxiv.org/abs/2402.02347
    gA' = (B^T B + reg I)^-1 gA,   gB' = gB (A A^T + reg I)^-1,   then SGD or AdamW.
Both preconditioners use the factors before the step. With reg = 0 ScaledGD does not depend on the
gauge (A, B) -> (R^-1 A, B R); Adam or reg > 0 break that. reg 1e-2 bounds the steps from B = 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from vitucb.models.lora import LoRAPair
from vitucb.optim.batched.factor_batch import FactorBatch, Stacks
from vitucb.optim.batched.linear_algebra import apply, from_eigen, gram, inverse_eigenvalues
from vitucb.optim.batched.lora_optimizer import LoRAOptimizer, Work
from vitucb.optim.batched.trust_region import MAX_STEP


def precondition(x: Stacks, g: Stacks, batch: FactorBatch, reg: float) -> tuple[Stacks, Tensor]:
    """(S' + reg I)^-1 g of every factor, S' the Gram of the other factor of its pair; and all S.

    Args:
        x: Wide factors.
        g: Wide gradients.
        batch: Their batch.
        reg: Damping; with 0 the pseudo-inverse is taken.
    """
    # The Gram's eigenvalues are at least reg, so float32 resolves them down to about 1e-5.
    own = gram(x, exact=reg < 1e-4)
    grams = own[batch.dual]
    if reg > 0.0:
        eye = torch.eye(batch.rank, dtype=grams.dtype, device=grams.device)
        inverse = torch.linalg.inv_ex(grams + reg * eye).inverse
    else:
        values, vectors = torch.linalg.eigh(grams)
        inverse = from_eigen(vectors, inverse_eigenvalues(values, rcond=0.0))
    return apply(inverse, g, batch, out=batch.buffer("product")), own


class _Scaled(LoRAOptimizer):
    def __init__(
        self,
        pairs: Sequence[LoRAPair],
        lr: float,
        reg: float,
        hyper: dict[str, Any],
        other_params: Iterable[Parameter],
        other_lr: float | None,
    ) -> None:
        if not reg >= 0.0:
            raise ValueError(f"reg {reg} must not be negative; PEFT's default is 0.01")
        super().__init__(pairs, lr, {"reg": reg, **hyper}, other_params, other_lr)


class ScaledGD(_Scaled):
    """Gradient descent on preconditioned gradients, with optional momentum."""

    def __init__(
        self,
        pairs: Sequence[LoRAPair],
        lr: float,
        *,
        reg: float = 1e-2,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        max_step: float = MAX_STEP,
        other_params: Iterable[Parameter] = (),
        other_lr: float | None = None,
    ) -> None:
        """Build the groups.

        Args:
            pairs: The LoRA pairs.
            lr: Learning rate.
            reg: Added to the Gram matrices.
            momentum: Decay of the heavy-ball buffer, as in `torch.optim.SGD`.
            weight_decay: Coupled decay, added to the preconditioned gradient.
            max_step: Longest step of W (see `trust_region`); 0 is off, the published method.
            other_params: Parameters outside the pairs, stepped by AdamW without decay.
            other_lr: Their learning rate; `lr` if None.

        Raises:
            ValueError: If `reg` or a learning rate is negative.
        """
        hyper = {"momentum": momentum, "weight_decay": weight_decay, "max_step": max_step}
        super().__init__(pairs, lr, reg, hyper, other_params, other_lr)

    def update(self, group: dict[str, Any], works: list[Work]) -> None:
        """Step w <- w - lr (mu buf + g' + wd w)."""
        for work in works:
            steps, own = precondition(work.x, work.g, work.batch, group["reg"])
            if group["weight_decay"]:
                torch._foreach_add_(steps, work.x, alpha=group["weight_decay"])
            if group["momentum"]:
                buffers = work.state.factor("momentum_buffer")
                torch._foreach_mul_(buffers, group["momentum"])
                torch._foreach_add_(buffers, steps)
                steps = buffers
            work.descend_(group, steps, own=own)


class ScaledAdam(_Scaled):
    """AdamW on preconditioned gradients."""

    def __init__(
        self,
        pairs: Sequence[LoRAPair],
        lr: float,
        *,
        reg: float = 1e-2,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        other_params: Iterable[Parameter] = (),
        other_lr: float | None = None,
    ) -> None:
        """Build the groups.

        Args:
            pairs: The LoRA pairs.
            lr: Learning rate.
            reg: Added to the Gram matrices.
            betas: Decay of the two moments.
            eps: Added to Adam's denominator.
            weight_decay: Decoupled decay of each factor.
            other_params: Parameters outside the pairs, stepped by AdamW without decay.
            other_lr: Their learning rate; `lr` if None.

        Raises:
            ValueError: If `reg` or a learning rate is negative.
        """
        hyper = {"betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(pairs, lr, reg, hyper, other_params, other_lr)

    def update(self, group: dict[str, Any], works: list[Work]) -> None:
        """AdamW on g'."""
        for work in works:
            g, _ = precondition(work.x, work.g, work.batch, group["reg"])
            work.adam_(g, group, weight_decay=group["weight_decay"])
