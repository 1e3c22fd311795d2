"""The reward model: a frozen ViT with LoRA adapters and a linear reward head."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class RewardModel(nn.Module):
    """Predicted reward of every image: head(backbone(image)).

    The head starts small but not at zero: the LoRA gradient of the score is proportional to the
    head's weight, so a zero head would make every gradient feature, and with it every bonus,
    exactly zero.
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
        self.backbone = backbone
        self.head = nn.Linear(num_features, num_outputs)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            self.head.weight.normal_(0.0, 0.1 * num_features**-0.5, generator=generator)
            self.head.bias.zero_()

    def features(self, images: Tensor) -> Tensor:
        """Last-layer features of `images` (b, 3, H, W): float (b, d)."""
        features: Tensor = self.backbone(images)
        return features

    def forward(self, images: Tensor) -> Tensor:
        """Scores of `images` (b, 3, H, W): float (b,), or (b, K) with K > 1 outputs."""
        scores: Tensor = self.head(self.features(images))
        return scores.squeeze(-1) if self.head.out_features == 1 else scores
