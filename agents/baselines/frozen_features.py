"""Last-layer features of a frozen backbone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vitucb.agents.context import images_per_round
from vitucb.config import AgentConfig
from vitucb.learning.pass_counter import PassCounter
from vitucb.models.activation_cache import (
    ImageCache,
    check_limit,
    content_key,
    noise_images,
    steady_batch,
)
from vitucb.models.backbone import create_backbone
from vitucb.models.preprocess import Preprocess, preprocess_for
from vitucb.types import State


class FrozenFeatures:
    """Last-layer features h / rms of a frozen backbone, float64, with rms that of the first arms.

    Attributes:
        dim: Number of features d.
        mean_of_all: Mean (1, p) of rows (n, p); that over all of them where several must be equal.
    """

    def __init__(
        self, backbone: nn.Module, preprocess: Preprocess, *, limit_mib: int, arms: int
    ) -> None:
        """Start with nothing held.

        Args:
            backbone: Maps inputs (n, 3, H, W) to features (n, d).
            preprocess: Makes its input of an image.
            limit_mib: Memory for features of images seen before, MiB.
            arms: How many images a round brings at most.

        Raises:
            ValueError: If `limit_mib` is negative.
        """
        check_limit(limit_mib)
        self._backbone, self._preprocess = backbone.eval(), preprocess
        self.dim = int(backbone.num_features)  # type: ignore[arg-type]  # timm sets an int
        batch = steady_batch(self._embed, noise_images(backbone, preprocess.size), arms)
        self._cache = ImageCache(self._embed, preprocess, limit_bytes=limit_mib << 20, batch=batch)
        self._scale: float | None = None
        self._passes = PassCounter()
        self.mean_of_all: Callable[[Tensor], Tensor] = _mean

    def __call__(self, images: NDArray[np.uint8]) -> Tensor:
        """Features of images uint8 (n, H, W, C): float64 (n, d) on the CPU."""
        keys = [content_key(image) for image in images]
        rows = self._cache(list(images), keys)
        self._passes.add(keys, self._cache.capacity(rows.nbytes // len(rows)))
        h = rows.double().cpu()
        if self._scale is None:
            squares = h.norm(dim=1).square()[:, None]
            self._scale = float(self.mean_of_all(squares).sqrt().clamp_min(1e-12))
        scaled: Tensor = h / self._scale
        return scaled

    @property
    def image_passes(self) -> int:
        """Images that went through the backbone so far, but for those made again after a stop."""
        return self._passes.total

    @torch.no_grad()
    def _embed(self, inputs: Tensor) -> Tensor:
        h: Tensor = self._backbone(inputs)
        return h

    def state_dict(self) -> State:
        """The scale, and what is counted."""
        return {"scale": self._scale, "passes": self._passes.state_dict()}

    def load_state_dict(self, state: State) -> None:
        """Restore what `state_dict` returned."""
        self._scale = state["scale"]
        if "passes" in state:  # older states do not tell
            self._passes.load_state_dict(state["passes"])


def _mean(rows: Tensor) -> Tensor:
    return rows.mean(dim=0, keepdim=True)


def build_frozen_features(
    config: AgentConfig, env: gym.Env[Any, Any], device: str
) -> FrozenFeatures:
    """The configured backbone, frozen, on `device`, for the images of `env`.

    Raises:
        ValueError: If a setting is not usable.
    """
    backbone = create_backbone(config.backbone, weights=config.weights, img_size=config.img_size)
    return FrozenFeatures(
        backbone.to(device),
        preprocess_for(backbone, device),
        limit_mib=config.prefix_cache_mib,
        arms=images_per_round(env),
    )
