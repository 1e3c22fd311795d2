"""uint8 images to the input of a backbone."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn


def as_pixels(images: npt.NDArray[np.uint8] | Tensor) -> Tensor:
    """Images as a tensor, of any array: views that run backwards and read-only ones are copied.

    Torch takes no negative strides, and warns where an array may not be written.
    """
    if isinstance(images, Tensor):
        return images
    array = np.asarray(images)
    if not array.flags.writeable or min(array.strides, default=0) < 0:
        array = np.array(array, order="C")
    return torch.as_tensor(array)


class Preprocess(nn.Module):
    """Turns uint8 images into a model's normalised float32 input, on the module's device.

    The whole image is resized to the input size (antialiased, aspect ratio not kept): a centre
    crop could cut off what an arm shows.

    Args:
        size: Output height and width, pixels.
        mean: Channel means, subtracted, in units of full intensity.
        std: Channel standard deviations, divided by, in units of full intensity.
        interpolation: "bicubic" or "bilinear".

    Raises:
        ValueError: If the interpolation is another one.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        size: tuple[int, int],
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
        interpolation: str = "bicubic",
    ) -> None:
        super().__init__()
        if interpolation not in ("bicubic", "bilinear"):
            raise ValueError(f"interpolation '{interpolation}' is not 'bicubic' or 'bilinear'")
        self.size = size
        self.interpolation = interpolation
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)

    @torch.no_grad()
    def forward(self, images: npt.NDArray[np.uint8] | Tensor) -> Tensor:
        """Convert images.

        Args:
            images: uint8 (..., H, W, C) with C = 1 (gray), 3 (RGB) or 4 (RGBA, laid over white).

        Returns:
            float32 (..., 3, height, width) on the module's device.

        Raises:
            TypeError: If the images are not uint8.
            ValueError: If the shape is not (..., H, W, 1|3|4).
        """
        pixels = as_pixels(images)
        if pixels.dtype != torch.uint8:
            raise TypeError(f"images are {pixels.dtype}; give uint8 values from 0 to 255")
        if pixels.ndim < 3 or pixels.shape[-1] not in (1, 3, 4):
            raise ValueError(f"images have shape {tuple(pixels.shape)}; give (..., H, W, 1|3|4)")
        x = pixels.to(self.mean.device).movedim(-1, -3).float() / 255
        if x.shape[-3] == 4:
            x = x[..., :3, :, :] * x[..., 3:, :, :] + (1 - x[..., 3:, :, :])
        if x.shape[-2:] != self.size:
            x = self._resize(x)
        return (x - self.mean) / self.std  # broadcasting turns gray into RGB

    def _resize(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, *x.shape[-3:])
        flat = nn.functional.interpolate(
            flat, self.size, mode=self.interpolation, align_corners=False, antialias=True
        )
        return flat.clamp_(0, 1).reshape(*x.shape[:-2], *self.size)  # bicubic overshoots


def input_size(model: nn.Module) -> tuple[int, int]:
    """Input height and width of a timm model, pixels: as built, else that of its pretrained cfg."""
    cfg: dict[str, Any] = model.pretrained_cfg  # type: ignore[assignment]  # set by timm
    size = getattr(getattr(model, "patch_embed", None), "img_size", None) or cfg["input_size"][1:]
    return int(size[0]), int(size[1])


def preprocess_for(model: nn.Module, device: torch.device | str = "cpu") -> Preprocess:
    """Build the `Preprocess` of a timm model from its pretrained cfg and actual input size.

    Args:
        model: A timm model.
        device: Device of the outputs.

    Returns:
        The preprocessing module, on the device.
    """
    cfg: dict[str, Any] = model.pretrained_cfg  # type: ignore[assignment]
    interpolation = "bilinear" if cfg["interpolation"] == "bilinear" else "bicubic"
    return Preprocess(input_size(model), tuple(cfg["mean"]), tuple(cfg["std"]), interpolation).to(
        device
    )
