"""The reward model: a frozen ViT with LoRA adapters and a linear reward head."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from vitucb.models.frozen_prefix import FrozenPrefix
from vitucb.models.pooled_block import PooledBlock, find_pooled_block
from vitucb.models.vit_layers import forward_as

if TYPE_CHECKING:
    from typing_extensions import Self

_logger = logging.getLogger(__name__)


class RewardModel(nn.Module):
    """Predicted reward of every image: head(backbone(image)).

    The head starts small but not at zero: the LoRA gradient of the score is proportional to the
    head's weight, so a zero head would make every gradient feature, and with it every bonus,
    exactly zero.

    Attributes:
        prefix: Where it is set, tokens that it made of images do in place of images.
        precision: Type of the products with the frozen weights of adapted layers, for those who run
            these by functions of `vitucb.models.lora_layers`; None means that of the weights.
    """

    def __init__(
        self, backbone: nn.Module, num_features: int, *, num_outputs: int = 1, seed: int = 0
    ) -> None:
        """Put a reward head on `backbone`.

        Args:
            backbone: Maps images (b, 3, H, W) to features (b, num_features); its trainable
                parameters are the LoRA adapters.
            num_features: Width d of the backbone's output.
            num_outputs: 1 where every arm has its image, K where K actions share one.
            seed: Seed of the initial head weight, N(0, 0.01 / d): scores of LayerNorm features then
                start with a standard deviation of at most 0.1.
        """
        super().__init__()
        self.backbone = backbone.eval()
        self.prefix: FrozenPrefix | None = None
        self.precision: torch.dtype | None = None
        self._pooled: PooledBlock | None = find_pooled_block(backbone)
        self._is_checked = self._pooled is None
        # Made without weights: its first would be drawn from the global generator.
        self.head = nn.Linear(num_features, num_outputs, device="meta").to_empty(device="cpu")
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            self.head.weight.normal_(0.0, 0.1 * num_features**-0.5, generator=generator)
            self.head.bias.zero_()

    def train(self, mode: bool = True) -> Self:
        """Set the mode of the head; the backbone stays in evaluation mode.

        Some of timm's networks have dropout in a position bias, or move their coordinates, while
        they train, by the global generator: no seed would repeat a run.
        """
        self.training = mode
        self.head.train(mode)
        return self

    def features(self, images: Tensor) -> Tensor:
        """Last-layer features of `images` (b, 3, H, W), or of their tokens: float (b, d)."""
        if not self._is_checked:
            self._check(images)
        if self._pooled is None:
            return self._whole(images)
        with forward_as(self._pooled.block, self._pooled):
            return self._whole(images)

    def _whole(self, images: Tensor) -> Tensor:
        if self.prefix is not None and self.prefix.gave(images):
            return self.prefix.after(images)
        features: Tensor = self.backbone(images)
        return features

    @torch.no_grad()
    def _check(self, images: Tensor) -> None:
        """Compare the last block as far as it is read with the whole of it, once."""
        self._is_checked = True
        whole = self._whole(images)
        try:
            pooled = self.features(images)
        except (AttributeError, RuntimeError, TypeError) as error:
            _logger.info("the last block is computed for every token: %s", error)
            self._pooled = None
            return
        tolerance = torch.finfo(self.precision or whole.dtype).eps ** 0.5
        if not torch.allclose(pooled, whole, rtol=tolerance, atol=tolerance):
            _logger.info("the last block is computed for every token: it gives something else")
            self._pooled = None

    def forward(self, images: Tensor) -> Tensor:
        """Scores of `images` (b, 3, H, W): float (b,), or (b, K) with K > 1 outputs."""
        scores: Tensor = self.head(self.features(images))
        return scores.squeeze(-1) if self.head.out_features == 1 else scores
