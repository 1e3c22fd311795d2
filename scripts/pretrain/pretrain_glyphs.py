"""Figures of random pen strokes, the second task of `pretrain_nano.py`."""

from __future__ import annotations

import torch
from pretrain_augmentation import lower_resolution, uniform
from torch import Tensor, nn

SIDE = 32
GLYPH_CLASSES = 1000


def glyph_prototypes(rng: torch.Generator) -> Tensor:
    """Draw the control points (classes, 3 strokes, 3 points, xy) of random pen-stroke figures.

    Consecutive strokes are joined with probability 0.7; a third of the figures has fewer than
    three. All are drawn by chance alone: no writing system's characters are among the data.
    """
    points = uniform((GLYPH_CLASSES, 3, 3, 2), -0.75, 0.75, rng)
    joined = uniform((GLYPH_CLASSES, 2, 1), 0, 1, rng) < 0.7
    for stroke in (1, 2):
        before = points[:, stroke - 1, 2]
        points[:, stroke, 0] = torch.where(joined[:, stroke - 1], before, points[:, stroke, 0])
    few = uniform((GLYPH_CLASSES, 1, 1), 0, 1, rng)
    points[:, 2] = torch.where(few < 1 / 3, points[:, 1], points[:, 2])
    points[:, 1:] = torch.where(few[..., None] < 0.1, points[:, :1], points[:, 1:])
    return points


def draw_glyphs(prototypes: Tensor, count: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw random figures with jittered points, slant, size, pen width and two colours.

    Args:
        prototypes: Control points of `glyph_prototypes`.
        count: How many images.
        rng: Source of chance.

    Returns:
        Float32 images (count, 3, 32, 32) in [-1, 1] and their class labels (count,).
    """
    device = prototypes.device
    labels = torch.randint(len(prototypes), (count,), generator=rng, device=device)
    points = prototypes[labels] + uniform((count, 3, 3, 2), -0.1, 0.1, rng)
    turn = uniform((count,), -0.3, 0.3, rng)
    rows = torch.stack([turn.cos(), -turn.sin(), turn.sin(), turn.cos()], 1).view(count, 2, 2)
    slant = torch.eye(2, device=device) + torch.zeros(count, 2, 2, device=device)
    slant[:, 0, 1] = uniform((count,), -0.35, 0.35, rng)
    size = uniform((count, 1, 2), 0.65, 1.3, rng)
    affine = rows @ slant * size
    points = torch.einsum("nij,nskj->nski", affine, points)
    points = points + uniform((count, 1, 1, 2), -0.12, 0.12, rng)
    t = torch.linspace(0, 1, 12, device=device).view(-1, 1)
    start, middle, end = (points[:, :, None, k] for k in range(3))
    curve = (1 - t) ** 2 * start + 2 * t * (1 - t) * middle + t**2 * end
    axis = (torch.arange(SIDE, device=device) + 0.5) / SIDE * 2 - 1
    pixels = torch.cartesian_prod(axis, axis).flip(1)
    distance = torch.cdist(pixels.expand(count, -1, -1), curve.flatten(1, 2)).amin(2)
    pen = uniform((count, 1), 0.05, 0.22, rng)
    ink = torch.sigmoid((pen - distance) * uniform((count, 1), 15, 50, rng)).view(-1, 1, SIDE, SIDE)
    paper, colour = _two_colours(count, rng)
    x = paper + (colour - paper) * ink
    return lower_resolution(x, 0.25, rng) * 2 - 1, labels


def draw_signs(masks: Tensor, rng: torch.Generator) -> Tensor:
    """Turn, slant, resize, thicken or thin letters and icons, in two colours.

    Args:
        masks: Ink, uint8 (B, 32, 32).
        rng: Source of chance.

    Returns:
        Float32 images (B, 3, 32, 32) in [-1, 1].
    """
    count = len(masks)
    turn = uniform((count,), -0.3, 0.3, rng)
    rows = torch.stack([turn.cos(), -turn.sin(), turn.sin(), turn.cos()], 1).view(count, 2, 2)
    slant = torch.eye(2) + torch.zeros(count, 2, 2)
    slant[:, 0, 1] = uniform((count,), -0.35, 0.35, rng)
    affine = rows @ slant * uniform((count, 1, 2), 0.8, 1.5, rng)
    theta = torch.cat([affine, uniform((count, 2, 1), -0.2, 0.2, rng)], 2)
    grid = nn.functional.affine_grid(theta, [count, 1, SIDE, SIDE], align_corners=False)
    ink = nn.functional.grid_sample(masks[:, None].float() / 255, grid, align_corners=False)
    soft = nn.functional.avg_pool2d(ink, 3, 1, 1, count_include_pad=False)
    heavy = uniform((count, 1, 1, 1), 0.25, 0.6, rng)
    ink = torch.sigmoid((soft - heavy) * uniform((count, 1, 1, 1), 6, 20, rng))
    paper, colour = _two_colours(count, rng)
    return lower_resolution(paper + (colour - paper) * ink, 0.25, rng) * 2 - 1


def _two_colours(count: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Background and pen colours (count, 3, 1, 1), half gray, at least 0.4 of brightness apart."""
    gap = uniform((count, 1, 1, 1), 0.4, 1, rng)
    dark = uniform((count, 1, 1, 1), 0, 1, rng) * (1 - gap)
    tint = uniform((count, 3, 1, 1), -0.2, 0.2, rng)
    tint = tint * (uniform((count, 1, 1, 1), 0, 1, rng) < 0.5)
    swap = uniform((count, 1, 1, 1), 0, 1, rng) < 0.5
    paper, colour = torch.where(swap, dark, dark + gap), torch.where(swap, dark + gap, dark)
    return (paper + tint).clamp(0, 1), (colour - tint).clamp(0, 1)
