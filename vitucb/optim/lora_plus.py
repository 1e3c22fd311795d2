"""LoRA+: a larger learning rate for lora_B.

Paper: Hayou et al., "LoRA+: Efficient Low Rank Adaptation of Large Models" - https://arxiv.org/abs/2402.12354
    eta_A = lr,  eta_B = ratio * lr,  any base optimizer.
Differs from the published code: only lora_B is scaled. There every one-dimensional tensor, a head's
bias among them, gets the larger rate; here the head has its own group.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from torch.nn import Parameter
from torch.optim import SGD, AdamW

from vitucb.models.lora import LoRAPair
from vitucb.optim.batched.trust_region import MAX_STEP
from vitucb.optim.plain import PlainOptimizer
from vitucb.registry import lookup

_BASES = {"adamw": AdamW, "sgd": SGD}


class LoRAPlus(PlainOptimizer):
    """AdamW or SGD with learning rate `ratio * lr` on lora_B; ratio 1 is the base, bit for bit."""

    def __init__(
        self,
        pairs: Sequence[LoRAPair],
        lr: float,
        *,
        ratio: float = 4.0,
        base: str = "adamw",
        max_step: float | None = None,
        other_params: Iterable[Parameter] = (),
        other_lr: float | None = None,
        **options: Any,
    ) -> None:
        """Build the base optimizer with one group per side.

        Args:
            pairs: The LoRA pairs.
            lr: Learning rate of lora_A.
            ratio: Learning rate of lora_B over that of lora_A. From B = 0 W moves `ratio` times as
                far as with the base; the paper advises 2^4 for large models and many samples.
            base: `adamw`, `sgd`, or the import path of a torch optimizer class.
            max_step: Longest step of W (see `trust_region`); 0 is off. None means that of `sgd` for
                `sgd`, off for the others.
            other_params: Parameters outside the pairs, stepped by AdamW without decay.
            other_lr: Their learning rate; `lr` if None.
            **options: Passed to the base, e.g. `betas`, `weight_decay`, `momentum`, `fused`.

        Raises:
            ValueError: If `ratio` is not positive or the base is unknown.
        """
        if not isinstance(ratio, int | float) or not 0 < ratio < math.inf:
            raise ValueError(f"ratio {ratio!r} must be a positive number; the paper advises 16")
        if max_step is None:
            max_step = MAX_STEP if base == "sgd" else 0.0
        super().__init__(
            pairs,
            lr,
            lookup("base optimizer", base, _BASES),
            ratio=ratio,
            max_step=max_step,
            other_params=other_params,
            other_lr=other_lr,
            **options,
        )
