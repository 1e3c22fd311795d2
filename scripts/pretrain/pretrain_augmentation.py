"""Random crops, colours and resolutions for `pretrain_nano.py`, on the images' own device."""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor, nn


def uniform(size: tuple[int, ...], low: float, high: float, rng: torch.Generator) -> Tensor:
    """Draw float32 values uniform in [low, high) on the generator's device."""
    return torch.rand(size, generator=rng, device=rng.device) * (high - low) + low


def crop_and_flip(x: Tensor, rng: torch.Generator, *, strong: bool) -> Tensor:
    """Cut a random window out of each image (B, 3, H, W), resize it back, flip half of them.

    Strong windows have 35 to 100 % of the area and aspect ratios from 3:4 to 4:3; weak ones are
    the whole image shifted by up to 4 of 32 px.
    """
    count = x.shape[0]
    flip = 1 - 2 * (uniform((count,), 0, 1, rng) < 0.5).float()
    shift = uniform((count, 2), -1, 1, rng)
    if strong:
        area = uniform((count,), 0.35, 1, rng)
        aspect = torch.exp(uniform((count,), -1, 1, rng) * math.log(4 / 3)).sqrt()
        window = torch.stack([area.sqrt() * aspect, area.sqrt() / aspect], 1).clamp_max(1)
        shift = shift * (1 - window)
    else:
        window, shift = torch.ones_like(shift), shift * (4 / 16)
    theta = torch.zeros(count, 2, 3, device=x.device)
    theta[:, 0, 0], theta[:, 1, 1] = window[:, 0] * flip, window[:, 1]
    theta[:, :, 2] = shift
    grid = nn.functional.affine_grid(theta, list(x.shape), align_corners=False)
    return nn.functional.grid_sample(x, grid, padding_mode="reflection", align_corners=False)


def jitter_colours(x: Tensor, rng: torch.Generator) -> Tensor:
    """Random brightness, contrast, saturation, channel gain, grayscale and inversion of [0, 1]."""
    draw = partial(uniform, (x.shape[0], 1, 1, 1), rng=rng)
    gray = x.mean(1, keepdim=True)
    saturation = draw(low=0.4, high=1.6) * (draw(low=0, high=1) > 0.2)
    x = gray + (x - gray) * saturation
    x = x * uniform((x.shape[0], 3, 1, 1), 0.85, 1.15, rng)
    level = gray.mean((2, 3), keepdim=True)
    x = (level + (x - level) * draw(low=0.5, high=1.5)) * draw(low=0.6, high=1.4)
    x = x.clamp(0, 1)
    return torch.where(draw(low=0, high=1) < 0.15, 1 - x, x)


def tint(x: Tensor, rng: torch.Generator) -> Tensor:
    """Random brightness, contrast and saturation of [0, 1], a fifth in gray; no inversion.

    Milder than `jitter_colours`, for views of which a teacher has said what their colours show.
    """
    draw = partial(uniform, (x.shape[0], 1, 1, 1), rng=rng)
    gray = x.mean(1, keepdim=True)
    x = gray + (x - gray) * draw(low=0.7, high=1.3) * (draw(low=0, high=1) > 0.2)
    level = gray.mean((2, 3), keepdim=True)
    x = (level + (x - level) * draw(low=0.7, high=1.3)) * draw(low=0.75, high=1.25)
    return x.clamp(0, 1)


def lower_resolution(x: Tensor, share: float, rng: torch.Generator) -> Tensor:
    """Reduce a random share of the images to 8 px, as many to 16 px, and enlarge them again."""
    x = x.clone()
    kind = uniform((x.shape[0],), 0, 1, rng)
    for low, factor in ((0.0, 4), (share, 2)):
        chosen = (kind >= low) & (kind < low + share)
        small = nn.functional.avg_pool2d(x[chosen], factor)
        if small.shape[0]:
            x[chosen] = nn.functional.interpolate(small, size=x.shape[-2:], mode="bicubic")
    return x.clamp(0, 1)


def augment(images: Tensor, rng: torch.Generator) -> Tensor:
    """Augment uint8 (B, 3, 32, 32) to the model's float32 input in [-1, 1]."""
    x = crop_and_flip(images.float() / 255, rng, strong=True)
    return lower_resolution(jitter_colours(x, rng), 0.1, rng) * 2 - 1
