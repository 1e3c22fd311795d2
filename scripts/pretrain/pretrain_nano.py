"""Pretrain the first edition of the embedded backbone; see vitucb/assets/MODEL_CARD.md.

    python scripts/pretrain/pretrain_nano.py --data cifar10_train50k_jpeg.npz --out nano.safetensors

A run that is cut off resumes from `--checkpoint` and ends with the same weights. The stem trains
with batch norm, which is folded into its convolutions on export, so the exported model has none.
"""

from __future__ import annotations

import argparse
from functools import partial
from itertools import accumulate
from pathlib import Path

import torch
from pretrain_augmentation import augment
from pretrain_glyphs import GLYPH_CLASSES, draw_glyphs, glyph_prototypes
from pretrain_run import ARCHITECTURES, Pretrainer, Run, parsed, run_parser
from pretrain_tools import load_images
from torch import Tensor, nn

cross_entropy = partial(nn.functional.cross_entropy, label_smoothing=0.1)


class SupervisedRun(Run):
    """Labelled photographs, and pen figures."""

    def __init__(self, options: argparse.Namespace) -> None:
        loaded = [load_images(path) for path in options.data]
        self.images = torch.cat([images for images, _ in loaded])
        *firsts, classes = accumulate((int(y.max()) + 1 for _, y in loaded), initial=0)
        parts = zip((y for _, y in loaded), firsts, strict=True)
        self.labels = torch.cat([y + first for y, first in parts])
        heads = {"classify": classes, "name_glyph": GLYPH_CLASSES}
        super().__init__(options, partial(Pretrainer, options.arch, heads))
        self.prototypes = glyph_prototypes(torch.Generator().manual_seed(options.seed + 1))

    def loss(self) -> Tensor:
        """Cross-entropy of the labels, and 0.35 times that of the pen figures."""
        size = (self.options.batch_size,)
        glyph_count = round(self.options.glyphs * self.options.batch_size)
        rows = torch.randint(len(self.images), size, generator=self.rng)[glyph_count:]
        heads = self.model.heads
        with self.mixed():
            x = augment(self.images[rows], self.rng)
            glyphs, glyph_labels = draw_glyphs(self.prototypes, glyph_count, self.rng)
            features = self.features(torch.cat([x, glyphs]))
            real, glyph = features[: len(x)], features[len(x) :]
            loss = cross_entropy(heads["classify"](real).float(), self.labels[rows])
            if glyph_count:
                loss = loss + 0.35 * cross_entropy(heads["name_glyph"](glyph).float(), glyph_labels)
        return loss


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = run_parser(__doc__, steps=6000)
    add = parser.add_argument
    add("--data", type=Path, nargs="+", required=True, help=".npz files with images and labels")
    add("--arch", choices=sorted(ARCHITECTURES), default="nano")
    add("--glyphs", type=float, default=0.0, help="share of the batch that is random pen strokes")
    return parsed(parser, arguments)


def main(arguments: list[str] | None = None) -> None:
    """Pretrain, or continue, up to `--steps`."""
    SupervisedRun(parse(arguments)).play()


if __name__ == "__main__":
    main()
