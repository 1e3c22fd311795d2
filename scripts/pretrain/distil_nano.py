"""Pretrain the second edition of the embedded backbone; see vitucb/assets/MODEL_CARD.md.

    python scripts/pretrain/distil_nano.py --views views.npz --signs signs.npz \
        --out nano.safetensors

Views of photographs come with what an ImageNet network says of them (`teacher_views.py`), signs
are letters and icons (`gather_signs.py`). A run that is cut off resumes from `--checkpoint` and
ends with the same weights.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import numpy as np
import torch
from pretrain_augmentation import crop_and_flip, lower_resolution, tint
from pretrain_glyphs import GLYPH_CLASSES, draw_glyphs, draw_signs, glyph_prototypes
from pretrain_run import Pretrainer, Run, parsed, run_parser
from torch import Tensor, nn

cross_entropy = partial(nn.functional.cross_entropy, label_smoothing=0.1)


class DistillingRun(Run):
    """Views with a teacher's words, letters and icons, and pen figures."""

    def __init__(self, options: argparse.Namespace) -> None:
        with np.load(options.views, allow_pickle=False) as archive:
            self.views = torch.from_numpy(archive["views"])
            self.labels = torch.from_numpy(archive["labels"])  # -1: none
            self.components = torch.from_numpy(archive["components"])
            self.logits = torch.from_numpy(archive["logits"])
        with np.load(options.signs, allow_pickle=False) as archive:
            self.masks = torch.from_numpy(archive["masks"])
            self.signs = torch.from_numpy(archive["labels"])
        heads = {
            "classify": int(self.labels.max()) + 1,
            "name_glyph": GLYPH_CLASSES,
            "match": self.components.shape[1],
            "name_object": self.logits.shape[1],
            "name_sign": int(self.signs.max()) + 1,
        }
        super().__init__(options, partial(Pretrainer, "nano", heads))
        self.prototypes = glyph_prototypes(torch.Generator().manual_seed(options.seed + 1))

    def loss(self) -> Tensor:
        """Agreement with the teacher, and cross-entropies of labels, pen figures and signs."""
        options, heads = self.options, self.model.heads
        glyph_count = round(options.glyphs * options.batch_size)
        sign_count = round(options.sign_share * options.batch_size)
        view_count = options.batch_size - glyph_count - sign_count
        rows = torch.randint(len(self.views), (view_count,), generator=self.rng)
        x = crop_and_flip(self.views[rows].float() / 255, self.rng, strong=False)
        x = lower_resolution(tint(x, self.rng), 0.05, self.rng) * 2 - 1
        glyphs, glyph_labels = draw_glyphs(self.prototypes, glyph_count, self.rng)
        chosen = torch.randint(len(self.masks), (sign_count,), generator=self.rng)
        signs = draw_signs(self.masks[chosen], self.rng)
        with self.mixed():
            features = self.features(torch.cat([x, glyphs, signs]))
            photo, glyph, sign = torch.split(features, [view_count, glyph_count, sign_count])
            matched = heads["match"](photo).float()
            objects = heads["name_object"](photo).float()
            classes = heads["classify"](photo).float()
            glyph_logits = heads["name_glyph"](glyph).float()
            sign_logits = heads["name_sign"](sign).float()
        similarity = nn.functional.cosine_similarity(matched, self.components[rows].float())
        told = self.logits[rows].float().softmax(1)
        labels = self.labels[rows]
        known = labels >= 0
        total: Tensor = (
            options.match * (1 - similarity).mean()
            + nn.functional.cross_entropy(objects, told)
            + options.classes * cross_entropy(classes[known], labels[known])
            + 0.25 * cross_entropy(glyph_logits, glyph_labels)
            + 0.25 * cross_entropy(sign_logits, self.signs[chosen])
        )
        return total


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = run_parser(__doc__, steps=9600)
    add = parser.add_argument
    add("--views", type=Path, required=True, help="what teacher_views.py wrote")
    add("--signs", type=Path, required=True, help="what gather_signs.py wrote")
    add("--glyphs", type=float, default=0.12, help="share of the batch that is random pen strokes")
    add("--sign-share", type=float, default=0.12, help="share that is letters and icons")
    add("--match", type=float, default=4.0, help="weight of the teacher's features")
    add("--classes", type=float, default=1.0, help="weight of the photographs' own labels")
    return parsed(parser, arguments)


def main(arguments: list[str] | None = None) -> None:
    """Pretrain, or continue, up to `--steps`."""
    DistillingRun(parse(arguments)).play()


if __name__ == "__main__":
    main()
