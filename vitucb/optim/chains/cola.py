"""COLA: train both factors, merge, start again from a fresh random lora_A and lora_B = 0.

Paper: Xia et al., "Chain of LoRA: Efficient Fine-tuning of Language Models via Residual Learning" -
https://arxiv.org/abs/2401.04151
No rate is known: at step size 1/L plain COLA can diverge where RAC-LoRA converges.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch.nn import Parameter

from vitucb.models.lora import LoRAPair
from vitucb.optim.chains.chain import Chain
from vitucb.optim.chains.draws import Draws


class COLA(Chain):
    """Both factors trained by any inner optimizer, merge and restart every `inner_steps`."""

    def __init__(
        self,
        pairs: Sequence[LoRAPair],
        lr: float,
        *,
        inner: str = "adamw",
        inner_options: Mapping[str, Any] | None = None,
        inner_steps: int = 50,
        seed: int = 0,
        draws: Draws | None = None,
        other_params: Iterable[Parameter] = (),
        other_lr: float | None = None,
    ) -> None:
        """Merge what the factors hold and begin.

        Args:
            pairs: The LoRA pairs, with base weights.
            lr: Learning rate of the inner optimizer.
            inner: Name or import path of the inner optimizer.
            inner_options: Its options.
            inner_steps: Steps per block.
            seed: Seed of the initial factors.
            draws: Source of chance in place of `seed`.
            other_params: Parameters outside the pairs, stepped by AdamW without decay.
            other_lr: Their learning rate; `lr` if None.

        Raises:
            ValueError: If a base weight cannot be merged into.
        """
        super().__init__(
            pairs,
            lr,
            inner=inner,
            inner_options=inner_options,
            inner_steps=inner_steps,
            draws=draws or Draws(seed),
            other_params=other_params,
            other_lr=other_lr,
        )

    def begin_pair(self, index: int, pair: LoRAPair) -> Parameter | None:
        """PEFT's initialisation: A uniform on +-1/sqrt(n), B = 0; nothing is frozen."""
        pair.A.copy_(self.draws.initial_factor(pair.A.shape))
        pair.B.zero_()
        return None
