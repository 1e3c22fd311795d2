"""What a step sees of an image: one of its copies, and a random part of that copy's patches.

Behind its position embedding a vision transformer takes the patches of an image as a set, so that a
step may leave some of them out: patch dropout (Liu et al., 2022, "PatchDropout", arXiv 2208.07220;
timm's `patch_drop_rate`). The step costs less, and with few rewards the network cannot
rest on any single patch. Predictions are made of all patches.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from vitucb.learning.experts.adapted.rates import is_of_measured_size
from vitucb.models.lora import lora_pairs
from vitucb.models.reward_model import RewardModel

PATCH_DROP_RATE, LARGE_PATCH_DROP_RATE = 0.375, 0.125
"""Shares of the patches that a step leaves out in networks of the size of the embedded ViT and in
larger ones: those that were measured to cost no regret."""
_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Views:
    """What a step sees of every image of a batch.

    Attributes:
        copies: Which copy of each, int64 (b,); see `ImageCopies`.
        kept: Which tokens of it, int64 (b, k); None for all.
    """

    copies: NDArray[np.int64]
    kept: NDArray[np.int64] | None = None

    def take(self, rows: NDArray[np.int64]) -> Views:
        """Those of some images of the batch."""
        return Views(self.copies[rows], None if self.kept is None else self.kept[rows])


class PatchDropout:
    """Which tokens of an image stay in a step.

    Attributes:
        num_kept: How many of them, class and register tokens included.
    """

    def __init__(self, num_tokens: int, num_prefix: int, rate: float) -> None:
        """Leave out the nearest whole number to `rate` of the patches, all but one at most.

        Args:
            num_tokens: Tokens of an image.
            num_prefix: Those at the front that are no patches, and always stay.
            rate: Share of the patches that is left out, in [0, 1).
        """
        self._num_prefix, self._num_patches = num_prefix, num_tokens - num_prefix
        self.num_kept = num_prefix + max(1, round((1 - rate) * self._num_patches))

    def draw(self, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Places of the tokens of each of `count` images that stay, int64 (count, num_kept).

        Every set of patches is equally likely, for each image by itself.
        """
        places = np.arange(self._num_prefix + self._num_patches)
        kept = np.tile(places, (count, 1))
        kept[:, self._num_prefix :] = rng.permuted(kept[:, self._num_prefix :], axis=1)
        return kept[:, : self.num_kept]


def take_tokens(tokens: Tensor, kept: NDArray[np.int64] | None) -> Tensor:
    """The tokens (b, k, d) at places (b, k), of tokens (b, n, d); all of them for None."""
    if kept is None:
        return tokens
    places = torch.as_tensor(kept, device=tokens.device)
    return tokens.gather(1, places[:, :, None].expand(-1, -1, tokens.shape[2]))


def find_patch_dropout(model: RewardModel, rate: float | None) -> PatchDropout | None:
    """That of `model`; None where nothing is to be left out, or nothing can be.

    Tokens are a set from the first adapted block of a timm `VisionTransformer` on. Its relatives
    tell blocks where a token stands (rotary embeddings, relative positions, windows).

    Args:
        model: With the part before its first adapter, if that can be told apart.
        rate: Share of the patches to leave out, in [0, 1). If None `PATCH_DROP_RATE` where it can
            be, `LARGE_PATCH_DROP_RATE` in networks larger than the embedded ViT. A rate that was
            asked for and cannot be is logged as a warning.
    """
    is_asked = rate is not None
    if rate is None:
        is_small = is_of_measured_size(len(lora_pairs(model)), model.head.in_features)
        rate = PATCH_DROP_RATE if is_small else LARGE_PATCH_DROP_RATE
    if rate == 0:
        return None
    vits = [part for part in model.backbone.modules() if isinstance(part, VisionTransformer)]
    if model.prefix is None or len(vits) != 1 or type(vits[0]) is not VisionTransformer:
        if is_asked:
            _logger.warning(
                "agent.training.patch_drop_rate %g: this backbone trains on whole images", rate
            )
        return None
    return PatchDropout(model.prefix.shape[0], vits[0].num_prefix_tokens, rate)
