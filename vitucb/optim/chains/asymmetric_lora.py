"""Asymmetric LoRA: one factor frozen at a random orthonormal draw, the other trained from 0.

Paper: Zhu et al., "Asymmetry in Low-Rank Adapters of Foundation Models" -
https://arxiv.org/abs/2402.16842
It is gradient descent on W with one fixed projector: it reaches the best W0 + b A for the drawn A,
not the optimum. Nothing is merged after the start.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from torch.nn import Parameter

from vitucb.models.lora import LoRAPair
from vitucb.optim.chains.chain import Chain
from vitucb.optim.chains.draws import Draws


class AsymmetricLoRA(Chain):
    """A chain of one endless block: lora_A (or lora_B) frozen with orthonormal rows."""

    def __init__(
        self,
        pairs: Sequence[LoRAPair],
        lr: float,
        *,
        trained: Literal["A", "B"] = "B",
        inner: str = "adamw",
        inner_options: Mapping[str, Any] | None = None,
        seed: int = 0,
        draws: Draws | None = None,
        other_params: Iterable[Parameter] = (),
        other_lr: float | None = None,
    ) -> None:
        """Merge what the factors hold and draw the frozen factor.

        Args:
            pairs: The LoRA pairs, with base weights.
            lr: Learning rate of the inner optimizer.
            trained: The factor to train.
            inner: Name or import path of the inner optimizer.
            inner_options: Its options.
            seed: Seed of the frozen factor.
            draws: Source of chance in place of `seed`.
            other_params: Parameters outside the pairs, stepped by AdamW without decay.
            other_lr: Their learning rate; `lr` if None.

        Raises:
            ValueError: If `trained` is unknown or a base weight cannot be merged into.
        """
        if trained not in ("A", "B"):
            raise ValueError(f"trained {trained!r} must be 'A' or 'B'")
        self.trains_A = trained == "A"
        super().__init__(
            pairs,
            lr,
            inner=inner,
            inner_options=inner_options,
            inner_steps=None,
            draws=draws or Draws(seed),
            other_params=other_params,
            other_lr=other_lr,
        )

    extra_attributes = ("trains_A",)

    def begin_pair(self, index: int, pair: LoRAPair) -> Parameter | None:
        """Draw the frozen factor; the trained one starts at 0."""
        return self.install_sketch(pair, left=self.trains_A, scale=1.0)
