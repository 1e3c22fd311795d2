"""Files shipped with vitucb, and a table of them that can be read without importing torch."""

from __future__ import annotations

# alias -> (timm name, one-line description); vitucb.models.backbone registers the timm name.
EMBEDDED_BACKBONES: dict[str, tuple[str, str]] = {
    "vitucb-nano": (
        "vit_nano_patch8_32.vitucb",
        "the first edition of the embedded ViT, for what was played or saved with it",
    ),
    "vitucb-nano-2": (
        "vit_nano_patch8_32.vitucb_2",
        "embedded 2.3 M parameter ViT for 32 px images, pretrained, works offline; the default",
    ),
}

DEFAULT_BACKBONE = "vitucb-nano-2"

EMBEDDED_DEPTHS = {"vitucb-nano": 4, "vitucb-nano-2": 4}
"""alias -> number of blocks."""
